//! Landing pads: the code that runs in a frame when a panic or exception passes it, which drops what the frame owns then
//! (Itanium C++ ABI: Exception Handling, level II; the call-site table of a function is its language-specific data area).
//! It tells of compiled code what it holds: a frame that would drop a `MutexGuard` has one.

use crate::capture::memory::CachedMemory;

/// Most bytes of a call-site table.
const MAX_TABLE: u64 = 1 << 16;

/// The landing pad for the call at `address` in a function that begins at `start`.
pub(super) fn landing_pad(
    memory: &CachedMemory<'_>,
    start: u64,
    table: u64,
    address: u64,
) -> Option<u64> {
    let mut reader = Table {
        memory,
        at: table,
        end: table.checked_add(MAX_TABLE)?,
    };
    let base = match reader.byte()? {
        OMITTED => start,
        encoding => reader.encoded(encoding)?,
    };
    if reader.byte()? != OMITTED {
        reader.uleb128()?;
    }
    let encoding = reader.byte()?;
    let length = reader.uleb128()?.min(MAX_TABLE);
    reader.end = reader.at.checked_add(length)?;
    while reader.at < reader.end {
        let first = start.wrapping_add(reader.encoded(encoding)?);
        let length = reader.encoded(encoding)?;
        let pad = reader.encoded(encoding)?;
        reader.uleb128()?; // which exceptions it is for
        if (first..first.saturating_add(length)).contains(&address) {
            return (pad != 0).then(|| base.wrapping_add(pad));
        }
        if first > address {
            return None;
        }
    }
    None
}

/// `DW_EH_PE_omit`.
const OMITTED: u8 = 0xff;

/// A call-site table under way.
struct Table<'m> {
    memory: &'m CachedMemory<'m>,
    at: u64,
    end: u64,
}

impl Table<'_> {
    fn byte(&mut self) -> Option<u8> {
        if self.at >= self.end {
            return None;
        }
        let byte = self.memory.u8(self.at).ok()?;
        self.at += 1;
        Some(byte)
    }

    fn uleb128(&mut self) -> Option<u64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f).checked_shl(shift)?;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    /// A value in one of the encodings that compilers use here: `DW_EH_PE_uleb128`, `udata4`, `sdata4`, `udata8`, `absptr`,
    /// relative to their place or not.
    fn encoded(&mut self, encoding: u8) -> Option<u64> {
        let place = self.at;
        let value = match encoding & 0x0f {
            0x01 => self.uleb128()?,
            0x03 => u64::from(self.memory.u32(self.skip(4)?).ok()?),
            0x0b => i64::from(self.memory.i32(self.skip(4)?).ok()?).cast_unsigned(),
            0x00 | 0x04 => self.memory.u64(self.skip(8)?).ok()?,
            _ => return None,
        };
        match encoding & 0xf0 {
            0x00 => Some(value),
            0x10 => Some(place.wrapping_add(value)),
            _ => None,
        }
    }

    fn skip(&mut self, bytes: u64) -> Option<u64> {
        let place = self.at;
        self.at = self.at.checked_add(bytes)?;
        (self.at <= self.end).then_some(place)
    }
}
