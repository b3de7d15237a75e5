//! 3.13+: threads that are parked (`Python/parking_lot.c`): on a `PyMutex`, on the end of a thread, on an object's own lock.

use super::{Attributor, LockWait, WaitTarget};
use crate::capture::python::heap::Heap;
use crate::capture::python::offsets::{LockLayout, fixed};
use crate::model::Addr;

/// Bytes from the start of a parking lot `struct wait_entry` to the semaphore in it.
pub(super) const ENTRY_SEMAPHORE: u64 = 16;
/// The parked address in a `struct wait_entry`.
const ENTRY_ADDRESS: u64 = 8;
/// The list node in a `struct wait_entry`: 16 bytes of fields and a 32-byte `sem_t` before it.
const ENTRY_NODE: u64 = 48;

/// The semaphore lies in a `wait_entry` on the waiter's stack, which names the parked address. The entry is believed only
/// if its list node is linked both ways.
pub(super) fn parked_address(heap: &Heap<'_>, futex: u64) -> Option<u64> {
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
    memory.u64(entry.wrapping_add(ENTRY_ADDRESS)).ok()
}

/// What a thread parked on `address` waits for, by the address alone.
pub(super) fn target(attributor: &Attributor<'_>, address: u64) -> Option<WaitTarget> {
    let heap = attributor.heap;
    if let Some(ident) = joined_thread(heap, address)
        && attributor.by_ident.contains_key(&ident)
    {
        return Some(WaitTarget::ThreadExit {
            ident,
            address: Addr(address),
        });
    }
    if heap.offsets.locks != LockLayout::Mutex {
        return None;
    }
    LockWait::at(heap, address.wrapping_sub(fixed::LOCK_BODY)).map(WaitTarget::Lock)
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
