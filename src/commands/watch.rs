//! `hangscope watch`: runs a command and says why it hangs.

use super::github::GitHub;
use crate::cli::{InventoryArg, LeakArg, OnHangArg, WatchArgs};
use crate::exit_code::ExitCode;
use crate::inspect::Samples;
use crate::model::{
    Event, Foreign, Leak, LeftKind, LeftProcess, Outcome, OutcomeKind, Report, RunRecord,
    SlowStatus, TestOutcome, TestSource, Trigger, place,
};
use crate::report::{self, Format, Style, clean};
use crate::watch::{self, Finished, OnHang, Options, WatchError};
use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write as _};
use std::path::Path;
use std::time::Duration;

/// How hangscope itself is to end: as the command did.
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
        test_timeout: args.test_timeout,
        idle_timeout: args.idle_timeout,
        report_after: Some(args.report_after).filter(|after| !after.is_zero()),
        on_hang: match args.on_hang {
            OnHangArg::Continue => OnHang::Continue,
            OnHangArg::End => OnHang::End,
        },
        plugin: !args.no_plugin,
        own_test: false,
        status: !args.no_status && std::io::stderr().is_terminal(),
        fail_on_leak: leak_kinds(&args.fail_on_leak),
        grace: args.grace,
        archive: (!args.no_archive).then(|| args.archive.clone()),
        hang_exit_code: args.hang_exit_code,
        samples: args.samples.map_or(Samples::Auto, Samples::Exactly),
        interval: args.interval,
        width: super::output::width(None, std::io::stderr()),
    };
    let width = options.width;
    match execute(options, |_| true) {
        Ok(finished) => {
            let leaked = after(args, &finished, width);
            match ending(finished.outcome) {
                Ending::Code(ExitCode::Other(0)) if leaked => Ending::Code(ExitCode::Leak),
                ending => ending,
            }
        }
        Err(ending) => ending,
    }
}

/// Runs a command and tells what happens, as far as it is wanted.
pub(super) fn execute(
    options: Options,
    is_told: impl Fn(&Event) -> bool + Send + 'static,
) -> Result<Finished, Ending> {
    let mut github = GitHub::from_environment();
    let sink = move |event: Event| {
        if !is_told(&event) {
            return;
        }
        let mut said = text(&event);
        if let (Event::Verdict { report, .. }, Some(github)) = (&event, &mut github) {
            said.push_str(&github.tell(report));
        }
        tell(&said);
    };
    watch::run(options, Box::new(sink)).map_err(|error| {
        let code = match error {
            WatchError::NotFound { .. } => ExitCode::CommandNotFound,
            WatchError::CannotRun { .. } => ExitCode::CannotRun,
            WatchError::Guardian(_) | WatchError::Setup(_) => ExitCode::OwnFailure,
        };
        let message = clean(&Foreign::from(error.to_string()));
        // The command has written nothing: the line is fresh.
        let _ = std::io::stderr().write_all(format!("hangscope: {message}\n").as_bytes());
        Ending::Code(code)
    })
}

/// pytest did not get to write its summary: `hangscope: the run was ended: 21 tests finished, 2 of them failed; 1 hung,
/// 3 not run`.
fn closing(record: &RunRecord) -> String {
    if record.run.source == TestSource::None {
        return String::new();
    }
    let count = |wanted: &[TestOutcome]| {
        let tests = record.tests.iter();
        tests.filter(|test| wanted.contains(&test.outcome)).count()
    };
    let bad = count(&[
        TestOutcome::Failed,
        TestOutcome::Error,
        TestOutcome::Crashed,
    ]);
    let good = count(&[TestOutcome::Passed, TestOutcome::Skipped]);
    let finished = good + bad;
    let s = if finished == 1 { "" } else { "s" };
    let hung = count(&[TestOutcome::Hung, TestOutcome::Running]);
    let mut text = if record.run.source == TestSource::Cargo {
        // One that was ended counts as finished, too.
        let ended = record.run.finished.saturating_sub(hung);
        let s = if ended == 1 { "" } else { "s" };
        format!("hangscope: the run was ended: {ended} test{s} seen to end, how is not known")
    } else {
        format!("hangscope: the run was ended: {finished} test{s} finished, {bad} failed")
    };
    if hung > 0 {
        let _ = write!(text, "; {hung} hung");
    }
    if !record.not_run.is_empty() {
        let _ = write!(text, "; {} not run", record.not_run.len());
    }
    text.push('\n');
    for test in record
        .tests
        .iter()
        .filter(|test| {
            matches!(
                test.outcome,
                TestOutcome::Failed | TestOutcome::Error | TestOutcome::Crashed
            )
        })
        .take(NAMED)
    {
        let message = test.message.as_ref().map(clean).unwrap_or_default();
        let line = message.split("\\n").next().unwrap_or("");
        let _ = writeln!(text, "  failed: {}: {line}", clean(&test.test));
    }
    if bad > NAMED {
        let _ = writeln!(text, "  and {} more, see junit.xml", bad - NAMED);
    }
    text.push('\n');
    text
}

