//! asyncio's futures and tasks as objects, of the C and of the Python implementation, and what stands behind a future.

use super::asyncio_layout::{FUTURE_CALLBACKS, FUTURE_FIRST_CALLBACK, FUTURE_LOOP, TaskLayout};
use crate::capture::python::heap::{Heap, ObjectError};
use crate::capture::python::offsets::fixed;
use crate::capture::python::slots;
use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};

/// Most callbacks of one future that are looked at.
const MAX_CALLBACKS: usize = 1000;
/// Most variables of one callback's surroundings.
const MAX_CELLS: usize = 64;

/// What kind of future a type is of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Native { is_task: bool },
    Python { is_task: bool },
    None,
}

/// Reads futures of one interpreter.
pub(super) struct Futures<'a> {
    heap: &'a Heap<'a>,
    layout: TaskLayout,
    kinds: RefCell<HashMap<u64, Kind>>,
    /// Futures that may still be looked through.
    left: &'a Cell<usize>,
}

/// What stands behind a future that is waited for.
#[derive(Debug, Default)]
pub(super) struct Behind {
    pub(super) tasks: Vec<u64>,
    /// A `concurrent.futures.Future`: an executor's work.
    pub(super) work: Option<u64>,
    /// Futures that stand for nothing that is known, in any of these.
    pub(super) bare: Vec<u64>,
    /// It was made by `shield`.
    pub(super) shielded: bool,
}

impl<'a> Futures<'a> {
    pub(super) fn new(heap: &'a Heap<'a>, layout: TaskLayout, left: &'a Cell<usize>) -> Self {
        Self {
            heap,
            layout,
            kinds: RefCell::default(),
            left,
        }
    }

    fn kind(&self, object: u64) -> Kind {
        let Ok(kind) = self.heap.type_of(object) else {
            return Kind::None;
        };
        if let Some(known) = self.kinds.borrow().get(&kind) {
            return *known;
        }
        let found = self.classify(kind).unwrap_or(Kind::None);
        self.kinds.borrow_mut().insert(kind, found);
        found
    }

    fn classify(&self, kind: u64) -> Result<Kind, ObjectError> {
        let heap = self.heap;
        let order = heap.memory.u64(kind.wrapping_add(fixed::TYPE_MRO))?;
        let mut found = Kind::None;
        for base in heap.tuple(order)? {
            let name = heap.memory.u64(base.wrapping_add(fixed::TYPE_NAME))?;
            match &*heap.memory.c_string(name, 256)? {
                b"_asyncio.Task" => return Ok(Kind::Native { is_task: true }),
                b"_asyncio.Future" => return Ok(Kind::Native { is_task: false }),
                b"Task" => found = Kind::Python { is_task: true },
                b"Future" if found == Kind::None => found = Kind::Python { is_task: false },
                _ => {}
            }
        }
        Ok(found)
    }

    /// A future of the Python implementation has these attributes; `concurrent.futures` has no loop.
    fn is_really(&self, object: u64) -> bool {
        match self.kind(object) {
            Kind::Native { .. } => true,
            Kind::Python { .. } => {
                let has = |name| {
                    self.heap
                        .attribute(object, name)
                        .is_ok_and(|value| value.is_some())
                };
                has("_loop") && has("_callbacks")
            }
            Kind::None => false,
        }
    }

    pub(super) fn is_task(&self, object: u64) -> bool {
        matches!(
            self.kind(object),
            Kind::Native { is_task: true } | Kind::Python { is_task: true }
        ) && self.is_really(object)
    }

    fn attribute(&self, object: u64, name: &str) -> Option<u64> {
        let value = self.heap.attribute(object, name).ok().flatten()?;
        (!self.heap.is_none(value)).then_some(value)
    }

