//! Who holds the locks that threads wait for. In order of strength: a frame that is in a `with` block of the lock; the
//! import system's note; an RLock's owner field that something else confirms. A plain lock taken by `acquire()` notes
//! nobody: then the frames that reach it are named, as suspects.

mod search;
mod suspects;
mod suspended;

use super::code::Code;
use super::frame::RawFrame;
use super::heap::Heap;
use super::interpreter::Census;
use super::reach;
use super::thread_state::RawThreadState;
use super::waits::{PythonWait, WaitTarget};
use crate::model::{Foreign, HolderEvidence, Tid, WaitObject};
use search::Search;
use std::collections::{BTreeMap, BTreeSet};
use suspects::reached;

/// Most holders or suspects that are told of one lock.
const MAX_TOLD: usize = 8;

/// A holder, before thread ids are translated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RawHolder {
    /// In the target's pid namespace; absent when it has ended.
    pub(crate) native_id: Option<Tid>,
    pub(crate) by: HolderEvidence,
    pub(crate) place: Option<Foreign>,
    /// The evidence is about the lock itself rather than an object that has it.
    pub(crate) direct: bool,
}

/// Of the thread states of one thread, the one that runs now; the others are suspended below it.
pub(super) fn running<'s>(states: &[&'s RawThreadState]) -> Option<&'s RawThreadState> {
    states.iter().copied().min_by_key(|raw| {
        (
            !raw.bound,
            raw.state.frames.is_empty(),
            -raw.state.interpreter_id,
        )
    })
}

/// Fills in holders and suspects of all waits. Each comes with the tid and the native id of its thread.
pub(super) fn find(heap: &Heap<'_>, census: &Census, waits: &mut [(Tid, Tid, PythonWait)]) {
    let wanted: BTreeSet<u64> = waits
        .iter()
        .flat_map(|(_, _, wait)| lockable(wait))
        .collect();
    let imports = waits
        .iter()
        .any(|(_, _, wait)| matches!(wait.target, Some(WaitTarget::Import(_))));
    if !wanted.is_empty() || imports {
        fill_in(heap, census, waits, wanted);
    }
    rule_out(heap, census, waits);
    let open: BTreeSet<u64> = waits
        .iter()
        .filter(|(_, native_id, wait)| no_other_holds(wait, *native_id))
        .flat_map(|(_, _, wait)| suspicious(wait))
        .collect();
    if open.is_empty() {
        return;
    }
    let mut reached = reached(heap, census, &open, &|_, _| true);
    // Whoever waits for the same does not hold it.
    let fellows = waiters_by_object(waits, &suspicious);
    for (object, threads) in &mut reached {
        if let Some(fellows) = fellows.get(object) {
            threads.retain(|suspect| suspect.native_id.is_none_or(|id| !fellows.contains(&id)));
        }
        threads.truncate(MAX_TOLD);
    }
    for (_, native_id, wait) in waits.iter_mut() {
        if !no_other_holds(wait, *native_id) {
            continue;
        }
        let mut suspects = std::mem::take(&mut wait.suspects);
        for object in suspicious(wait) {
            for suspect in reached.get(&object).into_iter().flatten() {
                if !suspects.contains(suspect) {
                    suspects.push(suspect.clone());
                }
            }
        }
        suspects.truncate(MAX_TOLD);
        wait.suspects = suspects;
        if let Some(WaitTarget::Lock(lock)) = &wait.target
            && wait.holders.is_empty()
            && wait.holder_unknown.is_none()
            && !lock.recursive
            && is_the_lock_itself(wait)
        {
            wait.holder_unknown = Some(
                "it was taken by acquire() rather than by a with block, and a plain lock does not note by whom".into(),
            );
        }
    }
}

/// Fills in the holders of the wanted locks.
fn fill_in(
    heap: &Heap<'_>,
    census: &Census,
    waits: &mut [(Tid, Tid, PythonWait)],
    wanted: BTreeSet<u64>,
) {
    let mut search = Search::new(heap, wanted);
    for raw in census.with_frames(heap) {
        search.with_blocks(raw);
    }
    search.generators_locks();
    let idents: BTreeMap<u64, &RawThreadState> = census
        .thread_states
        .iter()
        .map(|raw| (raw.state.ident.0, raw))
        .collect();
    for (_, native_id, wait) in waits.iter_mut() {
        search.fill(wait, *native_id, &idents);
    }
    contest(heap, census, waits);
}

/// Notes which threads cannot come to what is waited for.
fn rule_out(heap: &Heap<'_>, census: &Census, waits: &mut [(Tid, Tid, PythonWait)]) {
    let open = |wait: &PythonWait, waiter| no_other_holds(wait, waiter);
    let wanted: BTreeSet<u64> = waits
        .iter()
        .filter(|(_, native_id, wait)| open(wait, *native_id))
        .flat_map(|(_, _, wait)| needed(wait))
        .collect();
    if wanted.is_empty() {
        return;
    }
    let by_state = reach::reached(heap, census, &wanted);
    if by_state.is_empty() {
        return; // nobody's end was seen; with many threads that is all there is to say
    }
    for (_, native_id, wait) in waits.iter_mut() {
        let objects = needed(wait);
        let others = census.thread_states.iter().map(|raw| raw.native_id);
        let others: BTreeSet<Tid> = others.filter(|other| other != native_id).collect();
        let misses_all = |other: &Tid| {
            let mut states = census.thread_states.iter();
            states.all(|raw| {
                let reached = || by_state.get(&raw.state.address.0);
                raw.native_id != *other
                    || reached().is_some_and(|reached| {
                        objects.iter().all(|object| !reached.contains(object))
                    })
            })
        };
        if !objects.is_empty() {
            wait.out_of_reach = others.into_iter().filter(misses_all).collect();
        }
    }
}

