//! Locks that are a pointer to a `sem_t`: all of Python's up to 3.12, `Lock` and `RLock` on 3.13, and those of
//! `multiprocessing`. The futex is the semaphore itself, so a candidate object proves itself by pointing at it.

use super::candidates::{candidates, pointing_at};
use super::{Attributor, LockWait, WaitTarget};
use crate::capture::python::heap::Heap;
use crate::capture::python::offsets::{LockLayout, fixed};
use crate::capture::python::thread_state::RawThreadState;
use crate::model::Addr;

/// The object that the innermost frames refer to and whose semaphore is waited for.
pub(super) fn target(heap: &Heap<'_>, waiter: &RawThreadState, futex: u64) -> Option<WaitTarget> {
    let candidates = candidates(heap, waiter);
    candidates
        .iter()
        .copied()
        .find_map(|object| match &*heap.type_name(object).ok()? {
            "_thread.lock" | "_thread.RLock"
                if points_at(heap, object, fixed::LOCK_BODY, futex) =>
            {
                LockWait::at(heap, object).map(WaitTarget::Lock)
            }
            "_queue.SimpleQueue" if points_at(heap, object, fixed::LOCK_BODY, futex) => {
                Some(WaitTarget::Object(Addr(object)))
            }
            "_multiprocessing.SemLock" if points_at(heap, object, fixed::SEMLOCK_HANDLE, futex) => {
                Some(WaitTarget::ProcessLock(Addr(object)))
            }
            _ => None,
        })
        .or_else(|| pointing_at(heap, &candidates, futex))
}

fn points_at(heap: &Heap<'_>, object: u64, offset: u64, futex: u64) -> bool {
    heap.memory.u64(object.wrapping_add(offset)) == Ok(futex)
}

/// Up to 3.12 a join waits for the `_tstate_lock` of the `Thread`, which holds a semaphore.
pub(super) fn old_join(
    attributor: &Attributor<'_>,
    states: &[&RawThreadState],
    futex: u64,
) -> Option<WaitTarget> {
    let heap = attributor.heap;
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
    let threads = attributor.by_tid.values().flatten();
    threads.into_iter().find_map(|raw| {
        let lock = heap
            .attribute(raw.thread_object?, "_tstate_lock")
            .ok()
            .flatten()?;
        let awaited =
            points_at(heap, lock, fixed::LOCK_BODY, futex) && heap.is(lock, "_thread.lock");
        awaited.then_some(WaitTarget::ThreadExit {
            ident: raw.state.ident.0,
            address: Addr(lock),
        })
    })
}
