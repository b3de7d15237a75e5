//! The one place where kernel and Python facts of a thread are joined, by thread id.

use super::kernel::{self, Look, Stat};
use super::python::{PythonPart, PythonWait, RawThreadState};
use super::syscall::Meaning;
use crate::model::{
    Addr, Descriptor, Foreign, Frame, Gap, GapKind, Grade, Interpreter, Key, Owner, PythonRuntime,
    Thread, ThreadKind, ThreadState, Tid, Wait, WaitKind,
};
use std::collections::BTreeMap;

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
    pub(super) gaps: Vec<Gap>,
}

/// Joins. `file_of` tells what a file descriptor of the process refers to.
pub(super) fn merge(
    process: &Key,
    raw_threads: Vec<RawThread>,
    python: Option<PythonPart>,
    file_of: &dyn Fn(i32) -> Descriptor,
) -> Merged {
    let mut merged = Merged {
        threads: Vec::new(),
        interpreters: Vec::new(),
        runtime: None,
        gaps: Vec::new(),
    };
    let mut states: BTreeMap<Tid, Vec<RawThreadState>> = BTreeMap::new();
    let mut waits = BTreeMap::new();
    if let Some(part) = python {
        merged.runtime = Some(part.runtime);
        merged.interpreters = part.interpreters;
        merged.gaps = part.gaps;
        waits = part.waits.into_iter().collect();
        let on_threads = part.thread_states.into_iter();
        for raw in on_threads.filter(|raw| !raw.runs_nowhere) {
            states.entry(raw.native_id).or_default().push(raw);
        }
    }
    for raw in raw_threads {
        let own_states = states.remove(&raw.native_id).unwrap_or_default();
        let wait = waits.remove(&raw.tid);
        let thread = thread(process, raw, own_states, wait, file_of);
        merged.gaps.extend(cut_stacks(&thread));
        merged.threads.push(thread);
    }
    for raw in states.into_values().flatten() {
        merged.gaps.push(orphaned_state(&raw));
    }
    resolve_idents(&mut merged.threads);
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
    python_wait: Option<PythonWait>,
    file_of: &dyn Fn(i32) -> Descriptor,
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
    let asks_for_gil = matches!(python_wait, Some(PythonWait::Gil(_)));
    if (raw.settled || raw.same_call || asks_for_gil)
        && let Some(meaning) = &raw.meaning
    {
        let frames = python.first().map_or(&[][..], |state| &state.frames);
        wait = Some(join_wait(
            process,
            meaning,
            python_wait,
            frames,
            raw.settled,
            file_of,
        ));
    }
    Thread {
        key: process.thread(raw.tid),
        tid: raw.tid,
        name: raw.stat.comm.clone(),
        kernel: kernel::kernel_thread(&raw.stat, &raw.look, raw.wchan),
        kind,
        python,
        wait,
        settled: raw.settled,
    }
}

fn join_wait(
    process: &Key,
    meaning: &Meaning,
    python: Option<PythonWait>,
    frames: &[Frame],
    settled: bool,
    file_of: &dyn Fn(i32) -> Descriptor,
) -> Wait {
    let mut wait = Wait {
        kind: meaning.kind,
        call: library_call(frames).map(Foreign::from),
        address: meaning.futex.map(Addr),
        target: None,
        owner: None,
        object: None,
        holders: Vec::new(),
        suspects: Vec::new(),
        holder_unknown: None,
        descriptor: meaning.descriptor.map(file_of),
        remaining_ms: meaning.remaining_ms,
        length_ms: meaning.length_ms,
        timed: meaning.timed,
        grade: if settled { Grade::Read } else { Grade::Derived },
    };
    match python {
        Some(PythonWait::Gil(key)) => {
            wait.kind = WaitKind::Gil;
            wait.target = Some(key);
            // Waiters wake every few milliseconds to ask for it again; that is no deadline.
            wait.timed = Some(false);
            wait.remaining_ms = None;
        }
        Some(PythonWait::ThreadExit { ident, address }) => {
            wait.kind = WaitKind::ThreadExit;
            wait.address = Some(address);
            // The thread's key is filled in when all threads are known.
            wait.owner = Some(Owner {
                ident: Addr(ident),
                thread: None,
                grade: wait.grade,
            });
        }
        Some(PythonWait::Lock(lock)) => {
            wait.kind = if lock.recursive {
                WaitKind::RLock
            } else {
                WaitKind::Lock
            };
            wait.address = Some(lock.object);
            wait.target = Some(process.lock(lock.object));
            wait.owner = lock.owner.map(|ident| Owner {
                ident: Addr(ident),
                thread: None,
                grade: Grade::Derived,
            });
        }
        Some(PythonWait::Parked(address)) => wait.address = Some(address),
        None => {}
    }
    wait
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
        if wait.kind == WaitKind::ThreadExit {
            wait.target = owner.thread.clone();
            wait.owner = None;
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

/// The library call that the program itself would name: the outermost standard-library frame above its own code
/// ("Queue.get" rather than "Condition.wait").
fn library_call(frames: &[Frame]) -> Option<String> {
    if let Some(pool) = frames.first().and_then(idle_pool_worker) {
        return Some(pool.to_owned());
    }
    frames
        .iter()
        .take_while(|frame| frame.is_stdlib() && !starts_a_task(frame))
        .take(16)
        .last()
        .map(|frame| frame.function.untrusted().to_owned())
}

/// A pool's thread that waits for work: its innermost Python frame is the pool's own loop.
fn idle_pool_worker(frame: &Frame) -> Option<&'static str> {
    match frame.function.untrusted() {
        "_worker" if frame.in_file("concurrent/futures/thread.py") => Some("idle executor worker"),
        "WorkerThread._work" if frame.in_file("trio/_core/_thread_cache.py") => {
            Some("idle trio worker")
        }
        _ => None,
    }
}

/// Library code that runs the program's code rather than being called by it.
fn starts_a_task(frame: &Frame) -> bool {
    let function = frame.function.untrusted();
    let name = function.rsplit('.').next().unwrap_or(function);
    (frame.in_file("threading.py") && matches!(name, "run" | "_bootstrap_inner" | "_bootstrap"))
        || (frame.in_file("concurrent/futures/thread.py") && matches!(name, "run" | "_worker"))
}

#[cfg(test)]
mod tests {
    use super::library_call;
    use crate::model::Frame;

    fn frame(function: &str, file: &str) -> Frame {
        Frame {
            function: function.into(),
            file: file.into(),
            line: Some(1),
            instruction: 0,
            locals: Vec::new(),
        }
    }

    #[test]
    fn the_outermost_library_call_is_named() {
        let threading = "/usr/lib/python3.14/threading.py";
        let frames = [
            frame("Condition.wait", threading),
            frame("Queue.get", "/usr/lib/python3.14/queue.py"),
            frame("worker", "/home/me/pool.py"),
        ];
        assert_eq!(library_call(&frames).as_deref(), Some("Queue.get"));
        let bare = [
            frame("Condition.wait", threading),
            frame("Event.wait", threading),
            frame("Thread.run", threading),
            frame("Thread._bootstrap_inner", threading),
        ];
        assert_eq!(library_call(&bare).as_deref(), Some("Event.wait"));
        assert_eq!(library_call(&[frame("main", "/home/me/x.py")]), None);
    }
}
