//! Code objects and line tables.

use super::object::{Heap, ObjectError};
use crate::model::{Foreign, Frame};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

/// Longest line table that is read.
const MAX_LINE_TABLE: u64 = 1 << 20;

/// What a code object says, read once per sample.
pub(crate) struct Code {
    address: u64,
    function: Foreign,
    file: Foreign,
    first_line: i64,
    line_table: Vec<u8>,
    lines: RefCell<HashMap<i64, Option<u32>>>,
}

/// Most text of frames that is kept of one process, in bytes. Ten thousand frames take one million.
const MAX_TEXT: usize = 256 << 20;

/// The code objects met so far.
pub(crate) struct CodeCache {
    codes: RefCell<HashMap<u64, Option<Rc<Code>>>>,
    text_left: Cell<usize>,
}

impl Default for CodeCache {
    fn default() -> Self {
        Self {
            codes: RefCell::default(),
            text_left: Cell::new(MAX_TEXT),
        }
    }
}

impl CodeCache {
    /// Takes a frame's share of the text that may be kept; false when all is used up.
    pub(crate) fn afford(&self, frame: &Frame) -> bool {
        let size =
            size_of::<Frame>() + frame.function.untrusted().len() + frame.file.untrusted().len();
        let left = self.text_left.get().checked_sub(size);
        self.text_left.set(left.unwrap_or(0));
        left.is_some()
    }

    /// The code object at `address`; `None` when no code object is there.
    pub(crate) fn get(&self, heap: &Heap<'_>, address: u64) -> Option<Rc<Code>> {
        if let Some(code) = self.codes.borrow().get(&address) {
            return code.clone();
        }
        let code = read(heap, address).ok().map(Rc::new);
        self.codes.borrow_mut().insert(address, code.clone());
        code
    }
}

fn read(heap: &Heap<'_>, address: u64) -> Result<Code, ObjectError> {
    if !heap.is(address, "code") {
        return Err(ObjectError::Not(address, "a code object"));
    }
    let (memory, offsets) = (heap.memory, heap.offsets);
    let function = heap.string(memory.u64(address + offsets.code_qualname)?)?;
    let file = heap.string(memory.u64(address + offsets.code_filename)?)?;
    let first_line = i64::from(memory.i32(address + offsets.code_first_line)?);
    let table = memory.u64(address + offsets.code_linetable)?;
    Ok(Code {
        address,
        function: function.into(),
        file: file.into(),
        first_line,
        line_table: heap.byte_string(table, MAX_LINE_TABLE).unwrap_or_default(),
        lines: RefCell::default(),
    })
}

impl Code {
    /// A frame of this code, stopped at the instruction at this address.
    pub(crate) fn frame(&self, heap: &Heap<'_>, instruction: u64) -> Frame {
        let start = self.address.wrapping_add(heap.offsets.code_instructions);
        let offset = instruction.wrapping_sub(start).cast_signed();
        let line = *self
            .lines
            .borrow_mut()
            .entry(offset)
            .or_insert_with(|| line_at(&self.line_table, self.first_line, offset));
        Frame {
            function: self.function.clone(),
            file: self.file.clone(),
            line,
            instruction: offset,
            locals: Vec::new(),
        }
    }
}

/// The line of the instruction at byte `offset`, by the location table of 3.11+ (CPython's
/// `InternalDocs/code_objects.md`, "Format of the locations table").
pub(crate) fn line_at(table: &[u8], first_line: i64, offset: i64) -> Option<u32> {
    let mut bytes = table.iter().copied().peekable();
    let mut line = first_line;
    let mut end = 0_i64;
    while let Some(head) = bytes.next() {
        let kind = (head >> 3) & 15;
        end += (i64::from(head & 7) + 1) * 2;
        match kind {
            15 => {}
            13 | 14 => line = line.wrapping_add(signed_varint(&mut bytes)?),
            10..=12 => line = line.wrapping_add(i64::from(kind) - 10),
            _ => {}
        }
        if (end - (i64::from(head & 7) + 1) * 2..end).contains(&offset) {
            return if kind == 15 {
                None
            } else {
                u32::try_from(line).ok()
            };
        }
        // The rest of an entry has its top bit clear.
        while bytes.next_if(|byte| byte & 0x80 == 0).is_some() {}
    }
    None
}

fn signed_varint(bytes: &mut impl Iterator<Item = u8>) -> Option<i64> {
    let mut value = 0_u64;
    for shift in (0..).step_by(6) {
        let byte = bytes.next()?;
        if shift > 57 {
            return None;
        }
        value |= u64::from(byte & 63) << shift;
        if byte & 64 == 0 {
            break;
        }
    }
    let magnitude = i64::try_from(value >> 1).ok()?;
    Some(if value & 1 == 1 {
        -magnitude
    } else {
        magnitude
    })
}

#[cfg(test)]
mod tests {
    use super::line_at;
    use proptest::prelude::*;

    #[test]
    fn a_table_of_three_entries() {
        // One code unit without location; two units, one line further (ONE_LINE1); one unit, LONG by +2 lines.
        let table = [
            0x80 | (15 << 3),
            0x80 | (11 << 3) | 1,
            3,
            5,
            0x80 | (14 << 3),
            4,
            0,
            1,
            1,
        ];
        assert_eq!(line_at(&table, 10, 0), None);
        assert_eq!(line_at(&table, 10, 2), Some(11));
        assert_eq!(line_at(&table, 10, 4), Some(11));
        assert_eq!(line_at(&table, 10, 6), Some(13));
        assert_eq!(line_at(&table, 10, 8), None);
        assert_eq!(line_at(&table, 10, -2), None);
    }

    proptest! {
        #[test]
        fn any_bytes_come_to_an_end(table: Vec<u8>, first: i32, offset: i64) {
            let _ = line_at(&table, i64::from(first), offset);
        }
    }
}
