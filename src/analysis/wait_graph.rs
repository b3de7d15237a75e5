//! Who waits for whom, as typed edges. The only place that makes them.

use super::case::destroyers;
use super::trail::fact;
use crate::model::{
    EdgeKind, Grade, Holder, HolderEvidence, Key, Process, Snapshot, Thread, Wait, WaitEdge,
    WaitKind, WaitObject,
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
        for holder in &wait.holders {
            let grade = grade_of(&thread.key, target, holder, earlier);
            if let Some(thread) = &holder.thread
                && grade >= Grade::Derived
                && is_exclusive(wait, holder)
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

/// Who holds what is waited for, on evidence that is good enough to accuse someone, and that nothing contradicts: a lock
/// that two threads seem to hold is held by one of them, and it is not known by which. Nothing of this is said of
/// semaphores, where each holder is one of several.
pub(super) fn holder(wait: &Wait) -> Option<&Holder> {
    let all = wait.holders.iter().chain(&wait.suspects);
    let mut claims = all.filter(|holder| holder.by != HolderEvidence::Reference);
    let first = claims.clone().find(|holder| is_firm(holder))?;
    let agreed = claims.all(|other| other.thread == first.thread);
    (agreed && is_exclusive(wait, first)).then_some(first)
}

fn is_firm(holder: &Holder) -> bool {
    let by_hearsay = matches!(
        holder.by,
        HolderEvidence::BareOwnerField | HolderEvidence::Reference
    );
    // What rests on a guard that was guessed at is capped where it is told (`guesses_at_locks`).
    let guessed_at = matches!(
        holder.by,
        HolderEvidence::DroppedGuard | HolderEvidence::OnlyThread | HolderEvidence::OnlyReference
    );
    (holder.grade >= Grade::Derived || guessed_at) && !by_hearsay
}

/// Whether a thread waits for a native lock that does not note who has it, and the process was not stopped: the guard may be in a
/// register that was not read. Or for what its frames did not tell, which may be one. Of all that hangs in the process the cause
/// may be there.
pub(super) fn guesses_at_locks(process: &Process) -> bool {
    let guesses = |thread: &Thread| {
        let stack = thread.native.as_ref();
        let guessed = stack.is_some_and(|stack| stack.grade == Grade::Guessed);
        let untold = |wait: &Wait| wait.kind == WaitKind::Futex && wait.call.is_none();
        let wait = thread.wait.as_ref();
        guessed && wait.is_some_and(|wait| is_unnoted(wait) || untold(wait))
    };
    process.threads.iter().any(guesses)
}

/// Whether it is for a native lock that does not note who has it, or has not.
fn is_unnoted(wait: &Wait) -> bool {
    let object = wait.object.as_ref();
    let type_name = object.map_or("", |object| object.type_name.untrusted());
    let mut holders = wait.holders.iter();
    wait.kind == WaitKind::Lock
        && (type_name.contains("::") || type_name == "pthread_rwlock_t")
        && holders.all(|holder| holder.by != HolderEvidence::PthreadMutex)
}

/// Whether who holds it keeps all others out. What `multiprocessing`'s locks are made of is a semaphore, so there the type
/// has to tell.
fn is_exclusive(wait: &Wait, holder: &Holder) -> bool {
    let object = wait.object.as_ref();
    let type_name = object.map_or("", |object| object.type_name.untrusted());
    if wait.kind == WaitKind::SharedFutex || holder.by == HolderEvidence::ProcessLock {
        let once = |object: &WaitObject| fact(object, "maxvalue") == Some("1");
        matches!(
            type_name,
            "multiprocessing.synchronize.Lock" | "multiprocessing.synchronize.RLock"
        ) || object.is_some_and(once)
    } else {
        !type_name.contains("Semaphore")
    }
}