    /// A field of the C implementation, or an attribute of the Python one.
    fn field(&self, object: u64, offset: u64, name: &str) -> Option<u64> {
        match self.kind(object) {
            Kind::Native { .. } => {
                let value = self.heap.memory.u64(object.wrapping_add(offset)).ok()?;
                (value != 0 && !self.heap.is_none(value)).then_some(value)
            }
            Kind::Python { .. } => self.attribute(object, name),
            Kind::None => None,
        }
    }

    pub(super) fn event_loop(&self, future: u64) -> Option<u64> {
        self.field(future, FUTURE_LOOP, "_loop")
    }

    pub(super) fn coroutine(&self, task: u64) -> Option<u64> {
        self.field(task, self.layout.coroutine, "_coro")
    }

    /// `_fut_waiter`, what a task waits for.
    pub(super) fn waiter(&self, task: u64) -> Option<u64> {
        let waiter = self.field(task, self.layout.waiter, "_fut_waiter")?;
        self.heap.looks_like_object(waiter).then_some(waiter)
    }

    /// A task's name. Until it is first asked for, it is but a number (3.12+).
    pub(super) fn name(&self, task: u64) -> Option<String> {
        let name = self.field(task, self.layout.name, "_name")?;
        if self.heap.is(name, "int") {
            return Some(format!("Task-{}", self.heap.int(name).ok()?));
        }
        self.heap.string(name).ok()
    }

    /// Whether it has not ended.
    pub(super) fn is_pending(&self, future: u64) -> bool {
        match self.kind(future) {
            Kind::Native { .. } => {
                let state = future.wrapping_add(self.layout.state);
                self.heap.memory.i32(state) == Ok(0)
            }
            // Until it changes, the state is an attribute of the class.
            Kind::Python { .. } => {
                let state = self.attribute(future, "_state");
                self.is_really(future)
                    && state.is_none_or(|state| {
                        self.heap
                            .string(state)
                            .is_ok_and(|state| state == "PENDING")
                    })
            }
            Kind::None => false,
        }
    }

    /// How often `cancel()` was called and not taken back (3.11+).
    pub(super) fn cancel_requests(&self, task: u64) -> u32 {
        let count = match (self.kind(task), self.layout.cancels) {
            (Kind::Native { .. }, Some(cancels)) => {
                let count = self.heap.memory.i32(task.wrapping_add(cancels)).ok();
                count.and_then(|count| u32::try_from(count).ok())
            }
            (Kind::Python { .. }, _) => self
                .attribute(task, "_num_cancels_requested")
                .and_then(|count| self.heap.int(count).ok())
                .and_then(|count| u32::try_from(count).ok()),
            _ => None,
        };
        count.unwrap_or(0)
    }

    /// Looks through `gather`, `shield` and the chain to an executor.
    pub(super) fn behind(&self, future: u64) -> Behind {
        let mut out = Behind::default();
        let mut seen = HashSet::new();
        let mut open = vec![future];
        while let Some(future) = open.pop() {
            if !seen.insert(future) {
                continue;
            }
            let Some(left) = self.left.get().checked_sub(1) else {
                break;
            };
            self.left.set(left);
            if self.is_task(future) {
                out.tasks.push(future);
            } else if self.heap.is(future, "_GatheringFuture") {
                let children = self.attribute(future, "_children");
                let children = children.and_then(|children| self.heap.list(children).ok());
                open.extend(children.unwrap_or_default());
            } else if self.is_really(future) {
                if self.is_pending(future) {
                    out.bare.push(future);
                }
                self.through_callbacks(future, &mut out, &mut open);
            }
        }
        out.tasks.sort_unstable();
        out.tasks.dedup();
        out
    }

    /// Futures of `shield` and of executors know what they stand for by what their callbacks enclose.
    fn through_callbacks(&self, future: u64, out: &mut Behind, open: &mut Vec<u64>) {
        for callback in self.callbacks(future) {
            if !self.heap.is(callback, "function") {
                continue;
            }
            match self.heap.callable_name(callback).as_deref() {
                Some("_outer_done_callback") => {
                    out.shielded = true;
                    let enclosed = self.enclosed(callback);
                    open.extend(enclosed.into_iter().filter(|value| self.is_really(*value)));
                }
                Some("_call_check_cancel") => {
                    let enclosed = self.enclosed(callback);
                    out.work = enclosed.into_iter().find(|value| {
                        self.heap
                            .full_type_name(*value)
                            .is_ok_and(|name| name == "concurrent.futures._base.Future")
                    });
                }
                _ => {}
            }
        }
    }

