//! What is read of processes of known shape, on each version, against what the process itself says.

use crate::support::hangscope::{command, dump, dump_with, finish};
use crate::support::program::{Program, until};
use crate::support::{pythons, repository, skip};
use hangscope::model::{Process, PythonReader, Report, RuntimeKind, Thread, ThreadKind};
use nix::sys::signal::Signal;
use nix::unistd::Uid;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

/// Starts a program of `fixtures/programs` and returns it with the lines that it printed before `READY`.
pub(crate) fn start(version: &str, name: &str, args: &[&str]) -> Option<(Program, Vec<String>)> {
    let python = pythons::python(version)?;
    let script = repository("fixtures/programs").join(format!("{name}_program.py"));
    let mut program = Program::start(Command::new(python).arg(script).args(args));
    let lines = program.wait_for("READY");
    Some((program, lines))
}

/// The root process of the last sample.
pub(crate) fn root(report: &Report) -> &Process {
    let pid = report.options.pid;
    let last = report.samples.last().expect("a sample");
    last.processes
        .iter()
        .find(|process| process.pid == pid)
        .expect("the process asked for")
}

fn thread_named<'r>(process: &'r Process, name: &str) -> &'r Thread {
    let names: Vec<&str> = process
        .threads
        .iter()
        .map(|thread| thread.display_name().untrusted())
        .collect();
    let found = process
        .threads
        .iter()
        .find(|thread| thread.display_name().untrusted() == name);
    found.unwrap_or_else(|| panic!("no thread {name} among {names:?}"))
}

fn frames(thread: &Thread) -> Vec<(String, String, u32)> {
    thread
        .frames()
        .map(|frame| {
            let text = |foreign: &hangscope::model::Foreign| foreign.untrusted().to_owned();
            (
                text(&frame.function),
                text(&frame.file),
                frame.line.unwrap_or(0),
            )
        })
        .collect()
}

/// Before 3.11 a frame does not tell its qualified name, so the program could not either: then the last part is compared.
fn assert_frames(
    version: &str,
    thread: &str,
    found: &[(String, String, u32)],
    told: &[(String, String, u32)],
) {
    if pythons::minor(version) >= 11 {
        assert_eq!(found, told, "{version}: {thread}");
        return;
    }
    let last_parts: Vec<_> = found
        .iter()
        .map(|(function, file, line)| {
            let name = function.rsplit('.').next().unwrap_or(function);
            (name.to_owned(), file.clone(), *line)
        })
        .collect();
    assert_eq!(last_parts, told, "{version}: {thread}: {found:?}");
}

/// A report that says of itself that it is whole.
pub(crate) fn assert_complete(report: &Report) {
    for sample in &report.samples {
        let bad: Vec<_> = sample
            .gaps
            .iter()
            .filter(|gap| gap.kind.is_incomplete())
            .collect();
        assert!(bad.is_empty(), "{bad:#?}");
    }
}

#[derive(serde::Deserialize)]
struct Told {
    name: String,
    frames: Vec<(String, String, u32)>,
}

/// Each thread, its name, functions and lines are those that `sys._current_frames()` showed inside.
fn check_stacks(version: &str) {
    let Some((mut program, lines)) = start(version, "known_stacks", &[]) else {
        return;
    };
    let told: BTreeMap<i32, Told> = serde_json::from_str(&lines[0]).expect("JSON of the program");
    assert_eq!(told.len(), 4);
    for _ in 0..3 {
        let run = dump_with(program.pid(), &["--samples", "1"]);
        program.must_be_alive();
        let report = run.report();
        let process = root(&report);
        assert_eq!(process.threads.len(), 5);
        for (tid, expected) in &told {
            let thread = process.threads.iter().find(|thread| thread.tid == *tid);
            let thread = thread.unwrap_or_else(|| panic!("{version}: no thread {tid}"));
            assert_eq!(
                thread.display_name().untrusted(),
                expected.name,
                "{version}"
            );
            assert_frames(version, &expected.name, &frames(thread), &expected.frames);
            assert!(
                thread.settled && thread.wait.is_some(),
                "{version}: {} waits",
                expected.name
            );
            assert!(
                thread.python.iter().all(|state| state.cut.is_none()),
                "{version}"
            );
        }
        let runtime = process.python.as_ref().expect("a runtime");
        assert!(
            runtime.version.starts_with(version),
            "{} is not {version}",
            runtime.version
        );
        assert_eq!(runtime.reader, PythonReader::Own);
        assert_eq!(run.code, Some(0), "{}", run.stderr);
        assert_complete(&report);
        assert_eq!(process.coverage.threads, 5);
        assert_eq!(process.coverage.thread_states, 5);
        assert_eq!(process.coverage.interpreters, 1);
        let sum: usize = process
            .threads
            .iter()
            .map(|thread| thread.frames().count())
            .sum();
        assert_eq!(process.coverage.frames, sum);
    }
}

