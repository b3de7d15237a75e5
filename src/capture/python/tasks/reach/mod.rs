//! Which tasks, callbacks and threads can come to what a task waits for. Beside a task that only sleeps and sleeps again
//! another may be stuck for good: it is, if nothing that goes on leads to what it awaits.

mod ground;
mod walk;

use super::asyncio_layout::TaskLayout;
use super::futures::Futures;
use crate::capture::memory::{CachedMemory, Memory};
use crate::capture::python::code::CodeCache;
use crate::capture::python::generator;
use crate::capture::python::heap::Heap;
use crate::capture::python::holders;
use crate::capture::python::interpreter::Census;
use crate::capture::python::references::{Open, References};
use crate::capture::python::waits::PythonWait;
use crate::model::{Addr, EventLoop, Key, Task, TaskLibrary, TaskState, Tid, WaitObject};
use ground::{Ground, Referents};
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// Most tasks of a process that this is asked of.
const MAX_TASKS: usize = 64;
/// Most threads.
const MAX_THREADS: usize = 16;
/// Most timers, callbacks and watched files of one loop.
const MAX_HANDLES: usize = 200;
/// Most futures that are looked through.
const MAX_FUTURES: usize = 2000;

/// Notes who cannot come to what tasks, and threads, wait for. Returns by task the thread states that do not.
pub(in crate::capture::python) fn rule_out(
    heap: &Heap<'_>,
    codes: &CodeCache,
    memory: &dyn Memory,
    census: &Census,
    loops: &mut [EventLoop],
    waits: &mut [(Tid, PythonWait)],
) -> BTreeMap<Key, Vec<Addr>> {
    let tasks: usize = loops.iter().map(|event_loop| event_loop.tasks.len()).sum();
    let [interpreter] = census.interpreters.as_slice() else {
        return BTreeMap::new();
    };
    if !loops.iter().any(is_followed)
        || tasks > MAX_TASKS
        || census.thread_states.len() > MAX_THREADS
    {
        return BTreeMap::new();
    }
    let field = interpreter
        .address
        .0
        .wrapping_add(heap.offsets.interpreter_modules);
    let Ok(modules) = heap.memory.u64(field) else {
        return BTreeMap::new();
    };
    let all_tasks = loops.iter().flat_map(|event_loop| &event_loop.tasks);
    let ends = all_tasks
        .map(|task| &task.key)
        .chain(loops.iter().map(|event_loop| &event_loop.key))
        .filter_map(address)
        .collect();
    let left = Cell::new(MAX_FUTURES);
    let futures = Futures::new(heap, TaskLayout::for_minor(heap.offsets.minor), &left);
    let mut ground = Ground {
        references: References { heap, modules },
        codes,
        futures: &futures,
        ends: &ends,
        known: HashMap::new(),
        own_classes: HashMap::new(),
    };
    let come_to = everybody(&mut ground, memory, census, loops);
    for (_, wait) in waits.iter_mut() {
        let objects = holders::suspicious(wait);
        if objects.is_empty() {
            continue;
        }
        wait.tasks_out_of_reach = come_to.tasks_but(&objects).cloned().collect();
        for event_loop in loops.iter().filter(|event_loop| is_followed(event_loop)) {
            if wait.task.is_none() {
                let passes = |task: &&Arc<Task>| {
                    let passed = address(&task.key).and_then(|task| futures.passes_result_to(task));
                    passed.is_some_and(|future| objects.contains(&future))
                };
                let task = event_loop.tasks.iter().find(passes);
                wait.task = task.map(|task| task.key.clone());
            }
        }
    }
    let mut states = BTreeMap::new();
    for event_loop in loops
        .iter_mut()
        .filter(|event_loop| is_followed(event_loop))
    {
        let library = event_loop.library;
        for task in &mut event_loop.tasks {
            let wanted = wanted(heap, &futures, library, task);
            if wanted.is_empty() {
                continue;
            }
            let missing = come_to.tasks_but(&wanted);
            let missing = missing.filter(|key| **key != task.key).cloned().collect();
            states.insert(task.key.clone(), come_to.threads_but(&wanted));
            if let Some(awaits) = &mut Arc::make_mut(task).awaits {
                awaits.out_of_reach = missing;
            }
        }
    }
    states
}

