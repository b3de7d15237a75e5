//! asyncio: the tasks of an interpreter, by event loop.

use super::asyncio_event_loop::{event_loop, threads_of_loops};
use super::asyncio_lists::{Lists, weak_members};
use super::awaited;
use super::chain::{self, Chain};
use super::futures::Futures;
use super::objects;
use super::workers::{Workers, ends_in};
use super::{MAX_HOLDERS, Reader};
use crate::capture::python::frame::RawFrame;
use crate::capture::python::heap::Heap;
use crate::capture::python::slots;
use crate::capture::python::with_blocks;
use crate::model::{
    Addr, Await, CancelScope, EventLoop, Foreign, Grade, HolderEvidence, Key, Task, TaskHolder,
    TaskState,
};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

/// Most connections of a server that are looked at.
const MAX_CLIENTS: usize = 100;

/// A task on the way to becoming one of the model.
struct Draft {
    address: u64,
    event_loop: u64,
    chain: Chain,
    /// Context managers of its `with` blocks, innermost first, and the function that is in them.
    managers: Vec<(u64, Foreign)>,
}

struct Context<'r, 'a> {
    reader: &'r Reader<'a>,
    workers: &'r Workers,
    lists: &'r Lists<'r>,
    futures: Futures<'r>,
    /// Who is in a `with` block of what.
    holders: HashMap<u64, Vec<(u64, Foreign)>>,
}

/// The loops of one interpreter that run, or have tasks.
pub(super) fn event_loops(
    reader: &Reader<'_>,
    workers: &Workers,
    lists: &Lists<'_>,
) -> Vec<EventLoop> {
    let heap = reader.heap;
    if lists.cut {
        reader.cut.set(Some("asyncio's list of tasks has no end"));
    }
    let mut context = Context {
        reader,
        workers,
        lists,
        futures: Futures::new(heap, lists.layout, &reader.edges_left),
        holders: HashMap::new(),
    };
    let drafts = context.drafts();
    for draft in &drafts {
        for (manager, place) in &draft.managers {
            let holders = context.holders.entry(*manager).or_default();
            if holders.len() < MAX_HOLDERS {
                holders.push((draft.address, place.clone()));
            }
        }
    }
    let threads = threads_of_loops(reader, lists);
    let mut tasks: BTreeMap<u64, Vec<Arc<Task>>> = threads
        .keys()
        .map(|event_loop| (*event_loop, Vec::new()))
        .collect();
    for draft in drafts {
        let event_loop = draft.event_loop;
        let task = reader.kept(context.task(draft));
        tasks.entry(event_loop).or_default().push(task);
    }
    let mut out: Vec<EventLoop> = tasks
        .into_iter()
        .map(|(address, tasks)| {
            let thread = threads.get(&address).copied();
            event_loop(reader, lists, address, thread, tasks)
        })
        .collect();
    // Those that run come first; a loop that none does may be left over.
    out.sort_by_key(|event_loop| event_loop.thread_state.is_none());
    out
}

/// Hostile memory: each address as a task, as a future and as a loop.
#[cfg(test)]
pub(super) fn at_any(reader: &Reader<'_>, workers: &Workers, addresses: &[u64]) -> Vec<EventLoop> {
    let Some(interpreter) = reader.census.interpreters.first() else {
        return Vec::new();
    };
    let lists = Lists::of_any(interpreter, addresses, reader.heap.offsets.minor);
    let mut out = event_loops(reader, workers, &lists);
    let context = Context {
        reader,
        workers,
        lists: &lists,
        futures: Futures::new(reader.heap, lists.layout, &reader.edges_left),
        holders: HashMap::new(),
    };
    for address in addresses {
        let _ = context.futures.behind(*address);
        if let Some(draft) = context.draft(*address) {
            let _ = context.awaits(&draft, *address, &[]);
            let _ = context.task(draft);
        }
        let thread = reader.census.thread_states.first();
        out.push(event_loop(reader, &lists, *address, thread, Vec::new()));
    }
    out
}

