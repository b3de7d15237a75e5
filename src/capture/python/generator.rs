//! Generators, coroutines and asynchronous generators that are suspended: their frames lie in them, not on a thread.

use super::code::CodeCache;
use super::frame::{self, RawFrame};
use super::heap::Heap;
use super::offsets::{GeneratorLayout, fixed};
use super::slots;
use std::collections::BTreeSet;

/// Longest chain of awaits that is followed.
const MAX_CHAIN: usize = 1000;
/// Types that have a frame.
const GENERATORS: [&str; 3] = ["coroutine", "generator", "async_generator"];
/// Objects that pass on what they wrap, their first field: of `async for`, `coroutine.__await__()` and the like.
const WRAPPERS: [&str; 4] = [
    "async_generator_asend",
    "async_generator_athrow",
    "coroutine_wrapper",
    "anext_awaitable",
];

/// A chain of awaits, outermost frame first.
#[derive(Debug, Default)]
pub(crate) struct AwaitChain {
    pub(crate) frames: Vec<RawFrame>,
    /// What the innermost frame awaits, if that is not a generator itself: a future, an object with `__await__`.
    pub(crate) awaits: Option<u64>,
    /// The innermost generator executes, or has ended: what it calls is on a thread's stack.
    pub(crate) executing: bool,
}

/// Whether `object` is a generator of any kind.
pub(crate) fn is_generator(heap: &Heap<'_>, object: u64) -> bool {
    heap.type_name(object)
        .is_ok_and(|name| GENERATORS.contains(&&*name))
}

/// Follows a coroutine or generator to what it awaits in the end.
pub(crate) fn await_chain(heap: &Heap<'_>, codes: &CodeCache, outermost: u64) -> AwaitChain {
    let mut chain = AwaitChain::default();
    let mut seen = BTreeSet::new();
    let mut next = outermost;
    while seen.len() < MAX_CHAIN && seen.insert(next) {
        let Ok(kind) = heap.type_name(next) else {
            break;
        };
        if WRAPPERS.contains(&&*kind) {
            match heap.memory.u64(next.wrapping_add(fixed::SIZE)) {
                Ok(wrapped) if wrapped != 0 => next = wrapped,
                _ => break,
            }
            continue;
        }
        if !GENERATORS.contains(&&*kind) {
            chain.awaits = Some(next);
            break;
        }
        let Some((frame, suspended)) = frame_of(heap, codes, next) else {
            break;
        };
        let awaited = if suspended {
            awaited_by(heap, &frame)
        } else {
            chain.executing = executes(heap, next);
            None
        };
        chain.frames.push(frame);
        match awaited {
            Some(object) => next = object,
            None => break,
        }
    }
    chain
}

/// The frame of a generator, and whether it is suspended. `None` when it has ended.
pub(crate) fn frame_of(
    heap: &Heap<'_>,
    codes: &CodeCache,
    generator: u64,
) -> Option<(RawFrame, bool)> {
    let memory = heap.memory;
    match heap.offsets.generator {
        GeneratorLayout::Pointer(offset) => {
            let address = memory.u64(generator.wrapping_add(offset)).ok()?;
            if address == 0 {
                return None;
            }
            let frame = frame::at(heap, codes, address).ok().flatten()?;
            // A frame that executes keeps no depth of its stack; one that has not begun is before its first instruction.
            let exact = slots::stack(heap, &frame).is_ok_and(|stack| stack.exact);
            Some((frame, exact))
        }
        GeneratorLayout::Embedded {
            frame: offset,
            state,
            suspended: (first, last),
            ..
        } => {
            let state = memory.u8(generator.wrapping_add(state)).ok()?.cast_signed();
            let frame = frame::at(heap, codes, generator.wrapping_add(offset))
                .ok()
                .flatten()?;
            Some((frame, (first..=last).contains(&state)))
        }
    }
}

/// Whether a generator that is not suspended executes: it may not have begun.
fn executes(heap: &Heap<'_>, generator: u64) -> bool {
    match heap.offsets.generator {
        // One that has not begun keeps the depth of its stack, and so counts as suspended.
        GeneratorLayout::Pointer(_) => true,
        GeneratorLayout::Embedded {
            state, executing, ..
        } => {
            let state = heap.memory.u8(generator.wrapping_add(state));
            state.is_ok_and(|state| state.cast_signed() == executing)
        }
    }
}

/// What a suspended frame awaits or yields from: it is on top of its evaluation stack, or just below.
fn awaited_by(heap: &Heap<'_>, frame: &RawFrame) -> Option<u64> {
    let stack = slots::stack(heap, frame).ok()?;
    if !stack.exact {
        return None;
    }
    stack
        .values
        .iter()
        .rev()
        .take(2)
        .copied()
        .find(|value| *value != 0 && heap.type_name(*value).is_ok() && !heap.is_none(*value))
}