/// What each of them comes to; those that could not be followed to the end are left out.
#[derive(Default)]
struct ComeTo {
    /// Of tasks, and of the callbacks of loops.
    tasks: BTreeMap<Key, BTreeSet<u64>>,
    /// Of thread states.
    threads: BTreeMap<Addr, BTreeSet<u64>>,
}

impl ComeTo {
    /// The tasks and loops that come to none of these objects.
    fn tasks_but(&self, objects: &[u64]) -> impl Iterator<Item = &Key> {
        let misses = |set: &BTreeSet<u64>| objects.iter().all(|object| !set.contains(object));
        let found = self.tasks.iter().filter(move |(_, set)| misses(set));
        found.map(|(key, _)| key)
    }

    /// The thread states that come to none of them.
    fn threads_but(&self, objects: &[u64]) -> Vec<Addr> {
        let misses = |set: &BTreeSet<u64>| objects.iter().all(|object| !set.contains(object));
        let found = self.threads.iter().filter(|(_, set)| misses(set));
        found.map(|(state, _)| *state).collect()
    }
}

/// Follows all tasks, callbacks of loops, and threads.
fn everybody(
    ground: &mut Ground<'_>,
    memory: &dyn Memory,
    census: &Census,
    loops: &[EventLoop],
) -> ComeTo {
    let mut out = ComeTo::default();
    for event_loop in loops.iter().filter(|event_loop| is_followed(event_loop)) {
        for task in event_loop.tasks.iter().filter(|task| !task.system) {
            let roots = of_task(ground, event_loop.library, &task.key);
            if let Ok(all) = roots.and_then(|roots| walk::from(ground, &roots)) {
                out.tasks.insert(task.key.clone(), all);
            }
        }
        if let Ok(all) = by_callbacks(ground, memory, event_loop) {
            out.tasks.insert(event_loop.key.clone(), all);
        }
    }
    for raw in &census.thread_states {
        let runs = loops.iter().filter(|event_loop| {
            let runner = event_loop.thread_state.as_ref();
            runner == Some(&raw.state.address)
        });
        let mut runs = runs.peekable();
        let all = if runs.peek().is_some() {
            // It does what its tasks and callbacks do.
            let keys = runs.flat_map(|event_loop| {
                let tasks = event_loop.tasks.iter().map(|task| &task.key);
                tasks.chain([&event_loop.key])
            });
            let sets: Option<Vec<&BTreeSet<u64>>> = keys.map(|key| out.tasks.get(key)).collect();
            sets.map(|sets| sets.into_iter().flatten().copied().collect())
        } else if raw.raw_frames.is_empty() || raw.state.cut.is_some() {
            None
        } else {
            let roots = ground.frames(&raw.raw_frames);
            roots.and_then(|roots| walk::from(ground, &roots)).ok()
        };
        if let Some(all) = all {
            out.threads.insert(raw.state.address, all);
        }
    }
    out
}

/// Where a task begins: its frames, and what is called when it ends.
fn of_task(ground: &mut Ground<'_>, library: TaskLibrary, key: &Key) -> Result<Referents, Open> {
    let (heap, futures) = (ground.references.heap, ground.futures);
    let task = address(key).ok_or(Open)?;
    let coroutine = match library {
        TaskLibrary::Asyncio => futures.coroutine(task),
        TaskLibrary::Trio => heap.attribute(task, "coro").ok().flatten(),
    };
    let chain = generator::await_chain(heap, ground.codes, coroutine.ok_or(Open)?);
    if chain.executing || chain.frames.is_empty() {
        return Err(Open);
    }
    let mut out = ground.frames(&chain.frames)?;
    out.objects.extend(chain.awaits);
    if library == TaskLibrary::Asyncio {
        out.objects.extend(futures.done_callbacks(task));
    }
    Ok(out)
}

