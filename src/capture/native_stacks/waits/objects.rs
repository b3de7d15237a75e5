//! Locks as they lie in memory: which one a futex word belongs to, and whom it notes as its owner.

use super::shapes::Primitive;
use crate::capture::memory::CachedMemory;
use crate::capture::pthread;
use crate::model::{Tid, Wait};

/// A lock that is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lock {
    pub(super) address: u64,
    pub(super) owner: Owner,
}

/// Whom a lock notes as its owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// This thread, as the process counts them.
    Thread(Tid),
    /// Such locks note none.
    NotNoted,
    /// Readers hold it; they are counted, not noted.
    Readers(u32),
}

/// `struct __pthread_rwlock_arch_t` of glibc (`struct_rwlock.h`, LP64).
const RWLOCK_READERS: u64 = 0;
const RWLOCK_WRITER: u64 = 24;
const RWLOCK_PADS: [u64; 2] = [16, 20];
const RWLOCK_SHARED: u64 = 28;
const RWLOCK_FLAGS: u64 = 48;
/// The last kind of lock (`PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP`).
const RWLOCK_MOST_FLAGS: u32 = 2;
/// Fields of it that threads wait on: `__readers`, `__wrphase_futex`, `__writers_futex`.
const RWLOCK_FUTEXES: [u64; 3] = [8, 12, 0];
/// Readers are counted from this bit of `__readers` on (`PTHREAD_RWLOCK_READER_SHIFT`).
const RWLOCK_READER_SHIFT: u32 = 3;
/// `std::sys::sync::rwlock::futex`: readers in the lower 30 bits, all set for a writer; writers wait on the next word.
const STD_READERS: u32 = (1 << 30) - 1;
const STD_WRITER_NOTIFY: u64 = 4;
/// `parking_lot_core`'s `ThreadData` has the futex word and the key that the thread parks on, the lock's address. Where that is
/// depends on how rustc lays the structure out: these distances have been seen (0.9.12 by rustc 1.95; by older ones).
const PARKED_KEYS: [i64; 6] = [-32, 16, -24, -16, -8, 8];
/// The second queue of a read-write lock has the lock's address plus one.
const QUEUE: u64 = 1;

/// The lock that a thread waits for; `None` where it does not wait for one, or it does not look like one.
pub(super) fn lock(primitive: Primitive, wait: &Wait, memory: &CachedMemory<'_>) -> Option<Lock> {
    let futex = wait.address?.0;
    match primitive {
        Primitive::PthreadMutex => Some(Lock {
            address: futex,
            owner: pthread::mutex_owner(memory, futex).map_or(Owner::NotNoted, Owner::Thread),
        }),
        Primitive::PthreadRwLock => pthread_rwlock(futex, memory),
        Primitive::StdMutex => Some(Lock {
            address: futex,
            owner: Owner::NotNoted,
        }),
        Primitive::StdRead => std_rwlock(futex, memory),
        Primitive::StdWrite => std_rwlock(futex.checked_sub(STD_WRITER_NOTIFY)?, memory),
        Primitive::StdOnce => Some(Lock {
            address: futex,
            owner: Owner::NotNoted,
        }),
        Primitive::ParkingLotMutex | Primitive::ParkingLotRwLock => parked_on(futex, memory),
        Primitive::ThreadExit | Primitive::Signal => None,
    }
}

fn pthread_rwlock(futex: u64, memory: &CachedMemory<'_>) -> Option<Lock> {
    // Which field the thread waits on shows by what then lies where the others are: a writer is a thread's id or none.
    RWLOCK_FUTEXES.into_iter().find_map(|field| {
        let address = futex.checked_sub(field)?;
        let word = |offset: u64| memory.u32(address.checked_add(offset)?).ok();
        let plausible = word(RWLOCK_PADS[0])? == 0
            && word(RWLOCK_PADS[1])? == 0
            && word(RWLOCK_SHARED)? <= 1
            && word(RWLOCK_FLAGS)? <= RWLOCK_MOST_FLAGS;
        if !plausible {
            return None;
        }
        let readers = word(RWLOCK_READERS)? >> RWLOCK_READER_SHIFT;
        let owner = match pthread::noted(memory, address.checked_add(RWLOCK_WRITER)?) {
            None if (1..1 << 16).contains(&readers) => Owner::Readers(readers),
            Some(tid) if readers < 1 << 16 => Owner::Thread(tid),
            _ => return None,
        };
        Some(Lock { address, owner })
    })
}

fn std_rwlock(address: u64, memory: &CachedMemory<'_>) -> Option<Lock> {
    let readers = memory.u32(address).ok()? & STD_READERS;
    let owner = match readers {
        0 | STD_READERS => Owner::NotNoted,
        readers => Owner::Readers(readers),
    };
    Some(Lock { address, owner })
}

/// The lock whose queue a thread of `parking_lot` is parked in.
fn parked_on(futex: u64, memory: &CachedMemory<'_>) -> Option<Lock> {
    let key = PARKED_KEYS.into_iter().find_map(|offset| {
        let key = memory.u64(futex.checked_add_signed(offset)?).ok()? & !QUEUE;
        // A lock's state is one byte with its lowest bits for locked and parked, or a word.
        let state = memory.u8(key).ok()?;
        (state & 0b11 != 0).then_some(key)
    })?;
    Some(Lock {
        address: key,
        owner: Owner::NotNoted,
    })
}

/// Of a thread of `parking_lot` that waits in a `Condvar`: which of these mutexes it has released for that. The condition
/// notes the mutex while somebody waits.
pub(super) fn released(futex: u64, mutexes: &[u64], memory: &CachedMemory<'_>) -> Option<u64> {
    PARKED_KEYS.into_iter().find_map(|offset| {
        let condition = memory.u64(futex.checked_add_signed(offset)?).ok()?;
        let mutex = memory.u64(condition).ok()?;
        mutexes.contains(&mutex).then_some(mutex)
    })
}