impl Context<'_, '_> {
    fn drafts(&self) -> Vec<Draft> {
        let (heap, futures) = (self.reader.heap, &self.futures);
        let all = &self.lists.tasks;
        let mut pending: Vec<u64> = Vec::with_capacity(all.len());
        for some in all.chunks(super::AT_ONCE) {
            heap.memory.prefetch(some.iter().map(|task| (*task, 192)));
            pending.extend(some.iter().filter(|task| futures.is_pending(**task)));
        }
        let pending = self.reader.affordable(pending);
        let mut drafts: Vec<Draft> = Vec::with_capacity(pending.len());
        for some in pending.chunks(super::AT_ONCE) {
            let parts = some
                .iter()
                .filter_map(|task| Some([futures.coroutine(*task)?, futures.waiter(*task)?]));
            let parts: Vec<(u64, usize)> = parts.flatten().map(|part| (part, 256)).collect();
            heap.memory.prefetch(parts);
            drafts.extend(some.iter().filter_map(|address| self.draft(*address)));
        }
        if heap.offsets.minor < 14 {
            // Weak sets have no order, the default names do.
            drafts.sort_by_cached_key(|draft| {
                let name = futures.name(draft.address).unwrap_or_default();
                let number = name
                    .strip_prefix("Task-")
                    .and_then(|rest| rest.parse().ok());
                (number.unwrap_or(u64::MAX), draft.address)
            });
        }
        drafts
    }

    fn draft(&self, address: u64) -> Option<Draft> {
        let heap = self.reader.heap;
        let event_loop = self.futures.event_loop(address)?;
        let coroutine = self.futures.coroutine(address)?;
        let chain = chain::read(self.reader, coroutine);
        let mut managers = Vec::new();
        for (raw, frame) in chain.raw.iter().zip(chain.frames.iter()) {
            for block in with_blocks::active(heap, raw) {
                let (manager, place) = (block.manager, frame.function.clone());
                // A condition is given up by whoever waits on it; a lock is not.
                if waits_on(heap, &chain, manager) && !heap.is(manager, "Lock") {
                    continue;
                }
                // Who is in a condition's block has its lock.
                let lock =
                    attribute(heap, manager, "_lock").filter(|_| heap.is(manager, "Condition"));
                managers.extend(lock.map(|lock| (lock, place.clone())));
                let within = with_blocks::within_generator(heap, manager);
                managers.extend(
                    within
                        .into_iter()
                        .map(|block| (block.manager, place.clone())),
                );
                managers.push((manager, place));
            }
        }
        Some(Draft {
            address,
            event_loop,
            chain,
            managers,
        })
    }

    fn key(&self, task: u64) -> Key {
        self.reader.process.task(Addr(task))
    }

    fn task(&self, draft: Draft) -> Task {
        let (address, futures) = (draft.address, &self.futures);
        let waiter = futures
            .waiter(address)
            .filter(|waiter| futures.is_pending(*waiter));
        let runs =
            draft.chain.executing || self.lists.running.get(&draft.event_loop) == Some(&address);
        let state = match waiter {
            _ if runs => TaskState::Running,
            Some(_) => TaskState::Waiting,
            None => TaskState::Ready,
        };
        let scopes = self.scopes(&draft);
        let awaits = waiter
            .filter(|_| state == TaskState::Waiting)
            .map(|waiter| self.awaits(&draft, waiter, &scopes));
        Task {
            key: self.key(address),
            name: futures
                .name(address)
                .unwrap_or_else(|| "?".to_owned())
                .into(),
            state,
            system: false,
            parent: None,
            nursery: None,
            frames: draft.chain.frames,
            awaits,
            scopes,
            cancelled: futures.cancel_requests(address) > 0,
            cancel_requests: futures.cancel_requests(address),
            uncancellable: false,
        }
    }

