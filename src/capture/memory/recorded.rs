//! Pages that were read of a process, kept to be read again without it.

use super::{Memory, PAGE, Range, ReadError};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

/// Passes reads on, and keeps the pages that they gave.
pub(crate) struct Recorder<'m> {
    inner: &'m dyn Memory,
    pages: RefCell<BTreeMap<u64, Vec<u8>>>,
}

impl<'m> Recorder<'m> {
    pub(crate) fn new(inner: &'m dyn Memory) -> Self {
        Self {
            inner,
            pages: RefCell::default(),
        }
    }

    pub(crate) fn into_pages(self) -> RecordedPages {
        RecordedPages::new(self.pages.into_inner())
    }
}

impl Memory for Recorder<'_> {
    fn read_many(&self, ranges: &[Range]) -> Vec<Result<Vec<u8>, ReadError>> {
        let results = self.inner.read_many(ranges);
        for (range, result) in ranges.iter().zip(&results) {
            let whole = range.address % PAGE == 0 && range.length as u64 == PAGE;
            if let (Ok(bytes), true) = (result, whole) {
                self.pages.borrow_mut().insert(range.address, bytes.clone());
            }
        }
        results
    }
}

/// Pages by address. What is not among them cannot be read.
#[derive(Clone, Debug, Default)]
pub(crate) struct RecordedPages {
    pub(crate) pages: BTreeMap<u64, Vec<u8>>,
    /// How many ranges were asked for.
    pub(crate) reads: Cell<usize>,
}

impl RecordedPages {
    pub(crate) fn new(pages: BTreeMap<u64, Vec<u8>>) -> Self {
        Self {
            pages,
            reads: Cell::new(0),
        }
    }
}

impl Memory for RecordedPages {
    fn read_many(&self, ranges: &[Range]) -> Vec<Result<Vec<u8>, ReadError>> {
        self.reads.set(self.reads.get() + ranges.len());
        let read = |range: &Range| {
            let page = self.pages.get(&(range.address / PAGE * PAGE));
            let start = (range.address % PAGE) as usize;
            page.and_then(|page| page.get(start..start.checked_add(range.length)?))
                .map(<[u8]>::to_vec)
                .ok_or(ReadError::Unmapped(range.address))
        };
        ranges.iter().map(read).collect()
    }
}
