//! Mutexes of the C library: they note their owner.

use super::memory::CachedMemory;
use crate::model::Tid;

/// Bytes from the start of glibc's `pthread_mutex_t` to the fields of `struct __pthread_mutex_s` (LP64): `__lock` is first.
const OWNER: u64 = 8;
const USERS: u64 = 12;
const KIND: u64 = 16;
/// Locked, and locked with waiters.
const LOCKED: [u32; 2] = [1, 2];
/// Bits of `__kind` that glibc uses: type, robustness, protocol, sharing, elision.
const KINDS: u32 = 0x3ff;

/// The thread that a mutex notes as its owner, as the process counts threads.
pub(super) fn mutex_owner(memory: &CachedMemory<'_>, mutex: u64) -> Option<Tid> {
    noted(memory, mutex.checked_add(OWNER)?)
}

/// A thread's id where a lock notes one.
pub(super) fn noted(memory: &CachedMemory<'_>, address: u64) -> Option<Tid> {
    memory.i32(address).ok().filter(|tid| *tid > 0)
}

/// The owner of what may be a mutex, if what lies there looks like a taken one. Whoever uses it looks whether there is such a
/// thread.
pub(super) fn owner_of_likely_mutex(memory: &CachedMemory<'_>, address: u64) -> Option<Tid> {
    let word = |offset: u64| memory.u32(address.checked_add(offset)?).ok();
    let is_mutex = LOCKED.contains(&word(0)?) && word(USERS)? > 0 && word(KIND)? & !KINDS == 0;
    mutex_owner(memory, address).filter(|_| is_mutex)
}
