//! `hangscope watch` in an interactive shell with real job control: what the user sees and what happens is what is
//! seen and happens without it.
//!
//! `fixtures/watch/terminal.py` is the user. What it types is the same with and without hangscope: `$W` stands for
//! `hangscope watch --` or for nothing, so the two screens can be compared.

use crate::support::fixture;
use crate::support::pythons::python_with_packages;
use crate::support_watch::{Place, Run, python, run, signal, wait_until};
use rustix::process::Signal;
use std::fs;
use std::process::Command;

/// Asks for lines until there are none.
const READER: &str = "\
import sys
print('READY', flush=True)
for line in sys.stdin:
    print('got', line.strip().upper(), flush=True)
";

/// Waits until it has the terminal, which under hangscope is a moment after its start, and then for Ctrl-C.
const SLEEPER: &str = "\
import os, time
def test_sleeps():
    while os.tcgetpgrp(0) != os.getpgrp():
        time.sleep(0.01)
    print('READY', flush=True); time.sleep(1000)
";

fn session(place: &Place, watch: &str, steps: &str, more: &[&str]) -> Option<Command> {
    let pytest = python_with_packages("3.13")?;
    fs::write(place.path("reader.py"), READER).expect("a program");
    fs::write(place.path("test_sleeps.py"), SLEEPER).expect("a suite");
    let fails = "def test_fails():\n    answer = 41\n    assert answer == 42\n";
    fs::write(place.path("test_fails.py"), fails).expect("a suite");
    let mut command = place.command(python());
    command
        .arg(fixture("watch/terminal.py"))
        .arg(steps)
        .args(more)
        .env("W", watch)
        .env("PY", python())
        .env(
            "PYTEST",
            format!("{} -m pytest -q -p no:cacheprovider", pytest.display()),
        )
        .env("PYTHONDONTWRITEBYTECODE", "1");
    Some(command)
}

fn watch(options: &str) -> String {
    format!("{} watch {options} --", env!("CARGO_BIN_EXE_hangscope"))
}

/// The screen of a session in a folder of its own, without what differs from run to run.
#[track_caller]
fn screen(watch: &str, steps: &str) -> Option<String> {
    let place = Place::new();
    let end = run(&mut session(&place, watch, steps, &[])?);
    assert_eq!(end.code(), 0, "{}{}", end.stdout, end.stderr);
    place.assert_nothing_left();
    assert!(!place.path(".hangscope").exists(), "nothing to archive");
    Some(plain(&end.stdout, &place))
}

fn plain(text: &str, place: &Place) -> String {
    let text = text.replace(&place.folder.path().display().to_string(), "PLACE");
    let lines = text.lines().map(|line| {
        // The pid of a job, and how long pytest took.
        match line.split_once("[1] ") {
            Some((before, pid)) if pid.bytes().all(|byte| byte.is_ascii_digit()) => {
                format!("{before}[1] PID")
            }
            _ => line.split(" in 0.").next().unwrap_or_default().to_owned(),
        }
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// Both screens are the same; returns it.
#[track_caller]
fn same(steps: &str) -> Option<String> {
    let bare = screen("", steps)?;
    let watched = screen(&watch(""), steps)?;
    assert_eq!(watched, bare, "with (left) and without (right)");
    Some(watched)
}

#[test]
fn the_debugger_of_pytest() {
    let Some(seen) = same(
        r"[(b'PROMPT> ', b'$W $PYTEST --pdb test_fails.py; echo code $?\n'),
           (b'(Pdb) ', b'p answer + 1\n'), (b'(Pdb) ', b'c\n'), (b'code 1\r\n', b''), (b'PROMPT> ', b'exit\n')]",
    ) else {
        return;
    };
    assert!(
        seen.contains("\n42\n") && seen.contains("1 failed"),
        "{seen}"
    );
}

#[test]
fn the_interrupt_key_in_pytest() {
    let Some(seen) = same(
        r"[(b'PROMPT> ', b'$W $PYTEST -s test_sleeps.py; echo code $?\n'),
           (b'READY\r\n', b'\x03'), (b'code 2\r\n', b''), (b'PROMPT> ', b'exit\n')]",
    ) else {
        return;
    };
    assert!(
        seen.contains("KeyboardInterrupt") && seen.contains("no tests ran"),
        "{seen}"
    );
}

#[test]
fn the_quit_key_ends_the_command() {
    let Some(seen) = same(
        r"[(b'PROMPT> ', b'ulimit -c 0; $W $PYTEST -s -p no:faulthandler test_sleeps.py\n'),
           (b'READY\r\n', b'\x1c'), (b'PROMPT> ', b'echo code $?\n'), (b'code 131\r\n', b''), (b'PROMPT> ', b'exit\n')]",
    ) else {
        return;
    };
    assert!(seen.contains("Quit"), "{seen}");
}

