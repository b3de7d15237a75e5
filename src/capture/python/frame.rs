//! Walking the frames of a thread state.

use super::code::CodeCache;
use super::locals;
use super::object::Heap;
use super::offsets::FrameRoot;
use crate::capture::memory::ReadError;
use crate::model::{Foreign, Frame};
use std::collections::HashSet;

/// Most frames of one stack. CPython's own limit is the recursion limit, which programs raise.
const MAX_FRAMES: usize = 100_000;

/// A thread state's frames, innermost first.
#[derive(Debug, Default)]
pub(crate) struct Stack {
    pub(crate) frames: Vec<Frame>,
    /// Hash over the variables of the innermost frame.
    pub(crate) fingerprint: Option<u64>,
    /// Why the walk ended before the outermost frame.
    pub(crate) cut: Option<Foreign>,
}

/// Address of the innermost frame; 0 for none.
pub(crate) fn innermost(heap: &Heap<'_>, thread_state: u64) -> Result<u64, ReadError> {
    match heap.offsets.thread_frame {
        FrameRoot::Direct(offset) => heap.memory.u64(thread_state.wrapping_add(offset)),
        FrameRoot::ThroughCFrame(offset, within) => {
            let cframe = heap.memory.u64(thread_state.wrapping_add(offset))?;
            if cframe == 0 {
                return Ok(0);
            }
            heap.memory.u64(cframe.wrapping_add(within))
        }
    }
}

/// Walks from the innermost frame outwards.
pub(crate) fn walk(
    heap: &Heap<'_>,
    codes: &CodeCache,
    thread_state: u64,
    with_locals: bool,
) -> Stack {
    let mut stack = Stack::default();
    let mut seen = HashSet::new();
    let mut next = match innermost(heap, thread_state) {
        Ok(frame) => frame,
        Err(error) => {
            stack.cut = Some(error.to_string().into());
            return stack;
        }
    };
    while next != 0 {
        if !seen.insert(next) {
            stack.cut = Some("the list of frames runs in a circle".into());
            break;
        }
        if seen.len() > MAX_FRAMES {
            stack.cut = Some(format!("more than {MAX_FRAMES} frames").into());
            break;
        }
        match step(heap, codes, next, with_locals, &mut stack) {
            Ok(previous) => next = previous,
            Err(error) => {
                stack.cut = Some(error.to_string().into());
                break;
            }
        }
    }
    stack
}

fn step(
    heap: &Heap<'_>,
    codes: &CodeCache,
    frame: u64,
    with_locals: bool,
    stack: &mut Stack,
) -> Result<u64, ReadError> {
    let (memory, offsets) = (heap.memory, heap.offsets);
    let owner = memory.u8(frame.wrapping_add(offsets.frame_owner))?;
    let previous = memory.u64(frame.wrapping_add(offsets.frame_previous))?;
    if owner < offsets.frame_first_foreign_owner {
        let code_address =
            memory.u64(frame.wrapping_add(offsets.frame_code))? & !offsets.frame_tag_mask;
        let instruction = memory.u64(frame.wrapping_add(offsets.frame_instruction))?;
        if let Some(code) = codes.get(heap, code_address) {
            let mut shown = code.frame(heap, instruction);
            if with_locals {
                shown.locals = locals::read(heap, code_address, frame).unwrap_or_default();
            }
            if stack.frames.is_empty() {
                stack.fingerprint = locals::fingerprint(heap, code_address, frame).ok();
            }
            if !codes.afford(&shown) {
                return Err(ReadError::Exhausted);
            }
            stack.frames.push(shown);
        }
    }
    Ok(previous)
}
