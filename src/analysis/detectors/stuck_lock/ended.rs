//! `lock-holder-ended`.

use super::hold;
use crate::analysis::case::{self, Case};
use crate::analysis::{signature, wording};
use crate::model::{
    Certainty, Finding, Grade, HolderEvidence, Key, Process, Thread, ThreadKind, Wait, WaitKind,
};
use std::collections::BTreeMap;

pub(super) const ID: &str = "lock-holder-ended";

/// One finding for each lock whose owner is gone.
pub(super) fn judge_all(case: &Case<'_>, process: &Process) -> Vec<Finding> {
    let mut by_lock: BTreeMap<&Key, Vec<&Thread>> = BTreeMap::new();
    for thread in &process.threads {
        if let Some(lock) = abandoned(thread) {
            by_lock.entry(lock).or_default().push(thread);
        }
    }
    by_lock
        .into_values()
        .filter_map(|waiters| judge(case, process, &waiters))
        .collect()
}

const REMEDY: &str = "take the lock with `with`, so that it is given back however the block ends. If this process was forked, \
                      the holder may be a thread of the parent, which a fork does not copy: start processes by `spawn` or \
                      `forkserver`, or fork before there are threads";
const NATIVE_REMEDY: &str = "unlock it on every path out of the thread (pthread_cleanup_push, a guard object), or make it robust \
                             (pthread_mutexattr_setrobust), so that who waits is told";

/// The lock that a thread waits for and whose owner is no thread of the process any more.
fn abandoned(thread: &Thread) -> Option<&Key> {
    let wait = thread.wait.as_ref()?;
    is_abandoned(wait).then_some(wait.target.as_ref()?)
}

/// A plain lock knows no owner, and one between processes may be held in another.
fn is_abandoned(wait: &Wait) -> bool {
    let note = wait.holders.iter().any(|holder| {
        let knows = matches!(
            holder.by,
            HolderEvidence::OwnerField
                | HolderEvidence::BareOwnerField
                | HolderEvidence::ImportLock
                | HolderEvidence::PthreadMutex
        );
        knows && holder.thread.is_none()
    });
    let field = wait.kind == WaitKind::RLock
        && wait
            .owner
            .as_ref()
            .is_some_and(|owner| owner.thread.is_none());
    let alive = wait.holders.iter().any(|holder| holder.thread.is_some());
    (note || field) && !alive
}

fn judge(case: &Case<'_>, process: &Process, waiters: &[&Thread]) -> Option<Finding> {
    // Of a fork it is not that a thread has ended: `lock-held-at-fork`.
    let mut waits = waiters.iter().filter_map(|waiter| waiter.wait.as_ref());
    let is_of = |parent: &Process| {
        process.python.is_none() || waits.any(|wait| case::owner_in(parent, wait).is_some())
    };
    if case.forked_from(process).is_some_and(is_of) {
        return None;
    }
    // Those whose wait will end by itself are affected, no more.
    let ceilings = waiters
        .iter()
        .filter_map(|waiter| Some((*waiter, hold::wait_ceiling(case, waiter)?)));
    // Of equals the first.
    let (waiter, sure) = ceilings.rev().max_by_key(|(_, sure)| *sure)?;
    let wait = waiter.wait.as_ref()?;
    // The native stacks are of the last sample alone; the lock's own word has not been seen to change.
    let by_native = wait.holders.iter().any(|holder| holder.by.is_native());
    let constant = case.views(&waiter.key).all(|view| {
        let then = view.wait.as_ref();
        match by_native {
            true => then.is_some() && view.kernel.syscall == waiter.kernel.syscall,
            false => then.is_some_and(|then| then.address == wait.address && is_abandoned(then)),
        }
    });
    if !constant {
        return None;
    }
    let mut certainty = sure;
    let all_known = knows_all_threads(case, process);
    if !all_known {
        certainty = certainty.min(Certainty::Probable);
    }
    if !case.has_motion() {
        certainty = Certainty::Possible;
    }
    let lock = wording::lock(wait);
    let ident = wait
        .owner
        .as_ref()
        .map_or_else(String::new, |owner| format!(" ({})", owner.ident));
    let mut evidence = vec![
        hold::waits_fact(case, waiter, wait, &lock.full),
        case.fact(
            Grade::Read,
            format!(
                "{} is taken, and notes a thread's id as its owner{ident}",
                lock.short
            ),
            &[(&waiter.key, "wait.owner")],
        ),
        case.fact(
            Grade::Derived,
            if all_known {
                "no thread of the process has that id, and all its threads were read".to_owned()
            } else {
                "no thread that Python knows has that id".to_owned()
            },
            &[(&process.key, "threads")],
        ),
    ];
    evidence.extend(hold::stillness(case, &[waiter]));
    let place = wording::at(waiter);
    Some(Finding {
        id: ID.to_owned(),
        title: format!(
            "{} waits{place} for {}, whose holder has ended without giving it back.",
            wording::name(waiter),
            lock.short
        )
        .into(),
        certainty,
        waiter: waiter.key.clone(),
        blockers: Vec::new(),
        affected: affected(case, waiter, waiters),
        evidence,
        refuted_if: if all_known {
            "a thread that starts now is given that id and releases it".to_owned()
        } else {
            "its owner is a thread of native code that has left Python for now and comes back to release it".to_owned()
        }
        .into(),
        remedy: if by_native { NATIVE_REMEDY } else { REMEDY }.into(),
        site: String::new(),
        signature: signature::signature(ID, &[waiter]),
    })
}

fn affected(case: &Case<'_>, waiter: &Thread, waiters: &[&Thread]) -> Vec<Key> {
    let targets: Vec<&Key> = waiters.iter().map(|thread| &thread.key).collect();
    let others = targets.iter().filter(|key| **key != &waiter.key);
    others
        .map(|key| (*key).clone())
        .chain(case.affected_by(&targets, &targets))
        .collect()
}

/// Whether the ident of each thread of the process was read, so that an unknown one is of none of them.
fn knows_all_threads(case: &Case<'_>, process: &Process) -> bool {
    // The kernel's ids of threads are all known.
    if process.python.is_none() {
        return true;
    }
    let all_python = process
        .threads
        .iter()
        .filter(|thread| thread.kind != ThreadKind::Exited)
        .all(|thread| !thread.python.is_empty());
    let any_gap = case.last.gaps.iter().any(|gap| {
        gap.subject
            .as_ref()
            .is_some_and(|subject| subject.of_process() == process.key)
    });
    all_python && !any_gap
}
