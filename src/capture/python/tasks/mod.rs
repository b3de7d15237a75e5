//! Event loops and their tasks: trio and asyncio, in any interpreter. Which frames run a loop leads to trio's, the
//! interpreter's own lists to asyncio's.

mod asyncio;
mod asyncio_event_loop;
mod asyncio_layout;
mod asyncio_lists;
mod awaited;
mod chain;
mod clock;
mod futures;
mod handed_over;
mod objects;
mod reach;
mod trio;
mod workers;

use super::code::CodeCache;
use super::frame::RawFrame;
use super::heap::Heap;
use super::interpreter::Census;
use super::thread_state::RawThreadState;
use crate::capture::memory::{CachedMemory, Memory};
use crate::model::{EventLoop, Foreign, Frame, Gap, GapKind, Key, Task};
use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::sync::Arc;

pub(super) use asyncio_layout::DebugSection;
pub(super) use handed_over::note_loops_at_rest;
pub(super) use reach::rule_out;

/// Most tasks of one process that are read.
const MAX_TASKS: usize = 200_000;
/// Most futures of one process that are looked through for who waits for whom. Thousands of tasks may each wait for
/// thousands.
const MAX_EDGES: usize = 1_000_000;
/// Most holders of one object that are named.
const MAX_HOLDERS: usize = 10;
/// Tasks that are read one after another, their memory having been fetched together.
const AT_ONCE: usize = 500;
/// Most event loops of one process.
const MAX_LOOPS: usize = 10_000;

/// What the readers of all libraries share.
struct Reader<'a> {
    heap: &'a Heap<'a>,
    codes: &'a CodeCache,
    census: &'a Census,
    process: &'a Key,
    /// The target's `time.monotonic()`.
    now: Option<f64>,
    tasks_left: Cell<usize>,
    edges_left: Cell<usize>,
    /// What many tasks have in common is kept once.
    texts: RefCell<HashSet<Foreign>>,
    stacks: RefCell<HashSet<Arc<[Frame]>>>,
    /// Why some tasks, or frames of tasks, are missing.
    cut: Cell<Option<&'static str>>,
}

impl<'a> Reader<'a> {
    fn new(heap: &'a Heap<'a>, codes: &'a CodeCache, census: &'a Census, process: &'a Key) -> Self {
        Self {
            heap,
            codes,
            census,
            process,
            now: clock::monotonic(),
            tasks_left: Cell::new(MAX_TASKS),
            edges_left: Cell::new(MAX_EDGES),
            texts: RefCell::default(),
            stacks: RefCell::default(),
            cut: Cell::new(None),
        }
    }

    /// Takes as many of `tasks` as may still be read.
    fn affordable(&self, mut tasks: Vec<u64>) -> Vec<u64> {
        let left = self.tasks_left.get();
        if tasks.len() > left {
            self.cut.set(Some("more tasks than hangscope reads"));
            tasks.truncate(left);
        }
        self.tasks_left.set(left - tasks.len());
        tasks
    }

    /// A task as it is kept: twenty thousand of them differ in little but their addresses.
    fn kept(&self, mut task: Task) -> Arc<Task> {
        self.share(&mut task.name);
        task.scopes.shrink_to_fit();
        if let Some(awaits) = &mut task.awaits {
            if let Some(call) = &mut awaits.call {
                self.share(call);
            }
            if let Some(object) = &mut awaits.object {
                self.share(&mut object.type_name);
                object.state.shrink_to_fit();
                for fact in &mut object.state {
                    self.share(&mut fact.value);
                }
            }
        }
        Arc::new(task)
    }

    fn share(&self, text: &mut Foreign) {
        let mut texts = self.texts.borrow_mut();
        match texts.get(text) {
            Some(known) => *text = known.clone(),
            None => drop(texts.insert(text.clone())),
        }
    }

    fn shared_stack(&self, frames: Vec<Frame>) -> Arc<[Frame]> {
        let mut stacks = self.stacks.borrow_mut();
        if let Some(known) = stacks.get(frames.as_slice()) {
            return Arc::clone(known);
        }
        let frames: Arc<[Frame]> = frames.into();
        stacks.insert(Arc::clone(&frames));
        frames
    }

