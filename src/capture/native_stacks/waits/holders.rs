//! Who holds a native lock. A pthread mutex notes its owner. Of Rust's locks the holder has to be looked for: by the
//! guards that frames own, and by the references on all stacks, which make suspects; a suspect is believed where it is the
//! only one and a circle closes by it.

use super::super::Unwound;
use super::guards::{Owners, Owning};
use super::reach::goes_on;
use super::scan::{self, Hit};
use super::shapes::Primitive;
use super::{Owner, Waiter};
use crate::capture::namespace::NamespaceIds;
use crate::model::{
    Foreign, Grade, Holder, HolderEvidence, Key, Process, Thread, ThreadKind, Tid, Wait, WaitKind,
};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Most suspects of one lock that are told.
const MAX_SUSPECTS: usize = 8;

pub(super) fn find(
    process: &mut Process,
    waiters: &[Waiter],
    unwound: &BTreeMap<Tid, Unwound>,
    owners: &Owners,
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
    let mut suspects: BTreeMap<Tid, Vec<Holder>> = BTreeMap::new();
    let mut doubtful: BTreeSet<Tid> = BTreeSet::new();
    for waiter in waiters {
        if let Owner::Thread(inner) = waiter.lock.owner {
            let owner = by_inner.get(&inner).copied();
            // Of itself it is known that it has the lock, not where it took it.
            let mut noted = noted(process, owner);
            noted.place = noted.place.filter(|_| owner != Some(waiter.tid));
            with_wait(process, waiter.tid, |wait| wait.holders = vec![noted]);
            continue;
        }
        let look = Look {
            process,
            waiter,
            hits: hits
                .get(&waiter.lock.address)
                .map_or(&[][..], Vec::as_slice),
            all_hits: &hits,
            locks: &locks,
            guards: owners,
            waiting: waiting_for(waiters, waiter.lock.address),
        };
        let holding = look.owners();
        if holding.is_empty() {
            let found = look.suspects();
            let guardless = |holder: &Holder| {
                let thread = holder.thread.as_ref().and_then(Key::tid);
                thread.is_none_or(|tid| owners.unwinds && !look.owns(tid))
            };
            let open = |holder: &Holder| {
                let thread = holder.thread.as_ref().and_then(Key::tid);
                thread.is_some_and(|tid| look.may_be_anothers(tid) || look.only_refers(tid))
            };
            if found.iter().any(guardless) || found.iter().any(open) {
                doubtful.insert(waiter.tid);
            }
            suspects.insert(waiter.tid, found);
        } else {
            with_wait(process, waiter.tid, |wait| wait.holders = holding);
        }
    }
    let mut believed = closing_circles(process, &suspects);
    // Of those that have no guard a reference says nothing.
    if believed.iter().any(|tid| doubtful.contains(tid)) {
        believed.clear();
    }
    for (tid, mut found) in suspects {
        with_wait(process, tid, |wait| {
            if believed.contains(&tid) {
                for holder in &mut found {
                    holder.grade = owners.grade;
                    holder.by = HolderEvidence::OnlyReference;
                }
                wait.holders = found;
            } else if found.is_empty() {
                wait.holder_unknown = Some(Foreign::from(NOT_FOUND));
            } else {
                wait.suspects = found;
            }
        });
    }
}

/// Why no holder is known, where no stack has a trace of one.
const NOT_FOUND: &str = "such locks do not note who holds them, and no thread's stack shows a guard of it: it may be kept \
                         in a future that is suspended, in another object, or have been forgotten";

/// What there is to judge one waiter by.
struct Look<'l> {
    process: &'l Process,
    waiter: &'l Waiter,
    hits: &'l [Hit],
    /// The same of all locks that are waited for.
    all_hits: &'l HashMap<u64, Vec<Hit>>,
    /// All locks that are waited for and do not note who has them.
    locks: &'l [u64],
    guards: &'l Owners,
    /// Threads that wait for the same lock.
    waiting: BTreeSet<Tid>,
}