/// The threads that wait for each object, of those that `objects` tells of a wait.
fn waiters_by_object(
    waits: &[(Tid, Tid, PythonWait)],
    objects: &dyn Fn(&PythonWait) -> Vec<u64>,
) -> BTreeMap<u64, BTreeSet<Tid>> {
    let mut waiters: BTreeMap<u64, BTreeSet<Tid>> = BTreeMap::new();
    for (_, native_id, wait) in waits {
        for object in objects(wait) {
            waiters.entry(object).or_default().insert(*native_id);
        }
    }
    waiters
}

/// A plain lock that is given up within its block may have been taken since by another thread's `acquire()`. If there is one
/// whose code does that and refers to the lock, it is open who holds it.
fn contest(heap: &Heap<'_>, census: &Census, waits: &mut [(Tid, Tid, PythonWait)]) {
    let plain = |wait: &PythonWait| match &wait.target {
        Some(WaitTarget::Lock(lock)) if !lock.recursive && !wait.holders.is_empty() => {
            Some(lock.object.0)
        }
        _ => None,
    };
    let wanted: BTreeSet<u64> = waits
        .iter()
        .filter_map(|(_, _, wait)| plain(wait))
        .collect();
    if wanted.is_empty() {
        return;
    }
    let waiting = waiters_by_object(waits, &|wait| plain(wait).into_iter().collect());
    let rivals = reached(heap, census, &wanted, &names_acquire);
    for (_, _, wait) in waits.iter_mut() {
        let Some(lock) = plain(wait) else { continue };
        let is_rival = |rival: &&RawHolder| {
            let waits = rival
                .native_id
                .is_some_and(|id| waiting.get(&lock).is_some_and(|all| all.contains(&id)));
            let holds = wait
                .holders
                .iter()
                .any(|holder| holder.native_id == rival.native_id);
            !waits && !holds
        };
        let rivals: Vec<RawHolder> = rivals
            .get(&lock)
            .into_iter()
            .flatten()
            .filter(is_rival)
            .cloned()
            .collect();
        if !rivals.is_empty() {
            wait.suspects.append(&mut wait.holders);
            wait.suspects.extend(rivals);
            wait.suspects.truncate(MAX_TOLD);
            wait.holder_unknown = Some(
                "one thread is in a with block of it, and another's code takes it by acquire(): either may hold it".into(),
            );
        }
    }
}

/// Whether no holder is known but the waiter itself, which may have given the lock up within its block.
fn no_other_holds(wait: &PythonWait, waiter: Tid) -> bool {
    wait.holders
        .iter()
        .all(|holder| holder.native_id == Some(waiter))
}

/// Whether the program waits for the lock, and not for a signal that a library passes on by a lock of its own, as
/// `Condition.wait` does.
fn is_the_lock_itself(wait: &PythonWait) -> bool {
    match (&wait.target, &wait.object) {
        (Some(WaitTarget::Lock(lock)), Some(object)) => object.address == lock.object,
        _ => false,
    }
}

/// Addresses whose holder is waited for: the lock, and a semaphore around it. Not another object around it: who is in a
/// block of a pool or a queue does not for that hold the lock within.
fn lockable(wait: &PythonWait) -> Vec<u64> {
    let target = match &wait.target {
        Some(WaitTarget::Lock(lock)) => lock.object.0,
        Some(WaitTarget::ProcessLock(object)) => object.0,
        _ => return Vec::new(),
    };
    let semaphore = wait
        .object
        .as_ref()
        .filter(|object| is_semaphore(object))
        .map(|object| object.address.0);
    [target]
        .into_iter()
        .chain(semaphore.filter(|object| *object != target))
        .collect()
}

/// Addresses whom to suspect of when nobody is known to hold it.
pub(super) fn suspicious(wait: &PythonWait) -> Vec<u64> {
    let object = wait.object.as_ref().map(|object| object.address.0);
    match &wait.target {
        Some(WaitTarget::Lock(lock)) => {
            let around = object.filter(|object| *object != lock.object.0);
            [lock.object.0].into_iter().chain(around).collect()
        }
        Some(WaitTarget::Object(object)) => vec![object.0],
        _ => Vec::new(),
    }
}

/// Addresses that whoever is to end the wait must come to: those, or the object by which a parent knows a child and its pipes.
fn needed(wait: &PythonWait) -> Vec<u64> {
    let child = wait
        .object
        .iter()
        .filter(|object| wait.target.is_none() && object.type_name.untrusted().ends_with("Popen"));
    let child = child.map(|object| object.address.0);
    suspicious(wait).into_iter().chain(child).collect()
}

fn is_semaphore(object: &WaitObject) -> bool {
    object.type_name.untrusted().contains("Semaphore")
}

/// "function (file.py:7)", as reports show it.
fn place(heap: &Heap<'_>, frame: &RawFrame) -> Foreign {
    place_at(heap, frame, frame.offset)
}

fn place_at(heap: &Heap<'_>, frame: &RawFrame, offset: i64) -> Foreign {
    let code: &Code = &frame.code;
    code.frame(heap, frame.address, offset).place().into()
}

/// Whether a frame's code has an `acquire` in it.
fn names_acquire(heap: &Heap<'_>, frame: &RawFrame) -> bool {
    frame.code.names(heap).iter().any(|name| name == "acquire")
}
