//! Sets of files in the target's memory: the arguments of `poll(2)` and `select(2)`.

use super::files::wants;
use super::memory::CachedMemory;
use crate::model::Want;
use std::collections::BTreeMap;

/// Most entries of a set that are read.
const MAX_READ: u64 = 1024;
/// Most entries that are kept.
const MAX_KEPT: usize = 64;
/// Bytes of a `struct pollfd`.
const POLLFD: usize = 8;

/// Files that are waited for together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct FileSet {
    /// The first of them.
    pub(super) files: Vec<Asked>,
    /// How many there are.
    pub(super) in_all: usize,
}

/// A file of a set, and what for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) number: i32,
    pub(super) wants: Vec<Want>,
}

impl FileSet {
    pub(super) fn new(files: impl Iterator<Item = Asked>) -> Self {
        let mut set = Self::default();
        for file in files {
            if set.files.len() < MAX_KEPT {
                set.files.push(file);
            }
            set.in_all += 1;
        }
        set
    }

    pub(super) fn is_empty(&self) -> bool {
        self.in_all == 0
    }
}

/// The set of a `poll(2)`: an array of `struct pollfd`. A negative number stands for no file.
pub(super) fn polled(memory: &CachedMemory<'_>, address: u64, count: u64) -> Option<FileSet> {
    if count == 0 {
        return Some(FileSet::default());
    }
    let length = usize::try_from(count.min(MAX_READ)).ok()? * POLLFD;
    let bytes = memory.bytes(address, length).ok()?;
    let entries = bytes.chunks_exact(POLLFD).filter_map(|entry| {
        let &[a, b, c, d, low, high, ..] = entry else {
            return None;
        };
        let number = i32::from_le_bytes([a, b, c, d]);
        (number >= 0).then(|| Asked {
            number,
            wants: wants(u32::from(u16::from_le_bytes([low, high]))),
        })
    });
    let mut set = FileSet::new(entries);
    let unread = usize::try_from(count.saturating_sub(MAX_READ)).unwrap_or(usize::MAX);
    set.in_all = set.in_all.saturating_add(unread);
    Some(set)
}

/// The sets of a `select(2)`, for reading, writing and exceptions: bits up to the number `end`, which the kernel takes as an
/// `int`.
pub(super) fn selected(
    memory: &CachedMemory<'_>,
    end: u64,
    addresses: [u64; 3],
) -> Option<FileSet> {
    let end = u64::try_from((end as u32).cast_signed()).unwrap_or(0);
    let words = end.min(MAX_READ).div_ceil(64);
    let mut asked: BTreeMap<i32, Vec<Want>> = BTreeMap::new();
    for (address, want) in addresses
        .into_iter()
        .zip([Want::Read, Want::Write, Want::Exception])
    {
        if address == 0 {
            continue;
        }
        for index in 0..words {
            let word = memory.u64(address.checked_add(index * 8)?).ok()?;
            for bit in (0..64).filter(|bit| word >> bit & 1 == 1) {
                let number = index * 64 + bit;
                if number < end {
                    let number = i32::try_from(number).ok()?;
                    asked.entry(number).or_default().push(want);
                }
            }
        }
    }
    // Beyond 1,024 there may be more; a set that is not known wholly had better not look so.
    let unread = usize::from(end > MAX_READ && addresses != [0; 3]);
    let mut set = FileSet::new(
        asked
            .into_iter()
            .map(|(number, wants)| Asked { number, wants }),
    );
    set.in_all += unread;
    Some(set)
}