    /// Milliseconds from now to a point of time of `time.monotonic()`.
    fn until(&self, seconds: f64) -> Option<i64> {
        clock::milliseconds(seconds - self.now?)
    }
}

/// The frames of a thread that are its process's own: a worker of multiprocessing that was forked has its parent's below.
fn own_frames(state: &RawThreadState) -> &[RawFrame] {
    let frames = state.raw_frames.as_slice();
    let starts = frames.iter().position(|frame| {
        &*frame.code.name == "_bootstrap"
            && workers::ends_in(&frame.code.file, "multiprocessing/process.py")
    });
    starts.map_or(frames, |at| frames.get(..at).unwrap_or_default())
}

/// All event loops of a process. `memory` is what lies below the heap's cache: the lists of tasks are read from it once
/// more at the end, to see whether they have changed.
pub(super) fn read(
    heap: &Heap<'_>,
    codes: &CodeCache,
    census: &Census,
    process: &Key,
    debug_section: &DebugSection,
    memory: &dyn Memory,
) -> (Vec<EventLoop>, Vec<Gap>) {
    let reader = Reader::new(heap, codes, census, process);
    let mut gaps = Vec::new();
    let runs = trio::runs(&reader);
    let workers = workers::Workers::of(&reader);
    let mut loops: Vec<EventLoop> = runs
        .iter()
        .map(|run| trio::event_loop(&reader, &workers, run))
        .collect();
    let mut lists = Vec::new();
    for interpreter in &census.interpreters {
        match asyncio_lists::read(heap, census, interpreter, debug_section) {
            Ok(Some(list)) => lists.push(list),
            Ok(None) => {}
            Err(cause) => gaps.push(Gap::new(
                Some(interpreter.key.clone()),
                GapKind::Unsupported,
                "asyncio's tasks",
                cause,
            )),
        }
    }
    for list in &lists {
        loops.extend(asyncio::event_loops(&reader, &workers, list));
    }
    loops.truncate(MAX_LOOPS);
    let cached = CachedMemory::new(memory);
    let fresh = Heap::new(&cached, heap.offsets);
    for run in &runs {
        if trio::task_addresses(&fresh, run.runner) != trio::task_addresses(heap, run.runner) {
            mark_moving(&mut loops, |found| found.key == run.key(process));
        }
    }
    for list in &lists {
        let again = asyncio_lists::read(&fresh, census, list.interpreter, debug_section);
        if !matches!(again, Ok(Some(again)) if again.same_as(list)) {
            mark_moving(&mut loops, |found| list.has_loop(&found.key, process));
        }
    }
    if reader.edges_left.get() == 0 {
        reader.cut.set(Some(
            "more tasks that wait for tasks than hangscope follows",
        ));
    }
    if let Some(cause) = reader.cut.get() {
        gaps.push(Gap::new(
            Some(process.clone()),
            GapKind::Implausible,
            "some tasks of event loops, or their frames",
            cause,
        ));
    }
    (loops, gaps)
}

fn mark_moving(loops: &mut [EventLoop], is_meant: impl Fn(&EventLoop) -> bool) {
    for event_loop in loops.iter_mut().filter(|found| is_meant(found)) {
        event_loop.moving = true;
    }
}

/// Takes each of these addresses for a runner, a loop and a task, whatever is there.
#[cfg(test)]
pub(super) fn read_everywhere(
    heap: &Heap<'_>,
    codes: &CodeCache,
    census: &Census,
    process: &Key,
    addresses: impl Iterator<Item = u64>,
) -> Vec<EventLoop> {
    let reader = Reader::new(heap, codes, census, process);
    let workers = workers::Workers::of(&reader);
    let addresses: Vec<u64> = addresses.collect();
    let mut loops = trio::at_any(&reader, &workers, &addresses);
    loops.extend(asyncio::at_any(&reader, &workers, &addresses));
    loops
}
