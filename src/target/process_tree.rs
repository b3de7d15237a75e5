//! The processes below a process.

use crate::model::Pid;
use std::collections::{BTreeMap, BTreeSet};

/// Most processes that are looked at in one tree.
const MAX_PROCESSES: usize = 10_000;

/// `root` and all its descendants, parents before children, by pid among siblings.
///
/// Processes that come or go meanwhile may or may not be listed. Those in `exclude` are left out, but not
/// what is below them.
#[must_use]
pub fn descendants(root: Pid, exclude: &[Pid]) -> Vec<Pid> {
    let pairs = remoteprocess::Process::new(root)
        .and_then(|process| process.child_processes())
        .unwrap_or_default();
    let mut children: BTreeMap<Pid, BTreeSet<Pid>> = BTreeMap::new();
    for (child, parent) in pairs {
        children.entry(parent).or_default().insert(child);
    }
    let mut seen = BTreeSet::from([root]);
    let mut queue = std::collections::VecDeque::from([root]);
    let mut order = Vec::new();
    while let Some(pid) = queue.pop_front() {
        if order.len() >= MAX_PROCESSES {
            break;
        }
        if !exclude.contains(&pid) {
            order.push(pid);
        }
        for &child in children.get(&pid).into_iter().flatten() {
            if seen.insert(child) {
                queue.push_back(child);
            }
        }
    }
    order
}
