//! Strings, bytes, numbers.

use super::{Heap, ObjectError};
use crate::capture::python::offsets::{IntLayout, fixed};

/// Longest string taken from the target, in characters.
const MAX_STRING: u64 = 64 << 10;

impl Heap<'_> {
    /// Length in characters of a `str`, if it looks like one.
    pub(super) fn string_length(&self, object: u64) -> Result<u64, ObjectError> {
        Ok(self.memory.u64(object.wrapping_add(fixed::SIZE))?)
    }

    /// The value of a compact `str`.
    pub(crate) fn string(&self, object: u64) -> Result<String, ObjectError> {
        let length = self.string_length(object)?.min(MAX_STRING);
        let state = self.memory.u32(object.wrapping_add(fixed::UNICODE_STATE))?;
        let (width, compact, ascii) = ((state >> 2) & 7, (state >> 5) & 1, (state >> 6) & 1);
        if compact == 0 || !matches!(width, 1 | 2 | 4) || !self.is(object, "str") {
            return Err(ObjectError::Not(object, "a compact str"));
        }
        let head = if ascii == 1 {
            self.offsets.unicode_ascii_size
        } else {
            self.offsets.unicode_compact_size
        };
        let size = usize::try_from(length * u64::from(width)).unwrap_or(usize::MAX);
        let bytes = self.memory.bytes(object.wrapping_add(head), size)?;
        Ok(match width {
            1 => bytes.iter().map(|byte| char::from(*byte)).collect(),
            2 => bytes
                .chunks_exact(2)
                .map(|pair| u32::from(u16::from_le_bytes([pair[0], pair[1]])))
                .map(|unit| char::from_u32(unit).unwrap_or(char::REPLACEMENT_CHARACTER))
                .collect(),
            _ => bytes
                .chunks_exact(4)
                .map(|quad| u32::from_le_bytes([quad[0], quad[1], quad[2], quad[3]]))
                .map(|unit| char::from_u32(unit).unwrap_or(char::REPLACEMENT_CHARACTER))
                .collect(),
        })
    }

    /// The contents of a `bytes`, at most `limit`.
    pub(crate) fn byte_string(&self, object: u64, limit: u64) -> Result<Vec<u8>, ObjectError> {
        let length = self
            .memory
            .u64(object.wrapping_add(fixed::SIZE))?
            .min(limit);
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        Ok(self
            .memory
            .bytes(object.wrapping_add(fixed::BYTES_DATA), length)?)
    }

    /// The value of a non-negative int below 2^90, cut to 64 bits.
    pub(crate) fn int(&self, object: u64) -> Result<u64, ObjectError> {
        let word = self.memory.u64(object.wrapping_add(fixed::SIZE))?;
        let (digits, negative) = match self.offsets.int_layout {
            IntLayout::Tag => (word >> 3, word & 3 == 2),
            IntLayout::Size => (word, false),
        };
        if digits > 3 || negative {
            return Err(ObjectError::Not(object, "a small non-negative int"));
        }
        let mut value = 0_u64;
        for digit in 0..digits {
            let piece = self
                .memory
                .u32(object.wrapping_add(fixed::INT_DIGITS + 4 * digit))?;
            value |= u64::from(piece).checked_shl(30 * digit as u32).unwrap_or(0);
        }
        Ok(value)
    }

    /// The value of a `float`.
    pub(crate) fn float(&self, object: u64) -> Result<f64, ObjectError> {
        if !self.is(object, "float") {
            return Err(ObjectError::Not(object, "a float"));
        }
        let bits = self.memory.u64(object.wrapping_add(fixed::SIZE))?;
        Ok(f64::from_bits(bits))
    }

    /// The value of a `bool`.
    pub(crate) fn boolean(&self, object: u64) -> Result<bool, ObjectError> {
        if !self.is(object, "bool") {
            return Err(ObjectError::Not(object, "a bool"));
        }
        Ok(self.int(object)? != 0)
    }

    /// Whether it is `None`.
    pub(crate) fn is_none(&self, object: u64) -> bool {
        self.is(object, "NoneType")
    }
}
