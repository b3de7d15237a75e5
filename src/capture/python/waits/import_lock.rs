//! The locks of the import system (`importlib._bootstrap._ModuleLock`): which module is imported, and by whom.

use crate::capture::python::heap::Heap;
use crate::capture::python::slots;
use crate::capture::python::thread_state::RawThreadState;
use crate::model::{Addr, Grade, WaitObject};

/// The module lock that a thread waits for: it is in `_ModuleLock.acquire`.
pub(super) fn awaited(heap: &Heap<'_>, waiter: &RawThreadState) -> Option<Addr> {
    waiter
        .raw_frames
        .iter()
        .zip(&waiter.state.frames)
        .take(3)
        .find(|(raw, _)| {
            raw.code.name == "acquire" && raw.code.file.untrusted().contains("importlib._bootstrap")
        })
        .and_then(|(raw, _)| slots::variable(heap, raw, "self"))
        .filter(|lock| heap.is_instance(*lock, "_ModuleLock"))
        .map(Addr)
}

/// The `pthread_t` of the thread that imports the module.
pub(crate) fn owner(heap: &Heap<'_>, lock: u64) -> Option<u64> {
    let owner = heap.attribute(lock, "owner").ok().flatten()?;
    heap.is(owner, "int")
        .then(|| heap.int(owner).ok())
        .flatten()
}

pub(super) fn describe(heap: &Heap<'_>, lock: u64) -> Option<WaitObject> {
    let name = heap.attribute(lock, "name").ok().flatten()?;
    let name = heap.string(name).ok()?;
    Some(WaitObject {
        type_name: "import lock".into(),
        address: Addr(lock),
        name: Some(name.into()),
        state: Vec::new(),
        kept_in: None,
        grade: Grade::Derived,
    })
}
