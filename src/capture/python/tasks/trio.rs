//! trio: the `Runner` of a run, found in the frames that run it, and the tasks that it lists.

use super::awaited;
use super::chain::{self, Chain};
use super::objects;
use super::workers::{Workers, ends_in};
use super::{MAX_HOLDERS, Reader};
use crate::capture::python::frame::RawFrame;
use crate::capture::python::heap::Heap;
use crate::capture::python::slots;
use crate::capture::python::thread_state::RawThreadState;
use crate::capture::python::with_blocks;
use crate::model::{
    Addr, Await, CancelScope, EventLoop, Grade, HolderEvidence, Key, Task, TaskHolder, TaskLibrary,
    TaskState,
};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// Most cancel scopes around one task.
const MAX_SCOPES: usize = 1000;
/// Where a run's frames are.
const RUN_FILE: &str = "trio/_core/_run.py";

/// A run that has a frame on some thread.
pub(super) struct Run<'a> {
    pub(super) runner: u64,
    state: &'a RawThreadState,
    /// The frame is that of guest mode, on a thread that waits for the outside in the run's stead.
    guest: bool,
    /// The thread that does nothing but run a guest, where that is known: of anyio's pytest plugin.
    host: Option<&'a RawThreadState>,
}

impl Run<'_> {
    pub(super) fn key(&self, process: &Key) -> Key {
        process.event_loop(Addr(self.runner))
    }
}

/// All runs of a process.
pub(super) fn runs<'a>(reader: &Reader<'a>) -> Vec<Run<'a>> {
    let mut out: Vec<Run<'a>> = Vec::new();
    let mut seen = HashSet::new();
    for state in &reader.census.thread_states {
        for frame in super::own_frames(state) {
            let Some((runner, guest)) = runner_of(reader.heap, frame) else {
                continue;
            };
            if out.len() < super::MAX_LOOPS && seen.insert(runner) {
                out.push(Run {
                    runner,
                    state,
                    guest,
                    host: None,
                });
            }
        }
    }
    let mut hosts = reader
        .census
        .thread_states
        .iter()
        .filter(|state| hosts(state));
    if let (Some(host), None) = (hosts.next(), hosts.next())
        && let [run] = out.as_mut_slice()
        && run.guest
    {
        run.host = Some(host);
    }
    out
}

/// Whether a thread is anyio's pytest plugin, which runs trio as a guest and waits for the calls that this makes.
fn hosts(state: &RawThreadState) -> bool {
    state.raw_frames.iter().any(|frame| {
        &*frame.code.name == "_call_in_runner_task"
            && ends_in(&frame.code.file, "anyio/_backends/_trio.py")
    })
}

fn runner_of(heap: &Heap<'_>, frame: &RawFrame) -> Option<(u64, bool)> {
    if !ends_in(&frame.code.file, RUN_FILE) {
        return None;
    }
    let (runner, guest) = match &*frame.code.name {
        "run" | "unrolled_run" => (slots::variable(heap, frame, "runner")?, false),
        // Guest mode: nothing of the run is on a stack while the host runs, except the wait for the outside.
        "get_events" => {
            let state = slots::variable(heap, frame, "self")?;
            (heap.attribute(state, "runner").ok()??, true)
        }
        _ => return None,
    };
    heap.is(runner, "Runner").then_some((runner, guest))
}

/// The tasks of a runner, sorted by address.
pub(super) fn task_addresses(heap: &Heap<'_>, runner: u64) -> Vec<u64> {
    let tasks = heap.attribute(runner, "tasks").ok().flatten();
    let mut tasks = tasks
        .and_then(|tasks| heap.set(tasks).ok())
        .unwrap_or_default();
    tasks.sort_unstable();
    tasks
}

/// What is needed of a run to read its tasks.
struct Context<'r, 'a> {
    reader: &'r Reader<'a>,
    workers: &'r Workers,
    /// What to take from trio's time to get `time.monotonic()`; unknown with a clock of the program's own.
    clock_offset: Option<f64>,
    init_task: Option<u64>,
    main_task: Option<u64>,
    statuses: HashMap<u64, Status>,
}