/// All interpreters are there, with the threads that live in each.
fn check_interpreters(version: &str) {
    let Some((program, lines)) = start(version, "interpreters", &[]) else {
        return;
    };
    let told: BTreeMap<i64, Vec<String>> =
        serde_json::from_str(&lines[0]).expect("JSON of the program");
    let report = dump_with(program.pid(), &["--samples", "1"]).report();
    assert_complete(&report);
    let process = root(&report);
    let ids: Vec<i64> = process
        .interpreters
        .iter()
        .map(|interpreter| interpreter.id)
        .collect();
    assert_eq!(
        ids,
        told.keys().copied().collect::<Vec<_>>(),
        "the main one first, each once"
    );
    for (id, names) in &told {
        let mut found: Vec<&str> = process
            .threads
            .iter()
            .filter(|thread| thread.state_of(*id).is_some())
            .map(|thread| thread.display_name().untrusted())
            .collect();
        found.sort_unstable();
        assert_eq!(&found, names, "interpreter {id} on {version}");
    }
    let own: Vec<bool> = process
        .interpreters
        .iter()
        .map(|interpreter| interpreter.own_gil)
        .collect();
    assert_eq!(
        own,
        [true, false, true, true],
        "legacy shares the main interpreter's GIL"
    );
    let gil = |index: usize| {
        process.interpreters[index]
            .gil
            .as_ref()
            .map(|gil| gil.key.clone())
    };
    assert_eq!(gil(0), gil(1));
    assert_ne!(gil(0), gil(2));
    assert_ne!(gil(2), gil(3));
}

macro_rules! on_versions {
    ($($module:ident: $check:ident [$($version:ident)*];)*) => {$(
        mod $module {
            $(#[test]
            fn $version() {
                super::$check(&stringify!($version).replace("py3", "3."));
            })*
        }
    )*};
}
pub(crate) use on_versions;

on_versions! {
    stacks: check_stacks [py39 py310 py311 py312 py313 py314 py315];
    older: check_older [py36 py37 py38];
    interpreters: check_interpreters [py313 py314 py315];
    five_hundred_threads: check_many_threads [py39 py310 py311 py312 py313 py314 py315];
    deep_recursion: check_deep_recursion [py39 py310 py311 py312 py313 py314 py315];
    hostile_names: check_hostile_names [py39 py311 py314];
    running_test: check_running_test [py39 py310 py311 py312 py313 py314 py315];
    generator_that_runs: check_generator_that_runs [py39 py310 py311 py312 py313 py314 py315];
    ending: check_ending [py39 py310 py311 py312 py313 py314 py315];
    dead_leader: check_dead_leader [py39 py310 py311 py312 py313 py314 py315];
}

#[test]
fn each_version_that_is_read_has_an_interpreter_here() {
    for version in pythons::ALL {
        let _ = pythons::python(version);
    }
}