#[test]
fn stop_foreground_and_background() {
    let Some(seen) = same(
        r"[(b'PROMPT> ', b'$W $PY reader.py\n'), (b'READY\r\n', b'one\n'), (b'got ONE\r\n', b'\x1a'),
           (b'Stopped', b''), (b'PROMPT> ', b'fg\n'), (b'reader.py', b'two\n'), (b'got TWO\r\n', b'\x1a'),
           (b'Stopped', b''), (b'PROMPT> ', b'bg; until jobs | grep -q Stopped; do sleep 0.1; done; echo it $((1+1))\n'),
           (b'it 2\r\n', b''), (b'PROMPT> ', b'fg\n'), (b'reader.py', b'three\n'), (b'got THREE\r\n', b'\x04'),
           (b'PROMPT> ', b'echo code $?\n'), (b'code 0\r\n', b''), (b'PROMPT> ', b'exit\n')]",
    ) else {
        return;
    };
    assert_eq!(seen.matches("Stopped").count(), 4, "{seen}");
}

#[test]
fn a_start_in_the_background_waits_for_the_foreground() {
    let Some(seen) = same(
        r"[(b'PROMPT> ', b'$W $PY reader.py & until jobs | grep -q Stopped; do sleep 0.1; done; echo it $((1+1))\n'),
           (b'it 2\r\n', b''), (b'PROMPT> ', b'fg\n'), (b'reader.py', b'one\n'), (b'got ONE\r\n', b'\x04'),
           (b'PROMPT> ', b'echo code $?\n'), (b'code 0\r\n', b''), (b'PROMPT> ', b'exit\n')]",
    ) else {
        return;
    };
    assert!(seen.contains("READY") && seen.contains("got ONE"), "{seen}");
}

#[test]
fn a_password_is_not_shown() {
    let Some(seen) = same(
        r#"[(b'PROMPT> ', b'$W $PY -c "import getpass; print(len(getpass.getpass()))"\n'),
           (b'Password: ', b'hunter2\n'), (b'7', b''), (b'PROMPT> ', b'stty -a | grep -ow -e -echo -e echo\n'),
           (b'echo\r\n', b''), (b'PROMPT> ', b'exit\n')]"#,
    ) else {
        return;
    };
    assert!(!seen.contains("hunter2"), "{seen}");
}

#[test]
fn after_a_password_prompt_that_was_ended_the_terminal_shows_again_what_is_typed() {
    let place = Place::new();
    let steps = r#"[(b'PROMPT> ', b'$W $PY -c "import getpass; getpass.getpass()"; echo code $?\n'),
        (b'Password: ', b''), (b'code 124\r\n', b''),
        (b'PROMPT> ', b'stty -a | grep -ow -e -echo -e echo\n'), (b'\necho\r\n', b''), (b'PROMPT> ', b'exit\n')]"#;
    let Some(mut command) = session(&place, &watch("--run-timeout 2s --samples 1"), steps, &[])
    else {
        return;
    };
    let end = run(&mut command);
    assert_eq!(end.code(), 0, "{}{}", end.stdout, end.stderr);
    place.assert_nothing_left();
}

