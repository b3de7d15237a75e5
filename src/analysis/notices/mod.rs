//! What is not as it should be though nobody waits for it: things left behind, signals that are not served. A notice takes no part
//! in the verdict: a program with one may be healthy.

mod interpreter_left;
mod orphan_thread;
mod unreaped_child;
mod unserved_signal;

use super::case::Case;
use super::detectors::Cause;
use crate::model::Finding;

/// Something to be noticed.
pub(super) struct Notice {
    /// What it tells apart.
    pub(super) causes: &'static [Cause],
    look: fn(&Case<'_>) -> Vec<Finding>,
}

/// All of them, those that tell most first.
pub(super) const NOTICES: [Notice; 4] = [
    unserved_signal::NOTICE,
    orphan_thread::NOTICE,
    interpreter_left::NOTICE,
    unreaped_child::NOTICE,
];

/// What there is to be noticed.
pub(super) fn notice(case: &Case<'_>) -> Vec<Finding> {
    let found = NOTICES.iter().flat_map(|notice| (notice.look)(case));
    found.collect()
}