impl Look<'_> {
    /// Threads of which a frame both refers to the lock and owns a guard that keeps the waiter out.
    fn owners(&self) -> Vec<Holder> {
        let mut found = Vec::new();
        let mut seen = Vec::new();
        for (tid, owners) in &self.guards.frames {
            let own = *tid == self.waiter.tid;
            let released = self
                .guards
                .released
                .contains(&(*tid, self.waiter.lock.address));
            if (self.waiting.contains(tid) && !own) || released {
                continue;
            }
            let mut fitting = owners
                .iter()
                .filter(|owning| owning.keeps_out(self.waiter.shape.primitive))
                // The frames of the wait itself have none that it has to wait for.
                .filter(|owning| !own || self.may_be_its_own(owning));
            let Some(owning) = fitting.find(|owning| self.is_of_lock(*tid, owning)) else {
                continue;
            };
            let holder = self.holder(*tid, owning.frame, HolderEvidence::DroppedGuard);
            match self.is_seen_to_be_of_lock(owning) {
                true => seen.extend(holder),
                false if own || !self.may_be_anothers(*tid) => found.extend(holder),
                false => {}
            }
        }
        // Whose guard was read has it; others may refer to the lock and own a guard of another one.
        if !seen.is_empty() {
            found = seen;
        }
        // A library's frame that passes the address on may own a guard of a lock of its own (rayon's latches).
        if found.iter().any(|holder| holder.place.is_some()) {
            found.retain(|holder| holder.place.is_some());
        }
        if found.is_empty() {
            found.extend(self.itself());
        }
        if found.is_empty() {
            found.extend(self.only_reader());
        }
        found
    }

    /// Whether a frame of the waiter may own the guard that it waits for: it is none of the frames of the wait itself, and has
    /// more guards than there are other locks that it refers to and that others wait for.
    fn may_be_its_own(&self, owning: &Owning) -> bool {
        let refers = |lock: &u64| {
            let mut hits = self.all_hits.get(lock).into_iter().flatten();
            let on_stack = hits
                .any(|hit| hit.tid == self.waiter.tid && hit.frame == owning.frame && hit.exact);
            on_stack || owning.names(*lock)
        };
        let others = self
            .locks
            .iter()
            .filter(|lock| **lock != self.waiter.lock.address && refers(lock))
            .count();
        let fits =
            owning.singly && owning.frame >= self.waiter.physical && owning.kinds.len() > others;
        fits && (self.is_seen_to_be_of_lock(owning) || !self.others_go_on())
    }

    /// Whether the lock's address is in the guard itself, or in the code that drops it.
    fn is_seen_to_be_of_lock(&self, owning: &Owning) -> bool {
        let lock = self.waiter.lock.address;
        owning.has_guard_of(lock) == Some(true) || owning.names(lock)
    }

    /// Whether another thread may be the one that has the lock, and give it back: its guard may be anywhere.
    fn others_go_on(&self) -> bool {
        let mut others = self.process.threads.iter();
        others.any(|other| other.tid != self.waiter.tid && !idles(other) && goes_on(other))
    }

    /// Whether the guard that the waiter needs may as well be another thread's than this one's, which owns some guard and refers to
    /// the lock. One that waits for a lock itself is as a rule where it wants a second one; one that waits for anything else, for
    /// a thread's end above all, refers to many a lock that it does not have.
    fn may_be_anothers(&self, holder: Tid) -> bool {
        let wait = |tid: Tid| self.process.thread_by_tid(tid)?.wait.as_ref();
        // Who initialises is the frame that has the address.
        if self.waiter.shape.primitive == Primitive::StdOnce
            || wait(holder).is_some_and(|wait| wait.kind == WaitKind::Lock)
        {
            return false;
        }
        let mut others = self.others_than(holder);
        others.any(|other| self.owns(other.tid) || goes_on(other))
    }

    /// Whether a thread that joins another is not seen to own a guard that may be the lock's, and there are others that may: who
    /// starts a thread and joins it refers to all that it has lent to it.
    fn only_refers(&self, tid: Tid) -> bool {
        let thread = self.process.thread_by_tid(tid);
        let wait = thread.and_then(|thread| thread.wait.as_ref());
        wait.is_some_and(|wait| wait.kind == WaitKind::ThreadExit)
            && !self.owns(tid)
            && self.others_than(tid).next().is_some()
    }

    /// Threads other than this one and those that wait for the lock, as far as they may have it.
    fn others_than(&self, holder: Tid) -> impl Iterator<Item = &Thread> {
        let waiter = self.process.thread_by_tid(self.waiter.tid);
        let wait = waiter.and_then(|thread| thread.wait.as_ref());
        let out_of_reach = wait.map_or(&[][..], |wait| wait.out_of_reach.as_slice());
        self.process.threads.iter().filter(move |other| {
            let same =
                [holder, self.waiter.tid].contains(&other.tid) || self.waiting.contains(&other.tid);
            let has_none = self.has_no_guard(other.tid) || out_of_reach.contains(&other.key);
            !same && !has_none && !idles(other) && other.kind != ThreadKind::Exited
        })
    }

    /// Whether a guard of this frame is that of the lock: its code names it, or the frame has a word like it.
    fn is_of_lock(&self, tid: Tid, owning: &Owning) -> bool {
        if let Some(is) = owning.has_guard_of(self.waiter.lock.address) {
            return is;
        }
        let own = tid == self.waiter.tid;
        // What a frame keeps in a register may lie where a function that it called has saved it.
        let of_frame = |hit: &&Hit| {
            let place = match own {
                true => hit.frame == owning.frame,
                false => hit.frame <= owning.frame,
            };
            hit.tid == tid && hit.exact && place
        };
        owning.names(self.waiter.lock.address)
            || self.hits.iter().filter(of_frame).any(|hit| {
                // The waiter refers to the lock to wait for it, too.
                hit.like_a_guard || !own || self.waiter.shape.primitive == Primitive::StdOnce
            })
    }

    /// The waiter itself, where it owns a guard of that kind and no other thread has a trace of the lock.
    fn itself(&self) -> Option<Holder> {
        let alone = self
            .hits
            .iter()
            .all(|hit| self.waiting.contains(&hit.tid) || self.has_no_guard(hit.tid));
        // Nothing on a stack need refer to a static.
        let refers = self.hits.iter().any(|hit| hit.exact);
        let mut owners = self.guards.frames.get(&self.waiter.tid)?.iter();
        let owning = owners.find(|owning| {
            self.may_be_its_own(owning)
                && owning.keeps_out(self.waiter.shape.primitive)
                && owning.has_guard_of(self.waiter.lock.address) != Some(false)
        })?;
        // Who initialises need not keep the address: the code that waits has it.
        let by_address = refers || self.waiter.shape.primitive == Primitive::StdOnce;
        if !alone || !by_address {
            return None;
        }
        self.holder(self.waiter.tid, owning.frame, HolderEvidence::DroppedGuard)
    }

    /// The waiter itself, where readers hold the lock and the process has no other thread.
    fn only_reader(&self) -> Option<Holder> {
        let read = matches!(self.waiter.lock.owner, Owner::Readers(_));
        let mut alive = self
            .process
            .threads
            .iter()
            .filter(|thread| thread.kind != ThreadKind::Exited);
        let alone = alive.all(|thread| thread.tid == self.waiter.tid);
        if !read || !alone {
            return None;
        }
        let holder = self.holder(self.waiter.tid, 0, HolderEvidence::OnlyThread)?;
        Some(Holder {
            place: None,
            ..holder
        })
    }

    /// Whether landing pads show that a thread owns no guard that would keep the waiter out, whatever it refers to.
    fn has_no_guard(&self, tid: Tid) -> bool {
        self.guards.known.contains(&tid) && !self.owns(tid)
    }

    /// Whether a thread owns a guard that would keep the waiter out, of whatever lock, unless it was read to be another one's.
    fn owns(&self, tid: Tid) -> bool {
        let fits = |owning: &Owning| {
            owning.keeps_out(self.waiter.shape.primitive)
                && owning.has_guard_of(self.waiter.lock.address) != Some(false)
        };
        self.guards
            .frames
            .get(&tid)
            .is_some_and(|all| all.iter().any(fits))
    }

    /// Threads other than those that wait for the lock whose stacks refer to it, the likeliest first.
    fn suspects(&self) -> Vec<Holder> {
        let mut best: BTreeMap<Tid, Hit> = BTreeMap::new();
        let rank = |hit: &Hit| (self.owns(hit.tid), hit.exact, hit.like_a_guard);
        for hit in self
            .hits
            .iter()
            .filter(|hit| !self.waiting.contains(&hit.tid))
        {
            best.entry(hit.tid)
                .and_modify(|known| {
                    if rank(hit) > rank(known) {
                        *known = *hit;
                    }
                })
                .or_insert(*hit);
        }
        let any_exact = best.values().any(|hit| hit.exact);
        let any_owns = best.values().any(|hit| rank(hit).0);
        let mut ranked: Vec<Hit> = best
            .into_values()
            .filter(|hit| (hit.exact || !any_exact) && (rank(hit).0 || !any_owns))
            .collect();
        ranked.sort_by_key(|hit| (std::cmp::Reverse(rank(hit)), hit.tid));
        ranked
            .iter()
            .take(MAX_SUSPECTS)
            .filter_map(|hit| self.holder(hit.tid, hit.frame, HolderEvidence::Reference))
            .collect()
    }

    fn holder(&self, tid: Tid, frame: usize, by: HolderEvidence) -> Option<Holder> {
        let thread = self.process.thread_by_tid(tid)?;
        let grade = match by {
            HolderEvidence::Reference => Grade::Guessed,
            _ => self.guards.grade,
        };
        Some(Holder {
            thread: Some(thread.key.clone()),
            by,
            place: place(thread, frame),
            grade,
        })
    }
}