#[test]
fn pipes_and_deaths() {
    let Some(seen) = same(
        r#"[(b'PROMPT> ', b'echo one | $W $PY reader.py; echo code $?\n'), (b'code 0\r\n', b''),
            (b'PROMPT> ', b'$W yes | head -n 1; echo codes ${PIPESTATUS[*]}\n'), (b'codes 141 0\r\n', b''),
            (b'PROMPT> ', b'echo one | $W $PY reader.py | tail -n 1; echo codes ${PIPESTATUS[*]}\n'), (b'codes 0 0 0\r\n', b''),
            (b'PROMPT> ', b'$W sh -c "exit 3" <&-; echo code $?\n'), (b'code 3\r\n', b''),
            (b'PROMPT> ', b'$W sh -c "echo lost; exit 4" >&- 2>&-; echo code $?\n'), (b'code ', b''),
            (b'PROMPT> ', b'$W sh -c "kill -TERM \\$\\$"; echo code $?\n'), (b'code 143\r\n', b''),
            (b'PROMPT> ', b'$W sh -c "kill -KILL \\$\\$"; echo code $?\n'), (b'code 137\r\n', b''),
            (b'PROMPT> ', b'(ulimit -c 0; $W sh -c "kill -SEGV \\$\\$"); echo code $?\n'), (b'code 139\r\n', b''),
            (b'PROMPT> ', b'exit\n')]"#,
    ) else {
        return;
    };
    assert!(
        seen.contains("got ONE") && seen.contains("Terminated"),
        "{seen}"
    );
}

#[test]
fn a_reader_behind_a_pipe_gets_the_terminal_when_it_asks() {
    let Some(seen) = same(
        r"[(b'PROMPT> ', b'$W $PY reader.py | cat\n'), (b'READY\r\n', b'one\n'), (b'got ONE\r\n', b'\x1a'),
           (b'Stopped', b''), (b'PROMPT> ', b'fg\n'), (b'| cat', b'two\n'), (b'got TWO\r\n', b'\x04'),
           (b'PROMPT> ', b'echo code $?\n'), (b'code 0\r\n', b''), (b'PROMPT> ', b'exit\n')]",
    ) else {
        return;
    };
    assert!(seen.contains("Stopped"), "{seen}");
}

#[test]
fn hangscope_killed_gives_the_terminal_back_to_the_shell() {
    let place = Place::new();
    let steps = r"[(b'PROMPT> ', b'$W $PY reader.py\n'), (b'READY\r\n', b''),
        (b'Killed', b''), (b'PROMPT> ', b'echo still $((1+1))\n'), (b'still 2\r\n', b''), (b'PROMPT> ', b'exit\n')]";
    let Some(mut command) = session(&place, &watch(""), steps, &[]) else {
        return;
    };
    // No user types that fast: what the shell is told is not typed before the command is gone, which else reads it.
    fs::write(place.path("hold"), "").expect("a file");
    command.env(
        "PROMPT_COMMAND",
        "while [ -e killed -a -e hold ]; do sleep 0.02; done",
    );
    let session = Run::start(&mut command);
    let mut hangscope = None;
    wait_until("the command runs", || {
        let processes = place.processes();
        hangscope = processes.iter().copied().find(|pid| {
            let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            arguments.split(|&byte| byte == 0).nth(1) == Some(b"watch")
        });
        // bash with the user, hangscope, its guardian, and the command that has the terminal.
        hangscope.is_some() && processes.iter().any(|&pid| is_reading(pid))
    });
    fs::write(place.path("killed"), "").expect("a file");
    signal(hangscope.expect("hangscope"), Signal::KILL).expect("it lives");
    wait_until("the user and bash are alone", || {
        place.processes().len() == 2
    });
    fs::remove_file(place.path("hold")).expect("the file");
    let end = session.end();
    assert_eq!(end.code(), 0, "{}{}", end.stdout, end.stderr);
    place.assert_nothing_left();
}

/// Whether it is the reader, and waits in a read of its standard input.
fn is_reading(pid: i32) -> bool {
    let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let is_reader = arguments.split(|&byte| byte == 0).nth(1) == Some(b"reader.py");
    let state = fs::read_to_string(format!("/proc/{pid}/syscall")).unwrap_or_default();
    let mut words = state.split_whitespace();
    words.next();
    is_reader && words.next() == Some("0x0")
}

#[test]
fn when_the_terminal_is_closed_all_ends() {
    let place = Place::new();
    let steps = r"[(b'PROMPT> ', b'$W $PYTEST -s test_sleeps.py\n'), (b'READY\r\n', b'')]";
    let Some(mut command) = session(&place, &watch(""), steps, &["hang-up"]) else {
        return;
    };
    let end = run(&mut command);
    assert_eq!(end.code(), 0, "{}{}", end.stdout, end.stderr);
    wait_until("all is gone", || place.processes().is_empty());
}
