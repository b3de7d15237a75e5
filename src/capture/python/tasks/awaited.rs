//! What the library's own frames at the inner end of a task tell of its wait.

use super::objects;
use crate::capture::python::frame::RawFrame;
use crate::capture::python::heap::Heap;
use crate::capture::python::slots;
use crate::model::WaitObject;

/// Objects of the machinery, which nobody waits for.
const MACHINERY: [&str; 4] = ["EpollIOManager", "NurseryManager", "Runner", "ParkingLot"];

/// The object that is waited on: the `self` of the outermost of these frames whose state is known, else of the outermost
/// that has one.
pub(super) fn object_of(heap: &Heap<'_>, library: &[RawFrame]) -> Option<WaitObject> {
    let mut fallback = None;
    for frame in library.iter().rev() {
        let Some(object) = slots::variable(heap, frame, "self") else {
            continue;
        };
        if let Some(known) = objects::known(heap, object) {
            return Some(known);
        }
        let is_machinery = heap.type_name(object).is_ok_and(|name| {
            MACHINERY.contains(&&*name) || name.contains("EventLoop") || name.contains("IOManager")
        });
        if fallback.is_none() && !is_machinery {
            fallback = Some(object);
        }
    }
    fallback.map(|object| objects::bare(heap, object))
}

/// The file descriptor that is to become ready.
pub(super) fn descriptor_of(heap: &Heap<'_>, library: &[RawFrame]) -> Option<i32> {
    library.iter().find_map(|frame| {
        let number = slots::variable(heap, frame, "fd")?;
        let number = heap.is(number, "int").then(|| heap.int(number).ok())??;
        i32::try_from(number).ok()
    })
}
