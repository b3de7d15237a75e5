//! A stop for native stacks does no harm: exit codes, signals and the process itself are as without it, and which system
//! calls it disturbs is known.

use crate::capture::start;
use crate::stop::assert_runs;
use crate::support::hangscope::{command, dump_with};
use crate::support::native::{c_library, c_program};
use crate::support::program::{Program, until};
use crate::support::{heavy, pythons};
use hangscope::inspect::{Native, Request, Samples, inspect};
use hangscope::model::{Report, Trigger};
use nix::sys::signal::Signal;
use std::collections::BTreeSet;
use std::process::{Command, Stdio};
use std::time::Duration;

/// Native stacks of a process and all below it, taken by this very process.
fn native_dump(pid: i32) -> Report {
    let request = Request {
        pid,
        tree: true,
        samples: Samples::Exactly(1),
        interval: Duration::ZERO,
        locals: false,
        stop: false,
        native: Native::Always,
        no_stop: false,
        all: false,
        width: 80,
        trigger: Trigger::Dump,
        run: None,
        exclude: Vec::new(),
    };
    inspect(&request, &mut |_| true).expect("a report")
}

fn run_c(name: &str) -> Program {
    let mut program = Program::start(&mut Command::new(c_program(&format!(
        "programs/native/{name}.c"
    ))));
    program.wait_for("READY");
    program
}

/// Children end by themselves or are killed while they are held, and their parent is held while it waits for them.
#[test]
fn exit_codes_are_right_through_a_thousand_dumps() {
    let mut program = run_c("exits");
    let mut held = 0;
    for _ in 0..1000 {
        let report = native_dump(program.pid());
        held += report.samples[0].pauses.len();
    }
    assert!(held >= 1000, "the parent and some children were held");
    program.signal(Signal::SIGTERM);
    let said = program.line();
    let children: usize = said
        .strip_suffix(" children")
        .and_then(|count| count.parse().ok())
        .unwrap_or_else(|| panic!("{said}"));
    assert!(children > 100, "{said}");
}

/// One process, held a thousand times, goes on and ends as it would have.
#[test]
fn one_process_outlives_a_thousand_dumps() {
    let mut child = Command::new("sh")
        .args(["-c", "read line; exit 123"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("starts");
    let pid = i32::try_from(child.id()).expect("a pid");
    for _ in 0..1000 {
        let report = native_dump(pid);
        assert_eq!(report.samples[0].pauses.len(), 1);
    }
    drop(child.stdin.take());
    let status = child.wait().expect("its status");
    assert_eq!(status.code(), Some(123));
}

/// hangscope killed by SIGKILL at any moment of a dump.
#[test]
fn hangscope_killed_leaves_nothing_stopped() {
    let Some((python, _)) = start("3.14", "busy", &[]) else {
        return;
    };
    let signals = run_c("signals");
    let rounds: u64 = if heavy() { 1000 } else { 100 };
    // How long one takes, by which the moments are chosen: from the start to a little after the end.
    let began = std::time::Instant::now();
    dump_with(python.pid(), &["--native", "--samples", "1"]);
    let most = began.elapsed().mul_f64(1.2);
    let mut killed = 0;
    for round in 0..rounds {
        let program = if round % 2 == 0 { &python } else { &signals };
        let mut child = command()
            .args(["dump", &program.pid().to_string(), "--native"])
            .args(["--samples", "1"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("starts");
        // The next multiple of the golden section: spread evenly, however many they are.
        let share = (round as f64 * 0.618_033_988_75).fract();
        std::thread::sleep(most.mul_f64(share));
        child.kill().expect("killed");
        let status = child.wait().expect("waited for");
        killed += u64::from(status.code().is_none());
        assert_runs(program.pid());
    }
    assert!(
        killed > rounds / 4,
        "only {killed} of {rounds} were killed before they ended"
    );
}

/// Real-time signals are queued with their values: each comes once, and in order.
#[test]
fn queued_signals_are_not_lost() {
    let mut program = run_c("queued");
    for _ in 0..100 {
        native_dump(program.pid());
    }
    program.signal(Signal::SIGTERM);
    let said = program.line();
    let words: Vec<&str> = said.split(' ').collect();
    let ["sent", sent, "got", got] = words.as_slice() else {
        panic!("{said}");
    };
    assert_eq!(sent, got);
    assert!(sent.parse::<u32>().expect("a number") > 1000, "{said}");
}

/// The calls that failed with EINTR. All threads wait, so what was interrupted has been noted.
fn disturbed(program: &mut Program) -> BTreeSet<String> {
    let tasks = format!("/proc/{}/task", program.pid());
    until("all threads wait", || {
        let tasks = std::fs::read_dir(&tasks).expect("threads").flatten();
        tasks
            .map(|task| std::fs::read_to_string(task.path().join("stat")).unwrap_or_default())
            .all(|stat| stat.contains(") S "))
    });
    program.signal(Signal::SIGUSR1);
    let line = program.line();
    let calls = line
        .strip_prefix("DISTURBED")
        .unwrap_or_else(|| panic!("{line}"));
    calls.split_whitespace().map(str::to_owned).collect()
}

/// What `docs/guide.md` says: no other call fails for a stop.
const DISTURBED: [&str; 6] = [
    "epoll_wait",
    "epoll_wait-timeout",
    "recv-SO_RCVTIMEO",
    "semop",
    "sigtimedwait",
    "sigwaitinfo",
];

#[test]
fn which_calls_a_stop_disturbs() {
    let mut program = run_c("eintr");
    assert_eq!(disturbed(&mut program), BTreeSet::new(), "by nothing");
    dump_with(program.pid(), &["--no-native"]);
    assert_eq!(disturbed(&mut program), BTreeSet::new(), "--no-native");
    dump_with(program.pid(), &["--no-stop", "--native", "--samples", "1"]);
    assert_eq!(disturbed(&mut program), BTreeSet::new(), "--no-stop");
    // More than once: not each stop disturbs each of them.
    for _ in 0..5 {
        dump_with(program.pid(), &["--native", "--samples", "1"]);
    }
    let found = disturbed(&mut program);
    let known = DISTURBED.map(str::to_owned).into();
    assert_eq!(found, known, "by --native");
}

/// The same calls in a Python process: a dump of it stops nothing, unless a hang is inside native code.
#[test]
fn a_dump_of_python_disturbs_no_call() {
    let Some(python) = pythons::python("3.14") else {
        return;
    };
    let script = "import ctypes, signal, sys, threading\n\
                  signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])\n\
                  ctypes.CDLL(sys.argv[1]).watch_calls()\n\
                  threading.Event().wait()\n";
    let mut program = Program::start(
        Command::new(python)
            .args(["-c", script])
            .arg(c_library("programs/native/eintr.c")),
    );
    program.wait_for("READY");
    let report = dump_with(program.pid(), &[]).report();
    let last = report.samples.last().expect("a sample");
    assert!(last.pauses.is_empty(), "{:?}", last.pauses);
    assert_eq!(disturbed(&mut program), BTreeSet::new());
    dump_with(program.pid(), &["--native"]);
    assert_ne!(
        disturbed(&mut program),
        BTreeSet::new(),
        "the probe works there"
    );
}
