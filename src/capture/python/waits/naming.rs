//! What the program calls an object: a variable of the frame that uses it, an attribute of one, or a global.

use crate::capture::python::frame::RawFrame;
use crate::capture::python::heap::Heap;
use crate::capture::python::slots;

/// Most variables whose attributes are looked through.
const MAX_VARIABLES: usize = 64;
/// Most names that a function's code uses which are looked at.
const MAX_NAMES: usize = 512;

/// An expression of `frame`'s code that gives `object`: `jobs`, `self._lock`, `state.queue`.
pub(crate) fn name_of(heap: &Heap<'_>, frame: &RawFrame, object: u64) -> Option<String> {
    let variables = slots::variables(heap, frame).unwrap_or_default();
    let globals = used_globals(heap, frame);
    for names in [&variables, &globals] {
        if let Some((name, _)) = names.iter().find(|(_, value)| *value == object) {
            return Some(name.clone());
        }
    }
    [&variables, &globals]
        .into_iter()
        .flat_map(|names| names.iter().take(MAX_VARIABLES))
        .find_map(|(name, value)| {
            let attributes = heap.attributes(*value).ok()?;
            let (attribute, _) = attributes.iter().find(|(_, value)| *value == object)?;
            Some(format!("{name}.{attribute}"))
        })
}

/// The globals that a frame's code uses, with their values.
pub(crate) fn used_globals(heap: &Heap<'_>, frame: &RawFrame) -> Vec<(String, u64)> {
    let names = frame.code.names(heap);
    if names.is_empty() {
        return Vec::new();
    }
    let globals = heap
        .memory
        .u64(frame.address.wrapping_add(heap.offsets.frame_globals));
    let Ok(globals) = globals else {
        return Vec::new();
    };
    let Ok(found) = heap.named(globals) else {
        return Vec::new();
    };
    found
        .into_iter()
        .filter(|(name, _)| names.iter().take(MAX_NAMES).any(|used| used == name))
        .collect()
}
