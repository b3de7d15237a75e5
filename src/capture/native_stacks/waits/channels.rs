//! What a channel of Rust's std or of crossbeam says of itself: how many senders and receivers are alive, and what it has room
//! for. Its address is on the stack of whoever waits in it, and what lies there must look like a channel.

use crate::capture::memory::CachedMemory;
use crate::model::{Foreign, ObjectFact};

/// A kind of channel: how its counts lie. All kinds have the channel itself at the beginning, and its counts, of senders and of
/// receivers, behind it (`Counter` of std's `sync/mpmc/counter.rs` and crossbeam-channel's `counter.rs`, as rustc 1.95 lays
/// them out).
struct Flavor {
    /// How the names of its functions begin.
    names: [&'static str; 2],
    aligned: u64,
    counts: u64,
    /// Of one with a fixed number of places, that number.
    capacity: Option<u64>,
}

const FLAVORS: [Flavor; 3] = [
    Flavor {
        names: [
            "std::sync::mpmc::list::",
            "crossbeam_channel::flavors::list::",
        ],
        aligned: 128,
        counts: 384,
        capacity: None,
    },
    Flavor {
        names: [
            "std::sync::mpmc::array::",
            "crossbeam_channel::flavors::array::",
        ],
        aligned: 128,
        counts: 512,
        capacity: Some(384),
    },
    Flavor {
        names: [
            "std::sync::mpmc::zero::",
            "crossbeam_channel::flavors::zero::",
        ],
        aligned: 8,
        counts: 112,
        capacity: None,
    },
];
/// Bytes of a lock, and of what it guards, that are looked at.
const MOST_GUARDED: usize = 256;
/// No program has more ends of one channel.
const MOST_ENDS: u64 = 1 << 24;

/// A channel as it lies in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Channel {
    pub(super) address: u64,
    senders: u64,
    receivers: u64,
    capacity: Option<u64>,
}

impl Channel {
    /// The channel among these addresses, if one and only one of them looks like one. `paths` are names of the functions that
    /// wait, which tell its kind.
    pub(super) fn among(
        addresses: &[u64],
        mut paths: impl Iterator<Item = String>,
        memory: &CachedMemory<'_>,
    ) -> Option<Self> {
        let flavor = paths.find_map(|path| {
            let mut flavors = FLAVORS.iter();
            flavors.find(|flavor| flavor.names.iter().any(|name| path.starts_with(name)))
        })?;
        let mut found = addresses
            .iter()
            .filter_map(|address| Self::at(*address, flavor, memory));
        let only = found.next()?;
        found.next().is_none().then_some(only)
    }

    fn at(address: u64, flavor: &Flavor, memory: &CachedMemory<'_>) -> Option<Self> {
        if !address.is_multiple_of(flavor.aligned) {
            return None;
        }
        let word = |offset: u64| memory.u64(address.checked_add(offset)?).ok();
        let ends = |offset: u64| word(offset).filter(|ends| (1..MOST_ENDS).contains(ends));
        let channel = Self {
            address,
            senders: ends(flavor.counts)?,
            receivers: ends(flavor.counts + 8)?,
            capacity: flavor.capacity.and_then(word),
        };
        // Whether one side has gone, and the other is to free it.
        let gone = memory.u8(address.checked_add(flavor.counts + 16)?).ok()?;
        (gone == 0).then_some(channel)
    }

    /// Whether one of its ends lies within what the lock at this address guards, which comes behind it.
    pub(super) fn is_kept_in(&self, lock: u64, memory: &CachedMemory<'_>) -> bool {
        let bytes = memory.bytes(lock & !7, MOST_GUARDED).unwrap_or_default();
        let mut words = bytes.chunks_exact(8);
        words.any(|word| word == self.address.to_le_bytes())
    }

    /// What there is to say to who waits in it: for something to receive, or for a place to send to.
    pub(super) fn facts(&self, receives: bool) -> Vec<ObjectFact> {
        let fact = |name: &str, value: u64| ObjectFact {
            name: name.to_owned(),
            value: Foreign::from(value.to_string()),
        };
        if receives {
            return vec![fact("senders", self.senders)];
        }
        let capacity = self.capacity.map(|capacity| fact("capacity", capacity));
        let receivers = fact("receivers", self.receivers);
        [receivers].into_iter().chain(capacity).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::memory::Piece;

    const START: u64 = 0x10_0000;

    fn bytes(words: &[(usize, u64)]) -> Piece {
        let mut bytes = vec![0; 0x1000];
        for (at, word) in words {
            bytes[*at..at + 8].copy_from_slice(&word.to_le_bytes());
        }
        Piece {
            start: START,
            bytes,
        }
    }

    fn among(addresses: &[u64], path: &str, bytes: &Piece) -> Option<Channel> {
        let memory = CachedMemory::small(bytes);
        Channel::among(addresses, [path.to_owned()].into_iter(), &memory)
    }

    #[test]
    fn counts_and_capacity() {
        let bytes = bytes(&[(0x280 + 384, 5), (0x280 + 512, 2), (0x280 + 520, 1)]);
        let at = [START + 8, START + 0x280];
        let channel = among(&at, "std::sync::mpmc::array::Channel::send", &bytes).expect("found");
        let words = |receives| {
            let facts = channel.facts(receives);
            let words: Vec<String> = facts
                .iter()
                .map(|fact| format!("{} {}", fact.name, fact.value.untrusted()))
                .collect();
            words.join(", ")
        };
        assert_eq!(words(true), "senders 2");
        assert_eq!(words(false), "receivers 1, capacity 5");
        assert_eq!(
            among(&at, "std::sync::mpmc::list::Channel::recv", &bytes),
            None
        );
        assert_eq!(among(&at, "flume::Receiver::recv", &bytes), None);
    }

    #[test]
    fn kept_in_a_mutex_or_not() {
        // A futex word and whether it is poisoned, the kind of channel, its address.
        let mutex = [(0x100, 1), (0x108, 1), (0x110, START + 0x280)];
        let ends = [(0x280 + 384, 1), (0x280 + 392, 1)];
        let bytes = bytes(&[mutex.as_slice(), &ends].concat());
        let list = "std::sync::mpmc::list::Channel::recv";
        let channel = among(&[START + 0x280], list, &bytes).expect("found");
        let memory = CachedMemory::small(&bytes);
        assert!(channel.is_kept_in(START + 0x100, &memory));
        assert!(!channel.is_kept_in(START + 0x400, &memory));
        assert!(!channel.is_kept_in(0, &memory));
    }

    #[test]
    fn nothing_of_two_that_look_alike_or_of_one_that_is_being_freed() {
        let list = "crossbeam_channel::flavors::list::Channel::recv";
        let ends = |at: usize| [(at + 384, 1), (at + 392, 1)];
        let two = bytes(&[ends(0), ends(0x400)].concat());
        let at = [START, START + 0x400];
        assert!(among(&at[..1], list, &two).is_some());
        assert_eq!(among(&at, list, &two), None);
        let freed = bytes(&[ends(0).as_slice(), &[(400, 1)]].concat());
        assert_eq!(among(&at, list, &freed), None);
        assert_eq!(among(&[u64::MAX - 127], list, &freed), None);
    }
}
