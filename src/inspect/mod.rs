//! The one joint of capture and analysis: look at a process tree a few times and say what follows.

mod survey;

pub use crate::capture::{
    Marked, RustBinary, RustHow, RustLook, RustTest, RustThread, Started, holds_doctests,
};
pub use survey::{Survey, Surveyed, Surveyor};

use crate::analysis;
use crate::capture::{self, CaptureError};
use crate::model::{GapKind, Host, Key, Options, Pid, Report, Run, SCHEMA, Tool, Trigger};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// What to look at and how.
#[derive(Clone, Debug)]
pub struct Request {
    /// The process to look at.
    pub pid: Pid,
    /// Its descendants too.
    pub tree: bool,
    /// How many samples to take.
    pub samples: Samples,
    /// Pause between samples.
    pub interval: Duration,
    /// Read local variables too.
    pub locals: bool,
    /// Stop each process while it is read.
    pub stop: bool,
    /// Whose native stacks to take.
    pub native: Native,
    /// Take native stacks without a stop, as well as that goes.
    pub no_stop: bool,
    /// Show all stacks in full.
    pub all: bool,
    /// Columns of the text report.
    pub width: usize,
    /// Why the capture is made.
    pub trigger: Trigger,
    /// What the watched run was doing when the capture was begun.
    pub run: Option<Run>,
    /// Processes that are not part of the target though they descend from it (hangscope's own helper).
    pub exclude: Vec<Pid>,
}

/// How many samples to take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Samples {
    /// Exactly so many.
    Exactly(u32),
    /// One, and two more if the first shows anything that waits: a single look cannot tell slow from stuck.
    Auto,
}

/// Whose native stacks to take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Native {
    /// Of processes of which nothing else is known, and where a hang needs them.
    Auto,
    /// Of every process.
    Always,
    /// Of none.
    Never,
}

impl Samples {
    fn most(self) -> u32 {
        match self {
            Self::Exactly(count) => count.max(1),
            Self::Auto => 3,
        }
    }
}

/// Looks at the target and returns the report.
///
/// `on_report` gets the report as it stands after each sample, so that a caller can save it before the
/// next one is taken; it returns false to stop sampling there.
///
/// # Errors
/// When not even one sample could be taken. What fails later is a gap in the report.
pub fn inspect(
    request: &Request,
    on_report: &mut dyn FnMut(&Report) -> bool,
) -> Result<Report, CaptureError> {
    let began = Instant::now();
    let mut session = capture::Session::new(request.pid, request.tree, &request.exclude)
        .with_locals(request.locals)
        .stopping(request.stop);
    let mut report = Report {
        schema: SCHEMA.to_owned(),
        tool: Tool::current(),
        created: jiff::Timestamp::now()
            .strftime("%Y-%m-%dT%H:%M:%SZ")
            .to_string(),
        host: host(),
        options: Options {
            pid: request.pid,
            tree: request.tree,
            samples: request.samples.most(),
            interval_ms: u64::try_from(request.interval.as_millis()).unwrap_or(u64::MAX),
            all: request.all,
            width: request.width,
        },
        trigger: request.trigger.clone(),
        run: request.run.clone(),
        samples: Vec::new(),
        analysis: analysis::analyze(&[], &request.trigger, None),
    };
    let mut interrupted = false;
    for index in 0..request.samples.most() {
        if index > 0 {
            std::thread::sleep(request.interval);
        }
        let at = began.elapsed();
        match session.sample(at) {
            Ok(mut snapshot) => {
                if let Some(earlier) = report.samples.last() {
                    snapshot.share_with(earlier);
                }
                report.samples.push(snapshot);
            }
            Err(error) if index == 0 => return Err(error),
            Err(error) => {
                if let Some(last) = report.samples.last_mut() {
                    last.gaps.push(error.as_gap());
                }
            }
        }
        let span = tracing::debug_span!("analyze", samples = report.samples.len());
        report.analysis = span
            .in_scope(|| analysis::analyze(&report.samples, &report.trigger, report.run.as_ref()));
        let more = on_report(&report);
        let enough = request.samples == Samples::Auto
            && report
                .samples
                .first()
                .is_some_and(|first| !analysis::worth_another_look(first));
        interrupted = !more;
        if !more || enough || report.samples.len() <= index as usize {
            break;
        }
    }
    if !interrupted {
        add_native(request, &mut session, &mut report, on_report);
    }
    Ok(report)
}

/// Native stacks come last: a stop changes what the kernel tells of waits.
fn add_native(
    request: &Request,
    session: &mut capture::Session,
    report: &mut Report,
    on_report: &mut dyn FnMut(&Report) -> bool,
) {
    let Some(last) = report.samples.last() else {
        return;
    };
    let wanted: BTreeSet<Key> = match request.native {
        Native::Never => return,
        Native::Always => last.processes.iter().map(|one| one.key.clone()).collect(),
        Native::Auto => analysis::in_need_of_native_stacks(last, &report.analysis),
    };
    if wanted.is_empty() {
        return;
    }
    if let Some(last) = report.samples.last_mut() {
        session.add_native(last, &wanted, request.no_stop);
    }
    forget_missing_stacks(report);
    report.analysis = analysis::analyze(&report.samples, &report.trigger, report.run.as_ref());
    on_report(report);
}

/// That stacks of other programs were missing is no longer so where native ones have been taken.
fn forget_missing_stacks(report: &mut Report) {
    let Some(last) = report.samples.last() else {
        return;
    };
    let now_known: BTreeSet<Key> = last
        .processes
        .iter()
        .filter(|process| process.has_native_stacks())
        .map(|process| process.key.clone())
        .collect();
    for sample in &mut report.samples {
        sample.gaps.retain(|gap| {
            let missing_stacks =
                gap.kind == GapKind::NotApplicable && gap.missing.untrusted() == "stacks";
            !(missing_stacks
                && gap
                    .subject
                    .as_ref()
                    .is_some_and(|key| now_known.contains(key)))
        });
    }
}

/// Computes the analysis of a saved report again.
#[must_use]
pub fn reanalyze(mut report: Report) -> Report {
    report.analysis = analysis::analyze(&report.samples, &report.trigger, report.run.as_ref());
    report
}

fn host() -> Host {
    let name = rustix::system::uname();
    Host {
        kernel: name.release().to_string_lossy().into_owned(),
        arch: name.machine().to_string_lossy().into_owned(),
        cpus: std::thread::available_parallelism().map_or(1, usize::from),
    }
}