/// Whether it is a worker that waits for the next piece of work.
fn idles(thread: &Thread) -> bool {
    let call = thread.wait.as_ref().and_then(|wait| wait.call.as_ref());
    call.is_some_and(|call| call.untrusted().starts_with("idle "))
}

pub(super) fn with_wait(process: &mut Process, tid: Tid, change: impl FnOnce(&mut Wait)) {
    let thread = process.threads.iter_mut().find(|thread| thread.tid == tid);
    if let Some(wait) = thread.and_then(|thread| thread.wait.as_mut()) {
        change(wait);
    }
}

/// The owner that a mutex notes; a thread that is no more if there is none of that id.
fn noted(process: &Process, owner: Option<Tid>) -> Holder {
    let thread = owner.and_then(|owner| process.thread_by_tid(owner));
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
fn closing_circles(process: &Process, suspects: &BTreeMap<Tid, Vec<Holder>>) -> BTreeSet<Tid> {
    let next = |tid: Tid| -> Option<Tid> {
        if let Some(found) = suspects.get(&tid) {
            let [only] = found.as_slice() else {
                return None;
            };
            return only.thread.as_ref().and_then(Key::tid);
        }
        let thread = process.thread_by_tid(tid)?;
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
                believed.extend(
                    path.iter()
                        .copied()
                        .filter(|tid| suspects.contains_key(tid)),
                );
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
