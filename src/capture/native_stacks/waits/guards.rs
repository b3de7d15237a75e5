//! Frames that own a lock's guard: those that would drop one if a panic passed them.

use super::super::Unwound;
use super::names::{ends, plain};
use super::shapes::{Primitive, c_name};
use crate::capture::memory::CachedMemory;
use crate::capture::native::{Call, Cleanup, Symbolizer, cleanup};
use crate::model::{Foreign, Grade, NativeFrame, Thread, Tid};
use std::collections::{BTreeMap, BTreeSet};

/// Most frames of one thread, and of all, whose landing pads are followed.
const MAX_FRAMES: usize = 64;
const MAX_IN_ALL: usize = 4096;
/// Bytes of a lock that instructions may name: its state, and a mutex's poison flag. The next static may come right after.
const LOCK: u64 = 8;
/// Bytes of an `Arc`'s counts before the lock in it, which some guards have the address of.
const ARC_COUNTS: u64 = 16;

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
    /// The words of its guards, where all of those could be read.
    guards: Option<Vec<u64>>,
    /// It owns guards itself, as far as can be told, and no collection of them: one that is about to lock another lock to put
    /// its guard into such a collection owns others of that kind.
    pub(super) singly: bool,
}

impl Owning {
    /// What frame number `at` owns, by its function and what would be called there to clean up; `None` if that is nothing.
    fn of(at: usize, function: &NativeFrame, cleanup: Cleanup) -> Option<Self> {
        // Of an option that is none nothing is dropped.
        let called = || cleanup.calls.iter().filter(|call| !call.idle);
        let calls = || called().map(|call| call.function.untrusted());
        let in_drops = || cleanup.in_drops.iter().map(Foreign::untrusted);
        let mut kinds: Vec<Kind> = calls()
            .filter(|call| !collects_guards(call))
            .filter_map(kind)
            .collect();
        // Whose guards are in a value that is dropped as a whole may own any number.
        let frees = calls().any(|call| call.contains("__rust_dealloc"));
        let one_by_one = calls().any(drops_guard) || (!kinds.is_empty() && !frees);
        let collects = calls().chain(in_drops()).any(collects_guards);
        let singly = initialises(function) || (!collects && one_by_one);
        // What takes locks itself on its way releases those.
        if kinds.is_empty() && !in_drops().any(|call| call.contains("lock_")) {
            kinds.extend(in_drops().filter_map(kind));
        }
        let guards = words_of_guards(called());
        let guards = guards.filter(|(count, _)| *count == kinds.len());
        if initialises(function) {
            kinds.push(Kind::Once);
        }
        (!kinds.is_empty()).then_some(Self {
            frame: at,
            kinds,
            addresses: cleanup.addresses,
            guards: guards.map(|(_, words)| words),
            singly,
        })
    }

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

    /// Whether one of the guards is the lock's, by the address that it has; `None` where they could not be read.
    pub(super) fn has_guard_of(&self, lock: u64) -> Option<bool> {
        let words = self.guards.as_ref()?;
        let of_arc = lock.wrapping_sub(ARC_COUNTS);
        Some(words.iter().any(|word| [lock, of_arc].contains(word)))
    }

    /// Whether the code that drops it names the lock: a static one.
    pub(super) fn names(&self, lock: u64) -> bool {
        let range = lock..lock.saturating_add(LOCK);
        self.addresses.iter().any(|address| range.contains(address))
    }
}

/// Frames that own guards.
#[derive(Debug)]
pub(super) struct Owners {
    pub(super) frames: BTreeMap<Tid, Vec<Owning>>,
    /// Threads of which each of the program's own functions has a landing pad at the call that it is in: what they own is known.
    /// A call that cannot unwind has none, whatever its function owns.
    pub(super) known: BTreeSet<Tid>,
    /// The program unwinds: some of its functions have landing pads.
    pub(super) unwinds: bool,
    /// Threads that have released a mutex, of which they still have a guard, to wait for a condition.
    pub(super) released: BTreeSet<(Tid, u64)>,
    /// How good all this is. Without a stop most registers are unknown, and a guard may be in one of them.
    pub(super) grade: Grade,
}

impl Default for Owners {
    fn default() -> Self {
        Self {
            frames: BTreeMap::new(),
            known: BTreeSet::new(),
            unwinds: false,
            released: BTreeSet::new(),
            grade: Grade::Derived,
        }
    }
}

/// All frames of the given threads that own guards.
pub(super) fn owning(
    threads: &[Thread],
    unwound: &BTreeMap<Tid, Unwound>,
    memory: &CachedMemory<'_>,
    symbols: &mut Symbolizer<'_>,
) -> Owners {
    let mut known = BTreeSet::new();
    let mut unwinds = false;
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
        let (mut own_frames, mut padded, mut doubts) = (0, 0, false);
        for (at, (physical, function)) in unwound.walk.frames.iter().zip(functions).enumerate() {
            if at >= MAX_FRAMES || left == 0 {
                break;
            }
            if function.is_in_c_library() && !initialises(function) {
                continue;
            }
            left -= 1;
            let read = |address: u64, size: usize| unwound.read_stack(address, size, memory);
            let cleanup = cleanup(physical, memory, symbols, &read).unwrap_or_default();
            let has_pad = !cleanup.calls.is_empty() || !cleanup.doubtful.is_empty();
            let mut doubtful = cleanup.doubtful.iter().map(Foreign::untrusted);
            doubts |= doubtful.any(|call| kind(call).is_some());
            if has_pad {
                let function = function.function_name();
                tracing::trace!(
                    tid = thread.tid,
                    frame = at,
                    function,
                    ?cleanup,
                    "landing pad"
                );
            }
            if !function.is_library() && function.function_name().contains("::") {
                own_frames += 1;
                padded += usize::from(has_pad);
                unwinds |= has_pad;
            }
            owners.extend(Owning::of(at, function, cleanup));
        }
        let waits = thread.wait.is_some() && !stack.moved;
        if waits && own_frames > 0 && own_frames == padded && !doubts {
            known.insert(thread.tid);
        }
        if !owners.is_empty() {
            found.insert(thread.tid, owners);
        }
    }
    Owners {
        frames: found,
        known,
        unwinds,
        grade: match unwound.values().any(|stack| stack.grade == Grade::Guessed) {
            true => Grade::Guessed,
            false => Grade::Derived,
        },
        ..Owners::default()
    }
}

