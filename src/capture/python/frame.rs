//! Walking the frames of a thread state.

use super::code::{Code, CodeCache};
use super::heap::Heap;
use super::locals;
use super::offsets::{FrameRoot, InstructionLayout};
use crate::capture::memory::{PAGE, ReadError};
use crate::model::{Foreign, Frame};
use std::collections::HashSet;
use std::rc::Rc;

/// Most frames of one stack. CPython's own limit is the recursion limit, which programs raise.
const MAX_FRAMES: usize = 100_000;

/// A frame as it lies in memory, for those who look into it.
#[derive(Clone)]
pub(crate) struct RawFrame {
    pub(crate) address: u64,
    pub(crate) code: Rc<Code>,
    /// Byte offset of the current instruction.
    pub(crate) offset: i64,
}

impl std::fmt::Debug for RawFrame {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} at {:#x}", self.code.name, self.address)
    }
}

/// A thread state's frames, innermost first.
#[derive(Debug, Default)]
pub(crate) struct Stack {
    pub(crate) frames: Vec<Frame>,
    /// The same ones.
    pub(crate) raw: Vec<RawFrame>,
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

/// The first frame outwards of one that is on another page, if it comes soon; 0 after the outermost.
pub(crate) fn next_elsewhere(heap: &Heap<'_>, frame: u64) -> Option<u64> {
    const SOON: usize = 64;
    let mut next = frame;
    for _ in 0..SOON {
        next = heap
            .memory
            .u64(next.wrapping_add(heap.offsets.frame_previous))
            .ok()?;
        if next / PAGE != frame / PAGE {
            return Some(next);
        }
    }
    None
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
    let mut outermost = None;
    while next != 0 {
        outermost = Some(next);
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
    // When a generator yields, its frame is taken off the thread's: who read the one before that and the other after it sees
    // a stack of one frame.
    if stack.cut.is_none() && outermost.is_some_and(|frame| is_generators(heap, frame)) {
        stack.cut = Some("the thread ran on while its frames were read".into());
    }
    stack
}

/// Whether a frame belongs to a generator or coroutine, which somebody must have called.
fn is_generators(heap: &Heap<'_>, frame: u64) -> bool {
    /// `FRAME_OWNED_BY_GENERATOR` (`pycore_frame.h`, 3.11+).
    const OWNED_BY_GENERATOR: u8 = 1;
    /// `CO_GENERATOR`, `CO_COROUTINE` and `CO_ASYNC_GENERATOR` (`cpython/code.h`).
    const GENERATORS_CODE: u32 = 0x20 | 0x80 | 0x200;
    let (memory, offsets) = (heap.memory, heap.offsets);
    match (offsets.frame_owner, offsets.code_flags) {
        (Some(owner), _) => memory.u8(frame.wrapping_add(owner)) == Ok(OWNED_BY_GENERATOR),
        (None, Some(flags)) => memory
            .u64(frame.wrapping_add(offsets.frame_code))
            .and_then(|code| memory.u32(code.wrapping_add(flags)))
            .is_ok_and(|flags| flags & GENERATORS_CODE != 0),
        (None, None) => false,
    }
}

fn step(
    heap: &Heap<'_>,
    codes: &CodeCache,
    frame: u64,
    with_locals: bool,
    stack: &mut Stack,
) -> Result<u64, ReadError> {
    let previous = heap
        .memory
        .u64(frame.wrapping_add(heap.offsets.frame_previous))?;
    if let Some(raw) = at(heap, codes, frame)? {
        let mut shown = raw.code.frame(heap, frame, raw.offset);
        if with_locals {
            shown.locals = locals::read(heap, &raw).unwrap_or_default();
        }
        if stack.frames.is_empty() {
            stack.fingerprint = locals::fingerprint(heap, &raw).ok();
        }
        if !codes.afford(&shown) {
            return Err(ReadError::Exhausted);
        }
        stack.frames.push(shown);
        stack.raw.push(raw);
    }
    Ok(previous)
}

/// The frame at an address; `None` for one that is not Python's (an entry from C).
pub(crate) fn at(
    heap: &Heap<'_>,
    codes: &CodeCache,
    frame: u64,
) -> Result<Option<RawFrame>, ReadError> {
    let (memory, offsets) = (heap.memory, heap.offsets);
    if let Some(owner) = offsets.frame_owner
        && memory.u8(frame.wrapping_add(owner))? >= offsets.frame_first_foreign_owner
    {
        return Ok(None);
    }
    let code = memory.u64(frame.wrapping_add(offsets.frame_code))? & !offsets.frame_tag_mask;
    let at = frame.wrapping_add(offsets.frame_instruction);
    let offset = match offsets.instruction {
        InstructionLayout::Index(unit) => i64::from(memory.i32(at)?) * unit,
        InstructionLayout::Pointer => {
            let start = code.wrapping_add(offsets.code_instructions);
            memory.u64(at)?.wrapping_sub(start).cast_signed()
        }
    };
    Ok(codes.get(heap, code).map(|code| RawFrame {
        address: frame,
        code,
        offset,
    }))
}