/// Versions without a table: py-spy reads the frames, and what it cannot tell is missing, and said.
fn check_older(version: &str) {
    let Some(python) = pythons::older(version) else {
        // These are not provisioned, so they cannot be required.
        println!("SKIPPED: there is no Python {version}");
        return;
    };
    let mut program = Program::start(Command::new(python).args([
        "-c",
        "import threading\nevent = threading.Event()\ndef idle(): event.wait()\n\
         threading.Thread(target=idle, name='idler').start()\nprint('READY', flush=True)\nevent.wait()",
    ]));
    program.wait_for("READY");
    until("both wait", || {
        let run = dump_with(program.pid(), &["--samples", "1"]);
        program.must_be_alive();
        let report = run.report();
        let process = root(&report);
        let runtime = process.python.as_ref().expect("a runtime");
        assert_eq!(runtime.reader, PythonReader::PySpy);
        assert!(runtime.version.starts_with(version), "{}", runtime.version);
        assert_eq!(run.code, Some(3), "{}", run.stderr);
        let gaps: Vec<_> = report
            .samples
            .iter()
            .flat_map(|sample| &sample.gaps)
            .collect();
        assert!(
            gaps.iter()
                .any(|gap| { gap.cause.untrusted().contains("py-spy") && gap.remedy.is_some() }),
            "{gaps:#?}"
        );
        let waits = |name: &str| {
            let mut found = process
                .threads
                .iter()
                .filter(|thread| thread.display_name().untrusted() == name);
            found.any(|thread| {
                thread
                    .frames()
                    .any(|frame| frame.function.untrusted() == "wait")
            })
        };
        waits("MainThread") && waits("idler")
    });
}

fn check_many_threads(version: &str) {
    let Some((program, _)) = start(version, "many_threads", &[]) else {
        return;
    };
    // Some are on their way from the barrier to their wait; what is settled must be right at once.
    until("all threads wait", || {
        let report = dump_with(program.pid(), &["--samples", "1"]).report();
        assert_complete(&report);
        let process = root(&report);
        assert_eq!(process.threads.len(), 501);
        let names: BTreeSet<&str> = process
            .threads
            .iter()
            .map(|thread| thread.display_name().untrusted())
            .collect();
        assert_eq!(names.len(), 501, "each has its own name");
        let mut crowd = process
            .threads
            .iter()
            .filter(|thread| thread.display_name().untrusted() != "MainThread");
        crowd.all(|thread| {
            let waits = thread
                .frames()
                .any(|frame| frame.function.untrusted() == "wait");
            assert!(
                waits || !thread.settled,
                "{version}: settled, and yet {thread:?}"
            );
            waits && thread.settled
        })
    });
    let text = finish(command().args(["dump", &program.pid().to_string(), "--samples", "1"]));
    assert!(
        text.stdout.lines().count() < 200,
        "alike threads are folded: {}",
        text.stdout
    );
}

fn check_deep_recursion(version: &str) {
    let Some((program, _)) = start(version, "recursion", &[]) else {
        return;
    };
    let report = dump_with(program.pid(), &["--samples", "1"]).report();
    let process = root(&report);
    let deep = thread_named(process, "deep");
    let levels = deep
        .frames()
        .filter(|frame| frame.function.untrusted() == "descend")
        .count();
    assert_eq!(levels, 2001, "{version}");
    assert!(
        deep.frames()
            .any(|frame| frame.function.untrusted().ends_with("_bootstrap")),
        "down to the bottom"
    );
    let text = finish(command().args(["dump", &program.pid().to_string(), "--samples", "1"]));
    assert!(text.stdout.lines().count() < 100, "the recursion is folded");
}

fn check_hostile_names(version: &str) {
    let Some((program, _)) = start(version, "hostile_names", &[]) else {
        return;
    };
    for more in [&[][..], &["--all"], &["--width", "40"]] {
        let run = finish(
            command()
                .args(["dump", &program.pid().to_string()])
                .args(more),
        );
        assert_harmless(&run.stdout);
        assert_harmless(&run.stderr);
        assert!(
            !run.stdout
                .lines()
                .any(|line| line.trim_start().starts_with("hang: forged")),
            "{}",
            run.stdout
        );
    }
    let report = dump(program.pid()).report();
    let process = root(&report);
    assert!(
        process.name.untrusted().contains('\u{1b}'),
        "comm: {:?}",
        process.name
    );
    assert!(process.threads.iter().any(|thread| {
        thread
            .display_name()
            .untrusted()
            .contains("\u{202e}gpj.exe")
    }));
}

/// No character that does more than stand in its place, but for the ends of lines.
pub(crate) fn assert_harmless(text: &str) {
    let bad = text.chars().find(|character| {
        (character.is_control() && *character != '\n')
            || matches!(character, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}' | '\u{2028}' | '\u{2029}')
    });
    assert_eq!(bad, None, "in {text:?}");
}