/// A `CancelStatus`.
#[derive(Clone)]
struct Status {
    scope: CancelScope,
    /// In seconds of trio's time.
    deadline: f64,
    parent: Option<u64>,
}

impl<'r, 'a> Context<'r, 'a> {
    fn new(reader: &'r Reader<'a>, workers: &'r Workers, runner: u64) -> Self {
        let heap = reader.heap;
        let of_runner = |name: &str| attribute(heap, runner, name);
        let clock = of_runner("clock").filter(|clock| heap.is(*clock, "SystemClock"));
        Self {
            reader,
            workers,
            clock_offset: clock
                .and_then(|clock| attribute(heap, clock, "offset"))
                .and_then(|offset| heap.float(offset).ok()),
            init_task: of_runner("init_task"),
            main_task: of_runner("main_task"),
            statuses: HashMap::new(),
        }
    }
}

/// Hostile memory: each address as a runner, and as a task.
#[cfg(test)]
pub(super) fn at_any(reader: &Reader<'_>, workers: &Workers, addresses: &[u64]) -> Vec<EventLoop> {
    for address in addresses {
        let mut context = Context::new(reader, workers, *address);
        let _ = context.task(*address);
        let _ = context.awaits(&chain::read(reader, *address), Some(1.0));
        let _ = context.scopes(Some(*address), &chain::read(reader, *address));
        let _ = context.holders(*address);
    }
    let Some(state) = reader.census.thread_states.first() else {
        return Vec::new();
    };
    let run = |address: &u64| Run {
        runner: *address,
        state,
        guest: false,
        host: None,
    };
    addresses
        .iter()
        .map(|address| event_loop(reader, workers, &run(address)))
        .collect()
}

pub(super) fn event_loop(reader: &Reader<'_>, workers: &Workers, run: &Run<'_>) -> EventLoop {
    let heap = reader.heap;
    let mut context = Context::new(reader, workers, run.runner);
    let addresses = reader.affordable(task_addresses(heap, run.runner));
    let mut tasks: Vec<(u64, Arc<Task>)> = Vec::with_capacity(addresses.len());
    for some in addresses.chunks(super::AT_ONCE) {
        heap.memory
            .prefetch(some.iter().map(|task| (task.saturating_sub(32), 256)));
        let coroutines = some
            .iter()
            .filter_map(|task| attribute(heap, *task, "coro"));
        let coroutines: Vec<(u64, usize)> = coroutines.map(|coroutine| (coroutine, 512)).collect();
        heap.memory.prefetch(coroutines);
        let read = some.iter().filter_map(|address| context.task(*address));
        tasks.extend(read.map(|(counter, task)| (counter, reader.kept(task))));
    }
    tasks.sort_by(|(one, task), (other, another)| {
        one.cmp(other).then_with(|| task.key.cmp(&another.key))
    });
    let tasks: Vec<Arc<Task>> = tasks.into_iter().map(|(_, task)| task).collect();
    let running = tasks
        .iter()
        .find(|task| task.state == TaskState::Running)
        .map(|task| task.key.clone());
    let main = context.main_task.map(|task| context.key(task));
    let ready = ready(heap, run.runner);
    let waits_outside = run
        .state
        .raw_frames
        .first()
        .is_some_and(|frame| &*frame.code.name == "get_events" && in_trio(frame));
    let deadlines: Vec<f64> = context
        .statuses
        .values()
        .filter(|status| !status.scope.cancel_called && status.deadline.is_finite())
        .map(|status| status.deadline)
        .collect();
    let next = deadlines.iter().copied().reduce(f64::min);
    EventLoop {
        key: run.key(reader.process),
        library: TaskLibrary::Trio,
        type_name: heap.full_type_name(run.runner).unwrap_or_default().into(),
        interpreter: run.state.state.interpreter.clone(),
        thread: None,
        thread_state: match run.guest {
            true => run.host.map(|host| host.state.address),
            false => Some(run.state.state.address),
        },
        idle: ready.map(|ready| ready == 0 && running.is_none() && waits_outside),
        running,
        main: main.filter(|main| tasks.iter().any(|task| task.key == *main)),
        ready,
        stopping: false,
        timers: Some(deadlines.len() as u64),
        next_timer_ms: next.and_then(|next| context.until(next)),
        guest: run.guest,
        moving: false,
        tasks,
    }
}

