//! What is said of waits in the kernel and of signals, against what the waiting process itself says
//! (`fixtures/programs/kernel_waits_program.py`).

use crate::capture::assert_harmless;
use crate::support::hangscope::{command, dump_with, finish};
use crate::support::program::{Program, until};
use crate::support::{pythons, repository, skip};
use hangscope::model::{
    Access, ChildSet, ChildState, Descriptor, FileKind, Process, PythonSignals, Report,
    SocketState, Thread, Unserved, Wait, WaitKind, Want,
};
use nix::sys::signal::Signal;
use nix::unistd::Uid;
use std::process::Command;

/// One whose signal state is in static variables, one in `_PyRuntime`, the newest kind.
const VERSIONS: [&str; 3] = ["3.9", "3.12", "3.14"];
const SIGUSR1: i32 = 10;
const SIGUSR2: i32 = 12;

/// A program in its wait, what it told of it, and the report.
struct Waiting {
    program: Program,
    told: serde_json::Value,
    report: Report,
}

impl Waiting {
    fn start(version: &str, kind: &str) -> Option<Self> {
        Self::start_and(version, kind, |_| {})
    }

    /// Starts the program, does something to it when it waits, and looks at it when it waits then.
    fn start_and(version: &str, kind: &str, act: impl FnOnce(&Program)) -> Option<Self> {
        let python = pythons::python(version)?;
        let script = repository("fixtures/programs/kernel_waits_program.py");
        let mut program = Program::start(Command::new(python).arg(script).arg(kind));
        let lines = program.wait_for("READY");
        let told = serde_json::from_str(&lines[0]).expect("JSON of the program");
        let mut report = None;
        let mut waits = || {
            let found = dump_with(program.pid(), &["--samples", "1"]).report();
            let main = main_of(&found);
            let there = main.settled && main.wait.is_some();
            report = Some(found);
            there
        };
        until(&format!("{kind} of {version} waits"), &mut waits);
        act(&program);
        until(&format!("{kind} of {version} waits again"), &mut waits);
        let report = report.expect("a report");
        Some(Self {
            program,
            told,
            report,
        })
    }

    fn number(&self, name: &str) -> i32 {
        let number = self.told[name].as_i64().expect("a number");
        i32::try_from(number).expect("a small number")
    }

    fn process(&self) -> &Process {
        process_of(&self.report)
    }

    fn wait(&self) -> &Wait {
        main_of(&self.report).wait.as_ref().expect("it waits")
    }

    /// The one file that is waited on.
    fn file(&self) -> &Descriptor {
        let file = self.wait().descriptor.as_ref().expect("a file");
        assert_eq!(file.number, self.number("fd"));
        file
    }

    fn polled(&self, name: &str) -> &Descriptor {
        let number = self.number(name);
        let files = &self.wait().files;
        let found = files.iter().find(|file| file.number == number);
        found.unwrap_or_else(|| panic!("no {name} {number} in {files:#?}"))
    }

    /// CPython's signal state; not to be had up to 3.11 where the program is stripped of its symbols.
    fn signals(&self) -> Option<&PythonSignals> {
        let python = self.process().python.as_ref().expect("Python");
        let signals = python.signals.as_ref();
        assert!(signals.is_some() || python.minor < 12, "{python:?}");
        signals
    }

    fn text(&self) -> String {
        let pid = self.program.pid().to_string();
        let run = finish(command().args(["dump", &pid, "--samples", "1", "--width", "80"]));
        assert_harmless(&run.stdout);
        run.stdout
    }

    /// Looks at the text, with its line breaks undone, until it has these words: a thread may be on the move for a moment.
    fn says(&self, words: &str) {
        until(&format!("the text has {words:?}"), || {
            let text = self.text();
            let flat = text.split_whitespace().collect::<Vec<_>>().join(" ");
            flat.contains(words)
        });
    }
}

fn process_of(report: &Report) -> &Process {
    let last = report.samples.last().expect("a sample");
    let found = last
        .processes
        .iter()
        .find(|process| process.pid == report.options.pid);
    found.expect("the process asked for")
}

