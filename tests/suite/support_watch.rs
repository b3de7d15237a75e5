//! Runs of `hangscope watch` to test against: each in a folder of its own, its processes marked by a variable.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// A test fails when what it waits for does not come in this time. Generous: the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(60);

/// The variable that marks the processes of a run.
const MARK: &str = "HANGSCOPE_TEST_RUN";

/// Waits for a state of the world.
#[track_caller]
pub(crate) fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < PATIENCE, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Lets who waits at a named pipe go on.
#[track_caller]
pub(crate) fn write_line(pipe: &Path) {
    // Opened to read, too: else that would wait for ever if the reader is gone.
    let file = fs::File::options().read(true).write(true).open(pipe);
    std::io::Write::write_all(&mut file.expect("the pipe"), b"\n").expect("it goes on");
}

/// A folder to run in, and the mark of its runs.
pub(crate) struct Place {
    pub(crate) folder: tempfile::TempDir,
    mark: String,
}

impl Place {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Self {
            folder: tempfile::tempdir().expect("a folder"),
            mark: format!("{}-{number}", std::process::id()),
        }
    }

    /// A path in the folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A named pipe in the folder, for a program to wait at.
    pub(crate) fn pipe(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        let made = Command::new("mkfifo").arg(&path).status();
        assert!(made.expect("mkfifo").success());
        path
    }

    /// A command that runs in the folder and bears the mark.
    pub(crate) fn command<S: AsRef<OsStr>>(&self, program: S) -> Command {
        let mut command = Command::new(program);
        command
            .current_dir(&self.folder)
            .env(MARK, &self.mark)
            .stdin(Stdio::null());
        command
    }

    /// `hangscope watch` with these arguments.
    pub(crate) fn watch(&self, arguments: &[&str]) -> Command {
        let mut command = self.command(env!("CARGO_BIN_EXE_hangscope"));
        command.arg("watch").args(arguments);
        command
    }

    /// Pids of the live processes that bear the mark.
    pub(crate) fn processes(&self) -> Vec<i32> {
        let wanted = format!("{MARK}={}", self.mark);
        let mut found: Vec<i32> = pids()
            .filter(|pid| {
                // Of a dead process it is empty or gone.
                fs::read(format!("/proc/{pid}/environ"))
                    .unwrap_or_default()
                    .split(|&byte| byte == 0)
                    .any(|variable| variable == wanted.as_bytes())
            })
            .collect();
        found.sort_unstable();
        found
    }

    /// Fails if a process of the run is left.
    #[track_caller]
    pub(crate) fn assert_nothing_left(&self) {
        let left: Vec<String> = self
            .processes()
            .iter()
            .map(|pid| fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default())
            .collect();
        assert!(left.is_empty(), "left over: {left:?}");
    }

    /// The bundles in `.hangscope`, oldest first.
    pub(crate) fn bundles(&self) -> Vec<PathBuf> {
        let mut found: Vec<PathBuf> = fs::read_dir(self.path(".hangscope"))
            .into_iter()
            .flatten()
            .map(|entry| entry.expect("an entry").path())
            .filter(|path| path.is_dir() && !path.is_symlink())
            .filter(|path| !name_of(path).starts_with('.'))
            .collect();
        found.sort();
        found
    }

    /// The only bundle.
    #[track_caller]
    pub(crate) fn bundle(&self) -> PathBuf {
        let found = self.bundles();
        assert_eq!(found.len(), 1, "{found:?}");
        found.into_iter().next().expect("one")
    }
}

impl Drop for Place {
    /// A failed test must not leave its processes to the next ones. Only what bears this very mark is killed.
    fn drop(&mut self) {
        for pid in self.processes() {
            let _ = signal(pid, rustix::process::Signal::KILL);
        }
    }
}

/// A run that has begun.
pub(crate) struct Run {
    pub(crate) child: Child,
    stdout: Receiver<String>,
    stderr: Receiver<String>,
}

/// How a run ended.
#[derive(Debug)]
pub(crate) struct End {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl End {
    /// The exit code, or minus the signal.
    pub(crate) fn code(&self) -> i32 {
        self.status
            .code()
            .unwrap_or_else(|| -self.status.signal().unwrap_or(0))
    }

