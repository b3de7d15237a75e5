//! `hangscope watch` on a terminal. Python's `pty` module plays the terminal, a small shell job control.

use crate::support_watch::{Place, python, run};

/// A shell with one job: runs its arguments in the foreground, says when the job stops, and continues it.
const SHELL: &str = r#"
import os, pty, select, signal, sys

pid, tty = pty.fork()
if pid == 0:
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    job = os.fork()
    if job == 0:
        os.setpgid(0, 0)
        os.tcsetpgrp(0, os.getpid())
        signal.signal(signal.SIGTTOU, signal.SIG_DFL)
        os.execvp(sys.argv[2], sys.argv[2:])
    try:
        os.setpgid(job, job)
    except PermissionError:
        pass  # it runs its program already
    while True:
        _, status = os.waitpid(job, os.WUNTRACED)
        owner = os.tcgetpgrp(0)
        os.tcsetpgrp(0, os.getpid())
        if not os.WIFSTOPPED(status):
            break
        os.write(1, b"<stopped by %d, terminal with the job: %d>" % (os.WSTOPSIG(status), owner == job))
        os.tcsetpgrp(0, job)
        os.killpg(job, signal.SIGCONT)
    code = os.waitstatus_to_exitcode(status)
    os.write(1, b"<ended %d, terminal with the job: %d>" % (code, owner == job))
    os._exit(0)

# Waits for a text, types another, in turn.
steps = eval(sys.argv[1])
seen = b""
while True:
    if steps and steps[0][0] in seen:
        seen = seen.split(steps[0][0], 1)[1]
        os.write(tty, steps.pop(0)[1])
        continue
    ready, _, _ = select.select([tty], [], [], 60)
    try:
        data = os.read(tty, 1000) if ready else b""
    except OSError:
        data = b""
    if not data:
        break
    seen += data
    sys.stdout.buffer.write(data)
    sys.stdout.flush()
os.waitpid(pid, 0)
sys.exit(len(steps))
"#;

fn on_terminal(place: &Place, steps: &str, options: &[&str], command: &[&str]) -> String {
    let end = run(place
        .command(python())
        .args(["-c", SHELL, steps, env!("CARGO_BIN_EXE_hangscope"), "watch"])
        .args(options)
        .arg("--")
        .args(command));
    assert_eq!(end.code(), 0, "a step was not reached: {end:#?}");
    place.assert_nothing_left();
    end.stdout
}

/// It has the terminal a moment after its start; a key pressed before that goes to hangscope.
///
/// SIGINT kills it at once: Python's own handler may come between its last look and the read, and then waits.
const ASK: &str = "
import os, signal, time
signal.signal(signal.SIGINT, signal.SIG_DFL)
while os.tcgetpgrp(0) != os.getpgrp():
    time.sleep(0.01)
os.write(1, b'READY')
print('got', input().upper())
";

#[test]
fn the_command_reads_the_terminal() {
    let place = Place::new();
    let out = on_terminal(
        &place,
        r"[(b'READY', b'hello\r')]",
        &[],
        &[python(), "-c", ASK],
    );
    assert!(out.contains("got HELLO"), "{out}");
    assert!(out.contains("<ended 0, terminal with the job: 1>"), "{out}");
}

#[test]
fn it_can_also_ask_for_a_terminal_that_it_was_not_given() {
    let place = Place::new();
    // Standard input is no terminal, as in `hangscope watch … < file`; getpass, ssh and pdb open it by name.
    let script = "exec 0</dev/tty; printf READY >/dev/tty; read line; echo got $line";
    let shell = format!(
        "exec {} watch -- sh -c '{script}' </dev/null",
        env!("CARGO_BIN_EXE_hangscope")
    );
    let end = run(place.command(python()).args([
        "-c",
        SHELL,
        r"[(b'READY', b'hello\r')]",
        "sh",
        "-c",
        &shell,
    ]));
    assert!(
        end.stdout.contains("got hello") && end.stdout.contains("<ended 0, "),
        "{end:#?}"
    );
}

#[test]
fn the_interrupt_key_reaches_the_command() {
    let place = Place::new();
    let out = on_terminal(
        &place,
        r"[(b'READY', b'\x03')]",
        &[],
        &[python(), "-c", ASK],
    );
    assert!(
        out.contains("<ended -2, terminal with the job: 1>"),
        "{out}"
    );
    assert!(
        place.bundles().is_empty(),
        "it is the command's own business"
    );
}

#[test]
fn a_stop_is_mirrored_and_the_limit_waits() {
    let place = Place::new();
    let out = on_terminal(
        &place,
        r"[(b'READY', b'\x1a'), (b'stopped', b'hello\r')]",
        &["--run-timeout", "1h"],
        &[python(), "-c", ASK],
    );
    assert!(
        out.contains("<stopped by 20, terminal with the job: 1>"),
        "{out}"
    );
    assert!(out.contains("got HELLO"), "{out}");
    assert!(out.contains("<ended 0, terminal with the job: 1>"), "{out}");
}

#[test]
fn at_the_limit_the_terminal_comes_back_as_it_was() {
    let place = Place::new();
    let raw = "import tty, time; tty.setraw(0); print('READY', flush=True); time.sleep(1000)";
    // Afterwards a shell in the same job asks for the modes.
    let shell = format!(
        "{} watch --run-timeout 1 --samples 1 -- {} -c \"{raw}\"; echo code $?; stty -a | grep -o '[-]*icanon'",
        env!("CARGO_BIN_EXE_hangscope"),
        python()
    );
    let end = run(place
        .command(python())
        .args(["-c", SHELL, "[]", "sh", "-c", &shell]));
    assert!(end.stdout.contains("code 124\r\nicanon"), "{end:#?}");
    place.assert_nothing_left();
}

#[test]
fn on_a_terminal_a_slow_test_is_told_while_it_runs() {
    let Some(pytest) = crate::support::pythons::python_with_packages("3.14") else {
        return;
    };
    let place = Place::new();
    // It ends when the line has come; without it, it would not.
    let suite = "def test_quick(): pass\ndef test_slow(): assert input('go on? ') == 'yes'\n";
    std::fs::write(place.path("test_it.py"), suite).expect("the tests");
    let python = pytest.to_string_lossy();
    let command = [
        &python,
        "-m",
        "pytest",
        "-q",
        "-s",
        "-p",
        "no:cacheprovider",
    ];
    let screen = on_terminal(&place, r#"[(b"thread\r\n", b"yes\n")]"#, &[], &command);
    let line = screen
        .lines()
        .find(|line| line.starts_with("hangscope: "))
        .unwrap_or_else(|| panic!("{screen}"));
    for part in [
        "test_it.py::test_slow (call) takes 1",
        "1 of 2 done",
        "slowest",
        " · 1 thread",
    ] {
        assert!(line.contains(part), "{part}: {line}");
    }
    assert!(screen.contains("2 passed"), "{screen}");
}
