//! Damaged recordings: a reader may be wrong on them, but it ends, after a bounded number of reads, and without a panic.

use super::Recording;
use crate::capture::memory::{CachedMemory, PAGE};
use crate::capture::python::code::CodeCache;
use crate::capture::python::heap::Heap;
use crate::capture::python::offsets::{NEWEST_MINOR, OLDEST_MINOR};
use crate::capture::python::{PythonPart, generator, slots, with_blocks};
use proptest::prelude::*;
use std::sync::OnceLock;
use std::sync::atomic::Ordering;

/// Most pages that may be asked for, of recordings of some hundred. Circles are found, and each page is fetched once an attempt.
const MAX_READS: usize = 100_000;

/// One damage; the numbers are taken modulo what there is.
#[derive(Clone, Debug)]
enum Damage {
    Flip {
        page: usize,
        byte: usize,
        bit: u8,
    },
    Word {
        page: usize,
        word: usize,
        value: u64,
    },
    /// A pointer to somewhere in the recording, such as into the middle of an object.
    Pointer {
        page: usize,
        word: usize,
        to: usize,
        offset: u64,
    },
    /// A word of another page: of the right kind, perhaps.
    Copy {
        page: usize,
        word: usize,
        from: usize,
        from_word: usize,
    },
    Swap(usize, usize),
    Cut(usize),
    Fill {
        page: usize,
        from: usize,
        value: u8,
    },
}

fn damage() -> impl Strategy<Value = Damage> {
    let index = any::<usize>;
    prop_oneof![
        4 => (index(), index(), 0..8_u8).prop_map(|(page, byte, bit)| Damage::Flip { page, byte, bit }),
        3 => (index(), index(), prop_oneof![Just(0), Just(u64::MAX), Just(1 << 62), any::<u64>(), 0..4096_u64])
            .prop_map(|(page, word, value)| Damage::Word { page, word, value }),
        4 => (index(), index(), index(), any::<u64>())
            .prop_map(|(page, word, to, offset)| Damage::Pointer { page, word, to, offset }),
        4 => (index(), index(), index(), index())
            .prop_map(|(page, word, from, from_word)| Damage::Copy { page, word, from, from_word }),
        2 => (index(), index()).prop_map(|(one, other)| Damage::Swap(one, other)),
        2 => index().prop_map(Damage::Cut),
        1 => (index(), index(), any::<u8>()).prop_map(|(page, from, value)| Damage::Fill { page, from, value }),
    ]
}

fn inflict(recording: &mut Recording, damage: &Damage) {
    let pages = &mut recording.pages.pages;
    let addresses: Vec<u64> = pages.keys().copied().collect();
    if addresses.is_empty() {
        return;
    }
    let address = |index: usize| addresses[index % addresses.len()];
    let words = PAGE as usize / 8;
    let mut set = |page: usize, word: usize, value: u64| {
        let at = word % words * 8;
        if let Some(bytes) = pages.get_mut(&address(page)) {
            bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
        }
    };
    match *damage {
        Damage::Word { page, word, value } => set(page, word, value),
        Damage::Pointer {
            page,
            word,
            to,
            offset,
        } => {
            set(page, word, address(to) + offset % PAGE / 8 * 8);
        }
        Damage::Copy {
            page,
            word,
            from,
            from_word,
        } => {
            let at = from_word % words * 8;
            let bytes = pages
                .get(&address(from))
                .map(|bytes| bytes[at..at + 8].to_vec());
            if let (Some(bytes), Some(into)) = (bytes, pages.get_mut(&address(page))) {
                let at = word % words * 8;
                into[at..at + 8].copy_from_slice(&bytes);
            }
        }
        Damage::Flip { page, byte, bit } => {
            if let Some(bytes) = pages.get_mut(&address(page)) {
                bytes[byte % PAGE as usize] ^= 1 << bit;
            }
        }
        Damage::Swap(one, other) => {
            let (one, other) = (address(one), address(other));
            if let (Some(first), Some(second)) = (pages.remove(&one), pages.remove(&other)) {
                pages.insert(one, second);
                pages.insert(other, first);
            }
        }
        Damage::Cut(page) => {
            pages.remove(&address(page));
        }
        Damage::Fill { page, from, value } => {
            if let Some(bytes) = pages.get_mut(&address(page)) {
                bytes[from % PAGE as usize..].fill(value);
            }
        }
    }
}

fn original(minor: u8) -> Recording {
    static ALL: OnceLock<Vec<Recording>> = OnceLock::new();
    let all = ALL.get_or_init(|| (OLDEST_MINOR..=NEWEST_MINOR).map(Recording::load).collect());
    all[usize::from(minor - OLDEST_MINOR)].clone()
}

/// What is looked at only for threads that wait.
fn look_into_frames(heap: &Heap<'_>, part: &PythonPart) {
    let codes = CodeCache::default();
    for frame in part.thread_states.iter().flat_map(|raw| &raw.raw_frames) {
        for (name, value) in slots::variables(heap, frame).unwrap_or_default() {
            let _ = slots::variable(heap, frame, &name);
            let _ = heap.attributes(value);
            let _ = heap.full_type_name(value);
            let _ = generator::await_chain(heap, &codes, value);
        }
        for value in slots::stack(heap, frame).unwrap_or_default().values {
            let _ = heap.type_name(value);
        }
        let _ = with_blocks::active(heap, frame);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn damaged_pages_end_in_gaps(damages in proptest::collection::vec(damage(), 1..200)) {
        for minor in OLDEST_MINOR..=NEWEST_MINOR {
            let mut recording = original(minor);
            for damage in &damages {
                inflict(&mut recording, damage);
            }
            let process = recording.process();
            if process.runtime.offsets.is_none() {
                continue;
            }
            let part = recording.read();
            let reads = recording.pages.reads.load(Ordering::Relaxed);
            prop_assert!(reads < MAX_READS, "3.{minor}: {reads} reads");
            for raw in &part.thread_states {
                prop_assert!(serde_json::to_string(&raw.state).is_ok());
            }
            let cached = CachedMemory::new(&recording.pages);
            if let Some(offsets) = &process.runtime.offsets {
                look_into_frames(&Heap::new(&cached, offsets), &part);
            }
            let _ = process.running_test(&cached, b"");
        }
    }
}
