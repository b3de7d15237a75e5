//! Reading a target's memory.

mod cached;
#[cfg(test)]
mod piece;
mod process;
#[cfg(test)]
pub(crate) mod recorded;

pub use cached::CachedMemory;
#[cfg(test)]
pub(crate) use piece::Piece;
pub use process::ProcessMemory;

/// Bytes of a page: reads succeed or fail by page. 4 KiB is the smallest unit on every Linux we support;
/// on kernels with larger pages it is merely a smaller step.
pub const PAGE: u64 = 4096;

/// Why an address could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// Nothing is mapped there, or it is not readable.
    #[error("nothing readable at {0:#x}")]
    Unmapped(u64),
    /// More was to be read than a sane process has.
    #[error("more memory than hangscope reads of one process")]
    Exhausted,
    /// The process has ended.
    #[error("the process has ended")]
    Gone,
    /// The kernel refused.
    #[error("the kernel refused to let us read its memory")]
    Denied,
}

/// A range of remote memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// First address.
    pub address: u64,
    /// Number of bytes.
    pub length: usize,
}

/// A part of memory page by page: each can be read or not, whatever its neighbours are.
pub(crate) fn pages(from: u64, to: u64) -> Vec<Range> {
    let mut pages = Vec::new();
    let mut at = from;
    while at < to {
        let next = (at | (PAGE - 1)).saturating_add(1).min(to);
        pages.push(Range {
            address: at,
            length: usize::try_from(next - at).unwrap_or(0),
        });
        at = next;
    }
    pages
}

/// Somebody's memory: a live process, or recorded pages.
///
/// Many ranges are read in one call, since a call costs far more than the bytes it brings. Several threads read at once.
pub trait Memory: Sync {
    /// Reads each range, wholly or not at all.
    fn read_many(&self, ranges: &[Range]) -> Vec<Result<Vec<u8>, ReadError>>;
}
