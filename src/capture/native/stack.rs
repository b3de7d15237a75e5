//! What the unwinder reads: the copy of a stack, else the process's memory.

use crate::capture::memory::CachedMemory;
use std::cell::Cell;

/// Bytes of a word.
pub(crate) const WORD: u64 = 8;
/// Words that one mark tells of.
const MARKED: usize = 64;

/// Bytes of a thread's stack, copied while it was stopped. Most of a stack is zero, and of that nothing is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct StackBytes {
    address: u64,
    length: u64,
    /// Which words are not zero, the first in the lowest bit.
    marks: Vec<Mark>,
    /// Those words.
    words: Vec<u64>,
}

/// [`MARKED`] words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mark {
    /// The words that are not zero.
    bits: u64,
    /// How many of the words before these are not.
    before: u32,
}

impl StackBytes {
    /// The bytes from an address on, which should be that of a word.
    pub(crate) fn new(address: u64, bytes: &[u8]) -> Self {
        let mut marks = Vec::with_capacity(bytes.len().div_ceil(MARKED * WORD as usize));
        let mut words = Vec::new();
        for part in bytes.chunks(MARKED * WORD as usize) {
            let before = u32::try_from(words.len()).unwrap_or(u32::MAX);
            let mut bits = 0;
            for (at, chunk) in part.chunks(WORD as usize).enumerate() {
                let word = number(chunk);
                if word != 0 {
                    bits |= 1 << at;
                    words.push(word);
                }
            }
            marks.push(Mark { bits, before });
        }
        words.shrink_to_fit();
        Self {
            address,
            length: bytes.len() as u64,
            marks,
            words,
        }
    }

    /// Address of the first byte.
    pub(crate) fn address(&self) -> u64 {
        self.address
    }

    /// Address behind the last byte.
    pub(crate) fn end(&self) -> u64 {
        self.address.saturating_add(self.length)
    }

    /// Up to eight bytes as a number; `None` if not all of them are here.
    pub(crate) fn read(&self, address: u64, size: usize) -> Option<u64> {
        let at = address.checked_sub(self.address)?;
        let end = at.checked_add(u64::try_from(size).ok()?)?;
        if size > WORD as usize || end > self.length {
            return None;
        }
        let (index, shift) = (at / WORD, 8 * (at % WORD));
        let two = u128::from(self.word(index)) | u128::from(self.word(index + 1)) << 64;
        let kept = u64::MAX.checked_shr(64 - 8 * u32::try_from(size).ok()?);
        Some((two >> shift) as u64 & kept.unwrap_or(0))
    }

    /// The words that are not zero, with their addresses and the word after each; the last one has none.
    pub(crate) fn words(&self) -> impl Iterator<Item = (u64, u64, u64)> {
        let places = self.marks.iter().zip(0..).flat_map(|(mark, at)| {
            let marked = (0..MARKED as u64).filter(move |bit| mark.bits >> bit & 1 == 1);
            marked.map(move |bit| at * MARKED as u64 + bit)
        });
        let whole = (self.length / WORD).saturating_sub(1);
        let words = places.zip(&self.words);
        words
            .take_while(move |(index, _)| *index < whole)
            .map(|(index, word)| {
                let address = self.address.wrapping_add(index * WORD);
                (address, *word, self.word(index + 1))
            })
    }

    /// A word by its number; zero if there is none.
    fn word(&self, index: u64) -> u64 {
        let Ok(index) = usize::try_from(index) else {
            return 0;
        };
        let (mark, bit) = (self.marks.get(index / MARKED), index % MARKED);
        let Some(mark) = mark.filter(|mark| mark.bits >> bit & 1 == 1) else {
            return 0;
        };
        let earlier = (mark.bits & ((1 << bit) - 1)).count_ones();
        let at = mark.before.saturating_add(earlier) as usize;
        self.words.get(at).copied().unwrap_or(0)
    }
}

/// Up to eight bytes, the lowest first.
fn number(bytes: &[u8]) -> u64 {
    match bytes.try_into() {
        Ok(word) => u64::from_le_bytes(word),
        Err(_) => bytes
            .iter()
            .rev()
            .fold(0, |number, byte| number << 8 | u64::from(*byte)),
    }
}

/// Reads words.
pub(super) struct Reader<'a> {
    pub(super) stacks: &'a [StackBytes],
    pub(super) memory: &'a CachedMemory<'a>,
    /// Whether something was read that was not in the copy.
    pub(super) read_live: Cell<bool>,
}

impl<'a> Reader<'a> {
    /// Reads from these copies first.
    pub(super) fn new(stacks: &'a [StackBytes], memory: &'a CachedMemory<'a>) -> Self {
        Self {
            stacks,
            memory,
            read_live: Cell::new(false),
        }
    }

    /// Up to eight bytes as a number.
    pub(super) fn read(&self, address: u64, size: usize) -> Option<u64> {
        let copied = self
            .stacks
            .iter()
            .find_map(|stack| stack.read(address, size));
        if copied.is_some() {
            return copied;
        }
        let mut bytes = [0; WORD as usize];
        self.memory.read(address, bytes.get_mut(..size)?).ok()?;
        self.read_live.set(true);
        Some(u64::from_le_bytes(bytes))
    }

    /// A word.
    pub(super) fn word(&self, address: u64) -> Option<u64> {
        self.read(address, WORD as usize)
    }
}

/// Up to eight bytes of a copied stack as a number, else of the process.
pub(crate) fn read(
    stacks: &[StackBytes],
    memory: &CachedMemory<'_>,
    address: u64,
    size: usize,
) -> Option<u64> {
    Reader::new(stacks, memory).read(address, size)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const START: u64 = 0x7000;

    proptest! {
        #[test]
        fn what_is_kept_is_what_was_there(
            words in prop::collection::vec(prop_oneof![3 => Just(0), 1 => any::<u64>()], 0..300),
            rest in prop::collection::vec(any::<u8>(), 0..8),
        ) {
            let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            bytes.extend(rest);
            let stack = StackBytes::new(START, &bytes);
            for size in 1..=8 {
                for at in 0..bytes.len() + 9 {
                    let read = stack.read(START + at as u64, size);
                    prop_assert_eq!(read, bytes.get(at..at + size).map(number));
                }
            }
            prop_assert_eq!(stack.read(START - 1, 8), None);
            prop_assert_eq!(stack.read(START, 9), None);
            let all = words.iter().zip(words.iter().skip(1)).zip(0..);
            let expected = all
                .filter(|((word, _), _)| **word != 0)
                .map(|((word, next), at)| (START + at * WORD, *word, *next));
            prop_assert!(stack.words().eq(expected));
        }
    }
}