    /// Whether it is a future of asyncio's, or a task.
    pub(super) fn is_future(&self, object: u64) -> bool {
        self.is_really(object)
    }

    /// What a future leads to: its result if it has one, and what its end calls, but for the tasks that it wakes.
    pub(super) fn leads_to(&self, future: u64) -> Option<Vec<u64>> {
        let mut out = self.done_callbacks(future);
        if !self.is_pending(future) {
            let result = self.field(future, self.layout.result, "_result");
            out.extend(result.filter(|result| self.heap.looks_like_object(*result)));
        }
        Some(out).filter(|out| out.len() < MAX_CALLBACKS)
    }

    /// What is called when a future or task ends, but for the tasks that it wakes.
    pub(super) fn done_callbacks(&self, future: u64) -> Vec<u64> {
        let wakes = |callback: &u64| {
            let of_type = self.heap.type_name(*callback);
            of_type.is_ok_and(|name| name.contains("TaskWakeup"))
                || self.heap.callable_name(*callback).is_some_and(|name| {
                    matches!(
                        &*name,
                        "TaskWakeupMethWrapper" | "_Task__wakeup" | "__wakeup" | "task_wakeup"
                    )
                })
        };
        let mut out = self.callbacks(future);
        out.retain(|callback| !wakes(callback));
        out
    }

    /// Whether what a task calls at its end knows this future.
    pub(super) fn tells_at_its_end(&self, task: u64, future: u64) -> bool {
        let callbacks = self.callbacks(task).into_iter();
        let mut functions = callbacks.filter(|callback| self.heap.is(*callback, "function"));
        functions.any(|callback| self.enclosed(callback).contains(&future))
    }

    /// The `concurrent.futures.Future` that gets the result of this task: of `run_coroutine_threadsafe`.
    pub(super) fn passes_result_to(&self, task: u64) -> Option<u64> {
        let callbacks = self.callbacks(task).into_iter();
        let mut chained = callbacks.filter(|callback| {
            self.heap.is(*callback, "function")
                && self.heap.callable_name(*callback).as_deref() == Some("_call_set_state")
        });
        chained.find_map(|callback| {
            let enclosed = self.enclosed(callback);
            enclosed.into_iter().find(|value| {
                self.heap
                    .full_type_name(*value)
                    .is_ok_and(|name| name == "concurrent.futures._base.Future")
            })
        })
    }

    fn callbacks(&self, future: u64) -> Vec<u64> {
        let mut out = Vec::new();
        if let Kind::Native { .. } = self.kind(future) {
            let first = future.wrapping_add(FUTURE_FIRST_CALLBACK);
            out.extend(self.heap.memory.u64(first).ok().filter(|first| *first != 0));
        }
        let list = self.field(future, FUTURE_CALLBACKS, "_callbacks");
        let pairs = list.and_then(|list| self.heap.list(list).ok());
        let pairs = pairs.unwrap_or_default().into_iter().take(MAX_CALLBACKS);
        out.extend(pairs.filter_map(|pair| self.heap.tuple(pair).ok()?.first().copied()));
        out
    }

    /// The values of a function's free variables.
    fn enclosed(&self, function: u64) -> Vec<u64> {
        let Ok(parts) = self.heap.function_parts(function) else {
            return Vec::new();
        };
        let [.., closure] = parts.captured;
        let cells = self.heap.tuple(closure).unwrap_or_default();
        cells
            .into_iter()
            .take(MAX_CELLS)
            .map(|cell| slots::unwrapped(self.heap, cell))
            .filter(|value| *value != 0)
            .collect()
    }
}
