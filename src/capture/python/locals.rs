//! Local variables of a frame, shortened. Read only when asked for.

use super::frame::RawFrame;
use super::heap::{Heap, ObjectError};
use super::offsets::fixed;
use super::slots;
use crate::model::Local;
use fnv::FnvHasher;
use std::hash::Hasher;

/// Most variables of one frame.
const MAX_LOCALS: usize = 256;
/// Longest text value shown, in characters.
const MAX_TEXT: usize = 80;

/// Reads the variables that have a value now.
pub(super) fn read(heap: &Heap<'_>, frame: &RawFrame) -> Result<Vec<Local>, ObjectError> {
    let variables = slots::variables(heap, frame)?;
    Ok(variables
        .into_iter()
        .take(MAX_LOCALS)
        .map(|(name, value)| Local {
            name: name.into(),
            value: shown(heap, value).into(),
        })
        .collect())
}

/// A hash over the variables of a frame and the first words of what they refer to: it stays the same while a loop goes
/// round without getting anywhere, and changes when a counter, a position or a partial result does.
pub(super) fn fingerprint(heap: &Heap<'_>, frame: &RawFrame) -> Result<u64, ObjectError> {
    let (memory, offsets) = (heap.memory, heap.offsets);
    let count = frame.code.variable_count(heap)?;
    let first = frame.address.wrapping_add(offsets.frame_locals);
    let mut hasher = FnvHasher::default();
    for index in 0..count.min(MAX_LOCALS as u64) {
        let slot = memory.u64(first.wrapping_add(8 * index))?;
        hasher.write_u64(slot);
        let object = slots::unwrapped(heap, slot & !offsets.frame_tag_mask);
        hasher.write_u64(object);
        // Behind type and reference count: an int's digits, a list's length, an iterator's position.
        for word in 2..6 {
            if let Ok(value) = memory.u64(object.wrapping_add(8 * word)) {
                hasher.write_u64(value);
            }
        }
    }
    Ok(hasher.finish())
}

fn shown(heap: &Heap<'_>, object: u64) -> String {
    let Ok(kind) = heap.type_name(object) else {
        return format!("<unreadable at {object:#x}>");
    };
    let simple = match &*kind {
        "NoneType" => Some("None".to_owned()),
        "str" => heap.string(object).ok().map(|text| {
            let mut short: String = text.chars().take(MAX_TEXT).collect();
            if text.chars().nth(MAX_TEXT).is_some() {
                short.push('…');
            }
            format!("{short:?}")
        }),
        "bool" => heap
            .int(object)
            .ok()
            .map(|value| if value == 0 { "False" } else { "True" }.to_owned()),
        "int" => heap.int(object).ok().map(|value| value.to_string()),
        "float" => heap
            .memory
            .u64(object.wrapping_add(fixed::SIZE))
            .ok()
            .map(|bits| f64::from_bits(bits).to_string()),
        _ => None,
    };
    simple.unwrap_or_else(|| format!("<{kind} at {object:#x}>"))
}
