//! The `with` blocks that a frame is in, and what they hold: by the exception table of its code (3.11+) or its block
//! stack (before), so exact whatever else lies on the evaluation stack. A frame that is still entering a block is not
//! in it.

use super::code::CodeCache;
use super::frame::RawFrame;
use super::generator;
use super::heap::{Heap, ObjectError};
use super::offsets::{WithBlocks, fixed};
use super::slots;
use std::collections::BTreeSet;

/// Longest exception table that is read.
const MAX_TABLE: u64 = 1 << 20;
/// Most blocks of a frame: CPython itself allows 20 up to 3.10; later only the compiler limits them.
const MAX_BLOCKS: usize = 256;
/// `SETUP_FINALLY` and `WITH_EXCEPT_START` of 3.9 and 3.10, where a block is entered by the one and its handler is the other.
const OLD_SETUP_FINALLY: i32 = 122;
const OLD_WITH_EXCEPT_START: u8 = 49;
/// Opcodes of 3.9 and 3.10 that begin a block, and that of an argument's upper bits.
const OLD_SETUP_WITH: u8 = 143;
const OLD_SETUP_ASYNC_WITH: u8 = 154;
const OLD_EXTENDED_ARG: u8 = 144;
/// Most bytes of code that are searched for the beginning of a block.
const MAX_OLD_CODE: usize = 1 << 16;
/// Size of a `PyTryBlock`: type, handler, level.
const OLD_BLOCK_SIZE: u64 = 12;
/// Names of a context manager's exits.
const EXITS: [&str; 2] = ["__exit__", "__aexit__"];

/// A `with` or `async with` block that a frame is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WithBlock {
    /// The context manager.
    pub(crate) manager: u64,
    /// Byte offset of an instruction whose line is that of the `with`.
    pub(crate) entered: i64,
}

/// An entry of `co_exceptiontable`, in code units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ExceptionEntry {
    start: u64,
    end: u64,
    target: u64,
    /// Depth of the evaluation stack in the handler.
    depth: u64,
}

/// Of a `@contextmanager` or `@asynccontextmanager`: the blocks in which its generator is suspended, which the body of its own block
/// is in, too.
pub(crate) fn within_generator(heap: &Heap<'_>, manager: u64) -> Vec<WithBlock> {
    if heap.is_instance(manager, "_GeneratorContextManagerBase")
        && let Ok(Some(generator)) = heap.attribute(manager, "gen")
        && let Some((inner, true)) = generator::frame_of(heap, &CodeCache::default(), generator)
    {
        active(heap, &inner)
    } else {
        Vec::new()
    }
}

/// The blocks that a frame is in, innermost first.
pub(crate) fn active(heap: &Heap<'_>, frame: &RawFrame) -> Vec<WithBlock> {
    let found = match heap.offsets.with_blocks {
        WithBlocks::BlockStack {
            count,
            blocks,
            values,
        } => by_block_stack(heap, frame, count, blocks, values),
        WithBlocks::ExceptionTable {
            push_exc_info,
            with_except_start,
            two_slots,
            ..
        } => by_exception_table(heap, frame, (push_exc_info, with_except_start), two_slots),
    };
    found.unwrap_or_default()
}