fn main_of(report: &Report) -> &Thread {
    let process = process_of(report);
    let found = process
        .threads
        .iter()
        .find(|thread| process.is_led_by(thread));
    found.expect("the leader")
}

/// The program in each version.
fn each(kind: &str) -> impl Iterator<Item = Waiting> {
    VERSIONS
        .iter()
        .filter_map(move |version| Waiting::start(version, kind))
}

#[test]
fn a_pipe_from_a_child() {
    for seen in each("pipe-from-child") {
        let child = seen.number("child");
        assert_eq!(seen.wait().kind, WaitKind::Read);
        let file = seen.file();
        assert_eq!(file.kind, Some(FileKind::Pipe));
        assert_eq!(file.access, Some(Access::Read));
        let peer = file.peer.as_ref().expect("an other end");
        assert_eq!(peer.processes, [child]);
        assert!(peer.own.is_empty());
        assert!(!seen.wait().is_internal());
        assert_eq!(file.has_outside_peer(), Some(true));
        seen.says(&format!("fd {} (pipe from pid {child})", seen.number("fd")));
    }
}

#[test]
fn a_pipe_of_its_own() {
    for seen in each("pipe-of-its-own") {
        let peer = seen.file().peer.as_ref().expect("an other end");
        assert!(peer.processes.is_empty());
        assert_eq!(peer.own, [seen.number("other")]);
        assert_eq!(peer.complete, seen.wait().is_internal());
    }
}

#[test]
fn a_full_pipe() {
    for seen in each("full-pipe") {
        assert_eq!(seen.wait().kind, WaitKind::Write);
        let file = seen.file();
        assert_eq!(file.access, Some(Access::Write));
        let peer = file.peer.as_ref().expect("an other end");
        assert_eq!(peer.processes, [seen.number("child")]);
    }
}

#[test]
fn a_pair_of_unix_sockets() {
    for seen in each("unix-pair") {
        let file = seen.file();
        assert_eq!(file.kind, Some(FileKind::UnixSocket));
        assert_eq!(file.state, Some(SocketState::Established));
        let peer = file.peer.as_ref().expect("an other end");
        assert_eq!(peer.processes, [seen.number("child")]);
        assert!(!seen.wait().is_internal());
    }
}

#[test]
fn servers() {
    for (kind, file_kind) in [
        ("unix-server", FileKind::UnixSocket),
        ("tcp-server", FileKind::TcpSocket),
    ] {
        for seen in each(kind) {
            assert_eq!(seen.wait().kind, WaitKind::Connection);
            let file = seen.file();
            assert_eq!(file.kind, Some(file_kind));
            assert_eq!(file.state, Some(SocketState::Listen));
            let address = seen.told["address"].as_str().expect("an address");
            assert_eq!(
                file.address.as_ref().map(|it| it.untrusted()),
                Some(address)
            );
            assert_eq!(file.peer, None);
            assert_eq!(file.has_outside_peer(), Some(true));
            seen.says(&format!("listener {address}"));
        }
    }
}

#[test]
fn a_tcp_connection() {
    for seen in each("tcp") {
        let file = seen.file();
        assert_eq!(file.kind, Some(FileKind::TcpSocket));
        let peer = file.peer.as_ref().expect("an other end");
        assert_eq!(peer.processes, [seen.number("child")]);
        let address = seen.told["address"].as_str().expect("an address");
        assert_eq!(
            peer.address.as_ref().map(|it| it.untrusted()),
            Some(address)
        );
        seen.says(&format!("(TCP to {address}, pid {})", peer.processes[0]));
    }
}

#[test]
fn a_tcp_connection_between_both_families() {
    for seen in each("tcp6") {
        let peer = seen.file().peer.as_ref().expect("an other end");
        assert_eq!(peer.own, [seen.number("other")]);
        assert!(peer.processes.is_empty());
        assert!(!seen.wait().is_internal(), "TCP is never taken for inner");
    }
}