    /// nextest has ended this test, and passed the other.
    pub(crate) fn assert_timed_out(&self, test: &str) {
        for said in [
            "1 passed, 1 timed out",
            &format!("hangscope: SIGTERM in {test}"),
        ] {
            assert!(self.stderr.contains(said), "{}", self.stderr);
        }
    }
}

impl Run {
    /// Starts a command with its output in pipes.
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        Self {
            stdout: lines_of(child.stdout.take().expect("its stdout")),
            stderr: lines_of(child.stderr.take().expect("its stderr")),
            child,
        }
    }

    /// hangscope's pid.
    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("a pid")
    }

    /// Waits for the line `READY`.
    #[track_caller]
    pub(crate) fn ready(&mut self) {
        let line = self.stdout.recv_timeout(PATIENCE);
        assert_eq!(line.as_deref(), Ok("READY\n"));
    }

    /// What it prints on stderr up to a line.
    #[track_caller]
    pub(crate) fn stderr_until(&mut self, mut is_last: impl FnMut(&str) -> bool) -> String {
        let mut text = String::new();
        loop {
            let line = self.stderr.recv_timeout(PATIENCE);
            let line = line.unwrap_or_else(|_| panic!("waited in vain for a line: {text}"));
            text.push_str(&line);
            if is_last(&line) {
                return text;
            }
        }
    }

    /// Sends hangscope a signal.
    pub(crate) fn signal(&self, signal_to_send: rustix::process::Signal) {
        signal(self.pid(), signal_to_send).expect("it lives");
    }

    /// Waits for the end. Both outputs must be at their ends, too, so that nothing holds them open.
    #[track_caller]
    pub(crate) fn end(mut self) -> End {
        let stdout = all_of(&self.stdout);
        let stderr = all_of(&self.stderr);
        wait_until("it has ended", || {
            self.child.try_wait().expect("its state").is_some()
        });
        End {
            status: self.child.wait().expect("its status"),
            stdout,
            stderr,
        }
    }
}

/// The lines of a pipe, read on a thread of their own, so that waiting for one can have an end.
fn lines_of(pipe: impl Read + Send + 'static) -> Receiver<String> {
    let (send, lines) = channel();
    std::thread::spawn(move || {
        let mut pipe = BufReader::new(pipe);
        let mut line = Vec::new();
        while pipe
            .read_until(b'\n', &mut line)
            .is_ok_and(|count| count > 0)
        {
            let text = String::from_utf8_lossy(&std::mem::take(&mut line)).into_owned();
            if send.send(text).is_err() {
                break;
            }
        }
    });
    lines
}

/// What is left to read.
#[track_caller]
fn all_of(lines: &Receiver<String>) -> String {
    let mut text = String::new();
    loop {
        match lines.recv_timeout(PATIENCE) {
            Ok(line) => text.push_str(&line),
            Err(RecvTimeoutError::Disconnected) => return text,
            Err(RecvTimeoutError::Timeout) => {
                panic!("something holds the output open; so far: {text}")
            }
        }
    }
}

/// Runs a command to its end.
pub(crate) fn run(command: &mut Command) -> End {
    Run::start(command).end()
}

/// Sends a signal to a process.
pub(crate) fn signal(pid: i32, signal: rustix::process::Signal) -> rustix::io::Result<()> {
    rustix::process::kill_process(rustix::process::Pid::from_raw(pid).expect("a pid"), signal)
}

/// All pids.
pub(crate) fn pids() -> impl Iterator<Item = i32> {
    fs::read_dir("/proc")
        .expect("/proc")
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

/// The last part of a path.
pub(crate) fn name_of(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

/// A JSON file.
#[track_caller]
pub(crate) fn json(path: &Path) -> serde_json::Value {
    serde_json::from_slice(&fs::read(path).expect("the file")).expect("JSON")
}

/// The real Python: the one on PATH may be a shell script in front of it.
pub(crate) fn python() -> &'static str {
    static PYTHON: OnceLock<String> = OnceLock::new();
    PYTHON.get_or_init(|| {
        let out = Command::new("python3.11")
            .args(["-c", "import sys; print(sys.executable)"])
            .output()
            .expect("python3.11");
        String::from_utf8_lossy(&out.stdout).trim().to_owned()
    })
}

/// A process's field of `/proc/PID/status`.
pub(crate) fn status_field(pid: i32, field: &str) -> Option<String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    Some(line.trim().to_owned())
}
