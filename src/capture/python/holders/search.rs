//! The search for those who are in `with` blocks of what is waited for, and what locks note of their owners.

use super::suspects::MAX_SUSPECT_FRAMES;
use super::suspended::Suspended;
use super::{MAX_TOLD, RawHolder, is_semaphore, lockable, names_acquire, place, place_at};
use crate::capture::python::code::CodeCache;
use crate::capture::python::frame::RawFrame;
use crate::capture::python::heap::Heap;
use crate::capture::python::offsets::fixed;
use crate::capture::python::thread_state::RawThreadState;
use crate::capture::python::waits::{self, LockWait, PythonWait, WaitTarget};
use crate::capture::python::{generator, library, slots, with_blocks};
use crate::model::{Foreign, HolderEvidence, Tid};
use std::collections::{BTreeMap, BTreeSet};

/// Most frames of one thread that are searched for `with` blocks.
const MAX_FRAMES: usize = 20_000;
/// Most attributes of a context manager that are looked at for locks.
const MAX_ATTRIBUTES: usize = 64;

/// The search for `with` blocks of what is waited for.
pub(super) struct Search<'h> {
    heap: &'h Heap<'h>,
    wanted: BTreeSet<u64>,
    found: BTreeMap<u64, Vec<RawHolder>>,
    /// Generators that frames refer to, with the threads of these.
    generators: BTreeMap<u64, BTreeSet<Tid>>,
    suspended: Suspended,
}

impl<'h> Search<'h> {
    pub(super) fn new(heap: &'h Heap<'h>, wanted: BTreeSet<u64>) -> Self {
        Self {
            heap,
            wanted,
            found: BTreeMap::new(),
            generators: BTreeMap::new(),
            suspended: Suspended::default(),
        }
    }

    /// All blocks that a thread state's frames are in.
    pub(super) fn with_blocks(&mut self, raw: &RawThreadState) {
        // Conditions that the frames inwards of the present one wait on: they have released their locks.
        let mut released = BTreeSet::new();
        // Code that gives a lock up within a block of it (`lock.release()`) leaves the block as it was.
        let mut may_release = false;
        for frame in raw.raw_frames.iter().take(MAX_FRAMES) {
            may_release |= frame
                .code
                .names(self.heap)
                .iter()
                .any(|name| name == "release")
                && !library::is_in_library(&frame.code.file);
            if frame.code.name == "wait"
                && frame.code.file.untrusted().ends_with("/threading.py")
                && let Some(condition) = slots::variable(self.heap, frame, "self")
                && self.heap.is_instance(condition, "Condition")
            {
                released.insert(condition);
                released.extend(self.heap.attribute(condition, "_lock").ok().flatten());
            }
            for block in with_blocks::active(self.heap, frame) {
                let place = Some(place_at(self.heap, frame, block.entered));
                let native_id = Some(raw.native_id);
                for manager in self.entered(block.manager) {
                    self.note(manager, &released, native_id, &place, may_release);
                }
            }
            self.generators(raw, frame);
        }
    }

    /// A context manager, and if it is an `ExitStack` those that were entered by it: it keeps their `__exit__`, bound to them.
    fn entered(&self, manager: u64) -> Vec<u64> {
        let mut out = vec![manager];
        if self.heap.is_instance(manager, "_BaseExitStack")
            && let Ok(Some(callbacks)) = self.heap.attribute(manager, "_exit_callbacks")
        {
            let callbacks = self.heap.deque(callbacks).unwrap_or_default();
            let of_callback = |callback: u64| {
                let pair = self.heap.tuple(callback).ok()?;
                let method = *pair.get(1)?;
                if !self.heap.is(method, "method") {
                    return None;
                }
                let bound = self
                    .heap
                    .memory
                    .u64(method.wrapping_add(fixed::METHOD_SELF));
                bound.ok()
            };
            out.extend(callbacks.into_iter().filter_map(of_callback));
        }
        out
    }

    /// Generators that are the thread's as far as this frame tells.
    fn generators(&mut self, raw: &RawThreadState, frame: &RawFrame) {
        for generator in self.suspended.referred_to(self.heap, frame) {
            let threads = self.generators.entry(generator).or_default();
            threads.insert(raw.native_id);
        }
    }