#[test]
fn a_poll_names_its_files() {
    for seen in each("poll") {
        assert_eq!(seen.wait().kind, WaitKind::Poll);
        assert_eq!(seen.wait().timed, Some(false));
        assert_eq!(seen.wait().files.len(), 2);
        assert_eq!(seen.polled("read").wants, [Want::Read]);
        assert_eq!(seen.polled("write").wants, [Want::Write]);
        let peer = seen.polled("read").peer.as_ref().expect("an other end");
        assert_eq!(peer.own, [seen.number("other")]);
    }
}

#[test]
fn a_select_names_its_files_and_how_long() {
    for seen in each("select") {
        let file = &seen.wait().files[0];
        assert_eq!(file.number, seen.number("fd"));
        assert_eq!(file.wants, [Want::Read, Want::Exception]);
        assert_eq!(seen.wait().timed, Some(true));
        assert_eq!(seen.wait().length_ms, Some(3_600_000));
    }
}

#[test]
fn an_epoll_names_its_files() {
    for seen in each("epoll") {
        let wait = seen.wait();
        assert_eq!(seen.file().kind, Some(FileKind::Epoll));
        assert_eq!(wait.files.len(), 1);
        let file = seen.polled("watched");
        assert_eq!(file.kind, Some(FileKind::UnixSocket));
        let peer = file.peer.as_ref().expect("an other end");
        assert_eq!(peer.own, [seen.number("other")]);
        assert!(peer.processes.is_empty());
        if peer.complete {
            assert!(wait.is_internal());
            assert_eq!(wait.has_outside_peer(), Some(false));
        }
    }
}

#[test]
fn special_files() {
    for seen in each("specials") {
        let wait = seen.wait();
        for (name, kind) in [
            ("eventfd", FileKind::Eventfd),
            ("timerfd", FileKind::Timerfd),
            ("signalfd", FileKind::Signalfd),
            ("inotify", FileKind::Inotify),
            ("pidfd", FileKind::Pidfd),
        ] {
            assert_eq!(seen.polled(name).kind, Some(kind), "{name}");
        }
        let process = seen.polled("pidfd").process.as_ref().expect("a process");
        assert_eq!(process.pid, Some(seen.number("child")));
        assert_eq!(process.state, ChildState::Alive);
        assert_eq!(wait.timed, Some(true), "the timer ends it");
        let left = wait.remaining_ms.expect("until then");
        assert!((300_000..=500_000).contains(&left), "{left}");
    }
}

#[test]
fn a_child() {
    for kind in ["child", "pidfd-child"] {
        for seen in each(kind) {
            let wait = seen.wait();
            assert_eq!(wait.kind, WaitKind::Child);
            let waited = wait.child.as_ref().expect("a child");
            assert_eq!(waited.any_of, ChildSet::One);
            let [child] = waited.children.as_slice() else {
                panic!("{waited:?}");
            };
            assert_eq!(child.pid, Some(seen.number("child")));
            assert_eq!(child.state, ChildState::Alive);
            assert_eq!(wait.target, child.process);
            let sample = seen.report.samples.last().expect("a sample");
            let key = child.process.as_ref().expect("a key");
            assert!(sample.process(key).is_some(), "it is in the tree");
            seen.says(&format!("waits for child {} (", seen.number("child")));
        }
    }
}

#[test]
fn any_child() {
    for seen in each("any-child") {
        let waited = seen.wait().child.as_ref().expect("children");
        assert_eq!(waited.any_of, ChildSet::All);
        let pids: Vec<i64> = waited
            .children
            .iter()
            .filter_map(|child| child.pid.map(i64::from))
            .collect();
        let told: Vec<i64> = serde_json::from_value(seen.told["children"].clone()).expect("pids");
        assert_eq!(pids, told);
        seen.says("any child (3 alive)");
    }
}

