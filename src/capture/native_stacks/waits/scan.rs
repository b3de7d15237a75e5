//! Which threads' stacks refer to a lock. Locks of Rust's std and of parking_lot do not note who holds them; but a guard
//! keeps the lock's address, and lies on the holder's stack or in its registers. So may a plain reference: who is found here
//! is a suspect, no more.

use super::super::Unwound;
use crate::model::Tid;
use std::collections::{BTreeMap, HashMap};

/// Bytes of an `Arc`'s counts before what it holds: a thread with the `Arc` itself has this address.
const ARC_COUNTS: u64 = 16;
/// Most places of one lock that are kept.
const MAX_HITS: usize = 256;

/// A place that refers to a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hit {
    pub(super) tid: Tid,
    /// Number of the frame whose part of the stack has it; a callee may have saved it for the frame that called it.
    pub(super) frame: usize,
    /// The lock's own address, not that of the `Arc` around it.
    pub(super) exact: bool,
    /// Followed by a byte that is 0 or 1, as in `MutexGuard`, where that is whether the thread was panicking.
    pub(super) like_a_guard: bool,
}

/// Looks for all of the locks at once.
pub(super) fn hits(locks: &[u64], threads: &BTreeMap<Tid, Unwound>) -> HashMap<u64, Vec<Hit>> {
    let mut wanted: HashMap<u64, (u64, bool)> = HashMap::new();
    for lock in locks {
        wanted.insert(lock.wrapping_sub(ARC_COUNTS), (*lock, false));
    }
    // A lock 16 bytes behind another is that one's `Arc` address too; the exact meaning goes before.
    for lock in locks {
        wanted.insert(*lock, (*lock, true));
    }
    let mut found: HashMap<u64, Vec<Hit>> = HashMap::new();
    if wanted.is_empty() {
        return found;
    }
    let mut push = |lock: u64, hit: Hit| {
        let hits = found.entry(lock).or_default();
        if hits.len() < MAX_HITS {
            hits.push(hit);
        }
    };
    for (tid, thread) in threads {
        for value in &thread.registers {
            if let Some((lock, exact)) = wanted.get(value) {
                push(
                    *lock,
                    Hit {
                        tid: *tid,
                        frame: 0,
                        exact: *exact,
                        like_a_guard: false,
                    },
                );
            }
        }
        let mut frame = 0;
        for (address, word, next) in words(thread) {
            let Some((lock, exact)) = wanted.get(&word) else {
                continue;
            };
            let ends = |at: usize| thread.walk.frames.get(at).and_then(|frame| frame.cfa);
            while ends(frame).is_some_and(|cfa| cfa <= address) {
                frame += 1;
            }
            push(
                *lock,
                Hit {
                    tid: *tid,
                    frame,
                    exact: *exact,
                    like_a_guard: next & 0xff <= 1,
                },
            );
        }
    }
    found
}

/// The words of the live part of a stack that are not zero: address, value, and the value after it.
pub(super) fn words(thread: &Unwound) -> impl Iterator<Item = (u64, u64, u64)> {
    // What is below the stack pointer is left over from calls that have returned.
    let start = thread
        .walk
        .frames
        .first()
        .map_or(u64::MAX, |frame| frame.sp);
    let words = thread.stack.words();
    words.skip_while(move |(address, ..)| *address < start)
}
