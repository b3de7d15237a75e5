//! Memory for tests: one piece, and nothing around it.

use super::{Memory, Range, ReadError};

/// Bytes from an address on.
#[derive(Debug)]
pub(crate) struct Piece {
    pub(crate) start: u64,
    pub(crate) bytes: Vec<u8>,
}

impl Memory for Piece {
    fn read_many(&self, ranges: &[Range]) -> Vec<Result<Vec<u8>, ReadError>> {
        let read = |range: &Range| {
            let from = usize::try_from(range.address.checked_sub(self.start)?).ok()?;
            let bytes = self.bytes.get(from..from.checked_add(range.length)?)?;
            Some(bytes.to_vec())
        };
        let all = ranges.iter();
        all.map(|range| read(range).ok_or(ReadError::Unmapped(range.address)))
            .collect()
    }
}
