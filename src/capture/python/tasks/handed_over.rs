//! What was handed over to an event loop of another thread that does not run: `run_coroutine_threadsafe` only puts it into
//! the loop's list of callbacks.

use crate::capture::python::frame::RawFrame;
use crate::capture::python::heap::Heap;
use crate::capture::python::interpreter::Census;
use crate::capture::python::slots;
use crate::capture::python::thread_state::RawThreadState;
use crate::capture::python::waits::{PythonWait, used_globals};
use crate::model::{ObjectFact, Tid, is_library_file};

/// Most frames of the program's own whose variables are looked at, from the inner end.
const MAX_FRAMES: usize = 4;
/// Most objects that these refer to.
const MAX_OBJECTS: usize = 300;
/// Most callbacks that are ready.
const MAX_READY: u64 = 1500;
/// Most callbacks of a loop.
const MAX_CALLBACKS: usize = 200;

/// Notes of threads that wait for a future that their loop does not run.
pub(in crate::capture::python) fn note_loops_at_rest(
    heap: &Heap<'_>,
    census: &Census,
    blocked: &[(Tid, Tid)],
    waits: &mut [(Tid, PythonWait)],
) {
    for (tid, wait) in waits {
        let Some(object) = &mut wait.object else {
            continue;
        };
        if object.type_name.untrusted() != "concurrent.futures._base.Future" {
            continue;
        }
        let own = blocked.iter().find(|(known, _)| known == tid);
        let mut states = census.thread_states.iter();
        let state = states.find(|raw| own.is_some_and(|(_, native)| raw.native_id == *native));
        let future = object.address.0;
        if state.is_some_and(|state| waits_in_vain(heap, state, future)) {
            object.state.push(ObjectFact {
                name: "event_loop".to_owned(),
                value: "not running".into(),
            });
        }
    }
}

fn waits_in_vain(heap: &Heap<'_>, state: &RawThreadState, future: u64) -> bool {
    let own = |frame: &&RawFrame| !is_library_file(frame.code.file.untrusted());
    let frames = state.raw_frames.iter().filter(own).take(MAX_FRAMES);
    let near: Vec<u64> = frames.flat_map(|frame| near(heap, frame)).collect();
    let mut within = near.iter().flat_map(|object| {
        let attributes = heap.attributes(*object).unwrap_or_default();
        attributes.into_iter().map(|(_, value)| value)
    });
    let first = near.iter().copied().take(MAX_OBJECTS);
    first
        .chain(within.by_ref().take(MAX_OBJECTS))
        .any(|object| rests_with(heap, object, future) == Some(true))
}

/// What a frame's variables and the globals that its code uses refer to.
fn near(heap: &Heap<'_>, frame: &RawFrame) -> Vec<u64> {
    let mut all = slots::values(heap, frame).unwrap_or_default();
    all.extend(used_globals(heap, frame).iter().map(|(_, value)| *value));
    all
}

/// Whether an object is an event loop that no thread runs, with a callback that knows this future.
fn rests_with(heap: &Heap<'_>, object: u64, future: u64) -> Option<bool> {
    if !heap.type_name(object).ok()?.ends_with("EventLoop") {
        return None;
    }
    let attribute = |object: u64, name: &str| heap.attribute(object, name).ok().flatten();
    let runner = attribute(object, "_thread_id");
    if runner.is_some_and(|runner| !heap.is_none(runner)) {
        return Some(false);
    }
    let ready = heap
        .whole_deque(attribute(object, "_ready")?, MAX_READY)
        .ok()?;
    let encloses = |handle: u64| {
        let callback = attribute(handle, "_callback").filter(|it| heap.is(*it, "function"))?;
        let [.., closure] = heap.function_parts(callback).ok()?.captured;
        let mut cells = heap.tuple(closure).ok()?.into_iter();
        Some(cells.any(|cell| slots::unwrapped(heap, cell) == future))
    };
    let mut handles = ready.into_iter().take(MAX_CALLBACKS);
    Some(handles.any(|handle| encloses(handle) == Some(true)))
}
