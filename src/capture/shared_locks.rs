//! Locks that processes share: a waiter in one, the holder in another. Two processes mean the same lock if it is at the
//! same place of the same shared memory.

use super::maps;
use crate::model::{
    Foreign, Grade, Holder, HolderEvidence, Key, Pid, Process, SharedLock, Snapshot, Thread, Tid,
    Wait, WaitKind,
};
use std::collections::{BTreeMap, BTreeSet};

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
    let forked = forked_by_hand(snapshot);
    let all_read = snapshot.gaps.iter().all(|gap| !gap.kind.is_incomplete());
    for process in &mut snapshot.processes {
        let is_copy = forked.contains(&process.key);
        resolve_in(process, &held, all_read, is_copy);
    }
    note_outsiders(snapshot);
}

/// Most processes of the machine that are asked for the memory of a lock.
const MAX_OUTSIDERS: usize = 10_000;

/// Notes the processes that are not in the sample and have the memory of a lock that is waited for: one that has become a daemon,
/// the parent of the process that was looked at.
fn note_outsiders(snapshot: &mut Snapshot) {
    let file = |wait: &Wait| {
        let memory = wait.shared_memory.as_ref()?.untrusted();
        let (file, _) = memory.split_once(" + ")?;
        (wait.kind == WaitKind::SharedFutex).then(|| file.to_owned())
    };
    let mut outsiders: BTreeMap<String, Vec<Pid>> = snapshot
        .processes
        .iter()
        .flat_map(|process| &process.threads)
        .filter_map(|thread| Some((file(thread.wait.as_ref()?)?, Vec::new())))
        .collect();
    if outsiders.is_empty() {
        return;
    }
    let known: BTreeSet<Pid> = snapshot
        .processes
        .iter()
        .map(|process| process.pid)
        .collect();
    let all = procfs::process::all_processes().into_iter().flatten();
    let others = all.filter_map(|process| Some(process.ok()?.pid));
    for pid in others
        .filter(|pid| !known.contains(pid))
        .take(MAX_OUTSIDERS)
    {
        for file in maps::shared_files(pid) {
            if let Some(pids) = outsiders.get_mut(&file) {
                pids.push(pid);
            }
        }
    }
    let threads = snapshot
        .processes
        .iter_mut()
        .flat_map(|process| &mut process.threads);
    for wait in threads.filter_map(|thread| thread.wait.as_mut()) {
        let pids = file(wait).and_then(|file| outsiders.get(&file));
        wait.shared_with = pids.cloned().unwrap_or_default();
    }
}

/// Processes that go on where their parent was when it forked (`os.fork`): their frames may be in blocks of the parent's,
/// of locks that they do not hold. `multiprocessing` starts its own below frames of its own.
fn forked_by_hand(snapshot: &Snapshot) -> BTreeSet<Key> {
    let is_copy = |process: &&Process| {
        let parent = snapshot
            .processes
            .iter()
            .find(|parent| parent.pid == process.ppid);
        let of_multiprocessing = process
            .threads
            .iter()
            .flat_map(Thread::frames)
            .any(|frame| frame.in_file("multiprocessing/process.py"));
        parent.is_some_and(|parent| parent.argv == process.argv) && !of_multiprocessing
    };
    let copies = snapshot.processes.iter().filter(is_copy);
    copies.map(|process| process.key.clone()).collect()
}

fn resolve_in(
    process: &mut Process,
    held: &BTreeMap<Foreign, Vec<SharedLock>>,
    all_read: bool,
    is_copy: bool,
) {
    for thread in &mut process.threads {
        let settled = thread.settled;
        let Some(wait) = &mut thread.wait else {
            continue;
        };
        let Some(memory) = wait.shared_memory.as_ref() else {
            continue;
        };
        if wait.kind != WaitKind::SharedFutex {
            continue;
        }
        let holders = held.get(memory).map_or(&[][..], Vec::as_slice);
        // A process that was forked within the block has a copy of it: then it is open which of them has the lock.
        let processes: BTreeSet<Key> = holders
            .iter()
            .map(|lock| lock.thread.of_process())
            .collect();
        let is_open = processes.len() > 1;
        if !wait.holders.is_empty() {
            if is_open || is_copy {
                for holder in &mut wait.holders {
                    holder.grade = Grade::Guessed;
                }
            }
            continue;
        }
        wait.holders = holders
            .iter()
            .map(|lock| Holder {
                thread: Some(lock.thread.clone()),
                by: HolderEvidence::WithBlock,
                place: Some(lock.place.clone()),
                grade: if settled && lock.settled && !is_open {
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
