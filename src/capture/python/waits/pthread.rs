//! Mutexes of the C library, as C extensions and ctypes use them: they note their owner.

use crate::capture::python::heap::Heap;
use crate::model::Tid;

/// Bytes from the start of glibc's `pthread_mutex_t` to the fields of `struct __pthread_mutex_s` (LP64): `__lock` is first.
const OWNER: u64 = 8;
const USERS: u64 = 12;
const KIND: u64 = 16;
/// Locked, and locked with waiters.
const LOCKED: [u32; 2] = [1, 2];
/// Bits of `__kind` that glibc uses: type, robustness, protocol, sharing, elision.
const KINDS: u32 = 0x3ff;

/// The owner of the mutex at an address, if what lies there looks like a taken one. Whoever uses it looks whether there is
/// such a thread.
pub(super) fn owner(heap: &Heap<'_>, mutex: u64) -> Option<Tid> {
    let word = |offset: u64| heap.memory.u32(mutex.wrapping_add(offset)).ok();
    let is_mutex = LOCKED.contains(&word(0)?) && word(USERS)? > 0 && word(KIND)? & !KINDS == 0;
    Tid::try_from(word(OWNER)?)
        .ok()
        .filter(|owner| is_mutex && *owner > 0)
}
