//! The one place where kernel and Python facts of a thread are joined, by thread id.

use super::joined_wait;
use super::kernel::{self, Look, Stat};
use super::python::{PythonPart, PythonWait, RawThreadState, WaitTarget};
use super::syscall::Meaning;
use super::waits::Surroundings;
use crate::model::{
    Addr, EventLoop, Foreign, Gap, GapKind, Grade, HolderEvidence, Interpreter, Key, PythonRuntime,
    Thread, ThreadKind, ThreadState, Tid, WaitKind,
};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A thread as `/proc` shows it.
pub(super) struct RawThread {
    pub(super) tid: Tid,
    /// In the target's pid namespace.
    pub(super) native_id: Tid,
    pub(super) stat: Stat,
    pub(super) look: Look,
    pub(super) settled: bool,
    /// In the same system call before and after, though it may have run between.
    pub(super) same_call: bool,
    pub(super) meaning: Option<Meaning>,
    pub(super) wchan: Option<Foreign>,
}

/// The joined facts of a process.
pub(super) struct Merged {
    pub(super) threads: Vec<Thread>,
    pub(super) interpreters: Vec<Interpreter>,
    pub(super) runtime: Option<PythonRuntime>,
    pub(super) event_loops: Vec<EventLoop>,
    /// Locks between processes that threads hold: address of the semaphore, thread, whether it settled, place.
    pub(super) shared_locks: Vec<(u64, Key, bool, Foreign)>,
    pub(super) gaps: Vec<Gap>,
}

/// Joins. `around` tells what files and children of the process are.
pub(super) fn merge(
    process: &Key,
    raw_threads: Vec<RawThread>,
    python: Option<PythonPart>,
    around: &Surroundings<'_>,
) -> Merged {
    let mut merged = Merged {
        threads: Vec::new(),
        interpreters: Vec::new(),
        runtime: None,
        event_loops: Vec::new(),
        shared_locks: Vec::new(),
        gaps: Vec::new(),
    };
    let mut states: BTreeMap<Tid, Vec<RawThreadState>> = BTreeMap::new();
    let mut waits = BTreeMap::new();
    let mut out_of_reach = BTreeMap::new();
    let mut process_locks = Vec::new();
    if let Some(part) = python {
        merged.runtime = Some(part.runtime);
        merged.interpreters = part.interpreters;
        merged.gaps = part.gaps;
        merged.event_loops = part.event_loops;
        out_of_reach = part.out_of_reach;
        waits = part.waits.into_iter().collect();
        process_locks = part.process_locks;
        let on_threads = part.thread_states.into_iter();
        for raw in on_threads.filter(|raw| !raw.runs_nowhere) {
            states.entry(raw.native_id).or_default().push(raw);
        }
    }
    let threads: BTreeMap<Tid, (Key, bool)> = raw_threads
        .iter()
        .map(|raw| (raw.native_id, (process.thread(raw.tid), raw.settled)))
        .collect();
    for lock in process_locks {
        if let Some((key, settled)) = threads.get(&lock.native_id) {
            let held = (lock.semaphore, key.clone(), *settled, lock.place);
            merged.shared_locks.push(held);
        }
    }
    for raw in raw_threads {
        let own_states = states.remove(&raw.native_id).unwrap_or_default();
        let wait = waits.remove(&raw.tid);
        let mut thread = thread(process, raw, own_states, &wait, around);
        if let (Some(wait), Some(python)) = (&mut thread.wait, wait) {
            joined_wait::add_holders(wait, python, &threads);
            // A thread that has moved may hold by now what it waited for; and nobody waits for an RLock of his own.
            if !thread.settled || wait.kind == WaitKind::RLock {
                wait.holders
                    .retain(|holder| holder.thread.as_ref() != Some(&thread.key));
            }
            wait.suspects
                .retain(|suspect| suspect.thread.as_ref() != Some(&thread.key));
        }
        merged.gaps.extend(cut_stacks(&thread));
        merged.threads.push(thread);
    }
    for raw in states.into_values().flatten() {
        merged.gaps.push(orphaned_state(&raw));
    }
    resolve_idents(&mut merged.threads);
    resolve_loops(&mut merged.event_loops, &merged.threads, &out_of_reach);
    for interpreter in &mut merged.interpreters {
        if let Some(gil) = &mut interpreter.gil
            && let Some(holder) = gil.holder
        {
            gil.holder_thread = merged
                .threads
                .iter()
                .find(|thread| thread.python.iter().any(|state| state.address == holder))
                .map(|thread| thread.key.clone());
        }
    }
    merged
}

