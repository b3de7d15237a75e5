//! Frames that own a lock's guard: those that would drop one if a panic passed them.

use super::super::Unwound;
use super::names::{ends, plain};
use super::shapes::Primitive;
use crate::capture::memory::CachedMemory;
use crate::capture::native::{Cleanup, Symbolizer, cleanup};
use crate::model::{NativeFrame, Thread, Tid};
use std::collections::BTreeMap;

/// Most frames of one thread, and of all, whose landing pads are followed.
const MAX_FRAMES: usize = 64;
const MAX_IN_ALL: usize = 4096;
/// Bytes of a lock that instructions may name: its state, and a mutex's poison flag. The next static may come right after.
const LOCK: u64 = 8;

/// What a guard is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Mutex,
    Reader,
    Writer,
    /// A reader's or a writer's: they are released by one function.
    Either,
    /// None, but the frame that initialises a `Once`.
    Once,
}

/// A frame that owns guards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Owning {
    /// Number of the physical frame.
    pub(super) frame: usize,
    pub(super) kinds: Vec<Kind>,
    addresses: Vec<u64>,
}

impl Owning {
    /// Whether one of the guards keeps out who waits so.
    pub(super) fn keeps_out(&self, waiter: Primitive) -> bool {
        self.kinds.iter().any(|kind| match waiter {
            Primitive::StdMutex | Primitive::ParkingLotMutex => *kind == Kind::Mutex,
            // A reader waits behind a writer that waits behind readers.
            Primitive::StdRead | Primitive::StdWrite | Primitive::ParkingLotRwLock => {
                matches!(kind, Kind::Reader | Kind::Writer | Kind::Either)
            }
            Primitive::StdOnce => *kind == Kind::Once,
            _ => false,
        })
    }

    /// Whether the code that drops it names the lock: a static one.
    pub(super) fn names(&self, lock: u64) -> bool {
        let range = lock..lock.saturating_add(LOCK);
        self.addresses.iter().any(|address| range.contains(address))
    }
}

/// All frames of the given threads that own guards.
pub(super) fn owning(
    threads: &[Thread],
    unwound: &BTreeMap<Tid, Unwound>,
    memory: &CachedMemory<'_>,
    symbols: &mut Symbolizer<'_>,
) -> BTreeMap<Tid, Vec<Owning>> {
    let mut left = MAX_IN_ALL;
    let mut found = BTreeMap::new();
    for thread in threads {
        let (Some(stack), Some(unwound)) = (&thread.native, unwound.get(&thread.tid)) else {
            continue;
        };
        // The last of a group of inlined ones is the function itself.
        let functions: Vec<&NativeFrame> =
            stack.frames.iter().filter(|frame| !frame.inlined).collect();
        let mut owners = Vec::new();
        for (at, (physical, function)) in unwound.walk.frames.iter().zip(functions).enumerate() {
            if at >= MAX_FRAMES || left == 0 {
                break;
            }
            if function.is_in_c_library() {
                continue;
            }
            left -= 1;
            let Cleanup { calls, addresses } =
                cleanup(physical, memory, symbols).unwrap_or_default();
            let mut kinds: Vec<Kind> = calls
                .iter()
                .filter_map(|call| kind(call.untrusted()))
                .collect();
            if initialises(function) {
                kinds.push(Kind::Once);
            }
            if !calls.is_empty() {
                tracing::trace!(
                    tid = thread.tid,
                    frame = at,
                    function = function.function_name(),
                    ?calls,
                    "landing pad"
                );
            }
            if !kinds.is_empty() {
                owners.push(Owning {
                    frame: at,
                    kinds,
                    addresses,
                });
            }
        }
        if !owners.is_empty() {
            found.insert(thread.tid, owners);
        }
    }
    found
}

/// The guard that a function drops or releases.
fn kind(function: &str) -> Option<Kind> {
    let drops = function.contains("drop_in_place") || function.contains("::drop");
    let path = plain(function);
    let releases = |name: &str| ends(&path, name);
    match () {
        () if drops && function.contains("MappedMutexGuard") => Some(Kind::Mutex),
        () if drops && function.contains("MutexGuard") => Some(Kind::Mutex),
        () if drops && function.contains("RwLockReadGuard") => Some(Kind::Reader),
        () if drops && function.contains("RwLockWriteGuard") => Some(Kind::Writer),
        () if drops && function.contains("RwLockUpgradableReadGuard") => Some(Kind::Writer),
        () if releases("futex::Mutex::wake") => Some(Kind::Mutex),
        () if releases("RawMutex::unlock_slow") => Some(Kind::Mutex),
        () if releases("RwLock::wake_writer_or_readers") => Some(Kind::Either),
        () if releases("RawRwLock::unlock_shared_slow") => Some(Kind::Reader),
        () if releases("RawRwLock::unlock_exclusive_slow") => Some(Kind::Writer),
        () if releases("RawRwLock::unlock_upgradable_slow") => Some(Kind::Writer),
        () => None,
    }
}

fn initialises(function: &NativeFrame) -> bool {
    let path = plain(function.function_name());
    path.starts_with("std::") && ends(&path, "Once::call")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guards_by_what_drops_them() {
        for (function, expected) in [
            (
                "core::ptr::drop_in_place::<std::sync::poison::mutex::MutexGuard<i32>>",
                Some(Kind::Mutex),
            ),
            (
                "core::ptr::drop_in_place<std::sync::rwlock::RwLockReadGuard<u8>>",
                Some(Kind::Reader),
            ),
            (
                "<std::sys::sync::mutex::futex::Mutex>::wake",
                Some(Kind::Mutex),
            ),
            (
                "parking_lot::raw_rwlock::RawRwLock::unlock_exclusive_slow",
                Some(Kind::Writer),
            ),
            ("core::ptr::drop_in_place::<alloc::vec::Vec<u8>>", None),
            ("mine::MutexGuard::new", None),
        ] {
            assert_eq!(kind(function), expected, "{function}");
        }
    }

    #[test]
    fn a_static_is_named_by_the_code() {
        let owning = Owning {
            frame: 0,
            kinds: vec![Kind::Mutex],
            addresses: vec![0x1004],
        };
        assert!(owning.names(0x1000) && !owning.names(0x2000));
        assert!(owning.keeps_out(Primitive::StdMutex) && !owning.keeps_out(Primitive::StdRead));
    }
}