/// 3.11+: the entry that covers the current instruction leads to the handler of the innermost block, the one that covers
/// that handler to the next, and so on. The depth in an entry tells where the block's exit lies on the stack.
fn by_exception_table(
    heap: &Heap<'_>,
    frame: &RawFrame,
    handler: (u8, u8),
    two_slots: bool,
) -> Result<Vec<WithBlock>, ObjectError> {
    let Ok(mut position) = u64::try_from(frame.offset / 2) else {
        return Ok(Vec::new());
    };
    let entries = frame.code.exceptions(heap);
    let base = slots::stack_base(heap, frame)?;
    let value = |depth: u64| -> Result<u64, ObjectError> {
        let slot = heap.memory.u64(base.wrapping_add(8 * depth))?;
        Ok(slots::reference(heap, slot).unwrap_or(0))
    };
    let mut out = Vec::new();
    let (mut targets, mut places) = (BTreeSet::new(), BTreeSet::new());
    // Outwards the stack gets lower. A handler's own handler is deeper, and the exit that lies there is of a block that
    // the frame is only entering.
    let mut lowest = u64::MAX;
    while out.len() < MAX_BLOCKS {
        let Some(entry) = entries
            .iter()
            .find(|entry| (entry.start..entry.end).contains(&position))
        else {
            break;
        };
        if !targets.insert(entry.target) {
            break;
        }
        position = entry.target;
        if entry.depth > lowest {
            continue;
        }
        lowest = entry.depth;
        let (exit, own) = match (entry.depth, two_slots) {
            (2.., true) => (value(entry.depth - 2)?, value(entry.depth - 1)?),
            (1.., false) => (value(entry.depth - 1)?, 0),
            _ => continue,
        };
        // Tracing and monitoring replace the instructions of the handler; then the exit's name has to tell.
        let is_with = starts_with(heap, frame, entry.target, handler)
            || (exit != 0 && is_named_exit(heap, exit));
        if exit == 0 || !is_with || !places.insert(entry.depth) {
            continue;
        }
        let manager = Some(own).filter(|own| *own != 0);
        if let Some(manager) = manager.or_else(|| heap.bound_object(exit)) {
            let entered = i64::try_from(entry.target.saturating_mul(2)).unwrap_or(frame.offset);
            out.push(WithBlock { manager, entered });
        }
    }
    Ok(out)
}

fn starts_with(heap: &Heap<'_>, frame: &RawFrame, target: u64, handler: (u8, u8)) -> bool {
    let start = frame
        .code
        .address
        .wrapping_add(heap.offsets.code_instructions);
    heap.memory
        .bytes(start.wrapping_add(2 * target), 4)
        .is_ok_and(|code| code[0] == handler.0 && code[2] == handler.1)
}

fn is_named_exit(heap: &Heap<'_>, exit: u64) -> bool {
    heap.callable_name(exit)
        .is_some_and(|name| EXITS.contains(&name.as_str()))
}

/// Up to 3.10: the frame's own stack of blocks.
fn by_block_stack(
    heap: &Heap<'_>,
    frame: &RawFrame,
    count: u64,
    blocks: u64,
    values: u64,
) -> Result<Vec<WithBlock>, ObjectError> {
    let memory = heap.memory;
    let at = |offset: u64| frame.address.wrapping_add(offset);
    let count = u64::try_from(memory.i32(at(count))?).unwrap_or(0).min(20);
    let values = memory.u64(at(values))?;
    let code = memory.u64(
        frame
            .code
            .address
            .wrapping_add(heap.offsets.code_instructions),
    )?;
    let unit = if heap.offsets.minor >= 10 { 2 } else { 1 };
    let mut out = Vec::new();
    for index in (0..count).rev() {
        let block = at(blocks).wrapping_add(OLD_BLOCK_SIZE * index);
        let kind = memory.i32(block)?;
        let handler = memory.i32(block.wrapping_add(4))?;
        let level = memory.i32(block.wrapping_add(8))?;
        let (Ok(handler), Ok(level)) = (u64::try_from(handler), u64::try_from(level)) else {
            continue;
        };
        let instruction = code.wrapping_add(fixed::BYTES_DATA + handler * unit);
        if kind != OLD_SETUP_FINALLY
            || level == 0
            || memory.u8(instruction)? != OLD_WITH_EXCEPT_START
        {
            continue;
        }
        let exit = memory.u64(values.wrapping_add(8 * (level - 1)))?;
        if let Some(manager) = heap.bound_object(exit) {
            let entered = old_setup(heap, code.wrapping_add(fixed::BYTES_DATA), handler, unit)
                .unwrap_or(frame.offset);
            out.push(WithBlock { manager, entered });
        }
    }
    Ok(out)
}

