//! `hangscope demo`: a real hang, captured from outside, diagnosed, and ended.

use super::python_finder::{self, FoundPython};
use super::{complain, output};
use crate::cli::{ColorArg, DemoArgs};
use crate::exit_code::ExitCode;
use crate::inspect::{Native, Request, Samples, inspect};
use crate::model::{Report, Trigger, Verdict};
use crate::report::Format;
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Hangs in `_interpreters.destroy`; needs CPython 3.13.
const FLAGSHIP: &str =
    include_str!("../../fixtures/detectors/destroy-blocked-by-idle-thread/hang.py");
/// Two threads that wait for each other's lock; any Python.
const LOCKS: &str = include_str!("../../fixtures/detectors/lock-order-cycle/hang.py");
/// Oldest minor version that the flagship hangs on.
const FLAGSHIP_MINOR: u8 = 13;
/// How often the program is looked at until it hangs: the line it prints comes just before that.
const MAX_LOOKS: usize = 20;

pub(super) fn run(args: &DemoArgs) -> ExitCode {
    let Some(python) = pick(args) else {
        complain(
            "the demo needs a CPython of 3.9 to 3.15 with a GIL, and none was found on PATH, under pyenv or by uv.\n  \
             Any one of these helps:\n    \
             uv python install 3.14\n    \
             apt-get install python3        (Debian 12: 3.11)\n    \
             hangscope demo --python /path/to/python3.14",
        );
        return ExitCode::Usage;
    };
    let (script, what) = if python.minor >= FLAGSHIP_MINOR {
        (
            FLAGSHIP,
            "destroys a sub-interpreter that a thread still lives in",
        )
    } else {
        (
            LOCKS,
            "transfers between two accounts in both directions at once",
        )
    };
    let _ = writeln!(
        io::stderr(),
        "hangscope: starting a program on CPython {} that {what} …",
        python.version
    );
    match stage(&python, script) {
        Ok(report) => {
            let code = output::write(&report, Format::Text, ColorArg::Auto, None);
            if report.analysis.verdict != Verdict::Hang {
                complain(
                    "the demo's hang was not recognised; please report this with the text above",
                );
                return if code == ExitCode::Success {
                    ExitCode::Incomplete
                } else {
                    code
                };
            }
            let _ = writeln!(
                io::stderr(),
                "hangscope: the program was ended. Now try: hangscope dump PID, or hangscope watch -- pytest"
            );
            ExitCode::Success
        }
        Err(reason) => {
            complain(&format!("the demo failed: {reason}"));
            ExitCode::OwnFailure
        }
    }
}

fn pick(args: &DemoArgs) -> Option<FoundPython> {
    match &args.python {
        Some(program) => python_finder::ask(program),
        None => python_finder::find().into_iter().next(),
    }
}

/// Ends the program however the demo ends.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn stage(python: &FoundPython, script: &str) -> Result<Report, String> {
    let folder = tempfile::Builder::new()
        .prefix("hangscope-demo-")
        .tempdir()
        .map_err(|error| format!("no temporary folder: {error}"))?;
    let path = folder.path().join("demo_hang.py");
    std::fs::write(&path, script)
        .map_err(|error| format!("cannot write {}: {error}", path.display()))?;
    let mut program = start(&python.program, &path)?;
    let pid = i32::try_from(program.0.id()).map_err(|error| error.to_string())?;
    let mut ready = String::new();
    if let Some(stdout) = program.0.stdout.take() {
        BufReader::new(stdout)
            .read_line(&mut ready)
            .map_err(|error| format!("the program said nothing: {error}"))?;
    }
    // Python has read it; should we be killed now, it is not left over.
    drop(folder);
    if ready.trim() != "READY" {
        return Err(format!("{} ended before it hung", python.program.display()));
    }
    let mut last = Err("nothing was captured".to_owned());
    for _ in 0..MAX_LOOKS {
        let request = Request {
            pid,
            tree: true,
            samples: Samples::Exactly(3),
            interval: Duration::from_millis(250),
            locals: false,
            stop: false,
            native: Native::Never,
            no_stop: false,
            all: false,
            width: output::width(None, io::stdout()),
            trigger: Trigger::Dump,
            run: None,
            exclude: Vec::new(),
        };
        last = inspect(&request, &mut |_| true).map_err(|error| error.to_string());
        if last
            .as_ref()
            .is_ok_and(|report| report.analysis.verdict == Verdict::Hang)
        {
            break;
        }
    }
    last
}

/// Starts the program, tied to our own life where util-linux has `setpriv`: in the hang that it shows, it does not
/// heed Ctrl-C.
fn start(python: &Path, script: &Path) -> Result<Ended, String> {
    let tied = Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "true"])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    let mut command = if tied {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]).arg(python);
        command
    } else {
        Command::new(python)
    };
    command
        .arg(script)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .spawn()
        .map(Ended)
        .map_err(|error| format!("cannot start {}: {error}", python.display()))
}
