//! `dump --stop`: a process that never stands still is read at one instant, and goes on as if nothing had been.

use crate::capture::start;
use crate::support::hangscope::{command, dump_with};
use crate::support::program::{Program, until};
use crate::support::pythons;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::process::{Command, Stdio};

/// A hangscope that stops a process a hundred times.
fn many_dumps(pid: i32) -> Command {
    let mut dumps = command();
    dumps.args(["dump", &pid.to_string(), "--stop"]);
    dumps.args(["--samples", "100", "--interval", "1ms"]);
    dumps
}

/// State letters of all threads.
fn states(pid: i32) -> Vec<char> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("tasks");
    tasks
        .flatten()
        .filter_map(|task| fs::read_to_string(task.path().join("stat")).ok())
        .filter_map(|stat| stat.rsplit_once(") ")?.1.chars().next())
        .collect()
}

pub(crate) fn assert_runs(pid: i32) {
    until("no thread is stopped", || {
        states(pid).iter().all(|state| !matches!(state, 'T' | 't'))
    });
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("status");
    assert!(status.contains("TracerPid:\t0\n"), "{status}");
}

fn check_busy(version: &str) {
    let Some((program, _)) = start(version, "busy", &[]) else {
        return;
    };
    for _ in 0..10 {
        let report = dump_with(program.pid(), &["--stop", "--samples", "1"]).report();
        let sample = report.samples.last().expect("a sample");
        assert_eq!(sample.pauses.len(), 1, "{version}: the pause is told");
        assert!(sample.pauses[0].stopped_us > 0);
        let gaps = &sample.gaps;
        assert!(
            gaps.iter().all(|gap| !gap.kind.is_incomplete()),
            "{version}: {gaps:#?}"
        );
        let process = &sample.processes[0];
        for thread in &process.threads {
            assert!(thread.settled, "{version}: {thread:?}");
            assert!(
                !matches!(thread.kernel.state.as_str(), "T" | "t"),
                "{thread:?}"
            );
        }
        assert!(report.analysis.findings.is_empty(), "{version}");
        assert_runs(program.pid());
    }
}

#[test]
fn a_busy_process_py39() {
    check_busy("3.9");
}

#[test]
fn a_busy_process_py312() {
    check_busy("3.12");
}

#[test]
fn a_busy_process_py314() {
    check_busy("3.14");
}

#[test]
fn hangscope_killed_leaves_nothing_stopped() {
    let Some((program, _)) = start("3.14", "busy", &[]) else {
        return;
    };
    for round in 0_u64..40 {
        let mut child = many_dumps(program.pid())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("starts");
        // A different moment each time; there is nothing to wait for.
        std::thread::sleep(std::time::Duration::from_micros(700 * round));
        child.kill().expect("killed");
        child.wait().expect("waited for");
        assert_runs(program.pid());
    }
}

#[test]
fn what_was_stopped_before_stays_stopped() {
    let Some((program, _)) = start("3.14", "waiting", &[]) else {
        return;
    };
    let pid = Pid::from_raw(program.pid());
    kill(pid, Signal::SIGSTOP).expect("stopped");
    until("it is stopped", || {
        states(program.pid()).iter().all(|state| *state == 'T')
    });
    let run = dump_with(program.pid(), &["--stop", "--samples", "1"]);
    assert_ne!(run.report().samples.len(), 0);
    until("it is stopped still", || {
        states(program.pid()).iter().all(|state| *state == 'T')
    });
    kill(pid, Signal::SIGCONT).expect("continued");
    assert_runs(program.pid());
}

/// The kernel gives a process's signal to a thread that is not stopped, if it can choose; here only the main one takes it.
#[test]
fn no_signal_is_lost() {
    let Some(python) = pythons::python("3.14") else {
        return;
    };
    let script = "import os, signal, threading, time\n\
                  count = 0\n\
                  def handler(*_):\n    global count\n    count += 1\n    os.write(1, b'got %d\\n' % count)\n\
                  signal.signal(signal.SIGUSR1, handler)\n\
                  signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])\n\
                  [threading.Thread(target=time.sleep, args=(1000,), daemon=True).start() for _ in range(8)]\n\
                  signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR1])\n\
                  print('READY', flush=True)\n\
                  while True: time.sleep(0.01)\n";
    let mut program = Program::start(Command::new(python).args(["-c", script]));
    program.wait_for("READY");
    let mut dumps = many_dumps(program.pid())
        .stdout(Stdio::null())
        .spawn()
        .expect("starts");
    let mut number = 0;
    while dumps.try_wait().expect("waited for").is_none() {
        number += 1;
        kill(Pid::from_raw(program.pid()), Signal::SIGUSR1).expect("sent");
        program.wait_for(&format!("got {number}"));
    }
    assert!(number > 0, "some came while it was dumped");
    assert_runs(program.pid());
}