    /// Who has a generator that is in a block of a lock: the one thread that refers to it. Several may each drive it.
    pub(super) fn generators_locks(&mut self) {
        let codes = CodeCache::default();
        for (object, threads) in std::mem::take(&mut self.generators) {
            let (1, Some(native_id)) = (threads.len(), threads.first()) else {
                continue;
            };
            let Some((inner, true)) = generator::frame_of(self.heap, &codes, object) else {
                continue;
            };
            for block in with_blocks::active(self.heap, &inner) {
                for lock in self.locks_of(block.manager) {
                    self.add(
                        lock,
                        RawHolder {
                            native_id: Some(*native_id),
                            by: HolderEvidence::SuspendedWithBlock,
                            place: Some(place_at(self.heap, &inner, block.entered)),
                            direct: lock == block.manager,
                        },
                    );
                }
            }
        }
    }

    fn note(
        &mut self,
        manager: u64,
        released: &BTreeSet<u64>,
        native_id: Option<Tid>,
        place: &Option<Foreign>,
        may_release: bool,
    ) {
        for lock in self.locks_of(manager) {
            if !released.contains(&lock) && !released.contains(&manager) {
                let direct = !may_release
                    && (lock == manager || self.heap.is_instance(manager, "Condition"));
                self.add(
                    lock,
                    RawHolder {
                        native_id,
                        by: HolderEvidence::WithBlock,
                        place: place.clone(),
                        direct,
                    },
                );
            }
        }
        for block in with_blocks::within_generator(self.heap, manager) {
            for lock in self.locks_of(block.manager) {
                if !released.contains(&lock) {
                    self.add(
                        lock,
                        RawHolder {
                            native_id,
                            by: HolderEvidence::SuspendedWithBlock,
                            place: place.clone(),
                            direct: lock == block.manager,
                        },
                    );
                }
            }
        }
    }

    /// What of the wanted a context manager stands for: itself, or locks among its attributes (a `Condition`'s, a class's
    /// own). A lock that nobody has taken is not held.
    fn locks_of(&self, manager: u64) -> Vec<u64> {
        let is_lock = |object: u64| {
            self.heap.is(object, "_thread.lock") || self.heap.is(object, "_thread.RLock")
        };
        if is_lock(manager) {
            let held = self.wanted.contains(&manager) && waits::is_locked(self.heap, manager);
            return held.then_some(manager).into_iter().collect();
        }
        let mut out = Vec::new();
        if self.wanted.contains(&manager) {
            out.push(manager);
        }
        let attributes = self.heap.attributes(manager).unwrap_or_default();
        for (name, value) in attributes.into_iter().take(MAX_ATTRIBUTES) {
            if !self.wanted.contains(&value) || !self.takes_on_entry(manager, &name) {
                continue;
            }
            let held = if is_lock(value) {
                waits::is_locked(self.heap, value)
            } else {
                // In a process that was forked within the block it is a copy, and not held.
                self.heap.is(value, "_multiprocessing.SemLock")
                    && self
                        .heap
                        .memory
                        .i32(value.wrapping_add(fixed::SEMLOCK_COUNT))
                        .is_ok_and(|count| count > 0)
            };
            if held {
                out.push(value);
            }
        }
        out
    }

    /// Whether a manager takes its lock of this name in `__enter__` and gives it back in `__exit__`, as far as the names in
    /// them tell. Many a class with a lock is a context manager for other reasons, such as a pool, and takes it for a
    /// moment only: a block in `__enter__` itself speaks against it.
    fn takes_on_entry(&self, manager: u64, attribute: &str) -> bool {
        let names = |method: &str| {
            let method = self.heap.method(manager, method)?;
            Some((method.names, method.has_blocks))
        };
        let (Some((entry, blocks)), Some((exit, _))) = (names("__enter__"), names("__exit__"))
        else {
            return false;
        };
        let has = |names: &[String], wanted: &str| names.iter().any(|name| name == wanted);
        !blocks
            && has(&entry, attribute)
            && (has(&entry, "acquire") || has(&entry, "__enter__"))
            && has(&exit, attribute)
            && (has(&exit, "release") || has(&exit, "__exit__"))
    }

    fn add(&mut self, lock: u64, holder: RawHolder) {
        let holders = self.found.entry(lock).or_default();
        let known = holders.iter().any(|known| {
            known.native_id == holder.native_id && (known.by <= holder.by || known.direct)
        });
        if !known && holders.len() < MAX_TOLD {
            holders.push(holder);
        }
    }