/// What a loop's callbacks come to. They change from one timer to the next: so they are read anew, and once more afterwards, and
/// are believed if they were the same.
fn by_callbacks(
    ground: &Ground<'_>,
    memory: &dyn Memory,
    event_loop: &EventLoop,
) -> Result<BTreeSet<u64>, Open> {
    let now = CachedMemory::new(memory);
    let heap = Heap::new(&now, ground.references.heap.offsets);
    let left = Cell::new(MAX_FUTURES);
    let futures = Futures::new(&heap, TaskLayout::for_minor(heap.offsets.minor), &left);
    let mut fresh = Ground {
        references: References {
            heap: &heap,
            modules: ground.references.modules,
        },
        codes: ground.codes,
        futures: &futures,
        ends: ground.ends,
        known: HashMap::new(),
        own_classes: HashMap::new(),
    };
    let roots = of_callbacks(&heap, event_loop)?;
    let all = walk::from(&mut fresh, &roots)?;
    let later = CachedMemory::new(memory);
    let again = of_callbacks(&Heap::new(&later, heap.offsets), event_loop)?;
    if again.objects == roots.objects {
        Ok(all)
    } else {
        Err(Open)
    }
}

/// Where a loop's callbacks begin: those that are due, its timers, and those of files. trio has only tasks.
fn of_callbacks(heap: &Heap<'_>, event_loop: &EventLoop) -> Result<Referents, Open> {
    let mut out = Referents::default();
    if event_loop.library == TaskLibrary::Trio {
        return Ok(out);
    }
    let at = address(&event_loop.key).ok_or(Open)?;
    let attribute = |object: u64, name: &str| heap.attribute(object, name)?.ok_or(Open);
    out.objects.extend(heap.list(attribute(at, "_scheduled")?)?);
    out.objects.extend(heap.deque(attribute(at, "_ready")?)?);
    let selector = attribute(at, "_selector")?;
    for (_, watched) in heap.dict(attribute(selector, "_fd_to_key")?)? {
        out.objects.extend(heap_items(heap, watched)?);
    }
    let handlers = attribute(at, "_signal_handlers")?;
    out.objects
        .extend(heap.dict(handlers)?.into_iter().map(|(_, handler)| handler));
    if out.objects.len() > MAX_HANDLES {
        return Err(Open);
    }
    Ok(out)
}

/// The fields of a `SelectorKey`, a named tuple.
fn heap_items(heap: &Heap<'_>, key: u64) -> Result<Vec<u64>, Open> {
    const FIELDS: u64 = 4;
    (0..FIELDS)
        .map(|index| {
            let field = heap.offsets.tuple_items + 8 * index;
            heap.memory.u64(key.wrapping_add(field)).map_err(|_| Open)
        })
        .collect()
}

/// What must be come to in order to end a task's wait: what it awaits, or the task itself, which can be cancelled. Who waits for
/// a lock with a known holder waits for nobody else.
fn wanted(heap: &Heap<'_>, futures: &Futures<'_>, library: TaskLibrary, task: &Task) -> Vec<u64> {
    let (Some(own), Some(awaits)) = (address(&task.key), &task.awaits) else {
        return Vec::new();
    };
    if task.state != TaskState::Waiting {
        return Vec::new();
    }
    let mut out = vec![own];
    if !awaits.holders.is_empty() {
        return out;
    }
    let object = awaits.object.as_ref().map(|object| object.address.0);
    match library {
        TaskLibrary::Asyncio => {
            let Some(waiter) = futures.waiter(own) else {
                return Vec::new();
            };
            out.push(waiter);
            out.extend(futures.behind(waiter).bare);
        }
        TaskLibrary::Trio if object.is_none() => return Vec::new(),
        TaskLibrary::Trio => {}
    }
    out.extend(object);
    // The two ends of a channel have this in common.
    let shared = object.and_then(|object| heap.attribute(object, "_state").ok().flatten());
    out.extend(shared.filter(|_| awaits.object.as_ref().is_some_and(is_channel)));
    out
}

fn is_channel(object: &WaitObject) -> bool {
    let class = object.type_name.untrusted();
    class.ends_with("Channel") || class.ends_with("Stream")
}

/// Whether its tasks can be told apart from what its thread does: it idles, and nothing of it moved meanwhile.
fn is_followed(event_loop: &EventLoop) -> bool {
    event_loop.idle == Some(true)
        && event_loop.thread_state.is_some()
        && !event_loop.moving
        && !event_loop.guest
}

/// The address in the key of a task or loop.
fn address(key: &Key) -> Option<u64> {
    let (_, address) = key.as_str().rsplit_once("@0x")?;
    u64::from_str_radix(address, 16).ok()
}
