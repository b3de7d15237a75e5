//! Locks that processes share: a waiter in one, the holder in another. Two processes mean the same lock if it is at the
//! same place of the same shared memory.

use super::maps;
use crate::model::{
    Foreign, Grade, Holder, HolderEvidence, Key, Pid, Process, SharedLock, Snapshot, Thread, Tid,
    WaitKind,
};
use std::collections::BTreeMap;

/// Names the holders that other processes of the sample have told, for waiters that know none.
pub(super) fn resolve(snapshot: &mut Snapshot) {
    let mut held: BTreeMap<Foreign, Vec<SharedLock>> = BTreeMap::new();
    for process in &snapshot.processes {
        for lock in &process.shared_locks_held {
            held.entry(lock.memory.clone())
                .or_default()
                .push(lock.clone());
        }
    }
    let all_read = snapshot.gaps.iter().all(|gap| !gap.kind.is_incomplete());
    for process in &mut snapshot.processes {
        resolve_in(process, &held, all_read);
    }
}

fn resolve_in(process: &mut Process, held: &BTreeMap<Foreign, Vec<SharedLock>>, all_read: bool) {
    for thread in &mut process.threads {
        let settled = thread.settled;
        let Some(wait) = &mut thread.wait else {
            continue;
        };
        let Some(memory) = wait.shared_memory.as_ref() else {
            continue;
        };
        if wait.kind != WaitKind::SharedFutex || !wait.holders.is_empty() {
            continue;
        }
        let holders = held.get(memory).into_iter().flatten();
        wait.holders = holders
            .map(|lock| Holder {
                thread: Some(lock.thread.clone()),
                by: HolderEvidence::WithBlock,
                place: Some(lock.place.clone()),
                grade: if settled && lock.settled {
                    Grade::Derived
                } else {
                    Grade::Guessed
                },
            })
            .collect();
        if !wait.holders.is_empty() {
            wait.holder_unknown = None;
        } else if wait.holder_unknown.is_some() && all_read {
            wait.holder_unknown = Some(
                "no process of the tree is in a with block of it: it was taken by acquire(), its holder has ended, or is \
                 elsewhere"
                    .into(),
            );
        }
    }
}

/// Finds out where in shared memory the locks are that threads of a process wait for, and returns those that they hold:
/// address, thread, whether it settled, place.
pub(super) fn locate(
    (pid, tid): (Pid, Tid),
    threads: &mut [Thread],
    held: Vec<(u64, Key, bool, Foreign)>,
) -> Vec<SharedLock> {
    let awaited = threads.iter().filter_map(futex);
    let addresses: Vec<u64> = awaited
        .chain(held.iter().map(|(address, ..)| *address))
        .collect();
    let memory = maps::shared_memory(pid, tid, &addresses);
    for thread in threads {
        let place = futex(thread).and_then(|address| memory.get(&address));
        if let (Some(wait), Some(place)) = (&mut thread.wait, place) {
            wait.shared_memory = Some(place.clone());
        }
    }
    held.into_iter()
        .filter_map(|(address, thread, settled, place)| {
            Some(SharedLock {
                memory: memory.get(&address)?.clone(),
                thread,
                settled,
                place,
            })
        })
        .collect()
}

/// The word of a shared futex that a thread waits on.
fn futex(thread: &Thread) -> Option<u64> {
    let shared = thread
        .wait
        .as_ref()
        .is_some_and(|wait| wait.kind == WaitKind::SharedFutex);
    let call = thread.kernel.syscall.as_ref().filter(|_| shared)?;
    call.args.first().map(|address| address.0)
}
