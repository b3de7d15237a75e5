//! Who waits for whom, as typed edges. The only place that makes them.

use super::case::destroyers;
use crate::model::{
    EdgeKind, Grade, Holder, HolderEvidence, Key, Process, Snapshot, WaitEdge, WaitKind,
};
use std::collections::BTreeSet;

/// All edges of the last sample. The others tell which of its holders are to be believed.
pub(super) fn edges(samples: &[Snapshot]) -> Vec<WaitEdge> {
    let Some((last, earlier)) = samples.split_last() else {
        return Vec::new();
    };
    last.processes
        .iter()
        .flat_map(|process| process_edges(process, earlier))
        .collect()
}

/// How sure it is that a lock's holder is one. What was read of a thread that ran counts if each sample says the same.
fn grade_of(waiter: &Key, target: &Key, holder: &Holder, earlier: &[Snapshot]) -> Grade {
    let is_evidence = !matches!(
        holder.by,
        HolderEvidence::BareOwnerField | HolderEvidence::Reference
    );
    let same = |sample: &Snapshot| {
        let wait = sample
            .thread(waiter)
            .and_then(|thread| thread.wait.as_ref());
        wait.is_some_and(|wait| {
            let holds = |other: &Holder| other.thread == holder.thread && other.by == holder.by;
            wait.target.as_ref() == Some(target) && wait.holders.iter().any(holds)
        })
    };
    if is_evidence && !earlier.is_empty() && earlier.iter().all(same) {
        holder.grade.max(Grade::Derived)
    } else {
        holder.grade
    }
}

fn process_edges(process: &Process, earlier: &[Snapshot]) -> Vec<WaitEdge> {
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
        // Dumps of before there were holders have only the owner.
        let owner = wait.owner.iter().filter(|_| wait.holders.is_empty());
        let holders = wait
            .holders
            .iter()
            .map(|holder| (&holder.thread, holder.grade));
        for (thread, grade) in holders.chain(owner.map(|owner| (&owner.thread, owner.grade))) {
            if let Some(thread) = thread
                && grade >= Grade::Derived
            {
                push(EdgeKind::HeldBy, target, thread, grade);
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

/// The thread that `thread` waits for: the one it joins, or the owner of the lock that it waits for.
pub(super) fn next_thread<'e>(edges: &'e [WaitEdge], thread: &Key) -> Option<(&'e Key, EdgeKind)> {
    let out = edges.iter().find(|edge| {
        &edge.from == thread && matches!(edge.kind, EdgeKind::Joins | EdgeKind::WaitsFor)
    })?;
    if out.kind == EdgeKind::Joins {
        return Some((&out.to, EdgeKind::Joins));
    }
    let holder = edges
        .iter()
        .find(|edge| edge.from == out.to && edge.kind == EdgeKind::HeldBy)?;
    Some((&holder.to, EdgeKind::HeldBy))
}
