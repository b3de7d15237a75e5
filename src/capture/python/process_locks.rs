//! Locks of `multiprocessing` that threads of this process hold, for waiters in others: by the `with` blocks of their frames.

use super::heap::Heap;
use super::interpreter::Census;
use super::offsets::fixed;
use super::with_blocks;
use crate::model::{Foreign, Tid};

/// Most frames of one thread that are searched.
const MAX_FRAMES: usize = 10_000;
/// Most locks of one process that are told.
const MAX_LOCKS: usize = 1000;

/// A lock that a thread of this process holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HeldProcessLock {
    /// Address of its `sem_t`.
    pub(crate) semaphore: u64,
    /// The holder, in the target's pid namespace.
    pub(crate) native_id: Tid,
    /// Where its block was entered.
    pub(crate) place: Foreign,
}

/// All that are held. Nothing is searched where no interpreter has loaded `multiprocessing`'s locks.
pub(super) fn held(heap: &Heap<'_>, census: &Census) -> Vec<HeldProcessLock> {
    let loaded = census.interpreters.iter().any(|interpreter| {
        let lock =
            heap.module_attribute(interpreter.address.0, "multiprocessing.synchronize", "Lock");
        lock.is_ok_and(|lock| lock.is_some())
    });
    if !loaded {
        return Vec::new();
    }
    let mut out = Vec::new();
    for raw in census.with_frames(heap) {
        for frame in raw.raw_frames.iter().take(MAX_FRAMES) {
            // A forked process has its parent's frames below its own; their blocks are the parent's.
            if frame.code.name == "_bootstrap"
                && frame
                    .code
                    .file
                    .untrusted()
                    .ends_with("/multiprocessing/process.py")
            {
                break;
            }
            for block in with_blocks::active(heap, frame) {
                let Some(semaphore) = semaphore_of(heap, block.manager) else {
                    continue;
                };
                if out.len() < MAX_LOCKS {
                    let shown = frame.code.frame(heap, frame.address, block.entered);
                    out.push(HeldProcessLock {
                        semaphore,
                        native_id: raw.native_id,
                        place: shown.place().into(),
                    });
                }
            }
        }
    }
    out
}

/// The `sem_t` of a context manager that is a lock of `multiprocessing` and is held by this process.
fn semaphore_of(heap: &Heap<'_>, manager: u64) -> Option<u64> {
    let lock = heap.attribute(manager, "_semlock").ok().flatten()?;
    if !heap.is(lock, "_multiprocessing.SemLock") {
        return None;
    }
    let field = |offset: u64| lock.wrapping_add(offset);
    let count = heap.memory.i32(field(fixed::SEMLOCK_COUNT)).ok()?;
    let handle = heap.memory.u64(field(fixed::SEMLOCK_HANDLE)).ok()?;
    (count > 0 && handle != 0).then_some(handle)
}
