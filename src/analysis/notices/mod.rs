//! What is not as it should be though nobody waits for it: things left behind, signals that are not served. A notice takes no part
//! in the verdict: a program with one may be healthy.

mod interpreter_left;
mod orphan_thread;
mod unreaped_child;
mod unserved_signal;

use super::case::Case;
use super::detectors::{Detector, Outcome};
use crate::model::Finding;

/// All of them, those that tell most first.
pub(super) const NOTICES: &[&dyn Detector] = &[
    &unserved_signal::UnservedSignal,
    &orphan_thread::OrphanThread,
    &interpreter_left::InterpreterLeft,
    &unreaped_child::UnreapedChild,
];

/// What there is to be noticed.
pub(super) fn notice(case: &Case<'_>) -> Vec<Finding> {
    let outcomes = NOTICES.iter().map(|detector| detector.detect(case));
    outcomes
        .filter_map(|outcome| match outcome {
            Outcome::Match(found) => Some(found),
            Outcome::NoMatch | Outcome::Inconclusive(_) => None,
        })
        .flatten()
        .collect()
}

/// That there was something, or not.
fn outcome(found: Vec<Finding>) -> Outcome {
    if found.is_empty() {
        Outcome::NoMatch
    } else {
        Outcome::Match(found)
    }
}
