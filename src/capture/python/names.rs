//! What an interpreter's own `threading` module knows of its threads.

use super::heap::{Heap, ObjectError};
use std::collections::BTreeMap;

/// A `threading.Thread` of `threading._active`.
#[derive(Clone, Debug)]
pub(crate) struct KnownThread {
    pub(crate) object: u64,
    pub(crate) name: Option<String>,
    pub(crate) daemon: Option<bool>,
}

/// Threads by ident (`pthread_t`). Empty where the interpreter has not imported `threading`, or is half made
/// or half gone.
pub(crate) fn known_threads(heap: &Heap<'_>, interpreter: u64) -> BTreeMap<u64, KnownThread> {
    read(heap, interpreter).unwrap_or_default()
}

fn read(heap: &Heap<'_>, interpreter: u64) -> Result<BTreeMap<u64, KnownThread>, ObjectError> {
    let Some(active) = heap.module_attribute(interpreter, "threading", "_active")? else {
        return Ok(BTreeMap::new());
    };
    let entries = heap.dict(active)?;
    heap.memory.prefetch(
        entries
            .iter()
            .flat_map(|(ident, thread)| [(*ident, 40), (thread.saturating_sub(32), 256)]),
    );
    let mut names = Vec::new();
    for (ident, object) in entries {
        let Ok(ident) = heap.int(ident) else { continue };
        names.push((
            ident,
            object,
            heap.attribute(object, "_name").ok().flatten(),
        ));
    }
    heap.memory.prefetch(
        names
            .iter()
            .filter_map(|(_, _, name)| name.map(|name| (name, 128))),
    );
    Ok(names
        .into_iter()
        .map(|(ident, object, name)| {
            let daemon = heap.attribute(object, "_daemonic").ok().flatten();
            let thread = KnownThread {
                object,
                name: name.and_then(|name| heap.string(name).ok()),
                daemon: daemon
                    .filter(|flag| heap.is(*flag, "bool"))
                    .and_then(|flag| heap.int(flag).ok())
                    .map(|value| value != 0),
            };
            (ident, thread)
        })
        .collect())
}
