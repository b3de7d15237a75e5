//! What the unwinder reads: the copy of a stack, else the process's memory.

use crate::capture::memory::CachedMemory;
use std::cell::Cell;

/// Bytes of a thread's stack, copied while it was stopped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct StackBytes {
    /// Address of the first.
    pub(crate) address: u64,
    /// The bytes.
    pub(crate) bytes: Vec<u8>,
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
        let mut word = [0; 8];
        let out = word.get_mut(..size)?;
        for stack in self.stacks {
            let Some(at) = address.checked_sub(stack.address) else {
                continue;
            };
            let at = usize::try_from(at).ok()?;
            if let Some(bytes) = stack.bytes.get(at..at.checked_add(size)?) {
                out.copy_from_slice(bytes);
                return Some(u64::from_le_bytes(word));
            }
        }
        self.memory.read(address, out).ok()?;
        self.read_live.set(true);
        Some(u64::from_le_bytes(word))
    }

    /// A word.
    pub(super) fn word(&self, address: u64) -> Option<u64> {
        self.read(address, 8)
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
