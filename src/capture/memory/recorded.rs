//! Pages that were read of a process, kept to be read again without it.

use super::{Memory, PAGE, Range, ReadError};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// Passes reads on, and keeps the pages that they gave.
pub(crate) struct Recorder<'m> {
    inner: &'m dyn Memory,
    pages: Mutex<BTreeMap<u64, Vec<u8>>>,
}

impl<'m> Recorder<'m> {
    pub(crate) fn new(inner: &'m dyn Memory) -> Self {
        Self {
            inner,
            pages: Mutex::default(),
        }
    }

    pub(crate) fn into_pages(self) -> RecordedPages {
        let pages = self.pages.into_inner();
        RecordedPages::new(pages.unwrap_or_else(PoisonError::into_inner))
    }
}

impl Memory for Recorder<'_> {
    fn read_many(&self, ranges: &[Range]) -> Vec<Result<Vec<u8>, ReadError>> {
        let results = self.inner.read_many(ranges);
        let mut pages = self.pages.lock().unwrap_or_else(PoisonError::into_inner);
        for (range, result) in ranges.iter().zip(&results) {
            let whole = range.address % PAGE == 0 && range.length as u64 == PAGE;
            if let (Ok(bytes), true) = (result, whole) {
                pages.insert(range.address, bytes.clone());
            }
        }
        results
    }
}

/// Pages by address. What is not among them cannot be read.
#[derive(Debug, Default)]
pub(crate) struct RecordedPages {
    pub(crate) pages: BTreeMap<u64, Vec<u8>>,
    /// How many ranges were asked for.
    pub(crate) reads: AtomicUsize,
}

impl RecordedPages {
    pub(crate) fn new(pages: BTreeMap<u64, Vec<u8>>) -> Self {
        Self {
            pages,
            reads: AtomicUsize::new(0),
        }
    }
}

/// The copy counts its own reads.
impl Clone for RecordedPages {
    fn clone(&self) -> Self {
        Self::new(self.pages.clone())
    }
}

impl Memory for RecordedPages {
    fn read_many(&self, ranges: &[Range]) -> Vec<Result<Vec<u8>, ReadError>> {
        self.reads.fetch_add(ranges.len(), Ordering::Relaxed);
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
