//! A page-wise read-through cache. Made anew for each sample: what it returns is as old as the sample at most.

use super::{Memory, PAGE, Range, ReadError};
use rustc_hash::FxHashMap;
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;

/// Longest piece read at once; nothing we look at is longer.
const MAX_READ: usize = 1 << 20;
/// Most pages fetched for one sample: a target that leads us in circles must not cost us minutes. Four thousand threads
/// take some 20,000.
const MAX_PAGES: usize = 1 << 18;
/// Most pages of one generation (4 MiB). There are two of them at a time.
const GENERATION: usize = 1 << 10;
/// The same of a small cache (256 KiB).
const SMALL_GENERATION: usize = 1 << 6;
/// Most pages of a short look, and most reads.
const SHORT_LOOK: usize = 1 << 10;
const SHORT_READS: u64 = 1 << 20;
/// Most reads of one sample, for the same reason: some seconds' worth. Four thousand threads take some million.
const MAX_READS: u64 = 100_000_000;

/// A page, or why it cannot be read.
type Page = Result<Box<[u8]>, ReadError>;

/// Typed little-endian reads over [`Memory`], page by page. The pages used last are kept, and fetched once.
pub struct CachedMemory<'m> {
    inner: &'m dyn Memory,
    pages: RefCell<Pages>,
    fetches_left: Cell<usize>,
    reads_left: Cell<u64>,
}

/// The pages used last: when the young ones are too many they become the old ones, and those that were old go.
struct Pages {
    /// Most of the young ones.
    generation: usize,
    young: FxHashMap<u64, Page>,
    old: FxHashMap<u64, Page>,
}

impl Pages {
    fn insert(&mut self, number: u64, page: Page) {
        if self.young.len() >= self.generation {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(number, page);
    }

    /// Makes a page that was used before one of the young. Says whether there is one.
    fn renew(&mut self, number: u64) -> bool {
        if self.young.contains_key(&number) {
            return true;
        }
        let Some(page) = self.old.remove(&number) else {
            return false;
        };
        self.insert(number, page);
        true
    }
}

impl std::fmt::Debug for CachedMemory<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CachedMemory")
            .field("pages", &self.pages.borrow().young.len())
            .finish_non_exhaustive()
    }
}

impl<'m> CachedMemory<'m> {
    /// An empty cache over `inner`.
    #[must_use]
    pub fn new(inner: &'m dyn Memory) -> Self {
        Self::keeping(inner, GENERATION)
    }

    /// One that keeps fewer pages, for reads that seldom come back to the same place.
    #[must_use]
    pub(crate) fn small(inner: &'m dyn Memory) -> Self {
        Self::keeping(inner, SMALL_GENERATION)
    }

    /// An empty one over the same memory, for a short look at what has changed since.
    #[must_use]
    pub(crate) fn anew(&self) -> Self {
        let anew = Self::small(self.inner);
        anew.fetches_left.set(SHORT_LOOK);
        anew.reads_left.set(SHORT_READS);
        anew
    }

    fn keeping(inner: &'m dyn Memory, generation: usize) -> Self {
        Self {
            inner,
            pages: RefCell::new(Pages {
                generation,
                young: FxHashMap::default(),
                old: FxHashMap::default(),
            }),
            fetches_left: Cell::new(MAX_PAGES),
            reads_left: Cell::new(MAX_READS),
        }
    }

