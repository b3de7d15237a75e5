//! The name that Rust's standard library keeps for a thread, in full: the kernel cuts it after [`COMM`] bytes.
//!
//! It is in what the library keeps for the thread (`std::thread::Thread`), which the thread's own data points to (`CURRENT` in
//! `std::thread::current`), above its stack. Seen in debug and release builds of Rust 1.95.

use super::maps::{Region, region_at};
use super::memory::{Memory, PAGE, Range, pages};

/// Bytes that the kernel keeps of a name (`TASK_COMM_LEN`, less the end).
pub(super) const COMM: usize = 15;
/// Longest name, with the zero at its end.
pub(super) const MAX_NAME: u64 = 1024;
/// How much of what the standard library keeps for a thread is looked at: counts, name, id, and what parks it.
const INNER: u64 = 64;
/// Most pointers, and most texts, that are followed.
const MAX_FOLLOWED: usize = 2_000;

/// What may be the name, without the zero at its end: what a word in this part of memory leads to, by way of something that has an
/// address and a length. The outermost first. `is_length` says what lengths, with the zero, a name may have.
pub(super) fn kept(
    memory: &dyn Memory,
    (from, end): (u64, u64),
    regions: &[Region],
    is_length: impl Fn(u64) -> bool,
) -> Vec<Vec<u8>> {
    let words = words_of(memory, from, end).unwrap_or_default();
    let is_mapped = |address: u64| {
        region_at(regions, address)
            .is_some_and(|region| address.saturating_add(INNER) <= region.end)
    };
    let heads: Vec<Range> = words
        .iter()
        .rev()
        .filter(|word| **word >= PAGE && **word % 8 == 0 && is_mapped(**word))
        .take(MAX_FOLLOWED)
        .map(|word| Range {
            address: *word,
            length: usize::try_from(INNER).unwrap_or(0),
        })
        .collect();
    let mut texts: Vec<Range> = Vec::new();
    for head in memory.read_many(&heads).into_iter().flatten() {
        let head = numbers(&head);
        let pairs = head.windows(2).filter(|pair| is_length(pair[1]));
        texts.extend(pairs.filter_map(|pair| {
            Some(Range {
                address: pair[0],
                length: usize::try_from(pair[1]).ok()?,
            })
        }));
    }
    texts.truncate(MAX_FOLLOWED);
    let texts = memory.read_many(&texts).into_iter().flatten();
    texts
        .filter_map(|mut text| (text.pop() == Some(0)).then_some(text))
        .collect()
}

/// The words of this part of memory; what cannot be read is zero. Nothing if none can be.
pub(super) fn words_of(memory: &dyn Memory, from: u64, to: u64) -> Option<Vec<u64>> {
    let mut words: Vec<u64> = Vec::new();
    // Page by page: a part that is not mapped must not hide the rest.
    let ranges = pages(from, to);
    let mut readable = false;
    for (range, page) in ranges.iter().zip(memory.read_many(&ranges)) {
        readable |= page.is_ok();
        words.extend(numbers(&page.unwrap_or_else(|_| vec![0; range.length])));
    }
    readable.then_some(words)
}

fn numbers(bytes: &[u8]) -> Vec<u64> {
    let words = bytes.as_chunks::<8>().0.iter();
    words.map(|word| u64::from_le_bytes(*word)).collect()
}