#[test]
fn a_stopped_child() {
    for version in VERSIONS {
        let mut child = 0;
        let stop = |program: &Program| {
            let children = format!("/proc/{0}/task/{0}/children", program.pid());
            let text = std::fs::read_to_string(children).expect("its children");
            child = text.trim().parse().expect("one child");
            let pid = nix::unistd::Pid::from_raw(child);
            nix::sys::signal::kill(pid, Signal::SIGSTOP).expect("kill");
            until("it is stopped", || {
                std::fs::read_to_string(format!("/proc/{child}/stat"))
                    .is_ok_and(|stat| stat.contains(") T "))
            });
        };
        let Some(seen) = Waiting::start_and(version, "child", stop) else {
            continue;
        };
        let waited = seen.wait().child.as_ref().expect("a child");
        assert_eq!(waited.children[0].state, ChildState::Stopped);
        assert_eq!(waited.children[0].pid, Some(child));
    }
}

#[test]
fn communicate_polls_the_pipes_of_the_child() {
    for seen in each("communicate") {
        let child = seen.number("child");
        let files = &seen.wait().files;
        let numbers: Vec<i32> = files.iter().map(|file| file.number).collect();
        let told: Vec<i32> = serde_json::from_value(seen.told["fds"].clone()).expect("numbers");
        assert_eq!(numbers, told);
        for file in files {
            assert_eq!(
                file.peer.as_ref().map(|it| it.processes.as_slice()),
                Some([child].as_slice())
            );
        }
        assert_eq!(seen.wait().has_outside_peer(), Some(true));
        seen.says(&format!(
            "2 files: fd {} (pipe from pid {child})",
            numbers[0]
        ));
    }
}

#[test]
fn sleeps() {
    for seen in each("sleep") {
        let wait = seen.wait();
        assert_eq!(wait.kind, WaitKind::Sleep);
        let asked = 1_000_000_000;
        if seen.process().python.as_ref().expect("Python").minor < 11 {
            assert_eq!(wait.length_ms, Some(asked), "a select of nothing");
        } else {
            let left = wait.remaining_ms.expect("an end");
            assert!((asked - 100_000..=asked).contains(&left), "{left}");
        }
    }
}

#[test]
fn wakeup_descriptors() {
    for (kind, full) in [
        ("wakeup-socket", false),
        ("wakeup-socket-full", true),
        ("wakeup-pipe", false),
        ("wakeup-pipe-full", true),
    ] {
        for seen in each(kind) {
            let Some(signals) = seen.signals() else {
                continue;
            };
            assert_eq!(signals.wakeup_fd, Some(seen.number("fd")), "{kind}");
            assert_eq!(signals.wakeup_full, Some(full), "{kind}");
            assert_eq!(signals.unserved, None);
            assert_eq!(signals.served_by.as_ref(), Some(&main_of(&seen.report).key));
            assert_eq!(seen.text().contains("is full"), full, "{kind}");
        }
    }
}

/// Sends SIGUSR1 to a program in its wait, and looks until CPython has noted it and says why no handler runs.
fn check_unserved(version: &str, kind: &str, expected: Unserved, words: &str) {
    let send = |program: &Program| program.signal(Signal::SIGUSR1);
    let Some(seen) = Waiting::start_and(version, kind, send) else {
        return;
    };
    if seen.signals().is_none() {
        return;
    }
    // The C handler runs as soon as the thread does that the kernel has chosen.
    until(&format!("{kind} of {version} has noted it"), || {
        let report = dump_with(seen.program.pid(), &["--samples", "1"]).report();
        let python = process_of(&report).python.as_ref().expect("Python");
        let signals = python.signals.as_ref().expect("its signals");
        signals.pending == [SIGUSR1] && signals.unserved == Some(expected)
    });
    assert_eq!(seen.process().blocks_everywhere(SIGUSR1), Some(false));
    seen.says(&format!(
        "SIGUSR1 caught, Python's handler has not run: the main thread {words}"
    ));
}

#[test]
fn a_signal_that_ends_no_wait() {
    for version in VERSIONS {
        let words = "waits in a call";
        check_unserved(version, "unserved", Unserved::Waits, words);
    }
}

#[test]
fn a_signal_that_waits_for_the_gil() {
    for version in ["3.11", "3.12", "3.14"] {
        check_unserved(version, "gil", Unserved::WaitsForGil, "waits for the GIL");
    }
}