    /// What was found of a wait, and what its lock notes itself.
    pub(super) fn fill(
        &self,
        wait: &mut PythonWait,
        native_id: Tid,
        idents: &BTreeMap<u64, &RawThreadState>,
    ) {
        let mut holders = std::mem::take(&mut wait.holders);
        for holder in lockable(wait)
            .iter()
            .filter_map(|object| self.found.get(object))
            .flatten()
        {
            let known = holders
                .iter()
                .any(|known| known.native_id == holder.native_id && known.by == holder.by);
            if !known {
                holders.push(holder.clone());
            }
        }
        // An RLock knows better than a block: it may have been given up within that.
        if let Some(WaitTarget::Lock(lock)) = &wait.target
            && let Some(owner) = lock.owner.and_then(|ident| idents.get(&ident))
        {
            holders.retain(|holder| holder.native_id == Some(owner.native_id));
        }
        match &wait.target {
            Some(WaitTarget::Lock(lock)) => match self.owner(lock, &holders, idents) {
                Some(owner) if owner.by == HolderEvidence::BareOwnerField => {
                    wait.suspects.push(owner);
                    wait.holder_unknown = Some(
                        "its owner field names a thread whose code does not take it: the owner has ended, and its \
                         id was given to another thread since"
                            .into(),
                    );
                }
                Some(owner) => holders.push(owner),
                None => {}
            },
            Some(WaitTarget::Import(lock)) => {
                let owner = waits::import_owner(self.heap, lock.0);
                if let Some(owner) = owner {
                    holders.push(RawHolder {
                        native_id: idents.get(&owner).map(|raw| raw.native_id),
                        by: HolderEvidence::ImportLock,
                        place: None,
                        direct: true,
                    });
                }
            }
            Some(WaitTarget::ProcessLock(lock)) => {
                let (holder, unknown) = self.process_lock(lock.0, idents);
                // A process that was forked while the lock was held has a copy of that note.
                wait.suspects.extend(
                    holder.filter(|own| {
                        !holders.iter().any(|known| known.native_id == own.native_id)
                    }),
                );
                if holders.is_empty() {
                    wait.holder_unknown = unknown.map(Into::into);
                }
            }
            _ => {}
        }
        // One that is in a block of a semaphore may well take it again.
        if wait.object.as_ref().is_some_and(is_semaphore) {
            holders.retain(|holder| holder.native_id != Some(native_id));
        }
        holders.truncate(MAX_TOLD);
        wait.holders = holders;
    }

    /// The owner field of an RLock. The id in it is that of a thread that may have ended, and of another one since; so it
    /// is believed if a frame of that thread reaches the lock.
    fn owner(
        &self,
        lock: &LockWait,
        holders: &[RawHolder],
        idents: &BTreeMap<u64, &RawThreadState>,
    ) -> Option<RawHolder> {
        let owner = lock.owner?;
        if !waits::is_locked(self.heap, lock.object.0) {
            return None;
        }
        let Some(raw) = idents.get(&owner) else {
            return Some(RawHolder {
                native_id: None,
                by: HolderEvidence::OwnerField,
                place: None,
                direct: true,
            });
        };
        if holders
            .iter()
            .any(|holder| holder.native_id == Some(raw.native_id))
        {
            return None; // known by better evidence
        }
        let reaching = raw
            .raw_frames
            .iter()
            .take(MAX_SUSPECT_FRAMES)
            .find(|frame| {
                names_acquire(self.heap, frame) && reaches(self.heap, frame, lock.object.0)
            });
        let contradicted = !holders.is_empty();
        Some(RawHolder {
            native_id: Some(raw.native_id),
            by: match reaching {
                Some(_) if !contradicted => HolderEvidence::OwnerField,
                _ => HolderEvidence::BareOwnerField,
            },
            place: reaching.map(|frame| place(self.heap, frame)),
            direct: true,
        })
    }

    /// A `multiprocessing` lock notes whether this process holds it, and by which thread.
    fn process_lock(
        &self,
        lock: u64,
        idents: &BTreeMap<u64, &RawThreadState>,
    ) -> (Option<RawHolder>, Option<&'static str>) {
        let memory = self.heap.memory;
        let count = memory.i32(lock.wrapping_add(fixed::SEMLOCK_COUNT));
        let last = memory.u64(lock.wrapping_add(fixed::SEMLOCK_LAST_THREAD));
        match (count, last) {
            (Ok(count), Ok(last)) if count > 0 => (
                Some(RawHolder {
                    native_id: idents.get(&last).map(|raw| raw.native_id),
                    by: HolderEvidence::ProcessLock,
                    place: None,
                    direct: true,
                }),
                None,
            ),
            (Ok(0), _) => (
                None,
                Some(
                    "no thread of this process holds it: another process does, or one that has ended did",
                ),
            ),
            _ => (None, None),
        }
    }
}

/// Whether a frame refers to an object: by a variable, an attribute of one, or a global that its code uses.
fn reaches(heap: &Heap<'_>, frame: &RawFrame, object: u64) -> bool {
    waits::name_of(heap, frame, object).is_some()
}