fn thread(
    process: &Key,
    raw: RawThread,
    mut states: Vec<RawThreadState>,
    python_wait: &Option<PythonWait>,
    around: &Surroundings<'_>,
) -> Thread {
    // The thread state bound to the thread is the one that runs now; the others are suspended below it.
    states.sort_by_key(|raw| {
        (
            !raw.bound,
            raw.state.frames.is_empty(),
            raw.place,
            -raw.state.interpreter_id,
        )
    });
    let python: Vec<ThreadState> = states
        .into_iter()
        .map(|mut state| {
            state.state.tid = Some(raw.tid);
            state.state
        })
        .collect();
    let kind = match raw.stat.state {
        'Z' | 'X' => ThreadKind::Exited,
        _ if python.is_empty() => ThreadKind::Native,
        _ => ThreadKind::Python,
    };
    let mut wait = None;
    // A waiter on a GIL wakes every few milliseconds to ask for it, and may be seen doing that at the second look.
    let target = python_wait.as_ref().and_then(|wait| wait.target.as_ref());
    let asks_for_gil = matches!(target, Some(WaitTarget::Gil(_)));
    if (raw.settled || raw.same_call || asks_for_gil)
        && let Some(meaning) = &raw.meaning
    {
        let frames = python.first().map_or(&[][..], |state| &state.frames);
        wait = Some(joined_wait::join(
            process,
            meaning,
            target,
            frames,
            raw.settled,
            around,
        ));
    }
    Thread {
        key: process.thread(raw.tid),
        tid: raw.tid,
        name: raw.stat.comm.clone(),
        full_name: None,
        test: None,
        kernel: kernel::kernel_thread(&raw.stat, &raw.look, raw.wchan),
        kind,
        python,
        native: None,
        wait,
        settled: raw.settled,
    }
}

/// Turns `pthread_t` values into threads.
fn resolve_idents(threads: &mut [Thread]) {
    let by_ident: BTreeMap<Addr, Key> = threads
        .iter()
        .flat_map(|thread| {
            thread
                .python
                .iter()
                .map(|state| (state.ident, thread.key.clone()))
        })
        .collect();
    for thread in threads {
        let Some(wait) = &mut thread.wait else {
            continue;
        };
        let Some(owner) = &mut wait.owner else {
            continue;
        };
        owner.thread = by_ident.get(&owner.ident).cloned();
        if wait.kind == WaitKind::ThreadExit && wait.target.is_none() {
            wait.target = owner.thread.clone();
            wait.owner = None;
            continue;
        }
        // The field is believed if something else says the same of that thread.
        let agrees = wait.holders.iter().any(|holder| {
            holder.thread == owner.thread && holder.by != HolderEvidence::BareOwnerField
        });
        if agrees {
            owner.grade = Grade::Derived;
        }
    }
}

/// Turns the thread states of event loops, and of calls that tasks wait for, into threads. A loop whose thread ran
/// meanwhile may have been idle at one moment and not at another.
/// `out_of_reach`: by task, thread states that do not come to what it awaits.
fn resolve_loops(
    loops: &mut [EventLoop],
    threads: &[Thread],
    out_of_reach: &BTreeMap<Key, Vec<Addr>>,
) {
    let by_state: BTreeMap<Addr, &Thread> = threads
        .iter()
        .flat_map(|thread| {
            thread
                .python
                .iter()
                .map(move |state| (state.address, thread))
        })
        .collect();
    for event_loop in loops {
        let runner = event_loop.thread_state.and_then(|at| by_state.get(&at));
        event_loop.thread = runner.map(|thread| thread.key.clone());
        if runner.is_some_and(|thread| !thread.settled) {
            event_loop.moving = true;
        }
        if event_loop.moving && event_loop.idle == Some(true) {
            event_loop.idle = None;
        }
        for task in &mut event_loop.tasks {
            let states = out_of_reach.get(&task.key).into_iter().flatten();
            let missed = states.filter_map(|at| Some(by_state.get(at)?.key.clone()));
            let missed: Vec<Key> = missed.collect();
            if !missed.is_empty()
                && let Some(awaits) = &mut Arc::make_mut(task).awaits
            {
                awaits.out_of_reach.extend(missed);
            }
            let state = task.awaits.as_ref().and_then(|awaits| awaits.thread_state);
            let Some(worker) = state.and_then(|at| by_state.get(&at)) else {
                continue;
            };
            if let Some(awaits) = &mut Arc::make_mut(task).awaits {
                awaits.thread = Some(worker.key.clone());
            }
        }
    }
}

/// Stacks that end early. Of a thread that ran meanwhile that is no wonder.
fn cut_stacks(thread: &Thread) -> impl Iterator<Item = Gap> {
    let kind = if thread.settled {
        GapKind::Implausible
    } else {
        GapKind::Moving
    };
    thread.python.iter().filter_map(move |state| {
        let cause = state.cut.clone()?;
        let missing = if state.frames.is_empty() {
            "Python frames"
        } else {
            "the outer Python frames"
        };
        Some(Gap::new(Some(thread.key.clone()), kind, missing, cause))
    })
}

fn orphaned_state(raw: &RawThreadState) -> Gap {
    Gap::new(
        Some(raw.state.interpreter.clone()),
        GapKind::Gone,
        format!("the thread of thread state {}", raw.state.address),
        format!(
            "thread {} that it names is not, or no longer, a thread of the process",
            raw.native_id
        ),
    )
}
