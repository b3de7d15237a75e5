//! What a blocked thread waits for in Python's terms: the object that its futex belongs to, and the one that its program
//! would name.

mod candidates;
mod import_lock;
mod naming;
mod native_call;
mod object;
mod parking;
mod polling;
mod semaphore;

use super::BlockedThread;
use super::heap::Heap;
use super::holders::{self, RawHolder};
use super::interpreter::{Census, TOGETHER};
use super::offsets::{LockLayout, fixed};
use super::thread_state::RawThreadState;
use crate::capture::pthread;
use crate::model::{Addr, Foreign, Grade, HolderEvidence, Key, NativeCall, Tid, WaitObject};
use std::collections::BTreeMap;

pub(super) use import_lock::owner as import_owner;
pub(super) use naming::{name_of, used_globals};
pub(crate) use polling::Asked;

/// What is known of a blocked thread's wait.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PythonWait {
    /// What its futex turned out to be.
    pub(crate) target: Option<WaitTarget>,
    /// What its program would say that it waits on.
    pub(crate) object: Option<WaitObject>,
    /// The C function that it waits in, where that is not the lock's own.
    pub(crate) native_call: Option<NativeCall>,
    pub(crate) holders: Vec<RawHolder>,
    pub(crate) suspects: Vec<RawHolder>,
    pub(crate) holder_unknown: Option<Foreign>,
    /// Threads, in the target's pid namespace, that were followed and do not come to it.
    pub(crate) out_of_reach: Vec<Tid>,
    /// What its code asks after again and again, if the wait is part of that.
    pub(crate) asked: Asked,
    /// Tasks, and the callbacks of event loops, that do not come to it either.
    pub(crate) tasks_out_of_reach: Vec<Key>,
    /// The task whose result it waits for.
    pub(crate) task: Option<Key>,
}

/// What a thread's futex turned out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum WaitTarget {
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
    /// A lock that processes share.
    ProcessLock(Addr),
    /// The import of a module: its `_ModuleLock`.
    Import(Addr),
    /// Another object that has a lock of its own, such as a `SimpleQueue`.
    Object(Addr),
    /// A lock within the runtime or an interpreter, and where there.
    Runtime(Addr, String),
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

impl LockWait {
    /// The lock at an address, if there is one.
    fn at(heap: &Heap<'_>, object: u64) -> Option<Self> {
        let kind = heap.type_name(object).ok()?;
        let recursive = &*kind == "_thread.RLock";
        if !recursive && &*kind != "_thread.lock" {
            return None;
        }
        let owner = recursive
            .then(|| {
                heap.memory
                    .u64(object.wrapping_add(fixed::RLOCK_OWNER))
                    .ok()
            })
            .flatten();
        Some(Self {
            object: Addr(object),
            recursive,
            owner: owner.filter(|ident| *ident != 0),
        })
    }
}

/// Whether a `_thread.lock` or `_thread.RLock` is taken.
pub(super) fn is_locked(heap: &Heap<'_>, lock: u64) -> bool {
    /// `lockobject.locked` (up to 3.13).
    const OLD_LOCKED: u64 = 32;
    let memory = heap.memory;
    let flag = |offset: u64| memory.u8(lock.wrapping_add(offset));
    let taken = match heap.offsets.locks {
        // The lowest bit of `PyMutex`.
        LockLayout::Mutex => flag(fixed::LOCK_BODY).map(|bits| bits & 1 == 1),
        LockLayout::Semaphore if heap.is(lock, "_thread.RLock") => memory
            .u64(lock.wrapping_add(fixed::RLOCK_COUNT))
            .map(|count| count > 0),
        LockLayout::Semaphore => flag(OLD_LOCKED).map(|locked| locked != 0),
    };
    taken.unwrap_or(false)
}

/// Everything that attributing a wait needs.
struct Attributor<'c> {
    heap: &'c Heap<'c>,
    census: &'c Census,
    /// Address of `_PyRuntime`.
    runtime: u64,
    gils: BTreeMap<u64, Key>,
    by_ident: BTreeMap<u64, &'c RawThreadState>,
    by_tid: BTreeMap<Tid, Vec<&'c RawThreadState>>,
}

impl<'c> Attributor<'c> {
    fn new(heap: &'c Heap<'c>, census: &'c Census, runtime: u64) -> Self {
        let gils = census
            .interpreters
            .iter()
            .filter_map(|interpreter| interpreter.gil.as_ref())
            .filter_map(|gil| {
                let hex = gil.key.as_str().rsplit_once("@0x")?.1;
                Some((u64::from_str_radix(hex, 16).ok()?, gil.key.clone()))
            })
            .collect();
        let by_ident = census
            .thread_states
            .iter()
            .map(|raw| (raw.state.ident.0, raw))
            .collect();
        let mut by_tid: BTreeMap<Tid, Vec<&RawThreadState>> = BTreeMap::new();
        for raw in &census.thread_states {
            by_tid.entry(raw.native_id).or_default().push(raw);
        }
        Self {
            heap,
            census,
            runtime,
            gils,
            by_ident,
            by_tid,
        }
    }

