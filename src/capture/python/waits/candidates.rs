//! Objects that a waiting thread's innermost frames refer to: what it waits on is among them.

use super::WaitTarget;
use crate::capture::python::frame::RawFrame;
use crate::capture::python::heap::Heap;
use crate::capture::python::offsets::fixed;
use crate::capture::python::slots;
use crate::capture::python::thread_state::RawThreadState;
use crate::model::Addr;
use std::collections::BTreeSet;

/// How many of the innermost frames are looked at.
const FRAMES: usize = 4;
/// Most objects of one frame whose attributes are looked at.
const MAX_OBJECTS: usize = 64;
/// Largest object that an address is looked for in.
const MAX_SIZE: u64 = 4096;
/// Most bytes of an object that are searched for a pointer to its lock.
const MAX_SEARCHED: u64 = 512;

/// What the innermost frames refer to: directly, by a bound method, or by an attribute of a variable. What lies on an
/// evaluation stack may be left over from before, so whoever uses one of these must find it confirmed.
pub(super) fn candidates(heap: &Heap<'_>, waiter: &RawThreadState) -> Vec<u64> {
    let mut seen = BTreeSet::new();
    let mut out = Vec::new();
    for frame in waiter.raw_frames.iter().take(FRAMES) {
        let direct = direct(heap, frame);
        for object in direct.iter().copied() {
            for object in [Some(object), heap.bound_object(object)]
                .into_iter()
                .flatten()
            {
                if seen.insert(object) {
                    out.push(object);
                }
            }
        }
        for object in direct.into_iter().take(MAX_OBJECTS) {
            for object in [Some(object), heap.bound_object(object)]
                .into_iter()
                .flatten()
            {
                for value in heap.attribute_values(object).unwrap_or_default() {
                    if seen.insert(value) {
                        out.push(value);
                    }
                }
            }
        }
    }
    out
}

/// Evaluation stack, top first, and variables of a frame.
fn direct(heap: &Heap<'_>, frame: &RawFrame) -> Vec<u64> {
    let stack = slots::stack(heap, frame).unwrap_or_default();
    let mut out: Vec<u64> = stack
        .values
        .into_iter()
        .rev()
        .filter(|value| *value != 0)
        .collect();
    out.extend(slots::values(heap, frame).unwrap_or_default());
    out
}

/// 3.13+: the object that a parked address lies in, such as a `SimpleQueue`, or that has its lock there.
pub(super) fn containing(
    heap: &Heap<'_>,
    waiter: &RawThreadState,
    address: u64,
) -> Option<WaitTarget> {
    let candidates = candidates(heap, waiter);
    let within = candidates.iter().copied().find(|object| {
        let distance = address.wrapping_sub(*object);
        (fixed::SIZE..MAX_SIZE).contains(&distance)
            && size_of_objects_like(heap, *object).is_some_and(|size| distance < size)
    });
    within
        .map(|object| WaitTarget::Object(Addr(object)))
        .or_else(|| pointing_at(heap, &candidates, address))
}

/// An object with a lock of its own elsewhere, such as an `_io.BufferedWriter`: one of its fields points at the lock.
pub(super) fn pointing_at(heap: &Heap<'_>, candidates: &[u64], lock: u64) -> Option<WaitTarget> {
    let found = candidates.iter().copied().find(|object| {
        let size = size_of_objects_like(heap, *object).unwrap_or(0);
        (fixed::SIZE..size.min(MAX_SEARCHED))
            .step_by(8)
            .any(|offset| heap.memory.u64(object.wrapping_add(offset)) == Ok(lock))
    });
    found.map(|object| WaitTarget::Object(Addr(object)))
}

/// `tp_basicsize` of an object's type, if it is an object.
fn size_of_objects_like(heap: &Heap<'_>, object: u64) -> Option<u64> {
    if !heap.looks_like_object(object) {
        return None;
    }
    let kind = heap.type_of(object).ok()?;
    let size = kind.wrapping_add(fixed::TYPE_BASIC_SIZE);
    heap.memory.u64(size).ok()
}