    /// `asyncio.timeout` blocks, and anyio's cancel scopes.
    fn scopes(&self, draft: &Draft) -> Vec<CancelScope> {
        let heap = self.reader.heap;
        let scope = |(manager, place): &(u64, Foreign)| {
            let deadline = match &*heap.type_name(*manager).ok()? {
                "Timeout" => attribute(heap, *manager, "_when"),
                "CancelScope" => attribute(heap, *manager, "_deadline"),
                _ => return None,
            };
            let flag = |name| {
                attribute(heap, *manager, name)
                    .is_some_and(|flag| heap.boolean(flag).unwrap_or(false))
            };
            let cancel_called = flag("_cancel_called");
            Some(CancelScope {
                address: Addr(*manager),
                deadline_ms: deadline
                    .and_then(|deadline| heap.float(deadline).ok())
                    .and_then(|deadline| self.reader.until(deadline)),
                shield: flag("_shield"),
                cancel_called,
                cancelled: cancel_called,
                place: Some(place.clone()),
            })
        };
        draft.managers.iter().filter_map(scope).collect()
    }

    fn awaits(&self, draft: &Draft, waiter: u64, scopes: &[CancelScope]) -> Await {
        let heap = self.reader.heap;
        let library = draft.chain.library();
        let mut behind = self.futures.behind(waiter);
        let mut awaits = Await {
            call: draft.chain.call(heap),
            descriptor: awaited::descriptor_of(heap, library),
            grade: Grade::Read,
            ..Await::unknown()
        };
        for frame in library {
            self.through_frame(frame, &mut behind.tasks);
        }
        awaits.object = awaited::object_of(heap, library);
        if awaits.call.is_none() {
            let call = if behind.shielded {
                Some("asyncio.shield")
            } else if behind.work.is_some() {
                Some("asyncio.run_in_executor")
            } else if heap.is(waiter, "_GatheringFuture") {
                Some("asyncio.gather")
            } else {
                None
            };
            awaits.call = call.map(Foreign::from);
            let object = objects::known(heap, waiter);
            awaits.object = Some(object.unwrap_or_else(|| objects::bare(heap, waiter)));
        }
        if let Some(object) = &awaits.object {
            awaits.holders = self.holders(draft.address, object.address.0);
        }
        awaits.thread_state = self.workers.on(waiter);
        if let Some(work) = behind.work {
            awaits.thread_state = self.workers.on(work);
            let state = attribute(heap, work, "_state").and_then(|state| heap.string(state).ok());
            if let Some(state) = state {
                let fact = crate::model::ObjectFact {
                    name: "state".to_owned(),
                    value: state.to_lowercase().into(),
                };
                awaits.object = Some(objects::with_state(heap, work, vec![fact]));
            }
        }
        awaits.tasks = behind
            .tasks
            .into_iter()
            .filter(|task| *task != draft.address && self.futures.is_pending(*task))
            .map(|task| self.key(task))
            .collect();
        let timer = library
            .iter()
            .filter_map(|frame| self.timer_of(frame))
            .min();
        let deadlines = scopes.iter().filter_map(|scope| scope.deadline_ms);
        awaits.remaining_ms = deadlines.chain(timer).min();
        awaits
    }

