//! All edges of the wait-for graph, over all processes of the tree: those by locks, joins, GILs and interpreters, and those that the
//! trails go along, into tasks, pools and other processes.

use super::case::Case;
use super::tracker::Tracker;
use super::trail::{How, Node};
use crate::model::{EdgeKind, Grade, Key, WaitEdge};
use std::collections::{BTreeMap, BTreeSet};

/// The edges of a case: first those by objects, then who waits for whom in the trails from all threads that are stuck.
pub(super) fn edges(case: &Case<'_>) -> Vec<WaitEdge> {
    let mut edges = case.edges.clone();
    let mut known: BTreeMap<&Key, Vec<&Key>> = BTreeMap::new();
    for edge in &case.edges {
        known.entry(&edge.from).or_default().push(&edge.to);
    }
    let tracker = Tracker::new(case);
    let mut seen = BTreeSet::new();
    for process in &case.last.processes {
        for thread in &process.threads {
            if !case.liveness.is_stuck(&thread.key) {
                continue;
            }
            // Until the trail ends, or comes to where another has been.
            let mut at = Node::Thread(process, thread);
            while seen.insert(at.key()) {
                let Some((how, next)) = tracker.next(at) else {
                    break;
                };
                let is_known = known
                    .get(at.key())
                    .is_some_and(|targets| how == How::Lock || targets.contains(&next.key()));
                if !is_known {
                    edges.push(edge(at, how, next));
                }
                at = next;
            }
        }
    }
    edges
}

fn edge(from: Node<'_>, how: How, to: Node<'_>) -> WaitEdge {
    WaitEdge {
        kind: kind(how),
        from: from.key().clone(),
        to: to.key().clone(),
        grade: if how.is_exact() {
            Grade::Derived
        } else {
            Grade::Guessed
        },
    }
}

fn kind(how: How) -> EdgeKind {
    match how {
        How::Join => EdgeKind::Joins,
        How::Lock => EdgeKind::WaitsFor,
        How::Child => EdgeKind::WaitsForChild,
        How::Data => EdgeKind::NeedsDataOf,
        How::Room => EdgeKind::NeedsRoomOf,
        How::Runs => EdgeKind::RunsFor,
        How::Task => EdgeKind::Awaits,
        How::Worker | How::Future | How::Pool => EdgeKind::NeedsWorkOf,
        How::Scope | How::Asks => EdgeKind::NeedsEndOf,
        How::Might => EdgeKind::MayNeed,
    }
}