/// Byte offset of the `SETUP_WITH` whose handler is at `handler`, in units of an instruction's argument: up to 3.9 the
/// handler itself has the line of the block's end.
fn old_setup(heap: &Heap<'_>, code: u64, handler: u64, unit: u64) -> Option<i64> {
    let length = usize::try_from(handler * unit).ok()?;
    let bytes = heap.memory.bytes(code, length.min(MAX_OLD_CODE)).ok()?;
    let mut extended = 0_u64;
    for (index, pair) in bytes.chunks_exact(2).enumerate() {
        let argument = extended << 8 | u64::from(pair[1]);
        extended = if pair[0] == OLD_EXTENDED_ARG {
            argument & 0x00ff_ffff
        } else {
            0
        };
        let next = 2 * (index as u64 + 1);
        let is_setup = matches!(pair[0], OLD_SETUP_WITH | OLD_SETUP_ASYNC_WITH);
        if is_setup && next + argument * unit == handler * unit {
            return i64::try_from(next - 2).ok();
        }
    }
    None
}

/// Whether a code object has any `try` or `with` block.
pub(crate) fn has_any(heap: &Heap<'_>, code: u64) -> bool {
    match heap.offsets.with_blocks {
        WithBlocks::ExceptionTable { .. } => !exception_table(heap, code).is_empty(),
        WithBlocks::BlockStack { .. } => {
            let bytes = heap
                .memory
                .u64(code.wrapping_add(heap.offsets.code_instructions))
                .map_err(ObjectError::from)
                .and_then(|object| heap.byte_string(object, MAX_OLD_CODE as u64));
            bytes.is_ok_and(|bytes| {
                bytes.chunks_exact(2).any(|pair| {
                    pair[0] == OLD_SETUP_WITH || i32::from(pair[0]) == OLD_SETUP_FINALLY
                })
            })
        }
    }
}

/// Reads a code object's exception table (CPython's `InternalDocs/exception_handling.md`).
pub(super) fn exception_table(heap: &Heap<'_>, code: u64) -> Vec<ExceptionEntry> {
    let WithBlocks::ExceptionTable { table, .. } = heap.offsets.with_blocks else {
        return Vec::new();
    };
    heap.memory
        .u64(code.wrapping_add(table))
        .map_err(ObjectError::from)
        .and_then(|object| heap.byte_string(object, MAX_TABLE))
        .map(|bytes| parse(&bytes))
        .unwrap_or_default()
}

fn parse(bytes: &[u8]) -> Vec<ExceptionEntry> {
    let mut bytes = bytes.iter().copied();
    let mut out = Vec::new();
    while let Some(entry) = entry(&mut bytes) {
        out.push(entry);
    }
    out
}

fn entry(bytes: &mut impl Iterator<Item = u8>) -> Option<ExceptionEntry> {
    let start = varint(bytes)?;
    let length = varint(bytes)?;
    let target = varint(bytes)?;
    let depth = varint(bytes)? >> 1; // the lowest bit: whether the last instruction is pushed
    Some(ExceptionEntry {
        start,
        end: start.checked_add(length)?,
        target,
        depth,
    })
}

/// Six bits a byte, most significant first; 64 marks that more follow (128 marks the start of an entry).
fn varint(bytes: &mut impl Iterator<Item = u8>) -> Option<u64> {
    let mut value = 0_u64;
    for _ in 0..8 {
        let byte = bytes.next()?;
        value = value << 6 | u64::from(byte & 63);
        if byte & 64 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_entry_with_a_long_number() {
        let bytes = [0x80 | 2, 64 | 1, 4, 10, 3 << 1];
        let expected = ExceptionEntry {
            start: 2,
            end: 2 + 68,
            target: 10,
            depth: 3,
        };
        assert_eq!(parse(&bytes), [expected]);
        assert_eq!(parse(&bytes[..4]), []);
    }

    proptest! {
        #[test]
        fn any_table_comes_to_an_end(bytes: Vec<u8>) {
            prop_assert!(parse(&bytes).len() <= bytes.len());
        }
    }
}
