//! Who waits for whom, as typed edges. The only place that makes them.

use super::case::destroyers;
use crate::model::{
    EdgeKind, Grade, Holder, HolderEvidence, Key, Process, Snapshot, Wait, WaitEdge, WaitKind,
};
use std::collections::BTreeSet;

/// All edges of a sample.
pub(super) fn edges(sample: &Snapshot) -> Vec<WaitEdge> {
    sample.processes.iter().flat_map(process_edges).collect()
}

fn process_edges(process: &Process) -> Vec<WaitEdge> {
    let mut edges = Vec::new();
    let mut push = |kind, from: &Key, to: &Key, grade| {
        edges.push(WaitEdge {
            kind,
            from: from.clone(),
            to: to.clone(),
            grade,
        });
    };
    for thread in &process.threads {
        let Some(wait) = &thread.wait else { continue };
        let Some(target) = &wait.target else { continue };
        let kind = match wait.kind {
            WaitKind::ThreadExit => EdgeKind::Joins,
            _ => EdgeKind::WaitsFor,
        };
        push(kind, &thread.key, target, wait.grade);
        if wait.kind == WaitKind::ThreadExit {
            continue;
        }
        for holder in wait.holders.iter().filter(|holder| is_firm(holder)) {
            if let Some(thread) = &holder.thread {
                push(EdgeKind::HeldBy, target, thread, holder.grade);
            }
        }
    }
    let mut gils = BTreeSet::new();
    for gil in process.interpreters.iter().filter_map(|i| i.gil.as_ref()) {
        if let Some(holder) = &gil.holder_thread
            && gils.insert(&gil.key)
        {
            push(EdgeKind::HeldBy, &gil.key, holder, Grade::Read);
        }
    }
    for (interpreter, thread, _) in destroyers(process) {
        push(
            EdgeKind::Finalizes,
            &thread.key,
            &interpreter.key,
            Grade::Read,
        );
        for other in &process.threads {
            let needed = other.python.iter().any(|state| {
                state.interpreter == interpreter.key
                    && state.whence.as_deref() == Some("threading")
                    && state.daemon == Some(false)
            });
            if needed && other.key != thread.key {
                push(
                    EdgeKind::NeedsEndOf,
                    &interpreter.key,
                    &other.key,
                    Grade::Derived,
                );
            }
        }
    }
    edges
}

/// All nodes from which one of `targets` is reached, themselves not included.
pub(super) fn upstream(edges: &[WaitEdge], targets: &[&Key]) -> BTreeSet<Key> {
    let mut reached: BTreeSet<&Key> = targets.iter().copied().collect();
    loop {
        let more: Vec<&Key> = edges
            .iter()
            .filter(|edge| reached.contains(&edge.to) && !reached.contains(&edge.from))
            .map(|edge| &edge.from)
            .collect();
        if more.is_empty() {
            break;
        }
        reached.extend(more);
    }
    reached
        .into_iter()
        .filter(|key| !targets.contains(key))
        .cloned()
        .collect()
}

/// Who holds what is waited for, on evidence that is good enough to accuse someone: a holder that all such evidence agrees
/// on. A lock that two threads seem to hold is held by one of them, and it is not known by which.
pub(super) fn holder(wait: &Wait) -> Option<&Holder> {
    let mut firm = wait.holders.iter().filter(|holder| is_firm(holder));
    let first = firm.next()?;
    firm.all(|other| other.thread == first.thread)
        .then_some(first)
}

fn is_firm(holder: &Holder) -> bool {
    let by_hearsay = matches!(
        holder.by,
        HolderEvidence::BareOwnerField | HolderEvidence::Reference
    );
    holder.grade >= Grade::Derived && !by_hearsay
}