/// Tasks and calls that wait for their turn.
fn ready(heap: &Heap<'_>, runner: u64) -> Option<u64> {
    let queue = attribute(heap, runner, "runq")?;
    let mut count = objects::length(heap, queue)?;
    let entries = attribute(heap, runner, "entry_queue")?;
    for name in ["queue", "idempotent_queue"] {
        let calls = attribute(heap, entries, name)?;
        count = count.saturating_add(objects::length(heap, calls)?);
    }
    Some(count)
}

fn in_trio(frame: &RawFrame) -> bool {
    let file = frame.code.file.untrusted();
    file.contains("/trio/_core/_io_") || ends_in(&frame.code.file, RUN_FILE)
}

impl Context<'_, '_> {
    /// A task, with the number that trio gave it.
    fn task(&mut self, address: u64) -> Option<(u64, Task)> {
        let reader = self.reader;
        let heap = reader.heap;
        let of_task = |name: &str| attribute(heap, address, name);
        let coroutine = of_task("coro")?;
        let chain = chain::read(reader, coroutine);
        let state = if chain.executing {
            TaskState::Running
        } else if of_task("_next_send_fn").is_some() {
            TaskState::Ready
        } else {
            TaskState::Waiting
        };
        let nursery = of_task("_parent_nursery");
        let parent = nursery.and_then(|nursery| attribute(heap, nursery, "_parent_task"));
        let (scopes, deadline) = self.scopes(of_task("_cancel_status"), &chain);
        let cancelled = scopes.first().is_some_and(|scope| scope.cancelled);
        let waiting = state == TaskState::Waiting;
        let task = Task {
            key: self.key(address),
            name: of_task("name")
                .and_then(|name| heap.string(name).ok())
                .unwrap_or_else(|| "?".to_owned())
                .into(),
            state,
            // What the init task has started besides the main task serves trio itself.
            system: self.init_task.is_some()
                && Some(address) != self.main_task
                && (Some(address) == self.init_task || parent == self.init_task),
            parent: parent.map(|parent| self.key(parent)),
            nursery: nursery.map(Addr),
            awaits: waiting.then(|| self.awaits(&chain, deadline.filter(|_| !cancelled))),
            scopes,
            cancelled,
            cancel_requests: 0,
            uncancellable: waiting && of_task("_abort_func").is_none(),
            frames: chain.frames,
        };
        let counter = of_task("_counter").and_then(|counter| heap.int(counter).ok());
        Some((counter.unwrap_or(u64::MAX), task))
    }

    fn key(&self, task: u64) -> Key {
        self.reader.process.task(Addr(task))
    }

    fn until(&self, deadline: f64) -> Option<i64> {
        self.reader.until(deadline - self.clock_offset?)
    }

    /// The cancel scopes that a task is in, innermost first, and the deadline that they come to.
    fn scopes(&mut self, innermost: Option<u64>, chain: &Chain) -> (Vec<CancelScope>, Option<f64>) {
        let mut out: Vec<CancelScope> = Vec::new();
        let mut deadline = f64::INFINITY;
        let mut shielded = false;
        let mut seen = HashSet::new();
        let mut next = innermost;
        while let Some(address) = next
            && out.len() < MAX_SCOPES
            && seen.insert(address)
            && let Some(status) = self.status(address)
        {
            if !shielded {
                deadline = deadline.min(status.deadline);
            }
            shielded |= status.scope.shield;
            out.push(status.scope);
            next = status.parent;
        }
        self.name_places(&mut out, chain);
        (out, deadline.is_finite().then_some(deadline))
    }

    /// Notes which of the task's functions has opened a scope, of those that matter.
    fn name_places(&self, scopes: &mut [CancelScope], chain: &Chain) {
        let matters = |scope: &CancelScope| {
            scope.shield || scope.cancel_called || scope.deadline_ms.is_some()
        };
        if !scopes.iter().any(matters) {
            return;
        }
        for (raw, frame) in chain.raw.iter().zip(chain.frames.iter()) {
            for block in with_blocks::active(self.reader.heap, raw) {
                let opened = scopes
                    .iter_mut()
                    .find(|scope| matters(scope) && scope.address.0 == block.manager);
                if let Some(scope) = opened {
                    scope.place = Some(frame.function.clone());
                }
            }
        }
    }

