//! Pools of threads and of processes: who works in them, and which calls wait for what they do.

use super::roles;
use crate::model::{Await, Frame, Process, Thread};

/// A thread of a pool of `concurrent.futures`, or of a `multiprocessing.pool.ThreadPool`.
pub(super) fn is_worker(thread: &Thread) -> bool {
    thread.frames().any(|frame| {
        frame.is("_worker", "concurrent/futures/thread.py")
            || (frame.is("worker", "multiprocessing/pool.py") && !thread.key.is_leader())
    })
}

/// Whether a pool's thread is at work: in code that is not the pool's.
pub(super) fn is_at_work(thread: &Thread) -> bool {
    !roles::idles_in_pool(thread) && thread.frames().any(|frame| !frame.is_stdlib())
}

/// Calls that wait for futures of `concurrent.futures`.
pub(super) fn is_future_call(call: &str) -> bool {
    matches!(
        call,
        "Future.result"
            | "Future.exception"
            | "wait"
            | "as_completed"
            | "_result_or_cancel"
            | "Executor.map.<locals>.result_iterator"
    )
}

/// Whether these frames are of a worker process that is in a task, and not of one that waits for the next. A forked one has its
/// parent's frames below its own.
pub(super) fn runs_a_task(frames: &[&Frame]) -> bool {
    let machinery = pools_own(frames);
    machinery.is_some_and(|at| frames.iter().take(at).any(|frame| !frame.is_library()))
}

/// The frame of a pool's own loop in a process that is one of its workers.
fn pools_own(frames: &[&Frame]) -> Option<usize> {
    frames.iter().position(|frame| {
        frame.is("worker", "multiprocessing/pool.py")
            || frame.is("_process_worker", "concurrent/futures/process.py")
    })
}

/// Whether a process is a worker of a pool that has nothing to do.
pub(super) fn idles_between_tasks(process: &Process) -> bool {
    let mut main = process
        .threads
        .iter()
        .filter(|thread| thread.key.is_leader());
    main.any(|thread| {
        let frames: Vec<&Frame> = thread.frames().collect();
        pools_own(&frames).is_some() && !runs_a_task(&frames)
    })
}

/// Calls that wait for the result of a process pool.
pub(super) fn is_pool_call(call: &str, type_name: &str) -> bool {
    call.starts_with("Pool.") || type_name.starts_with("multiprocessing.pool.")
}

pub(super) fn is_thread_call(awaits: &Await) -> bool {
    let call = awaits.call.as_ref().map_or("", |call| call.untrusted());
    let object = awaits.object.as_ref();
    call.ends_with(".to_thread")
        || call.ends_with("to_thread.run_sync")
        || object
            .is_some_and(|object| object.type_name.untrusted() == "concurrent.futures._base.Future")
}