fn check_running_test(version: &str) {
    let Some((program, lines)) = start(version, "running_test", &[]) else {
        return;
    };
    let child: i32 = lines[0].parse().expect("the child's pid");
    let report = dump(program.pid()).report();
    let last = report.samples.last().expect("a sample");
    let test_of = |pid: i32| {
        last.processes
            .iter()
            .find(|process| process.pid == pid)
            .and_then(|process| process.test.as_ref())
    };
    let own = test_of(program.pid()).unwrap_or_else(|| panic!("{version}: no test"));
    assert_eq!(
        own.id.untrusted(),
        "tests/test_pool.py::TestPool::test_drain[4 workers]"
    );
    assert_eq!(own.phase.as_deref(), Some("teardown"));
    assert!(!own.inherited);
    let inherited = test_of(child).unwrap_or_else(|| panic!("{version}: no test in the child"));
    assert_eq!(inherited.id, own.id);
    assert!(
        inherited.inherited,
        "the child does not run the test, it was started by it"
    );
}

/// A generator's frame is off the stack each time it yields. What was read then must not pass for all of the stack: whoever asks
/// what a thread can come to would be told too little.
fn check_generator_that_runs(version: &str) {
    let Some(python) = pythons::python(version) else {
        return;
    };
    let body = "import threading\ndef work():\n while True: sum(1 for _ in range(10**6))\n\
                threading.Thread(target=work, daemon=True).start()\nprint('READY', flush=True)\nthreading.Event().wait()\n";
    let mut program = Program::start(Command::new(&python).args(["-c", body]));
    program.wait_for("READY");
    let mut whole = 0;
    for _ in 0..100 {
        let run = dump_with(program.pid(), &["--samples", "1"]);
        let report = run.report();
        let threads = root(&report).threads.iter();
        for state in threads.flat_map(|thread| &thread.python) {
            let functions: Vec<&str> = state
                .frames
                .iter()
                .map(|frame| frame.function.untrusted())
                .collect();
            if state.cut.is_none() && functions.iter().any(|function| function.contains("work")) {
                let outermost = functions.last().expect("a frame");
                assert!(
                    outermost.ends_with("_bootstrap"),
                    "{version}: {functions:?}"
                );
                whole += 1;
            }
        }
    }
    assert!(whole > 0, "{version}: none was read to its end");
}

/// Processes that end while they are read, at all stages of their life.
fn check_ending(version: &str) {
    let Some(python) = pythons::python(version) else {
        return;
    };
    let body = "import threading, sys\nfor _ in range(4): threading.Thread(target=print, args=('x',)).start()\n";
    for round in 0..12 {
        let program = Program::start(Command::new(&python).args(["-c", body]));
        for _ in 0..4 {
            let samples = if round % 2 == 0 { "1" } else { "3" };
            let run = dump_with(program.pid(), &["--samples", samples, "--interval", "1ms"]);
            assert!(
                matches!(run.code, Some(0 | 3 | 4 | 10)),
                "{version}: exit code {:?}: {}",
                run.code,
                run.stderr
            );
            if run.code == Some(4) {
                assert_eq!(run.stderr.lines().count(), 1, "{}", run.stderr);
                break;
            }
            assert_ne!(
                run.code,
                Some(10),
                "an ending process does not hang: {}",
                run.stdout
            );
        }
    }
}

fn check_dead_leader(version: &str) {
    let Some((mut program, _)) = start(version, "dead_leader", &[]) else {
        return;
    };
    program.wait_for_state('Z');
    let run = dump(program.pid());
    let report = run.report();
    let process = root(&report);
    assert_eq!(process.state, "Z");
    let survivor = thread_named(process, "survivor");
    assert!(
        survivor
            .frames()
            .any(|frame| frame.function.untrusted() == "go_on"),
        "{survivor:?}"
    );
    let leader = process
        .threads
        .iter()
        .find(|thread| thread.tid == process.pid)
        .expect("the leader");
    assert_eq!(leader.kind, ThreadKind::Exited);
}

