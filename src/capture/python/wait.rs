//! Which Python object a futex address belongs to.

use super::FutexWaiter;
use super::heap::Heap;
use super::interpreter::{Census, RawThreadState};
use super::offsets::{LockLayout, fixed};
use crate::model::{Addr, Key, Tid};
use std::collections::BTreeMap;

/// Bytes from the start of a parking lot `struct wait_entry` to the semaphore in it (`parking_lot.c`, 3.13+).
const ENTRY_SEMAPHORE: u64 = 16;
/// The parked address in a `struct wait_entry`.
const ENTRY_ADDRESS: u64 = 8;
/// The list node in a `struct wait_entry`: 16 bytes of fields and a 32-byte `sem_t` before it.
const ENTRY_NODE: u64 = 48;

/// What a thread's futex turned out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PythonWait {
    /// A GIL.
    Gil(Key),
    /// The end of the thread with this `pthread_t`.
    ThreadExit {
        ident: u64,
        /// The address waited on.
        address: Addr,
    },
    /// A lock object.
    Lock(LockWait),
    /// Parked on an address that belongs to no object known to us.
    Parked(Addr),
}

/// A lock object that is waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LockWait {
    pub(crate) object: Addr,
    pub(crate) recursive: bool,
    /// `pthread_t` in an RLock's owner field.
    pub(crate) owner: Option<u64>,
}

/// Attributes each waiter's futex, where it is one of Python's.
pub(super) fn attribute(
    heap: &Heap<'_>,
    census: &Census,
    waiters: &[FutexWaiter],
) -> Vec<(Tid, PythonWait)> {
    let gils: BTreeMap<u64, Key> = census
        .interpreters
        .iter()
        .filter_map(|interpreter| interpreter.gil.as_ref())
        .filter_map(|gil| {
            let hex = gil.key.as_str().rsplit_once("@0x")?.1;
            Some((u64::from_str_radix(hex, 16).ok()?, gil.key.clone()))
        })
        .collect();
    let by_ident: BTreeMap<u64, &RawThreadState> = census
        .thread_states
        .iter()
        .map(|raw| (raw.state.ident.0, raw))
        .collect();
    let mut by_tid: BTreeMap<Tid, Vec<&RawThreadState>> = BTreeMap::new();
    for raw in &census.thread_states {
        by_tid.entry(raw.native_id).or_default().push(raw);
    }
    // The wait entries lie on the waiters' own stacks, each on a page of its own.
    heap.memory.prefetch(
        waiters
            .iter()
            .map(|waiter| (waiter.address.saturating_sub(ENTRY_SEMAPHORE), 64)),
    );
    waiters
        .iter()
        .filter_map(|waiter| {
            let states = by_tid.get(&waiter.native_id)?;
            let found = gil_at(&gils, waiter.address)
                .or_else(|| parked(heap, &by_ident, waiter.address))
                .or_else(|| old_join(heap, census, states, waiter.address))?;
            Some((waiter.tid, found))
        })
        .collect()
}

/// A condition variable or mutex within a GIL.
fn gil_at(gils: &BTreeMap<u64, Key>, address: u64) -> Option<PythonWait> {
    let (start, key) = gils.range(..=address).next_back()?;
    let within = (fixed::GIL_WAIT_FIRST..fixed::GIL_END).contains(&(address - start));
    within.then(|| PythonWait::Gil(key.clone()))
}

/// 3.13+: the semaphore lies in a `wait_entry` on the waiter's stack, which names the parked address. The entry is
/// believed only if its list node is linked both ways.
fn parked(
    heap: &Heap<'_>,
    by_ident: &BTreeMap<u64, &RawThreadState>,
    futex: u64,
) -> Option<PythonWait> {
    if heap.offsets.minor < 13 {
        return None;
    }
    let memory = heap.memory;
    let entry = futex.checked_sub(ENTRY_SEMAPHORE)?;
    let node = entry.wrapping_add(ENTRY_NODE);
    let next = memory.u64(node).ok()?;
    let previous = memory.u64(node.wrapping_add(8)).ok()?;
    if memory.u64(next.wrapping_add(8)).ok()? != node || memory.u64(previous).ok()? != node {
        return None;
    }
    let address = memory.u64(entry.wrapping_add(ENTRY_ADDRESS)).ok()?;
    if let Some(ident) = joined_thread(heap, address)
        && by_ident.contains_key(&ident)
    {
        return Some(PythonWait::ThreadExit {
            ident,
            address: Addr(address),
        });
    }
    let object = address.wrapping_sub(fixed::LOCK_BODY);
    if heap.offsets.locks == LockLayout::Mutex
        && let Ok(kind) = heap.type_name(object)
    {
        let recursive = &*kind == "_thread.RLock";
        if recursive || &*kind == "_thread.lock" {
            let owner = memory.u64(object.wrapping_add(fixed::RLOCK_OWNER)).ok();
            return Some(PythonWait::Lock(LockWait {
                object: Addr(object),
                recursive,
                owner: owner.filter(|ident| recursive && *ident != 0),
            }));
        }
    }
    Some(PythonWait::Parked(Addr(address)))
}

/// The thread of the `ThreadHandle` whose "is exiting" event lies at `address`. The handle is on a list of all handles;
/// its links must point back at it.
fn joined_thread(heap: &Heap<'_>, address: u64) -> Option<u64> {
    let handle = address.checked_sub(fixed::HANDLE_EXITING)?;
    let memory = heap.memory;
    let next = memory.u64(handle).ok()?;
    let previous = memory.u64(handle.wrapping_add(8)).ok()?;
    let linked =
        memory.u64(next.wrapping_add(8)).ok()? == handle && memory.u64(previous).ok()? == handle;
    if !linked {
        return None;
    }
    memory.u64(handle.wrapping_add(fixed::HANDLE_IDENT)).ok()
}

/// Up to 3.12 a join waits for the `_tstate_lock` of the `Thread`, which holds a semaphore.
fn old_join(
    heap: &Heap<'_>,
    census: &Census,
    states: &[&RawThreadState],
    futex: u64,
) -> Option<PythonWait> {
    if heap.offsets.minor > 12 || heap.offsets.locks != LockLayout::Semaphore {
        return None;
    }
    let joining = states.iter().any(|raw| {
        raw.state.frames.first().is_some_and(|frame| {
            matches!(
                frame.function.untrusted(),
                "Thread._wait_for_tstate_lock" | "_shutdown"
            ) && frame.in_file("threading.py")
        })
    });
    if !joining {
        return None;
    }
    census.thread_states.iter().find_map(|raw| {
        let lock = heap
            .attribute(raw.thread_object?, "_tstate_lock")
            .ok()
            .flatten()?;
        let semaphore = heap.memory.u64(lock.wrapping_add(fixed::LOCK_BODY)).ok()?;
        (semaphore == futex && heap.is(lock, "_thread.lock")).then_some(PythonWait::ThreadExit {
            ident: raw.state.ident.0,
            address: Addr(lock),
        })
    })
}
