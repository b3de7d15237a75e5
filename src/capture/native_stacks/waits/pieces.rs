//! Pieces of memory that glibc's `malloc` has given out: where the one begins and ends that an address lies in. Each has its size
//! before it, so from the beginning of a heap on they can be walked (glibc, `malloc/malloc.c`).

use crate::capture::maps::Region;
use crate::capture::memory::CachedMemory;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

/// Bytes before a piece: its size, and before that a word that belongs to the piece before.
const HEAD: u64 = 16;
/// The lowest bits of a size are flags.
const FLAGS: u64 = 7;
/// The smallest piece with its head, and what all are a multiple of.
const LEAST: u64 = 32;
const ALIGNED: u64 = 16;
/// Most pieces of a heap that are walked.
const MAX_PIECES: usize = 200_000;
/// Where the first piece may begin: at once in the main heap; behind `heap_info` and `malloc_state` in that of a thread.
const FIRST: [u64; 6] = [0, 0x890, 0x8a0, 0x8b0, 0x8c0, 0x8d0];

/// The pieces of the heaps that were asked for.
pub(super) struct Pieces<'m> {
    memory: &'m CachedMemory<'m>,
    /// By the beginning of a region: the beginnings of its pieces, and of what is left.
    heaps: RefCell<BTreeMap<u64, Rc<[u64]>>>,
}

impl<'m> Pieces<'m> {
    pub(super) fn new(memory: &'m CachedMemory<'m>) -> Self {
        Self {
            memory,
            heaps: RefCell::default(),
        }
    }

    /// Beginning and length of the piece that an address of a region lies in; `None` if the region is no heap.
    pub(super) fn around(&self, region: &Region, address: u64) -> Option<(u64, u64)> {
        let starts = self.of(region);
        let after = starts.partition_point(|start| *start <= address);
        let start = *starts.get(after.checked_sub(1)?)?;
        let next = *starts.get(after)?;
        // The word before the next one's size is this one's.
        Some((start, (next - start).saturating_sub(HEAD - 8)))
    }

    /// Whether an address is of what `malloc` keeps of a heap before its first piece: it leads to all others.
    pub(super) fn is_bookkeeping(&self, region: &Region, address: u64) -> bool {
        let starts = self.of(region);
        starts.first().is_some_and(|first| address < *first)
    }

    fn of(&self, region: &Region) -> Rc<[u64]> {
        let known = self.heaps.borrow().get(&region.start).cloned();
        known.unwrap_or_else(|| {
            let starts: Rc<[u64]> = self.walk(region).into();
            let mut heaps = self.heaps.borrow_mut();
            heaps.insert(region.start, Rc::clone(&starts));
            starts
        })
    }

    fn walk(&self, region: &Region) -> Vec<u64> {
        let walks = FIRST.iter().map(|first| self.walk_from(region, *first));
        walks.max_by_key(Vec::len).unwrap_or_default()
    }

    /// The pieces from a place on, as long as they look like some; none if they do not up to the end of the region.
    fn walk_from(&self, region: &Region, first: u64) -> Vec<u64> {
        let mut starts = Vec::new();
        let mut at = region.start.saturating_add(first);
        while starts.len() < MAX_PIECES {
            starts.push(at.saturating_add(HEAD));
            let Ok(size) = self.memory.u64(at.saturating_add(8)) else {
                return Vec::new();
            };
            let size = size & !FLAGS;
            let end = at.checked_add(size).filter(|end| *end <= region.end);
            let Some(end) = end.filter(|_| size >= LEAST && size.is_multiple_of(ALIGNED)) else {
                return Vec::new();
            };
            at = end;
            // What is left of a heap is its last piece, and ends with it.
            if region.end - end < LEAST {
                starts.push(end.saturating_add(HEAD));
                return starts;
            }
        }
        Vec::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::memory::Piece;
    use proptest::prelude::*;

    const START: u64 = 0x10_0000;

    fn region(length: usize) -> Region {
        Region {
            start: START,
            end: START + length as u64,
            first_stack: false,
            of_program: true,
        }
    }

    /// A heap of pieces of these sizes, with their heads; what is left is the last one.
    fn heap(sizes: &[u64], length: usize) -> Piece {
        let mut bytes = vec![0; length];
        let mut at = 0;
        let left = length as u64 - sizes.iter().sum::<u64>();
        for size in sizes.iter().copied().chain([left]) {
            bytes[at + 8..at + 16].copy_from_slice(&(size | 1).to_le_bytes());
            at += usize::try_from(size).expect("small");
        }
        Piece {
            start: START,
            bytes,
        }
    }

    #[test]
    fn an_address_within_a_piece_leads_to_its_beginning() {
        let heap = heap(&[0x290, 0x20, 0x1000], 0x4000);
        let memory = CachedMemory::new(&heap);
        let pieces = Pieces::new(&memory);
        let region = region(0x4000);
        assert_eq!(
            pieces.around(&region, START + 0x10),
            Some((START + 0x10, 0x288))
        );
        assert_eq!(
            pieces.around(&region, START + 0x2a8),
            Some((START + 0x2a0, 0x18))
        );
        assert_eq!(
            pieces.around(&region, START + 0x900),
            Some((START + 0x2c0, 0xff8))
        );
        assert!(pieces.is_bookkeeping(&region, START + 8));
        assert!(!pieces.is_bookkeeping(&region, START + 0x10));
    }

    proptest! {
        #[test]
        fn any_memory(bytes in prop::collection::vec(any::<u8>(), 0x2000), at in 0..0x2000_u64) {
            let heap = Piece { start: START, bytes };
            let memory = CachedMemory::new(&heap);
            let pieces = Pieces::new(&memory);
            if let Some((start, length)) = pieces.around(&region(0x2000), START + at) {
                prop_assert!(start <= START + at && start + length <= START + 0x2000 + HEAD);
            }
        }
    }
}
