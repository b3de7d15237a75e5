//! Which asyncio tasks there are, and which one runs: linked lists from 3.14 on, weak sets before.

use super::MAX_TASKS;
use super::asyncio_layout::{DebugSection, DebugTable, TaskLayout};
use crate::capture::python::heap::Heap;
use crate::capture::python::interpreter::Census;
use crate::capture::python::thread_state::RawThreadState;
use crate::model::{Addr, Interpreter, Key};
use std::collections::{BTreeMap, HashSet};

/// The asyncio of one interpreter.
pub(super) struct Lists<'a> {
    pub(super) interpreter: &'a Interpreter,
    pub(super) layout: TaskLayout,
    /// Addresses of tasks, oldest first where the version keeps them so.
    pub(super) tasks: Vec<u64>,
    /// Running tasks, by loop.
    pub(super) running: BTreeMap<u64, u64>,
    /// Loops that run, with the thread state that runs them, as far as the version says so itself.
    pub(super) loops: BTreeMap<u64, Addr>,
    /// The list was longer than what is read, or led nowhere.
    pub(super) cut: bool,
}

#[cfg(test)]
impl<'a> Lists<'a> {
    /// Lists of addresses with anything behind them.
    pub(super) fn of_any(interpreter: &'a Interpreter, tasks: &[u64], minor: u8) -> Self {
        Self {
            interpreter,
            layout: TaskLayout::for_minor(minor),
            tasks: tasks.to_vec(),
            running: BTreeMap::new(),
            loops: BTreeMap::new(),
            cut: false,
        }
    }
}

impl Lists<'_> {
    /// Whether a second look saw the same.
    pub(super) fn same_as(&self, other: &Self) -> bool {
        self.tasks == other.tasks && self.running == other.running
    }

    pub(super) fn has_loop(&self, key: &Key, process: &Key) -> bool {
        // A loop that ran no task at the time is not in the lists: then only its tasks could have changed.
        self.loops
            .keys()
            .any(|event_loop| *key == process.event_loop(Addr(*event_loop)))
            || self.loops.is_empty()
    }
}

/// Reads them; `None` where the interpreter has not imported asyncio.
pub(super) fn read<'a>(
    heap: &Heap<'_>,
    census: &'a Census,
    interpreter: &'a Interpreter,
    section: &DebugSection,
) -> Result<Option<Lists<'a>>, String> {
    let address = interpreter.address.0;
    let module = |name: &str| {
        heap.module_attribute(address, "asyncio.tasks", name)
            .ok()
            .flatten()
    };
    let Some(current) = module("_current_tasks") else {
        return Ok(None);
    };
    let mut lists = Lists {
        interpreter,
        layout: TaskLayout::for_minor(heap.offsets.minor),
        tasks: Vec::new(),
        running: heap.dict(current).unwrap_or_default().into_iter().collect(),
        loops: BTreeMap::new(),
        cut: false,
    };
    for name in ["_all_tasks", "_scheduled_tasks"] {
        if let Some(set) = module(name) {
            lists.tasks.extend(weak_members(heap, set));
        }
    }
    if let Some(set) = module("_eager_tasks") {
        lists.tasks.extend(heap.set(set).unwrap_or_default());
    }
    lists.tasks.sort_unstable();
    if heap.offsets.minor >= 14 {
        let table = section
            .address()
            .and_then(|at| DebugTable::read(heap.memory, at))
            .ok_or("asyncio's table (.AsyncioDebug) was not found in the files that the process has mapped")?;
        lists.read_linked(heap, &table, states_of(census, interpreter));
    }
    let mut seen = HashSet::new();
    lists.tasks.retain(|task| seen.insert(*task));
    Ok(Some(lists))
}

fn states_of<'a>(
    census: &'a Census,
    interpreter: &'a Interpreter,
) -> impl Iterator<Item = &'a RawThreadState> {
    census
        .thread_states
        .iter()
        .filter(|state| state.state.interpreter == interpreter.key)
}

/// The live members of a `WeakSet`.
pub(super) fn weak_members(heap: &Heap<'_>, set: u64) -> Vec<u64> {
    let data = heap.attribute(set, "data").ok().flatten();
    let references = data
        .and_then(|data| heap.set(data).ok())
        .unwrap_or_default();
    heap.memory
        .prefetch(references.iter().map(|reference| (*reference, 24)));
    references
        .into_iter()
        .filter_map(|reference| heap.referent(reference).ok().flatten())
        .collect()
}

impl Lists<'_> {
    /// The lists of 3.14 and later: one of each thread state, and one of the interpreter for threads that have ended.
    fn read_linked<'s>(
        &mut self,
        heap: &Heap<'_>,
        table: &DebugTable,
        states: impl Iterator<Item = &'s RawThreadState>,
    ) {
        self.layout.name = table.task_name;
        self.layout.coroutine = table.task_coroutine;
        let orphans = self
            .interpreter
            .address
            .0
            .wrapping_add(table.interpreter_tasks);
        self.walk(heap, orphans, table);
        for state in states {
            let at = |offset: u64| state.state.address.0.wrapping_add(offset);
            self.walk(heap, at(table.thread_tasks), table);
            let event_loop = heap.memory.u64(at(table.thread_loop)).unwrap_or(0);
            let task = heap.memory.u64(at(table.thread_task)).unwrap_or(0);
            if event_loop != 0 {
                self.loops.insert(event_loop, state.state.address);
                if task != 0 {
                    self.running.insert(event_loop, task);
                }
            }
        }
    }

    /// A `llist` (`pycore_llist.h`): a circle of nodes that begins and ends with its head.
    fn walk(&mut self, heap: &Heap<'_>, head: u64, table: &DebugTable) {
        let mut next = heap.memory.u64(head).unwrap_or(0);
        let mut seen = HashSet::new();
        while next != 0 && next != head {
            if self.tasks.len() > MAX_TASKS || !seen.insert(next) {
                self.cut = true;
                return;
            }
            self.tasks.push(next.wrapping_sub(table.task_node));
            match heap.memory.u64(next) {
                Ok(following) => next = following,
                Err(_) => {
                    self.cut = true;
                    return;
                }
            }
        }
    }
}