#[test]
fn a_signal_while_the_main_thread_runs_another_interpreter() {
    for version in ["3.13", "3.14", "3.15"] {
        let words = "runs another interpreter";
        check_unserved(
            version,
            "other-interpreter",
            Unserved::OtherInterpreter,
            words,
        );
    }
}

#[test]
fn masks_of_threads() {
    for seen in each("unserved") {
        let masks = main_of(&seen.report).kernel.signals.as_ref();
        assert!(masks.expect("read").blocked.contains(&SIGUSR1));
    }
}

#[test]
fn a_signal_that_all_threads_block() {
    for seen in each("blocked") {
        let process = seen.process();
        assert_eq!(process.pending_signals, [SIGUSR2]);
        assert_eq!(process.blocks_everywhere(SIGUSR2), Some(true));
        seen.says("SIGUSR2 pending: every thread blocks it");
    }
}

#[test]
fn ignored_signals() {
    for seen in each("background") {
        assert!(seen.process().ignored_signals.starts_with(&[2, 3]));
        seen.says("ignores SIGINT and SIGQUIT");
    }
}

#[test]
fn files_that_come_and_go_do_no_harm() {
    for version in VERSIONS {
        let Some(python) = pythons::python(version) else {
            continue;
        };
        let script = repository("fixtures/programs/kernel_waits_program.py");
        let mut program = Program::start(Command::new(python).arg(script).arg("churn"));
        program.wait_for("READY");
        for _ in 0..15 {
            let run = dump_with(program.pid(), &["--samples", "3", "--interval", "1ms"]);
            assert!(matches!(run.code, Some(0 | 3)), "{}", run.stderr);
        }
        program.must_be_alive();
    }
}

#[test]
fn an_end_outside_of_the_container_is_out_of_sight() {
    if !Uid::effective().is_root() {
        skip("a pid namespace needs root");
        return;
    }
    let Some(python) = pythons::python("3.14") else {
        return;
    };
    // hangscope and the program are in the namespace, the writer is not. A shell gives what it starts with & no stdin.
    let inside = "exec 3<&0
        \"$0\" -c 'import sys; sys.stdin.read()' <&3 3<&- & pid=$!
        exec 3<&-
        until grep -q pipe_read /proc/$pid/wchan; do sleep 0.01; done
        \"$1\" dump $pid --samples 3 --interval 50ms --width 80; echo DONE";
    let outside =
        "sleep 1000000 | unshare --fork --pid --mount-proc --kill-child sh -c \"$0\" \"$@\"";
    let mut program = Program::start(
        Command::new("sh")
            .args(["-c", outside, inside])
            .arg(python)
            .arg(env!("CARGO_BIN_EXE_hangscope")),
    );
    let text = program.wait_for("DONE").join("\n");
    assert!(text.contains("(pipe, other end out of sight)"), "{text}");
    assert!(!text.contains("stuck"), "somebody may write: {text}");
}

#[test]
fn sockets_of_another_network_namespace() {
    if !Uid::effective().is_root() {
        skip("a network namespace needs root");
        return;
    }
    let Some(python) = pythons::python("3.14") else {
        return;
    };
    let script = repository("fixtures/programs/kernel_waits_program.py");
    let mut program = Program::start(
        Command::new("unshare")
            .arg("--net")
            .arg(python)
            .arg(script)
            .arg("unix-server"),
    );
    let lines = program.wait_for("READY");
    let told: serde_json::Value = serde_json::from_str(&lines[0]).expect("JSON of the program");
    let mut file = None;
    until("it waits", || {
        let report = dump_with(program.pid(), &["--samples", "1"]).report();
        file = main_of(&report)
            .wait
            .as_ref()
            .and_then(|wait| wait.descriptor.clone());
        file.is_some()
    });
    let file = file.expect("a socket");
    assert_eq!(file.kind, Some(FileKind::UnixSocket));
    assert_eq!(file.state, Some(SocketState::Listen));
    assert_eq!(
        file.address.as_ref().map(|it| it.untrusted()),
        told["address"].as_str()
    );
}
