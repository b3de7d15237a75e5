//! All edges of the wait-for graph, over all processes of the tree: those by locks, joins, GILs and interpreters, and those that the
//! trails go along, into tasks, pools and other processes.

use super::case::Case;
use super::tracker::Tracker;
use super::trail::{How, Node};
use crate::model::{EdgeKind, Grade, WaitEdge};
use std::collections::BTreeSet;

/// The edges of a case: first those by objects, then who waits for whom in the trails from all threads that are stuck.
pub(super) fn edges(case: &Case<'_>) -> Vec<WaitEdge> {
    let mut edges = case.edges.clone();
    let tracker = Tracker::new(case);
    let mut seen = BTreeSet::new();
    for process in &case.last.processes {
        for thread in &process.threads {
            if case.liveness.is_stuck(&thread.key) {
                follow(
                    &tracker,
                    Node::Thread(process, thread),
                    &mut seen,
                    &mut edges,
                );
            }
        }
    }
    edges
}

/// Goes on until the trail ends, or comes to where another has been.
fn follow<'c>(
    tracker: &Tracker<'c>,
    start: Node<'c>,
    seen: &mut BTreeSet<&'c str>,
    edges: &mut Vec<WaitEdge>,
) {
    let mut at = start;
    while seen.insert(at.key().as_str()) {
        let Some((how, next)) = tracker.next(at) else {
            break;
        };
        let known = edges
            .iter()
            .any(|edge| edge.from == *at.key() && (edge.to == *next.key() || how == How::Lock));
        if !known {
            edges.push(WaitEdge {
                kind: kind(how),
                from: at.key().clone(),
                to: next.key().clone(),
                grade: if how.is_exact() {
                    Grade::Derived
                } else {
                    Grade::Guessed
                },
            });
        }
        at = next;
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
        How::Scope => EdgeKind::NeedsEndOf,
        How::Might => EdgeKind::MayNeed,
    }
}