    /// Tasks that the library's own waits keep in variables: of `wait`, `wait_for`, `TaskGroup`.
    fn through_frame(&self, frame: &RawFrame, tasks: &mut Vec<u64>) {
        let heap = self.reader.heap;
        let variable = |name| slots::variable(heap, frame, name);
        let futures = match &*frame.code.name {
            "_wait" => variable("fs").and_then(|futures| members(heap, futures)),
            "wait_for" => variable("fut").map(|future| vec![future]),
            // Of the connections that are open, those whose handler is a task.
            "wait_closed" if ends_in(&frame.code.file, "asyncio/base_events.py") => {
                let clients =
                    variable("self").and_then(|server| attribute(heap, server, "_clients"));
                clients.map(|clients| {
                    let transports = weak_members(heap, clients).into_iter().take(MAX_CLIENTS);
                    let handler = |transport| {
                        attribute(heap, attribute(heap, transport, "_protocol")?, "_task")
                    };
                    transports.filter_map(handler).collect()
                })
            }
            // anyio's `TaskGroup.start`: the task has not said yet that it has started.
            "start" if ends_in(&frame.code.file, "anyio/_backends/_asyncio.py") => {
                let of_group = variable("self")
                    .and_then(|group| attribute(heap, group, "_tasks"))
                    .and_then(|tasks| members(heap, tasks));
                variable("future")
                    .zip(of_group)
                    .map(|(future, mut of_group)| {
                        of_group.retain(|task| self.futures.tells_at_its_end(*task, future));
                        of_group
                    })
            }
            "_aexit" | "__aexit__" => variable("self")
                .filter(|group| heap.is(*group, "TaskGroup"))
                .and_then(|group| attribute(heap, group, "_tasks"))
                .and_then(|tasks| members(heap, tasks)),
            _ => None,
        };
        for future in futures.unwrap_or_default().into_iter() {
            tasks.extend(self.futures.behind(future).tasks);
        }
        tasks.sort_unstable();
        tasks.dedup();
    }

    /// Milliseconds until the timer ends the wait that a library function has set for it.
    fn timer_of(&self, frame: &RawFrame) -> Option<i64> {
        let heap = self.reader.heap;
        let handle = ["h", "timeout_handle"]
            .iter()
            .find_map(|name| slots::variable(heap, frame, name))
            .filter(|handle| heap.is(*handle, "TimerHandle"))?;
        let when = attribute(heap, handle, "_when")?;
        self.reader.until(heap.float(when).ok()?)
    }

    /// Tasks in a `with` block of the object, or of the lock that it is made of. The waiting task itself only if the object is
    /// a plain lock, which it waits for in vain then: whoever waits on a condition has given it up.
    fn holders(&self, waiting: u64, object: u64) -> Vec<TaskHolder> {
        let heap = self.reader.heap;
        let lock = attribute(heap, object, "_lock");
        let within = [Some(object), lock];
        let blocks = within
            .into_iter()
            .flatten()
            .filter_map(|object| self.holders.get(&object))
            .flatten()
            .filter(|(task, _)| *task != waiting || heap.is(object, "Lock"));
        let mut out: Vec<TaskHolder> = blocks
            .map(|(task, place)| TaskHolder {
                task: Some(self.key(*task)),
                by: HolderEvidence::WithBlock,
                place: Some(place.clone()),
                grade: Grade::Derived,
            })
            .collect();
        // anyio's own lock on asyncio notes its owner.
        if let Some(owner) = attribute(heap, object, "_owner_task")
            && self.futures.is_task(owner)
        {
            out.insert(
                0,
                TaskHolder {
                    task: Some(self.key(owner)),
                    by: HolderEvidence::OwnerField,
                    place: None,
                    grade: Grade::Read,
                },
            );
        }
        let mut seen = HashSet::new();
        out.retain(|holder| seen.insert(holder.task.clone()));
        out
    }
}

/// Whether a task waits in the library for this very object, as `Condition.wait` does: then it has let go of it.
fn waits_on(heap: &Heap<'_>, chain: &Chain, object: u64) -> bool {
    chain
        .library()
        .iter()
        .any(|frame| slots::variable(heap, frame, "self") == Some(object))
}

/// The members of a set, list or tuple.
fn members(heap: &Heap<'_>, container: u64) -> Option<Vec<u64>> {
    let tried = heap.set(container).or_else(|_| heap.list(container));
    tried.or_else(|_| heap.tuple(container)).ok()
}

/// An attribute that is there and not `None`.
pub(super) fn attribute(heap: &Heap<'_>, object: u64, name: &str) -> Option<u64> {
    let value = heap.attribute(object, name).ok().flatten()?;
    (!heap.is_none(value)).then_some(value)
}
