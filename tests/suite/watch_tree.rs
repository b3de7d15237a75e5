//! `hangscope watch`: the processes of a run, and that nothing is left of it.

use crate::support_watch::{Place, Run, json, pids, python, run, signal, status_field, wait_until};
use rustix::process::Signal;

/// A command that ignores TERM, and a grandchild that has left its session, its group and its parent.
const STUBBORN: &str = r#"
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        print("READY", flush=True)
        os.close(1)
        time.sleep(1000)
    os._exit(0)
os.wait()
os.close(1)
time.sleep(1000)
"#;

#[test]
fn those_that_ignore_term_or_have_left_the_group_are_killed() {
    let place = Place::new();
    let options = [
        "--run-timeout",
        "1",
        "--grace",
        "50ms",
        "--samples",
        "1",
        "--",
    ];
    let mut run = Run::start(place.watch(&options).args([python(), "-c", STUBBORN]));
    run.ready();
    let end = run.end();
    assert_eq!(end.code(), 124);
    place.assert_nothing_left();
    let dump = json(&place.bundle().join("dump.json"));
    let seen = dump["samples"][0]["processes"]
        .as_array()
        .expect("processes")
        .len();
    assert_eq!(seen, 2, "the orphan is part of the run: {dump:#}");
}

#[test]
fn term_comes_before_kill_and_stopped_processes_see_it() {
    let place = Place::new();
    let script = "trap 'echo TERM; exit 5' TERM; echo READY; while :; do sleep 0.01; done";
    let mut run = Run::start(&mut place.watch(&[
        "--run-timeout",
        "500ms",
        "--samples",
        "1",
        "--grace",
        "50s",
        "--",
        "sh",
        "-c",
        script,
    ]));
    run.ready();
    let group = command_of(&place, run.pid());
    signal(group, Signal::STOP).expect("it lives");
    let end = run.end();
    assert_eq!(end.stdout, "TERM\n");
    assert_eq!(end.code(), 124);
    place.assert_nothing_left();
}

/// The command of a run: the child of the child of hangscope.
pub(crate) fn command_of(place: &Place, hangscope: i32) -> i32 {
    let parent = |pid: i32| status_field(pid, "PPid").and_then(|text| text.parse::<i32>().ok());
    let mut found = None;
    wait_until("the command runs", || {
        let processes = place.processes();
        found = processes
            .iter()
            .copied()
            .find(|&pid| parent(pid).and_then(parent) == Some(hangscope));
        found.is_some()
    });
    found.expect("the command")
}

#[test]
fn when_hangscope_is_killed_nothing_stays() {
    let place = Place::new();
    let mut run = Run::start(place.watch(&["--"]).args([python(), "-c", STUBBORN]));
    run.ready();
    assert!(
        place.processes().len() >= 4,
        "hangscope, guardian, command, orphan"
    );
    run.signal(Signal::KILL);
    assert_eq!(run.end().code(), -9);
    wait_until("all is gone", || place.processes().is_empty());
}

#[test]
fn when_the_guardian_is_killed_the_run_goes_on() {
    let place = Place::new();
    let script = "import sys; print('READY', flush=True); sys.stdin.read(); sys.exit(7)";
    let mut command = place.watch(&["--", python(), "-c", script]);
    let mut run = Run::start(command.stdin(std::process::Stdio::piped()));
    run.ready();
    let guardian = status_field(command_of(&place, run.pid()), "PPid").expect("its parent");
    signal(guardian.parse().expect("a pid"), Signal::KILL).expect("it lives");
    drop(run.child.stdin.take());
    let end = run.end();
    assert_eq!(end.code(), 7, "{}", end.stderr);
    assert!(end.stderr.contains("guardian"), "{}", end.stderr);
}

#[test]
fn when_the_guardian_is_killed_the_limit_still_ends_the_tree() {
    let place = Place::new();
    let options = [
        "--run-timeout",
        "1500ms",
        "--grace",
        "50ms",
        "--samples",
        "1",
        "--",
    ];
    let mut run = Run::start(place.watch(&options).args([python(), "-c", STUBBORN]));
    run.ready();
    let guardian = pids().find(|&pid| {
        status_field(pid, "PPid").is_some_and(|parent| parent == run.pid().to_string())
    });
    signal(guardian.expect("the guardian"), Signal::KILL).expect("it lives");
    let end = run.end();
    assert_eq!(end.code(), 124, "{}", end.stderr);
    place.assert_nothing_left();
}

#[test]
fn orphans_of_a_good_run_are_listed_and_stay() {
    let place = Place::new();
    let script = "sleep 1000 >/dev/null 2>&1 & exit 3";
    let end = run(&mut place.watch(&["--", "sh", "-c", script]));
    assert_eq!(end.code(), 3);
    assert!(
        end.stderr.starts_with("\nhangscope: left running: ") && end.stderr.contains("(sleep)"),
        "{}",
        end.stderr
    );
    let left = place.processes();
    assert_eq!(left.len(), 1, "{left:?}");
    assert_eq!(
        status_field(left[0], "State").expect("its state").get(..1),
        Some("S")
    );
}

#[test]
fn what_ends_along_with_the_command_is_not_listed() {
    let place = Place::new();
    let end = run(&mut place.watch(&["--", "sh", "-c", "sleep 0.02 & exit 0"]));
    assert_eq!((end.code(), end.stderr.as_str()), (0, ""));
}
