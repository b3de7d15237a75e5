//! Signals to `hangscope watch`.

use crate::support_watch::{Place, Run, json, run, signal, status_field, wait_until};
use crate::watch_tree::command_of;
use rustix::process::Signal;
use std::process::Stdio;

/// Reads its standard input to the end, then exits with 7.
const READER: [&str; 4] = ["--", "sh", "-c", "echo READY; read line; exit 7"];

#[test]
fn quit_and_usr1_dump_and_the_run_goes_on() {
    for (number, name) in [(Signal::QUIT, "SIGQUIT"), (Signal::USR1, "SIGUSR1")] {
        let place = Place::new();
        let mut command = place.watch(&["--interval", "10ms"]);
        let mut run = Run::start(command.args(READER).stdin(Stdio::piped()));
        run.ready();
        run.signal(number);
        wait_until("the bundle is there", || {
            place.path(".hangscope/latest/manifest.json").exists()
        });
        drop(run.child.stdin.take());
        let end = run.end();
        assert_eq!(end.code(), 7);
        assert!(
            end.stderr.starts_with(&format!("\nhangscope: {name}")),
            "{}",
            end.stderr
        );
        let manifest = json(&place.bundle().join("manifest.json"));
        assert_eq!(
            manifest["trigger"],
            serde_json::json!({"kind": "signal", "name": name})
        );
        assert_eq!(
            manifest["outcome"],
            serde_json::json!({"kind": "child-exit", "code": 7})
        );
    }
}

/// Says what it has on disk when the signal comes.
const TELLER: &str =
    "trap 'ls .hangscope/latest/; exit 9' TERM INT HUP; echo READY; while :; do sleep 0.01; done";

#[test]
fn term_int_and_hup_are_passed_on_when_the_first_sample_is_on_disk() {
    for number in [Signal::TERM, Signal::INT, Signal::HUP] {
        let place = Place::new();
        let mut run = Run::start(&mut place.watch(&["--", "sh", "-c", TELLER]));
        run.ready();
        run.signal(number);
        let end = run.end();
        assert_eq!(end.code(), 9);
        // What does not tell of the hang may come later.
        let there: Vec<&str> = end
            .stdout
            .lines()
            .filter(|name| *name != "report.md")
            .collect();
        assert_eq!(there, ["dump.json", "manifest.json", "report.txt"]);
        let dump = json(&place.bundle().join("dump.json"));
        assert_eq!(dump["samples"].as_array().expect("samples").len(), 1);
    }
}

#[test]
fn a_second_signal_is_passed_on_at_once() {
    let place = Place::new();
    let script =
        "trap 'n=$((n+1)); [ $n = 2 ] && exit 9' TERM; echo READY; while :; do sleep 0.01; done";
    let mut run = Run::start(&mut place.watch(&["--", "sh", "-c", script]));
    run.ready();
    run.signal(Signal::TERM);
    wait_until("the first is dealt with", || {
        place.path(".hangscope/latest").exists()
    });
    // Signals of one number merge as long as one is pending: sent until the second one has arrived.
    wait_until("the second has an effect", || {
        let _ = signal(run.pid(), Signal::TERM);
        std::thread::sleep(std::time::Duration::from_millis(50));
        run.child.try_wait().expect("its state").is_some()
    });
    assert_eq!(run.end().code(), 9);
    assert_eq!(
        place.bundles().len(),
        1,
        "only the first is worth a capture"
    );
}

#[test]
fn a_death_by_a_signal_passed_on_is_died_again() {
    let place = Place::new();
    let mut run = Run::start(&mut place.watch(&["--", "sh", "-c", "echo READY; exec sleep 1000"]));
    run.ready();
    run.signal(Signal::INT);
    assert_eq!(run.end().code(), -2);
    let manifest = json(&place.bundle().join("manifest.json"));
    assert_eq!(
        manifest["outcome"],
        serde_json::json!({"kind": "child-signal", "code": 130, "signal": 2})
    );
}

#[test]
fn other_signals_are_passed_on_without_a_dump() {
    let place = Place::new();
    let script = "trap 'exit 4' USR2; echo READY; while :; do sleep 0.01; done";
    let mut run = Run::start(&mut place.watch(&["--", "sh", "-c", script]));
    run.ready();
    run.signal(Signal::USR2);
    assert_eq!(run.end().code(), 4);
    assert!(place.bundles().is_empty());
}

