//! What a frame holds: its variables, and its evaluation stack.

use super::code::Code;
use super::frame::RawFrame;
use super::heap::{Heap, ObjectError};
use super::offsets::{StackDepth, fixed};

/// Most places of one frame that are looked at.
const MAX_SLOTS: u64 = 4096;

/// The values on a frame's evaluation stack.
#[derive(Debug, Default)]
pub(crate) struct EvaluationStack {
    /// Lowest first; 0 for an empty place.
    pub(crate) values: Vec<u64>,
    /// The depth is known. If not, it is that of the innermost frame of a version that does not keep it while a frame
    /// executes, and what lies above the real top is left over from before.
    pub(crate) exact: bool,
}

/// The variables of a frame that have a value, cells looked into.
pub(crate) fn variables(
    heap: &Heap<'_>,
    frame: &RawFrame,
) -> Result<Vec<(String, u64)>, ObjectError> {
    let names = frame.code.variables(heap);
    let named = values_in_places(heap, frame, names.len())?.into_iter();
    let named = named.filter_map(|(place, value)| Some((names.get(place)?.clone(), value)));
    Ok(named.collect())
}

/// The values of the variables of a frame.
pub(crate) fn values(heap: &Heap<'_>, frame: &RawFrame) -> Result<Vec<u64>, ObjectError> {
    let count = frame.code.variables(heap).len();
    let values = values_in_places(heap, frame, count)?.into_iter();
    Ok(values.map(|(_, value)| value).collect())
}

/// The values of variables, with their places among these.
fn values_in_places(
    heap: &Heap<'_>,
    frame: &RawFrame,
    count: usize,
) -> Result<Vec<(usize, u64)>, ObjectError> {
    let first = frame.address.wrapping_add(heap.offsets.frame_locals);
    let mut out = Vec::new();
    for (place, index) in (0..count).zip(0..MAX_SLOTS) {
        let slot = heap.memory.u64(first.wrapping_add(8 * index))?;
        let value = reference(heap, slot).map_or(0, |value| unwrapped(heap, value));
        if value != 0 {
            out.push((place, value));
        }
    }
    Ok(out)
}

/// A variable of a frame. An argument that an inner function uses has two places up to 3.10, the first of them empty.
pub(crate) fn variable(heap: &Heap<'_>, frame: &RawFrame, name: &str) -> Option<u64> {
    variable_of(heap, &frame.code, frame.address, name)
}

/// A variable of the frame at an address. Up to 3.10 an argument that inner functions use, too, has two places: its own is
/// empty, and the cell's holds the value.
pub(crate) fn variable_of(heap: &Heap<'_>, code: &Code, frame: u64, name: &str) -> Option<u64> {
    let names = code.variables(heap);
    let first = frame.wrapping_add(heap.offsets.frame_locals);
    let places = (0..MAX_SLOTS).zip(names.iter());
    places
        .filter(|(_, own)| *own == name)
        .find_map(|(index, _)| {
            let slot = heap.memory.u64(first.wrapping_add(8 * index)).ok()?;
            let value = unwrapped(heap, reference(heap, slot)?);
            (value != 0).then_some(value)
        })
}

/// The evaluation stack of a frame.
pub(crate) fn stack(heap: &Heap<'_>, frame: &RawFrame) -> Result<EvaluationStack, ObjectError> {
    let (memory, offsets) = (heap.memory, heap.offsets);
    let base = stack_base(heap, frame)?;
    let size = u64::from(memory.u32(frame.code.address.wrapping_add(offsets.code_stack_size))?)
        .min(MAX_SLOTS);
    let at = |offset: u64| frame.address.wrapping_add(offset);
    let below = |pointer: u64| (pointer != 0).then(|| pointer.wrapping_sub(base) / 8);
    let count = |value: i32| u64::try_from(value).ok();
    let depth = match offsets.stack_depth {
        StackDepth::Top(offset) | StackDepth::Pointer(offset) => below(memory.u64(at(offset))?),
        StackDepth::Count(offset) => count(memory.i32(at(offset))?),
        StackDepth::CountWithVariables(offset) => {
            let variables = frame.code.variable_count(heap)?;
            count(memory.i32(at(offset))?).and_then(|all| all.checked_sub(variables))
        }
    };
    let depth = depth.filter(|depth| *depth <= size);
    let values = (0..depth.unwrap_or(size))
        .map(|index| {
            let slot = memory.u64(base.wrapping_add(8 * index))?;
            Ok(reference(heap, slot).unwrap_or(0))
        })
        .collect::<Result<_, ObjectError>>()?;
    Ok(EvaluationStack {
        values,
        exact: depth.is_some(),
    })
}

/// Address of the lowest place of the evaluation stack: behind the variables.
pub(crate) fn stack_base(heap: &Heap<'_>, frame: &RawFrame) -> Result<u64, ObjectError> {
    let variables = frame.code.variable_count(heap)?.min(MAX_SLOTS);
    let first = frame.address.wrapping_add(heap.offsets.frame_locals);
    Ok(first.wrapping_add(8 * variables))
}

/// The object that a place refers to: it may be empty, or hold a tagged number rather than a reference (3.14+).
pub(crate) fn reference(heap: &Heap<'_>, slot: u64) -> Option<u64> {
    let mask = heap.offsets.frame_tag_mask;
    let value = slot & !mask;
    (value != 0 && !(mask != 0 && slot & 3 == 3)).then_some(value)
}

/// What a cell holds; anything else as it is.
pub(crate) fn unwrapped(heap: &Heap<'_>, object: u64) -> u64 {
    if heap.is(object, "cell") {
        heap.memory
            .u64(object.wrapping_add(fixed::CELL_VALUE))
            .unwrap_or(0)
    } else {
        object
    }
}
