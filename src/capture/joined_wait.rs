//! What a thread waits for, from what its system call says and what Python's frames and objects say.

use super::python::{PythonWait, RawHolder, WaitTarget, library};
use super::syscall::Meaning;
use super::waits::Surroundings;
use crate::model::{
    Addr, Foreign, Frame, Grade, Holder, HolderEvidence, Key, Owner, Tid, Wait, WaitKind,
};
use std::collections::BTreeMap;

/// What a thread waits for. `settled`: it stood still between the looks.
pub(super) fn join(
    process: &Key,
    meaning: &Meaning,
    target: Option<&WaitTarget>,
    frames: &[Frame],
    settled: bool,
    around: &Surroundings<'_>,
) -> Wait {
    let mut wait = Wait {
        kind: meaning.kind,
        call: library_call(frames).map(Foreign::from),
        address: meaning.futex.map(Addr),
        target: None,
        owner: None,
        object: None,
        native_call: None,
        shared_memory: None,
        shared_with: Vec::new(),
        holders: Vec::new(),
        suspects: Vec::new(),
        holder_unknown: None,
        out_of_reach: Vec::new(),
        asks_after: Vec::new(),
        asks_after_children: Vec::new(),
        task: None,
        descriptor: None,
        files: Vec::new(),
        files_in_all: None,
        child: None,
        remaining_ms: meaning.remaining_ms,
        length_ms: meaning.length_ms,
        timed: meaning.timed,
        grade: if settled { Grade::Read } else { Grade::Derived },
    };
    around.complete(&mut wait, meaning);
    match target {
        Some(WaitTarget::Gil(key)) => {
            wait.kind = WaitKind::Gil;
            wait.target = Some(key.clone());
            // Waiters wake every few milliseconds to ask for it again; that is no deadline.
            wait.timed = Some(false);
            wait.remaining_ms = None;
        }
        Some(WaitTarget::ThreadExit { ident, address }) => {
            wait.kind = WaitKind::ThreadExit;
            wait.address = Some(*address);
            // The thread's key is filled in when all threads are known.
            wait.owner = Some(Owner {
                ident: Addr(*ident),
                thread: None,
                grade: wait.grade,
            });
        }
        Some(WaitTarget::Lock(lock)) => {
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
                grade: Grade::Guessed,
            });
        }
        Some(WaitTarget::Import(lock)) => {
            wait.kind = WaitKind::Lock;
            wait.address = Some(*lock);
            wait.target = Some(process.lock(*lock));
        }
        Some(WaitTarget::ProcessLock(lock)) => {
            wait.address = Some(*lock);
            wait.target = Some(process.lock(*lock));
        }
        Some(WaitTarget::Object(object) | WaitTarget::Runtime(object, _)) => {
            wait.address = Some(*object);
        }
        Some(WaitTarget::Parked(address)) => wait.address = Some(*address),
        None => {
            if let Some(joined) = meaning.joins {
                wait.kind = WaitKind::ThreadExit;
                wait.target = Some(process.thread(joined));
            }
        }
    }
    wait
}

/// The object waited on and who holds it. `threads`: keys by ids in the target's pid namespace, and whether each settled.
pub(super) fn add_holders(
    wait: &mut Wait,
    python: PythonWait,
    threads: &BTreeMap<Tid, (Key, bool)>,
) {
    let settled = wait.grade == Grade::Read;
    let holder = |raw: RawHolder| {
        let thread = raw.native_id.and_then(|id| threads.get(&id));
        // Two threads that both stood still did so at one instant; of one that ran, what was read may never have been true
        // at once. An owner that has ended does not move.
        let together = settled && thread.is_none_or(|(_, settled)| *settled);
        let grade = match raw.by {
            _ if !together => Grade::Guessed,
            HolderEvidence::WithBlock | HolderEvidence::ImportLock if raw.direct => Grade::Read,
            HolderEvidence::WithBlock
            | HolderEvidence::SuspendedWithBlock
            | HolderEvidence::ImportLock
            | HolderEvidence::OwnerField
            | HolderEvidence::PthreadMutex
            | HolderEvidence::ProcessLock => Grade::Derived,
            HolderEvidence::BareOwnerField
            | HolderEvidence::DroppedGuard
            | HolderEvidence::OnlyThread
            | HolderEvidence::OnlyReference
            | HolderEvidence::Reference => Grade::Guessed,
        };
        Holder {
            thread: thread.map(|(key, _)| key.clone()),
            by: raw.by,
            place: raw.place,
            grade,
        }
    };
    if let (Some(WaitTarget::Import(_)), Some(object)) = (&python.target, &python.object)
        && let Some(module) = &object.name
    {
        wait.call = Some(format!("import of {}", module.untrusted()).into());
    }
    wait.object = python.object;
    wait.native_call = python.native_call;
    wait.holders = python.holders.into_iter().map(&holder).collect();
    wait.holders
        .sort_by_key(|holder| std::cmp::Reverse(holder.grade));
    let suspect = |raw: RawHolder| Holder {
        grade: Grade::Guessed,
        ..holder(raw)
    };
    wait.suspects = python.suspects.into_iter().map(suspect).collect();
    wait.holder_unknown = python.holder_unknown;
    let asked = python.asked.threads.iter();
    wait.asks_after = asked
        .filter_map(|id| threads.get(id))
        .map(|(key, _)| key.clone())
        .collect();
    wait.asks_after_children = python.asked.children.into_iter().collect();
    // Of a thread that ran meanwhile, what was read may be of different moments: whoever uses this needs several samples.
    wait.out_of_reach = python
        .out_of_reach
        .iter()
        .filter_map(|id| threads.get(id))
        .map(|(key, _)| key.clone())
        .chain(python.tasks_out_of_reach)
        .collect();
    wait.task = python.task;
}

/// The library call that the program itself would name: the outermost standard-library frame above its own code
/// ("Queue.get" rather than "Condition.wait").
fn library_call(frames: &[Frame]) -> Option<String> {
    if let Some(pool) = frames.first().and_then(idle_pool_worker) {
        return Some(pool.to_owned());
    }
    frames
        .iter()
        .take_while(|frame| frame.is_stdlib() && !library::starts_a_task(frame))
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