    fn status(&mut self, address: u64) -> Option<Status> {
        if let Some(known) = self.statuses.get(&address) {
            return Some(known.clone());
        }
        let heap = self.reader.heap;
        let scope = attribute(heap, address, "_scope")?;
        let flag = |object: u64, name: &str| {
            attribute(heap, object, name).is_some_and(|flag| heap.boolean(flag).unwrap_or(false))
        };
        let deadline = attribute(heap, scope, "_deadline")
            .and_then(|deadline| heap.float(deadline).ok())
            .unwrap_or(f64::INFINITY);
        let status = Status {
            scope: CancelScope {
                address: Addr(scope),
                deadline_ms: self.until(deadline),
                shield: flag(scope, "_shield"),
                cancel_called: flag(scope, "_cancel_called"),
                cancelled: flag(address, "effectively_cancelled"),
                place: None,
            },
            deadline,
            parent: attribute(heap, address, "_parent"),
        };
        self.statuses.insert(address, status.clone());
        Some(status)
    }

    fn awaits(&self, chain: &Chain, deadline: Option<f64>) -> Await {
        let heap = self.reader.heap;
        let mut awaits = Await {
            call: chain.call(heap),
            remaining_ms: deadline.and_then(|deadline| self.until(deadline)),
            ..Await::unknown()
        };
        let library = chain.library();
        // `Nursery.start` waits for a task that is still in a nursery of its own.
        let nested = library.iter().find(|frame| {
            &*frame.code.name == "_nested_child_finished" && ends_in(&frame.code.file, RUN_FILE)
        });
        let nested = nested
            .and_then(|frame| slots::variable(heap, frame, "self"))
            .and_then(|nursery| objects::known(heap, nursery));
        if let Some(object) = nested.or_else(|| awaited::object_of(heap, library)) {
            awaits.holders = self.holders(object.address.0);
            if heap.is(object.address.0, "Nursery") {
                awaits.tasks = self.children(object.address.0);
            }
            awaits.object = Some(object);
        }
        awaits.descriptor = awaited::descriptor_of(heap, library);
        if !self.workers.is_empty() {
            let job = library
                .iter()
                .find(|frame| &*frame.code.name == "to_thread_run_sync");
            let variables = job.and_then(|frame| slots::values(heap, frame).ok());
            awaits.thread_state = variables
                .unwrap_or_default()
                .iter()
                .find_map(|value| self.workers.on(*value));
        }
        awaits
    }

    fn children(&self, nursery: u64) -> Vec<Key> {
        let heap = self.reader.heap;
        let children = attribute(heap, nursery, "_children");
        let mut children: Vec<u64> = children
            .and_then(|children| heap.set(children).ok())
            .unwrap_or_default();
        children.sort_unstable();
        children.into_iter().map(|child| self.key(child)).collect()
    }

    /// Tasks that the object itself says hold it.
    fn holders(&self, object: u64) -> Vec<TaskHolder> {
        let heap = self.reader.heap;
        let lock = attribute(heap, object, "_lock").unwrap_or(object);
        let owner = attribute(heap, object, "_owner").or_else(|| attribute(heap, lock, "_owner"));
        let borrowers = attribute(heap, object, "_borrowers")
            .and_then(|borrowers| heap.set(borrowers).ok())
            .unwrap_or_default();
        owner
            .into_iter()
            .chain(borrowers)
            .filter(|holder| heap.is(*holder, "Task"))
            .take(MAX_HOLDERS)
            .map(|holder| TaskHolder {
                task: Some(self.key(holder)),
                by: HolderEvidence::OwnerField,
                place: None,
                grade: Grade::Read,
            })
            .collect()
    }
}

/// An attribute that is there and not `None`.
fn attribute(heap: &Heap<'_>, object: u64, name: &str) -> Option<u64> {
    let value = heap.attribute(object, name).ok().flatten()?;
    (!heap.is_none(value)).then_some(value)
}