fn leak_kinds(kinds: &[LeakArg]) -> Vec<LeftKind> {
    let mut wanted: Vec<LeftKind> = kinds
        .iter()
        .flat_map(|kind| match kind {
            LeakArg::Threads => vec![LeftKind::Thread],
            LeakArg::OsThreads => vec![LeftKind::OsThread],
            LeakArg::Interpreters => vec![LeftKind::Interpreter],
            LeakArg::Children => vec![LeftKind::Child],
            LeakArg::Fds => vec![LeftKind::Fd],
            LeakArg::All => LeftKind::ALL.to_vec(),
        })
        .collect();
    wanted.sort_unstable();
    wanted.dedup();
    wanted
}

/// What is left to say and write when the run is over. Returns whether something leaked that must not.
fn after(args: &WatchArgs, finished: &Finished, width: usize) -> bool {
    let leaked = !finished.leaks.is_empty();
    let ended = finished.outcome.kind == OutcomeKind::TimedOut;
    let show = match args.inventory {
        InventoryArg::Always => true,
        InventoryArg::Never => false,
        InventoryArg::Auto => leaked || ended,
    };
    let inventory = finished.record.run.inventory.as_ref();
    let mut text = String::new();
    if ended {
        text.push_str(&closing(&finished.record));
    }
    if let Some(inventory) = inventory.filter(|_| show) {
        text.push_str(&report::inventory(inventory, width));
    }
    if leaked {
        let names: Vec<String> = finished.leaks.iter().take(NAMED).map(leak).collect();
        let more = finished.leaks.len().saturating_sub(NAMED);
        let more = if more > 0 {
            format!(", {more} more")
        } else {
            String::new()
        };
        let _ = writeln!(text, "hangscope: leaked: {}{more}", names.join(", "));
    }
    if !text.is_empty() {
        tell(&text);
    }
    let bundle = finished.bundle.as_deref();
    if let Some(path) = &args.junitxml {
        let bundle = bundle.map(|path| path.display().to_string());
        let xml = report::junit(
            &finished.record,
            finished.report.as_ref(),
            bundle.as_deref(),
        );
        write_file(path, &xml);
    }
    if let Some(path) = &args.inventory_json {
        match inventory {
            Some(inventory) => write_file(path, &report::inventory_json(inventory)),
            None => tell("hangscope: no test was counted, so there is no inventory to write\n"),
        }
    }
    leaked
}

/// A file that was asked for; that it cannot be written does not change how the run ended.
fn write_file(path: &Path, content: &[u8]) {
    if let Err(error) = std::fs::write(path, content) {
        let path = clean(&Foreign::from(path.display().to_string()));
        tell(&format!("hangscope: cannot write {path}: {error}\n"));
    }
}

/// One thing that leaked: `thread idle-nd (4244) of tests/test_a.py::test_b (call)`.
fn leak(leak: &Leak) -> String {
    let kind = match leak.kind {
        LeftKind::Thread => "thread",
        LeftKind::OsThread => "OS thread",
        LeftKind::Interpreter => "interpreter",
        LeftKind::Child => "process",
        LeftKind::Fd if leak.count == 1 => "open file",
        LeftKind::Fd => "open files",
    };
    let Some(birth) = &leak.birth else {
        return format!("{} {kind}", leak.count);
    };
    let place = clean(&place(birth.phase, birth.test.as_ref()));
    let name = birth.name.as_ref().filter(|name| !name.is_empty());
    match name {
        Some(name) => format!("{kind} {} ({}) of {place}", clean(name), birth.id),
        None => format!("{kind} {} of {place}", birth.id),
    }
}

pub(super) fn ending(outcome: Outcome) -> Ending {
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
        Event::Ending { why } => format!("hangscope: {}: ending the run\n", clean(why)),
        Event::Acting { what } => format!("hangscope: {}\n", clean(what)),
        Event::Slow(status) => slow(status),
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

/// `hangscope: tests/test_a.py::test_b (call) takes 40 s · 3 more run · 12 of 200 done · slowest 2.1 s test_c · 5 threads`
fn slow(status: &SlowStatus) -> String {
    let mut parts = vec![format!(
        "{} takes {}",
        clean(&status.place),
        span(Duration::from_secs(status.elapsed_ms / 1000))
    )];
    if status.others > 0 {
        parts.push(format!("{} more run", status.others));
    }
    parts.push(match status.collected {
        Some(collected) => format!("{} of {collected} done", status.finished),
        None => format!("{} done", status.finished),
    });
    if let Some(slowest) = &status.slowest {
        let took = span(Duration::from_millis(slowest.took_ms / 100 * 100));
        parts.push(format!("slowest {took} {}", clean(&slowest.test)));
    }
    if let Some(threads) = status.threads {
        let s = if threads == 1 { "" } else { "s" };
        parts.push(format!("{threads} thread{s}"));
    }
    format!("hangscope: {}\n", parts.join(" · "))
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
