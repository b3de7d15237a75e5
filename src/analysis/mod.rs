//! Why: temporary.
use crate::model::*;
/// x
pub fn analyze(_: &[Snapshot]) -> Analysis { Analysis::default() }
/// x
pub fn worth_another_look(_: &Snapshot) -> bool { true }