#[test]
fn a_stopped_process_stays_stopped() {
    let Some((mut program, _)) = start("3.14", "waiting", &["event"]) else {
        return;
    };
    // READY comes just before the wait.
    let wchan = format!("/proc/{}/wchan", program.pid());
    until("it waits", || {
        std::fs::read_to_string(&wchan).is_ok_and(|place| place.contains("futex"))
    });
    program.signal(Signal::SIGSTOP);
    program.wait_for_state('T');
    for _ in 0..3 {
        let report = dump(program.pid()).report();
        let process = root(&report);
        assert_eq!(process.state, "T");
        let main = thread_named(process, "MainThread");
        assert!(
            main.frames()
                .any(|frame| frame.function.untrusted() == "Event.wait"),
            "{main:?}"
        );
        assert!(report.analysis.findings.is_empty(), "stopped is not stuck");
        let stat =
            std::fs::read_to_string(format!("/proc/{}/stat", program.pid())).expect("it lives");
        assert!(stat.contains(") T "), "{stat}");
    }
    program.signal(Signal::SIGCONT);
    program.wait_for_state('S');
}

#[test]
fn a_traced_process_is_dumped_and_stays_traced() {
    let has_strace = Command::new("strace")
        .arg("-V")
        .output()
        .is_ok_and(|output| output.status.success());
    if !has_strace {
        skip("there is no strace");
        return;
    }
    let Some((program, _)) = start("3.14", "waiting", &["event"]) else {
        return;
    };
    let pid = program.pid();
    let log = tempfile::NamedTempFile::new().expect("a file");
    let tracer = Program::start(
        Command::new("strace")
            .args(["-f", "-q", "-p", &pid.to_string(), "-o"])
            .arg(log.path()),
    );
    let traced = || {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        status.contains(&format!("TracerPid:\t{}\n", tracer.pid()))
    };
    until("strace traces it", traced);
    let report = dump(pid).report();
    let process = root(&report);
    assert_eq!(process.tracer, Some(tracer.pid()));
    let main = thread_named(process, "MainThread");
    assert!(
        main.frames()
            .any(|frame| frame.function.untrusted() == "Event.wait"),
        "{main:?}"
    );
    assert!(traced());
}

#[test]
fn another_pid_namespace() {
    if !Uid::effective().is_root() {
        skip("a pid namespace needs root");
        return;
    }
    let Some(python) = pythons::python("3.14") else {
        return;
    };
    let script = repository("fixtures/programs/known_stacks_program.py");
    let mut unshare = Command::new("unshare");
    unshare
        .args(["--fork", "--pid", "--mount-proc", "--kill-child"])
        .arg(python)
        .arg(script);
    let mut program = Program::start(&mut unshare);
    let lines = program.wait_for("READY");
    let told: BTreeMap<i32, Told> = serde_json::from_str(&lines[0]).expect("JSON of the program");
    let report = dump(program.pid()).report();
    let last = report.samples.last().expect("a sample");
    let inner = last
        .processes
        .iter()
        .find(|process| process.runtime == RuntimeKind::Python)
        .expect("the Python in there");
    assert_eq!(inner.namespace_pid, Some(1));
    let tasks: BTreeSet<i32> = std::fs::read_dir(format!("/proc/{}/task", inner.pid))
        .expect("our view of it")
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    let tids: BTreeSet<i32> = inner.threads.iter().map(|thread| thread.tid).collect();
    assert_eq!(tids, tasks, "thread ids are those of our namespace");
    for expected in told.values() {
        assert_eq!(frames(thread_named(inner, &expected.name)), expected.frames);
    }
    let main = thread_named(inner, "MainThread");
    assert_eq!(main.tid, inner.pid);
}

#[test]
fn a_process_without_python_shows_what_the_kernel_knows() {
    let program = Program::start(Command::new("sleep").arg("100000"));
    let comm = format!("/proc/{}/comm", program.pid());
    until("it has become sleep", || {
        std::fs::read_to_string(&comm).is_ok_and(|comm| comm == "sleep\n")
    });
    let run = dump(program.pid());
    let report = run.report();
    let process = root(&report);
    assert_eq!(process.runtime, RuntimeKind::Other);
    assert_eq!(process.threads.len(), 1);
    assert_eq!(process.threads[0].kind, ThreadKind::Native);
    let wait = process.threads[0].wait.as_ref().expect("it sleeps");
    assert_eq!(wait.kind, hangscope::model::WaitKind::Sleep);
    assert!(Path::new(&format!("/proc/{}", program.pid())).exists());
}
