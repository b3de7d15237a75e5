//! Who holds a native lock. A pthread mutex notes its owner. Of Rust's locks the holder has to be looked for: by the
//! references on all stacks, which make suspects; a suspect is believed where it is the only one and a circle closes by it.

use super::super::Unwound;
use super::scan::{self, Hit};
use super::{Owner, Waiter};
use crate::capture::namespace::NamespaceIds;
use crate::model::{
    Foreign, Grade, Holder, HolderEvidence, Key, Process, Thread, Tid, WaitKind,
};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Most suspects of one lock that are told.
const MAX_SUSPECTS: usize = 8;

pub(super) fn find(
    process: &mut Process,
    waiters: &[Waiter],
    unwound: &BTreeMap<Tid, Unwound>,
    namespace: &NamespaceIds,
) {
    let by_inner: BTreeMap<Tid, Tid> = process
        .threads
        .iter()
        .map(|thread| (namespace.inner(thread.tid), thread.tid))
        .collect();
    let unnoted: BTreeSet<u64> = waiters
        .iter()
        .filter(|waiter| !matches!(waiter.lock.owner, Owner::Thread(_)))
        .map(|waiter| waiter.lock.address)
        .collect();
    let locks: Vec<u64> = unnoted.into_iter().collect();
    let hits = scan::hits(&locks, unwound);
    let mut suspects: HashMap<Tid, Vec<Holder>> = HashMap::new();
    for waiter in waiters {
        let found = match waiter.lock.owner {
            Owner::Thread(inner) => {
                let noted = noted(process, by_inner.get(&inner).copied());
                with_wait(process, waiter.tid, |wait| wait.holders = vec![noted]);
                continue;
            }
            Owner::NotNoted | Owner::Readers(_) => {
                let hits = hits.get(&waiter.lock.address).map_or(&[][..], Vec::as_slice);
                let waiting = waiting_for(waiters, waiter.lock.address);
                suspects_of(process, waiter, hits, &waiting)
            }
        };
        suspects.insert(waiter.tid, found);
    }
    let believed = closing_circles(process, &suspects);
    for (tid, mut found) in suspects {
        let owner_unknown = "such locks do not note who holds them, and no other thread's stack refers to it";
        with_wait(process, tid, |wait| {
            if believed.contains(&tid) {
                for holder in &mut found {
                    holder.grade = Grade::Derived;
                    holder.by = HolderEvidence::OnlyReference;
                }
                wait.holders = found;
            } else if found.is_empty() {
                wait.holder_unknown = Some(Foreign::from(owner_unknown));
            } else {
                wait.suspects = found;
            }
        });
    }
}

fn with_wait(process: &mut Process, tid: Tid, change: impl FnOnce(&mut crate::model::Wait)) {
    let thread = process.threads.iter_mut().find(|thread| thread.tid == tid);
    if let Some(wait) = thread.and_then(|thread| thread.wait.as_mut()) {
        change(wait);
    }
}

/// The owner that a mutex notes; a thread that is no more if there is none of that id.
fn noted(process: &Process, owner: Option<Tid>) -> Holder {
    let thread = process
        .threads
        .iter()
        .find(|thread| Some(thread.tid) == owner);
    Holder {
        thread: thread.map(|thread| thread.key.clone()),
        by: HolderEvidence::PthreadMutex,
        place: thread.and_then(|thread| place(thread, 0)),
        grade: Grade::Derived,
    }
}

/// Threads that wait for the same lock: none of them has it, unless it waits for what it has itself.
fn waiting_for(waiters: &[Waiter], lock: u64) -> BTreeSet<Tid> {
    waiters
        .iter()
        .filter(|waiter| waiter.lock.address == lock)
        .map(|waiter| waiter.tid)
        .collect()
}

/// Threads other than those that wait for the lock whose stacks refer to it, the likeliest first.
fn suspects_of(
    process: &Process,
    waiter: &Waiter,
    hits: &[Hit],
    waiting: &BTreeSet<Tid>,
) -> Vec<Holder> {
    let mut best: BTreeMap<Tid, Hit> = BTreeMap::new();
    for hit in hits.iter().filter(|hit| !waiting.contains(&hit.tid)) {
        let rank = |hit: &Hit| (hit.exact, hit.like_a_guard);
        best.entry(hit.tid)
            .and_modify(|known| {
                if rank(hit) > rank(known) {
                    *known = *hit;
                }
            })
            .or_insert(*hit);
    }
    let any_exact = best.values().any(|hit| hit.exact);
    let mut ranked: Vec<Hit> = best
        .into_values()
        .filter(|hit| hit.exact || !any_exact)
        .collect();
    ranked.sort_by_key(|hit| (std::cmp::Reverse((hit.exact, hit.like_a_guard)), hit.tid));
    ranked
        .iter()
        .take(MAX_SUSPECTS)
        .filter_map(|hit| {
            let thread = process.threads.iter().find(|thread| thread.tid == hit.tid)?;
            Some(Holder {
                thread: Some(thread.key.clone()),
                by: HolderEvidence::Reference,
                place: place(thread, hit.frame),
                grade: Grade::Guessed,
            })
        })
        .chain(itself(process, waiter, hits, waiting))
        .collect()
}

/// A thread that is alone with a lock that it waits for.
fn itself(
    _process: &Process,
    _waiter: &Waiter,
    _hits: &[Hit],
    _waiting: &BTreeSet<Tid>,
) -> Option<Holder> {
    None
}

/// The first frame of the user's own code from physical frame `from` outwards.
fn place(thread: &Thread, from: usize) -> Option<Foreign> {
    let stack = thread.native.as_ref()?;
    let mut physical = 0;
    for frame in &stack.frames {
        if physical >= from && !frame.is_library() && frame.function.is_some() {
            return Some(frame.place().into());
        }
        if !frame.inlined {
            physical += 1;
        }
    }
    None
}

/// Waiters whose only suspect waits, through others of them or joins, for what the waiter has.
fn closing_circles(process: &Process, suspects: &HashMap<Tid, Vec<Holder>>) -> BTreeSet<Tid> {
    let next = |tid: Tid| -> Option<Tid> {
        if let Some(found) = suspects.get(&tid) {
            let [only] = found.as_slice() else {
                return None;
            };
            return only.thread.as_ref().and_then(Key::tid);
        }
        let thread = process.threads.iter().find(|thread| thread.tid == tid)?;
        let wait = thread.wait.as_ref()?;
        if wait.kind == WaitKind::ThreadExit {
            return wait.target.as_ref()?.tid();
        }
        let [holder] = wait.holders.as_slice() else {
            return None;
        };
        holder.thread.as_ref()?.tid()
    };
    let mut believed = BTreeSet::new();
    for start in suspects.keys() {
        let mut path = vec![*start];
        let mut at = *start;
        while let Some(following) = next(at) {
            if following == *start {
                believed.extend(path.iter().copied().filter(|tid| suspects.contains_key(tid)));
                break;
            }
            if path.contains(&following) || path.len() > suspects.len() + process.threads.len() {
                break;
            }
            path.push(following);
            at = following;
        }
    }
    believed
}
