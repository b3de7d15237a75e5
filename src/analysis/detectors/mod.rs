//! The known causes. One file each; a detector is pure, independent of the others, and says when it could not look.

mod destroy_blocked;
mod event_loops_at_standstill;
mod gil_held_in_native_call;
mod join_on_blocked_thread;
mod orphaned_pipe;
mod stopped_child;
mod stuck_cancel;
mod stuck_lock;
mod unanswered;

use super::case::{self, Case};
use super::notices::NOTICES;
use crate::model::{Finding, Gap, PythonReader};

/// One cause that a detector can name.
#[derive(Debug)]
pub struct Cause {
    /// Kebab-case name of the cause; also the name of its page, fixtures and tests.
    pub id: &'static str,
    /// One sentence.
    pub summary: &'static str,
    /// Its page, as `hangscope explain ID` prints it.
    pub page: &'static str,
}

/// What a detector is.
#[derive(Debug)]
pub struct Meta {
    /// Its name: that of its file.
    pub name: &'static str,
    /// The causes that it tells apart.
    pub causes: &'static [Cause],
}

/// What a detector has to say of a case.
pub(super) enum Outcome {
    /// It looked, and its pattern is not there.
    NoMatch,
    /// Its pattern is there.
    Match(Vec<Finding>),
    /// It could not look; that is not a "no".
    Inconclusive(Vec<Gap>),
}

/// A known pattern of hangs.
pub(super) trait Detector: Sync {
    /// What it is.
    fn meta(&self) -> &'static Meta;
    /// Looks for it.
    fn detect(&self, case: &Case<'_>) -> Outcome;
}

/// All detectors, most specific first.
pub(super) const DETECTORS: &[&dyn Detector] = &[
    &destroy_blocked::DestroyBlocked,
    &stuck_lock::StuckLock,
    &stuck_cancel::StuckCancel,
    &join_on_blocked_thread::JoinOnBlockedThread,
    &event_loops_at_standstill::EventLoopsAtStandstill,
    &gil_held_in_native_call::GilHeldInNativeCall,
    &unanswered::Unanswered,
    &orphaned_pipe::OrphanedPipe,
    &stopped_child::StoppedChild,
];

/// Whether a cause is one of those that are found by what a wait is for, whoever waits.
pub(super) fn is_general(id: &str) -> bool {
    let causes = unanswered::Unanswered.meta().causes;
    causes.iter().any(|cause| cause.id == id)
}

/// All causes that hangscope knows, for `explain`.
pub fn causes() -> impl Iterator<Item = &'static Cause> {
    let of_detectors = DETECTORS.iter().map(|detector| detector.meta().causes);
    let of_notices = NOTICES.into_iter().map(|notice| notice.causes);
    of_detectors.chain(of_notices).flatten()
}

/// Python processes of which only frames, or nothing, could be read: a detector that needs more has not looked.
fn unread_pythons(case: &Case<'_>) -> Vec<Gap> {
    case.last
        .gaps
        .iter()
        .filter(|gap| gap.kind.is_incomplete())
        .filter(|gap| {
            gap.subject
                .as_ref()
                .and_then(|key| case.last.process(&key.of_process()))
                .is_some_and(|process| {
                    process.python.as_ref().is_some_and(|python| {
                        process.interpreters.is_empty() || python.reader == PythonReader::PySpy
                    }) || !case::is_judgeable(process)
                })
        })
        .cloned()
        .collect()
}

/// A detector's answer from what it found and what it could not see.
fn outcome(case: &Case<'_>, findings: Vec<Finding>) -> Outcome {
    if !findings.is_empty() {
        return Outcome::Match(findings);
    }
    let gaps = unread_pythons(case);
    if gaps.is_empty() {
        Outcome::NoMatch
    } else {
        Outcome::Inconclusive(gaps)
    }
}
