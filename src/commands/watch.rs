//! `hangscope watch`: runs a command and says why it hangs.

use crate::cli::WatchArgs;
use crate::exit_code::ExitCode;
use crate::inspect::Samples;
use crate::model::{Event, Foreign, LeftProcess, Outcome, OutcomeKind, Report, Trigger};
use crate::report::{self, Format, Style, clean};
use crate::watch::{self, Options, WatchError};
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

/// How hangscope itself is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// With this exit code.
    Code(ExitCode),
    /// By this signal, as the command did: give it to [`die_by`].
    Signal(i32),
}

/// Most processes that a line names.
const NAMED: usize = 5;

/// Runs the command line's command. Nothing is printed unless there is something to say.
#[must_use]
pub(super) fn run(args: &WatchArgs) -> Ending {
    let options = Options {
        command: args.command.clone(),
        run_timeout: args.run_timeout,
        grace: args.grace,
        archive: (!args.no_archive).then(|| args.archive.clone()),
        hang_exit_code: args.hang_exit_code,
        samples: args.samples.map_or(Samples::Auto, Samples::Exactly),
        interval: args.interval,
        width: super::output::width(None, std::io::stderr()),
    };
    match watch::run(options, Box::new(|event| tell(&text(&event)))) {
        Ok(outcome) => ending(outcome),
        Err(error) => {
            let code = match error {
                WatchError::NotFound { .. } => ExitCode::CommandNotFound,
                WatchError::CannotRun { .. } => ExitCode::CannotRun,
                WatchError::Guardian(_) | WatchError::Setup(_) => ExitCode::OwnFailure,
            };
            let message = clean(&Foreign::from(error.to_string()));
            // The command has written nothing: the line is fresh.
            let _ = std::io::stderr().write_all(format!("hangscope: {message}\n").as_bytes());
            Ending::Code(code)
        }
    }
}

fn ending(outcome: Outcome) -> Ending {
    let code = outcome.code.and_then(|code| u8::try_from(code).ok());
    match (outcome.kind, outcome.signal, code) {
        (OutcomeKind::ChildSignal, Some(signal), _) => Ending::Signal(signal),
        (OutcomeKind::ChildExit | OutcomeKind::TimedOut, _, Some(code)) => {
            Ending::Code(ExitCode::Other(code))
        }
        _ => Ending::Code(ExitCode::OwnFailure),
    }
}

/// Ends this process by a signal, so that its parent sees the same death as the command's. Returns an exit
/// code for where that cannot be: the first process of a container is not killed by its own signals.
pub(super) fn die_by(signal: i32) -> ExitCode {
    let code = ExitCode::Other(u8::try_from(128_i32.saturating_add(signal)).unwrap_or(u8::MAX));
    if std::process::id() == 1 {
        return code;
    }
    // The core would be ours, and in place of the command's.
    let none = rustix::process::Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    let _ = rustix::process::setrlimit(rustix::process::Resource::Core, none);
    if signal_hook::low_level::emulate_default_handler(signal).is_err() {
        // Unknown to it are the real-time signals, which we never handle.
        let _ = signal_hook::low_level::raise(signal);
    }
    code
}

/// One write, on a fresh line: the command writes to the same place and has left the cursor anywhere.
fn tell(text: &str) {
    let _ = std::io::stderr().write_all(format!("\n{text}").as_bytes());
}

fn text(event: &Event) -> String {
    match event {
        Event::Verdict {
            report,
            bundle,
            ended,
        } => verdict(report, bundle.as_deref(), *ended),
        Event::CaptureFailed { why } => {
            format!("hangscope: could not look at the run: {}\n", clean(why))
        }
        Event::ArchiveFailed { why } => format!("hangscope: no bundle is saved: {}\n", clean(why)),
        Event::Ending { limit_ms } => format!(
            "hangscope: run timeout ({}): ending the run\n",
            span(Duration::from_millis(*limit_ms))
        ),
        Event::LeftBehind(left) => format!("hangscope: left running: {}\n", names(left)),
        Event::Survived(left) => format!("hangscope: could not kill: {}\n", names(left)),
        Event::Trouble { what } => format!("hangscope: {}\n", clean(what)),
    }
}

fn verdict(report: &Report, bundle: Option<&Path>, ended: bool) -> String {
    let mut text = match &report.trigger {
        Trigger::RunTimeout { limit_ms } => {
            format!(
                "hangscope: run timeout ({})",
                span(Duration::from_millis(*limit_ms))
            )
        }
        Trigger::TestTimeout { limit_ms, .. } => {
            format!(
                "hangscope: test timeout ({})",
                span(Duration::from_millis(*limit_ms))
            )
        }
        Trigger::IdleTimeout { limit_ms, .. } => format!(
            "hangscope: no test began or ended, and nothing got further, for {}",
            span(Duration::from_millis(*limit_ms))
        ),
        Trigger::Signal { name } => format!("hangscope: {}", clean(&Foreign::from(name.as_str()))),
        Trigger::Dump => "hangscope: dump".to_owned(),
    };
    if let Some(place) = report::whereabouts(report) {
        let _ = write!(text, " in {place}");
    }
    if ended {
        text.push_str("; the command ended by itself meanwhile");
    }
    text.push('\n');
    let mut body = Vec::new();
    if report::render(Format::Text, report, Style::plain(), &mut body).is_ok() {
        text.push_str(&String::from_utf8_lossy(&body));
    }
    if !text.ends_with('\n') {
        text.push('\n');
    }
    if let Some(bundle) = bundle {
        let path = clean(&Foreign::from(bundle.display().to_string()));
        let _ = writeln!(text, "archive: {path}/ (report.txt, dump.json)");
    }
    text
}

fn names(left: &[LeftProcess]) -> String {
    let mut text: Vec<String> = left
        .iter()
        .take(NAMED)
        .map(|process| format!("{} ({})", process.pid, clean(&process.name)))
        .collect();
    if let Some(more) = left.len().checked_sub(NAMED).filter(|&more| more > 0) {
        text.push(format!("{more} more"));
    }
    text.join(", ")
}

/// A duration the way people say it: `20 s`, `1.5 s`, `90 min`.
fn span(duration: Duration) -> String {
    let seconds = duration.as_secs();
    if duration.subsec_millis() > 0 {
        format!("{} s", duration.as_secs_f64())
    } else if seconds >= 120 && seconds.is_multiple_of(60) {
        format!("{} min", seconds / 60)
    } else {
        format!("{seconds} s")
    }
}
