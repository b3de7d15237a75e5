//! asyncio's event loops: which thread runs one, what it has ready, its timers.

use super::Reader;
use super::asyncio::attribute;
use super::asyncio_lists::Lists;
use super::objects;
use super::workers::ends_in;
use crate::capture::python::frame::RawFrame;
use crate::capture::python::heap::Heap;
use crate::capture::python::slots;
use crate::capture::python::thread_state::RawThreadState;
use crate::model::{Addr, EventLoop, Task, TaskLibrary, TaskState};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Most timers of one loop that are looked at.
const MAX_TIMERS: usize = 1 << 20;

/// Which thread state runs a loop: by 3.14's own note, else by the frames that run it.
pub(super) fn threads_of_loops<'r>(
    reader: &'r Reader<'_>,
    lists: &Lists<'_>,
) -> BTreeMap<u64, &'r RawThreadState> {
    let mut out = BTreeMap::new();
    for state in &reader.census.thread_states {
        if state.state.interpreter != lists.interpreter.key {
            continue;
        }
        let own = super::own_frames(state);
        let by_frames = own.iter().filter_map(|frame| loop_of(reader.heap, frame));
        let forked = own.len() < state.raw_frames.len();
        let noted = lists.loops.iter().filter(|_| !forked);
        let noted = noted.filter(|(_, by)| **by == state.state.address);
        for event_loop in noted.map(|(event_loop, _)| *event_loop).chain(by_frames) {
            out.entry(event_loop).or_insert(state);
        }
    }
    out
}

/// The loop that a frame of asyncio's own runs.
fn loop_of(heap: &Heap<'_>, frame: &RawFrame) -> Option<u64> {
    let variable = |name| slots::variable(heap, frame, name);
    match &*frame.code.name {
        "run_forever" | "_run_once" | "run_until_complete"
            if ends_in(&frame.code.file, "asyncio/base_events.py") =>
        {
            variable("self")
        }
        "run" if ends_in(&frame.code.file, "asyncio/runners.py") => {
            let runner = variable("self").and_then(|runner| attribute(heap, runner, "_loop"));
            runner.or_else(|| variable("loop").filter(|found| !heap.is_none(*found)))
        }
        _ => None,
    }
}

/// A loop, with its tasks.
pub(super) fn event_loop(
    reader: &Reader<'_>,
    lists: &Lists<'_>,
    address: u64,
    thread: Option<&RawThreadState>,
    tasks: Vec<Arc<Task>>,
) -> EventLoop {
    let heap = reader.heap;
    let ready = attribute(heap, address, "_ready").and_then(|ready| objects::length(heap, ready));
    let timers = timers(heap, address);
    let running = tasks
        .iter()
        .find(|task| task.state == TaskState::Running)
        .map(|task| task.key.clone());
    let idle = match (thread, ready) {
        (Some(thread), Some(ready)) => {
            Some(ready == 0 && running.is_none() && waits_outside(heap, thread, address))
        }
        _ => None,
    };
    let main = thread.and_then(|thread| awaited_by_thread(heap, thread));
    let main = main.map(|task| reader.process.task(Addr(task)));
    EventLoop {
        key: reader.process.event_loop(Addr(address)),
        library: TaskLibrary::Asyncio,
        type_name: heap.full_type_name(address).unwrap_or_default().into(),
        interpreter: lists.interpreter.key.clone(),
        thread: None,
        thread_state: thread.map(|thread| thread.state.address),
        running,
        main: main.filter(|main| tasks.iter().any(|task| task.key == *main)),
        idle,
        ready,
        stopping: attribute(heap, address, "_stopping")
            .is_some_and(|flag| heap.boolean(flag).unwrap_or(false)),
        timers: timers.as_ref().map(|timers| timers.len() as u64),
        next_timer_ms: timers
            .and_then(|timers| timers.into_iter().reduce(f64::min))
            .and_then(|next| reader.until(next)),
        guest: false,
        moving: false,
        tasks,
    }
}

/// When the timers are due that are not cancelled. A loop that is not written in Python keeps them elsewhere.
fn timers(heap: &Heap<'_>, event_loop: u64) -> Option<Vec<f64>> {
    let scheduled = attribute(heap, event_loop, "_scheduled")?;
    let handles = heap.list(scheduled).ok()?;
    heap.memory
        .prefetch(handles.iter().map(|handle| (*handle, 128)));
    let due = handles.into_iter().take(MAX_TIMERS).filter_map(|handle| {
        let cancelled = attribute(heap, handle, "_cancelled")
            .is_some_and(|flag| heap.boolean(flag).unwrap_or(false));
        let when = attribute(heap, handle, "_when")?;
        heap.float(when).ok().filter(|_| !cancelled)
    });
    Some(due.collect())
}

/// The future that the innermost `run_until_complete` of a thread waits for.
fn awaited_by_thread(heap: &Heap<'_>, thread: &RawThreadState) -> Option<u64> {
    let mut frames = thread.raw_frames.iter();
    let runs = frames.find(|frame| &*frame.code.name == "run_until_complete")?;
    slots::variable(heap, runs, "future")
}

/// Whether a thread is where this loop waits for files and timers.
fn waits_outside(heap: &Heap<'_>, thread: &RawThreadState, event_loop: u64) -> bool {
    let [select, once, ..] = thread.raw_frames.as_slice() else {
        return false;
    };
    &*select.code.name == "select"
        && ends_in(&select.code.file, "selectors.py")
        && &*once.code.name == "_run_once"
        && slots::variable(heap, once, "self") == Some(event_loop)
}