#[test]
fn ignored_signals_stay_ignored() {
    let place = Place::new();
    let script = "trap '' INT HUP CHLD; exec \"$0\" watch -- sh -c 'echo READY; read line; exit 7'";
    let mut command = place.command("sh");
    command
        .args(["-c", script, env!("CARGO_BIN_EXE_hangscope")])
        .stdin(Stdio::piped());
    let mut run = Run::start(&mut command);
    run.ready();
    for pid in [run.pid(), command_of(&place, run.pid())] {
        let mask = u64::from_str_radix(&status_field(pid, "SigIgn").expect("the mask"), 16)
            .expect("hexadecimal");
        for number in [Signal::INT, Signal::HUP] {
            assert!(
                mask >> (number.as_raw() - 1) & 1 == 1,
                "{pid} {number:?} {mask:x}"
            );
        }
    }
    run.signal(Signal::INT);
    run.signal(Signal::HUP);
    drop(run.child.stdin.take());
    let end = run.end();
    assert_eq!((end.code(), end.stderr.as_str()), (7, ""));
}

#[test]
fn when_the_shell_around_is_killed_the_run_is_dumped_and_ended() {
    let place = Place::new();
    let script = "\"$0\" watch -- sh -c 'echo READY; exec sleep 1000'; exit 1";
    let mut run =
        Run::start(
            place
                .command("sh")
                .args(["-c", script, env!("CARGO_BIN_EXE_hangscope")]),
        );
    run.ready();
    run.signal(Signal::KILL);
    wait_until("all is gone", || place.processes().is_empty());
    assert!(place.bundle().join("dump.json").exists());
    run.end();
}

#[test]
fn an_end_during_the_dump_is_the_commands_own() {
    let place = Place::new();
    // Many samples, and the command ends as soon as the first is on disk.
    let script = "while [ ! -e .hangscope/latest/dump.json ]; do sleep 0.01; done; exit 6";
    let options = [
        "--run-timeout",
        "100ms",
        "--samples",
        "100",
        "--interval",
        "200ms",
        "--",
    ];
    let end = run(place.watch(&options).args(["sh", "-c", script]));
    assert_eq!(end.code(), 6, "{}", end.stderr);
    assert!(
        end.stderr.contains("the command ended by itself meanwhile"),
        "{}",
        end.stderr
    );
    let manifest = json(&place.bundle().join("manifest.json"));
    assert_eq!(
        manifest["outcome"],
        serde_json::json!({"kind": "child-exit", "code": 6})
    );
    assert_eq!(manifest["trigger"]["kind"], "run-timeout");
}

#[test]
fn the_end_of_a_mere_thread_of_the_parent_is_nothing() {
    let place = Place::new();
    // The kernel's parent-death signal comes when the thread ends that started the child.
    let script = "
import subprocess, sys, threading
def start():
    global run
    run = subprocess.Popen(sys.argv[1:], stdout=subprocess.PIPE)
    run.stdout.readline()
thread = threading.Thread(target=start)
thread.start()
thread.join()
print('READY', flush=True)
sys.exit(run.wait())
";
    let mut command = place.command(crate::support_watch::python());
    command
        .args(["-c", script, env!("CARGO_BIN_EXE_hangscope"), "watch"])
        .args(READER)
        .stdin(Stdio::piped());
    let mut run = Run::start(&mut command);
    run.ready();
    drop(run.child.stdin.take());
    assert_eq!(run.end().code(), 7);
    assert!(place.bundles().is_empty());
}

#[test]
fn a_stuck_reader_of_standard_error_does_not_keep_the_run_alive() {
    let place = Place::new();
    let (_reader, writer) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).expect("a pipe");
    rustix::io::ioctl_fionbio(&writer, true).expect("its mode");
    while rustix::io::write(&writer, &[b'x'; 4096]).is_ok() {}
    rustix::io::ioctl_fionbio(&writer, false).expect("its mode");
    let mut command = place.watch(&[
        "--run-timeout",
        "100ms",
        "--samples",
        "1",
        "--",
        "sleep",
        "1000",
    ]);
    let status = command
        .stderr(Stdio::from(writer))
        .status()
        .expect("it runs");
    assert_eq!(status.code(), Some(124));
    place.assert_nothing_left();
    assert_eq!(
        json(&place.bundle().join("manifest.json"))["outcome"]["kind"],
        "timed-out"
    );
}