    fn wait(&self, thread: &BlockedThread) -> Option<PythonWait> {
        let states = self.by_tid.get(&thread.native_id)?;
        let top = holders::running(states)?;
        let target = thread
            .futex
            .and_then(|futex| self.target(states, top, futex));
        let object = match &target {
            Some(WaitTarget::Gil(_)) => None,
            Some(WaitTarget::Import(lock)) => import_lock::describe(self.heap, lock.0),
            Some(WaitTarget::Runtime(lock, place)) => Some(WaitObject {
                type_name: "lock of CPython itself".into(),
                address: *lock,
                name: Some(place.as_str().into()),
                state: Vec::new(),
                kept_in: None,
                grade: Grade::Derived,
            }),
            _ => object::describe(self.heap, top, target.as_ref()),
        };
        // A waiter for a GIL may be anywhere in Python code, and locks are told by themselves.
        let native_call = match target {
            None | Some(WaitTarget::Parked(_) | WaitTarget::Object(_)) => {
                native_call::called(self.heap, top)
            }
            Some(_) => None,
        };
        let owner = match target {
            None | Some(WaitTarget::Object(_)) => thread
                .futex
                .and_then(|mutex| pthread::owner_of_likely_mutex(self.heap.memory, mutex))
                .filter(|owner| self.by_tid.contains_key(owner)),
            Some(_) => None,
        };
        let asked = match target {
            None | Some(WaitTarget::ThreadExit { .. } | WaitTarget::Parked(_)) => {
                polling::asked(self.heap, top, &self.by_ident)
            }
            Some(_) => Asked::default(),
        };
        let nothing = target.is_none() && object.is_none() && native_call.is_none();
        if nothing && owner.is_none() && asked == Asked::default() {
            return None;
        }
        let holder = |owner| RawHolder {
            native_id: Some(owner),
            by: HolderEvidence::PthreadMutex,
            place: None,
            direct: true,
        };
        Some(PythonWait {
            target,
            object,
            native_call,
            holders: owner.map(holder).into_iter().collect(),
            asked,
            ..PythonWait::default()
        })
    }

    fn target(
        &self,
        states: &[&RawThreadState],
        top: &RawThreadState,
        futex: u64,
    ) -> Option<WaitTarget> {
        if let Some(gil) = self.gil_at(futex) {
            return Some(WaitTarget::Gil(gil));
        }
        let parked = parking::parked_address(self.heap, futex);
        let by_address = match parked {
            Some(address) => parking::target(self, address),
            None => semaphore::old_join(self, states, futex),
        };
        by_address
            .or_else(|| import_lock::awaited(self.heap, top).map(WaitTarget::Import))
            .or_else(|| match parked {
                Some(address) => candidates::containing(self.heap, top, address),
                None => semaphore::target(self.heap, top, futex),
            })
            .map(|target| match target {
                // The lock within a module lock is known by its address, too.
                WaitTarget::Lock(_) => {
                    import_lock::awaited(self.heap, top).map_or(target, WaitTarget::Import)
                }
                target => target,
            })
            .or_else(|| self.runtimes_own(parked.unwrap_or(futex)))
            .or_else(|| parked.map(|address| WaitTarget::Parked(Addr(address))))
    }

    /// An address within `_PyRuntime` or a `PyInterpreterState`.
    fn runtimes_own(&self, address: u64) -> Option<WaitTarget> {
        let offsets = self.heap.offsets;
        let runtime = (self.runtime, offsets.runtime_size, "_PyRuntime".to_owned());
        let interpreters = self.census.interpreters.iter().map(|interpreter| {
            let name = format!("interpreter {}", interpreter.id);
            (interpreter.address.0, offsets.interpreter_size, name)
        });
        // The main interpreter lies within the runtime from 3.11 on.
        interpreters
            .chain([runtime])
            .find_map(|(start, size, name)| {
                let distance = address
                    .checked_sub(start)
                    .filter(|distance| *distance < size)?;
                let place = format!("{name} + {distance:#x}");
                Some(WaitTarget::Runtime(Addr(address), place))
            })
    }

    /// A condition variable or mutex within a GIL.
    fn gil_at(&self, address: u64) -> Option<Key> {
        let (start, key) = self.gils.range(..=address).next_back()?;
        let within = (fixed::GIL_WAIT_FIRST..fixed::GIL_END).contains(&(address - start));
        within.then(|| key.clone())
    }
}

/// Attributes each blocked thread's wait, where it is on something of Python's.
pub(super) fn attribute(
    heap: &Heap<'_>,
    census: &Census,
    runtime: u64,
    threads: &[BlockedThread],
) -> Vec<(Tid, PythonWait)> {
    let attributor = Attributor::new(heap, census, runtime);
    let mut waits: Vec<(Tid, Tid, PythonWait)> = Vec::new();
    for threads in threads.chunks(TOGETHER) {
        // The wait entries lie on the waiters' own stacks, each on a page of its own.
        let futexes = threads.iter().filter_map(|thread| thread.futex);
        let entries = futexes.map(|futex| (futex.saturating_sub(parking::ENTRY_SEMAPHORE), 64));
        let states = threads
            .iter()
            .flat_map(|thread| attributor.by_tid.get(&thread.native_id))
            .flatten();
        let frames = states.flat_map(|raw| raw.frame_ranges());
        heap.memory.prefetch(entries.chain(frames));
        waits.extend(
            threads.iter().filter_map(|thread| {
                Some((thread.tid, thread.native_id, attributor.wait(thread)?))
            }),
        );
    }
    holders::find(heap, census, &mut waits);
    waits
        .into_iter()
        .map(|(tid, _, wait)| (tid, wait))
        .collect()
}