/// How many of the calls drop a guard that could be read, and the words of those; `None` if there are none.
fn words_of_guards<'c>(calls: impl Iterator<Item = &'c Call>) -> Option<(usize, Vec<u64>)> {
    let mut count = 0;
    let mut words = Vec::new();
    for call in calls {
        let function = call.function.untrusted();
        // What releases a lock is given the lock itself, in place of its guard.
        let tells = is_guard(function) || !function.contains("drop");
        if kind(function).is_none() || !tells || call.words.is_empty() {
            continue;
        }
        count += 1;
        words.extend(&call.arguments);
        words.extend(call.words.iter().take(addresses_in(function)));
    }
    (count > 0).then_some((count, words))
}

/// How many words of a guard may be the lock's address. Those of parking_lot are one word. In std's of a mutex and of a writer a
/// flag of one byte follows, beside which anything may be left over; others have the address of the data, too.
fn addresses_in(function: &str) -> usize {
    let one = ["lock_api", "::MutexGuard<", "::RwLockWriteGuard<"];
    match one.iter().any(|name| function.contains(name)) {
        true => 1,
        false => 2,
    }
}

/// Whether the value that a function drops is a guard itself.
fn is_guard(function: &str) -> bool {
    let value = function.split_once("drop_in_place").map(|(_, value)| value);
    let path = value.map(|value| value.trim_start_matches("::").trim_start_matches('<'));
    path.and_then(|path| path.split_once('<'))
        .is_some_and(|(path, _)| path.ends_with("Guard"))
}

/// Whether a function drops a guard, or a value that is one or none.
fn drops_guard(function: &str) -> bool {
    function.contains("drop_in_place") && function.contains("Guard<") && !collects_guards(function)
}

/// Whether a function drops a collection or structure of guards.
fn collects_guards(function: &str) -> bool {
    const COLLECTIONS: [&str; 9] = [
        "Vec<",
        "VecDeque<",
        "BTreeMap<",
        "BTreeSet<",
        "HashMap<",
        "LinkedList<",
        "SmallVec<",
        "Box<[",
        "<[",
    ];
    // What the guard protects may be a collection.
    let outer = function
        .split_once("Guard<")
        .map(|(outer, _)| outer)
        .unwrap_or_default();
    COLLECTIONS.iter().any(|name| outer.contains(name))
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
    let of_rust = path.starts_with("std::") && ends(&path, "Once::call");
    of_rust || matches!(c_name(&path), "pthread_once_slow" | "pthread_once")
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
    fn collections_of_guards_are_told_from_guards_of_collections() {
        assert!(collects_guards(
            "core::ptr::drop_in_place::<alloc::vec::Vec<std::sync::MutexGuard<u32>>>"
        ));
        let of_collection =
            "core::ptr::drop_in_place::<std::sync::MutexGuard<alloc::vec::Vec<u32>>>";
        assert!(!collects_guards(of_collection) && drops_guard(of_collection));
        assert!(!collects_guards(
            "core::ptr::drop_in_place::<alloc::vec::Vec<u32>>"
        ));
    }

    #[test]
    fn whose_guard_it_is_by_what_drops_it() {
        let function = NativeFrame::of("hang::join", "hang");
        let owning = |function_called: &str, words: &[u64]| {
            let call = Call {
                function: function_called.into(),
                arguments: vec![0x1000],
                words: words.to_vec(),
                idle: false,
            };
            let calls = vec![call];
            let cleanup = Cleanup {
                calls,
                ..Cleanup::default()
            };
            Owning::of(0, &function, cleanup).expect("a guard")
        };
        let drop = "core::ptr::drop_in_place::<std::sync::poison::mutex::MutexGuard<u32>>";
        for (called, words, lock, expected) in [
            // The guard itself is passed, and what it refers to is the lock; or its address.
            (drop, &[2, 7][..], 0x1000, Some(true)),
            (drop, &[2, 7], 0x2000, Some(false)),
            (drop, &[0x2000, 0], 0x2000, Some(true)),
            // What is beside the flag is left over from something else.
            (drop, &[0x3000, 0x2000], 0x2000, Some(false)),
            (drop, &[], 0x1000, None),
            (
                "core::ptr::drop_in_place::<std::sync::rwlock::RwLockReadGuard<u32>>",
                &[0x3000, 0x2000],
                0x2000,
                Some(true),
            ),
            (
                "<std::sys::sync::mutex::futex::Mutex>::wake",
                &[2, 7],
                0x2000,
                Some(false),
            ),
        ] {
            assert_eq!(
                owning(called, words).has_guard_of(lock),
                expected,
                "{called}"
            );
        }
    }

    #[test]
    fn a_static_is_named_by_the_code() {
        let owning = Owning {
            frame: 0,
            kinds: vec![Kind::Mutex],
            addresses: vec![0x1004],
            guards: None,
            singly: true,
        };
        assert!(owning.names(0x1000) && !owning.names(0x2000));
        assert!(owning.keeps_out(Primitive::StdMutex) && !owning.keeps_out(Primitive::StdRead));
    }
}
