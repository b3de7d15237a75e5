//! What the program calls an object: a variable of the frame that uses it, an attribute of one, or a global.

use crate::capture::python::code::Globals;
use crate::capture::python::frame::RawFrame;
use crate::capture::python::heap::Heap;
use crate::capture::python::slots;
use std::collections::HashSet;

/// Most variables whose attributes are looked through.
const MAX_VARIABLES: usize = 64;
/// Most names that a function's code uses which are looked at.
const MAX_NAMES: usize = 512;

/// An expression of `frame`'s code that gives `object`: `jobs`, `self._lock`, `state.queue`.
pub(crate) fn name_of(heap: &Heap<'_>, frame: &RawFrame, object: u64) -> Option<String> {
    let variables = slots::variables(heap, frame).unwrap_or_default();
    let globals = used_globals(heap, frame);
    for names in [variables.as_slice(), &globals] {
        if let Some((name, _)) = names.iter().find(|(_, value)| *value == object) {
            return Some(name.clone());
        }
    }
    [variables.as_slice(), &globals]
        .into_iter()
        .flat_map(|names| names.iter().take(MAX_VARIABLES))
        .find_map(|(name, value)| {
            let attributes = heap.attributes(*value).ok()?;
            let (attribute, _) = attributes.iter().find(|(_, value)| *value == object)?;
            Some(format!("{name}.{attribute}"))
        })
}

/// The globals that a frame's code uses, with their values.
pub(crate) fn used_globals(heap: &Heap<'_>, frame: &RawFrame) -> Globals {
    let dictionary = heap
        .memory
        .u64(frame.address.wrapping_add(heap.offsets.frame_globals));
    let Ok(dictionary) = dictionary else {
        return Globals::default();
    };
    frame.code.globals(dictionary, || {
        let names = frame.code.names(heap);
        let used: HashSet<&String> = names.iter().take(MAX_NAMES).collect();
        let all = match used.is_empty() {
            true => Vec::new(),
            false => heap.named(dictionary).unwrap_or_default(),
        };
        all.into_iter()
            .filter(|(name, _)| used.contains(name))
            .collect()
    })
}
