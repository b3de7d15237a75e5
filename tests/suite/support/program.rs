//! Programs to look at. Each runs in a process group of its own and is killed however the test ends.

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use procfs::process::Process;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

/// Longest time that a program may take to say that it is ready, on a busy machine.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// Longest time to wait for the rest of a program, and how long one must sleep to be at rest.
const REST_WITHIN: Duration = Duration::from_secs(2);
const RESTS_FOR: Duration = Duration::from_millis(150);

/// A running program.
pub(crate) struct Program {
    child: Child,
    lines: Receiver<String>,
    stderr: File,
}

impl Program {
    /// Starts a Python script and waits until it prints `READY`.
    pub(crate) fn ready(python: &Path, script: &Path, args: &[&str]) -> Self {
        let mut program = Self::start(Command::new(python).arg(script).args(args));
        program.wait_for("READY");
        program
    }

    /// Starts a program.
    pub(crate) fn start(command: &mut Command) -> Self {
        use std::os::unix::process::CommandExt as _;
        let stderr = tempfile::tempfile().expect("a file for stderr");
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(stderr.try_clone().expect("a second handle"))
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env_remove("PYTEST_CURRENT_TEST")
            .process_group(0)
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?} does not start: {error}"));
        let lines = read_lines(child.stdout.take().expect("a pipe"));
        Self {
            child,
            lines,
            stderr,
        }
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("a pid")
    }

    /// The next line that it prints.
    pub(crate) fn line(&mut self) -> String {
        match self.lines.recv_timeout(READY_WITHIN) {
            Ok(line) => line,
            Err(error) => panic!("the program says nothing ({error}); {}", self.state()),
        }
    }

    /// Reads lines up to one that is `text`, and returns those before it.
    pub(crate) fn wait_for(&mut self, text: &str) -> Vec<String> {
        let mut before = Vec::new();
        loop {
            let line = self.line();
            if line == text {
                return before;
            }
            before.push(line);
        }
    }

    /// Fails if it has ended.
    pub(crate) fn must_be_alive(&mut self) {
        assert!(
            matches!(self.child.try_wait(), Ok(None)),
            "the program has ended: {}",
            self.state()
        );
    }

    /// Waits for its end; its exit code, if it was not a signal that ended it.
    pub(crate) fn wait(&mut self) -> Option<i32> {
        let mut status = None;
        until("the program's end", || {
            status = self.child.try_wait().expect("a status");
            status.is_some()
        });
        status.and_then(|status| status.code())
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        nix::sys::signal::kill(Pid::from_raw(self.pid()), signal).expect("kill");
    }

    /// Waits until its main thread is in this state, as in `/proc/PID/stat`.
    pub(crate) fn wait_for_state(&mut self, state: char) {
        let path = format!("/proc/{}/stat", self.pid());
        let wanted = format!(") {state} ");
        until(&format!("state {state} of {path}"), || {
            std::fs::read_to_string(&path).is_ok_and(|stat| stat.contains(&wanted))
        });
    }

    /// Waits until the main threads of it and of the processes below it sleep on, or for a while if one of them never does:
    /// a program says `READY` before it hangs.
    pub(crate) fn wait_for_rest(&self) {
        let began = Instant::now();
        let mut before = None;
        while began.elapsed() < REST_WITHIN {
            let now = main_threads(self.pid());
            if now.is_some() && now == before {
                return;
            }
            before = now;
            std::thread::sleep(RESTS_FOR);
        }
    }

    /// What is known of it, for a message.
    pub(crate) fn state(&mut self) -> String {
        let status = self.child.try_wait();
        let mut text = String::new();
        let _ = self.stderr.rewind();
        let _ = self.stderr.read_to_string(&mut text);
        format!("status {status:?}, stderr: {text}")
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = killpg(Pid::from_raw(self.pid()), Signal::SIGKILL);
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The main threads of a process and of those below it, each with how often it gave the processor up; nothing if one of them does
/// not sleep.
fn main_threads(root: i32) -> Option<Vec<(i32, u64)>> {
    let mut threads = Vec::new();
    let mut todo = vec![root];
    while let Some(pid) = todo.pop() {
        let process = Process::new(pid).ok()?;
        let status = process.status().ok()?;
        if process.stat().ok()?.state != 'S' {
            return None;
        }
        threads.push((pid, status.voluntary_ctxt_switches?));
        for task in process.tasks().ok()?.flatten() {
            let children = task.children().ok()?;
            todo.extend(
                children
                    .into_iter()
                    .filter_map(|pid| i32::try_from(pid).ok()),
            );
        }
    }
    Some(threads)
}

fn read_lines(stdout: ChildStdout) -> Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines() {
            let Ok(line) = line else { break };
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    receiver
}

/// Waits until something is so, by looking; fails after a minute.
pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(
            began.elapsed() < READY_WITHIN,
            "it never came to this: {what}"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}