    /// Fetches the pages of many ranges in few calls, so that the reads that follow cost nothing. No more than are kept: who
    /// has more to read does it piece by piece.
    pub fn prefetch(&self, ranges: impl IntoIterator<Item = (u64, usize)>) {
        let mut wanted = BTreeSet::new();
        'ranges: for (address, length) in ranges {
            let last = address.saturating_add(length.clamp(1, MAX_READ) as u64 - 1) / PAGE;
            for page in address / PAGE..=last {
                if wanted.len() >= self.pages.borrow().generation {
                    break 'ranges;
                }
                if page != 0 && !self.pages.borrow_mut().renew(page) {
                    wanted.insert(page);
                }
            }
        }
        let wanted: Vec<u64> = wanted.into_iter().collect();
        self.fetch(&wanted);
    }

    fn fetch(&self, wanted: &[u64]) {
        let room = self.fetches_left.get();
        let wanted = &wanted[..wanted.len().min(room)];
        self.fetches_left.set(room - wanted.len());
        if wanted.is_empty() {
            return;
        }
        let ranges: Vec<Range> = wanted
            .iter()
            .map(|page| Range {
                address: page * PAGE,
                length: PAGE as usize,
            })
            .collect();
        let results = self.inner.read_many(&ranges);
        let mut pages = self.pages.borrow_mut();
        for (page, result) in wanted.iter().zip(results) {
            pages.insert(*page, result.map(Vec::into_boxed_slice));
        }
    }

    /// Fills `out` from `address`.
    ///
    /// # Errors
    /// When a page of it cannot be read; `out` is then unspecified.
    pub fn read(&self, address: u64, out: &mut [u8]) -> Result<(), ReadError> {
        if address < PAGE || out.len() > MAX_READ || address.checked_add(out.len() as u64).is_none()
        {
            return Err(ReadError::Unmapped(address));
        }
        self.reads_left.set(self.reads_left.get().saturating_sub(1));
        if self.reads_left.get() == 0 {
            return Err(ReadError::Exhausted);
        }
        let mut done = 0;
        while done < out.len() {
            let at = address + done as u64;
            let page = at / PAGE;
            let mut pages = self.pages.borrow();
            let mut found = pages.young.get(&page);
            if found.is_none() {
                drop(pages);
                if !self.pages.borrow_mut().renew(page) {
                    self.fetch(&[page]);
                }
                pages = self.pages.borrow();
                found = pages.young.get(&page);
            }
            let bytes = match found {
                Some(Ok(bytes)) => bytes,
                Some(Err(error)) => return Err(*error),
                None => return Err(ReadError::Exhausted),
            };
            let offset = (at % PAGE) as usize;
            let count = (bytes.len() - offset).min(out.len() - done);
            out[done..done + count].copy_from_slice(&bytes[offset..offset + count]);
            done += count;
        }
        Ok(())
    }

    /// `length` bytes from `address`.
    ///
    /// # Errors
    /// When they cannot be read, or are more than hangscope ever reads at once.
    pub fn bytes(&self, address: u64, length: usize) -> Result<Vec<u8>, ReadError> {
        if length > MAX_READ {
            return Err(ReadError::Unmapped(address));
        }
        let mut out = vec![0; length];
        self.read(address, &mut out)?;
        Ok(out)
    }

    fn array<const N: usize>(&self, address: u64) -> Result<[u8; N], ReadError> {
        let mut out = [0; N];
        self.read(address, &mut out)?;
        Ok(out)
    }

    /// A byte.
    ///
    /// # Errors
    /// When it cannot be read; so for the functions below.
    pub fn u8(&self, address: u64) -> Result<u8, ReadError> {
        self.array::<1>(address).map(|[byte]| byte)
    }

    /// An unsigned 32-bit number.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn u32(&self, address: u64) -> Result<u32, ReadError> {
        self.array(address).map(u32::from_le_bytes)
    }

    /// A signed 32-bit number.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn i32(&self, address: u64) -> Result<i32, ReadError> {
        self.array(address).map(i32::from_le_bytes)
    }

    /// An unsigned 64-bit number or a pointer.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn u64(&self, address: u64) -> Result<u64, ReadError> {
        self.array(address).map(u64::from_le_bytes)
    }

    /// A signed 64-bit number.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn i64(&self, address: u64) -> Result<i64, ReadError> {
        self.array(address).map(i64::from_le_bytes)
    }

    /// A NUL-terminated string, without the NUL; cut at `limit` bytes.
    ///
    /// # Errors
    /// When no NUL comes before unreadable memory.
    pub fn c_string(&self, address: u64, limit: usize) -> Result<Vec<u8>, ReadError> {
        let mut out = Vec::new();
        let mut at = address;
        while out.len() < limit {
            let left_in_page = (PAGE - at % PAGE) as usize;
            let piece = self.bytes(at, left_in_page.min(limit - out.len()).min(256))?;
            if let Some(end) = piece.iter().position(|byte| *byte == 0) {
                out.extend_from_slice(&piece[..end]);
                return Ok(out);
            }
            at += piece.len() as u64;
            out.extend_from_slice(&piece);
        }
        Ok(out)
    }
}
