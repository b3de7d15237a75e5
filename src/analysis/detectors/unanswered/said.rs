//! What is said of each cause: why the wait does not end, and the remedy.

use crate::analysis::pools::{is_future_call, is_pool_call};

/// A cause with what to say of it.
#[derive(Clone, Copy)]
pub(super) struct Said {
    pub(super) id: &'static str,
    /// Follows "waits in X at Y".
    pub(super) why: &'static str,
    pub(super) remedy: &'static str,
}

pub(super) const fn said(id: &'static str, why: &'static str, remedy: &'static str) -> Said {
    Said { id, why, remedy }
}

pub(super) const EVENT: Said = said(
    "event-never-set",
    "and nobody is left who could set it",
    "set the event on every path, also when what should set it fails (try/finally); or wait with a timeout and say what is missing",
);
pub(super) const CONDITION: Said = said(
    "condition-never-notified",
    "and nobody is left who could notify it",
    "change the state and notify under the condition's lock, wait by wait_for() with a predicate (a notify() before the wait is lost), and let whoever should notify do so also when it fails",
);
pub(super) const SEMAPHORE: Said = said(
    "semaphore-never-released",
    "and nobody is left who could release it",
    "take permits by `with`, so that each is given back on every path",
);
pub(super) const BARRIER: Said = said(
    "barrier-never-filled",
    "and the parties that are missing do not come",
    "make the number of parties match the threads that arrive, call barrier.abort() when one fails, or wait with a timeout",
);
pub(super) const FED: Said = said(
    "queue-never-fed",
    "and nobody is left who could put anything into it",
    "let the producer put a sentinel in a finally block (or use Queue.shutdown(), 3.13+), count what is expected, or get with a timeout",
);
pub(super) const DRAINED: Said = said(
    "queue-never-drained",
    "and nobody is left who could take anything out of it",
    "keep a consumer until the producer is through, let put() time out, or give the queue room",
);
pub(super) const TASK_DONE: Said = said(
    "queue-join-without-task-done",
    "for items that nobody is left to mark by task_done()",
    "call task_done() once for each get(), in a finally block",
);
pub(super) const CHANNEL_FED: Said = said(
    "channel-never-fed",
    "and nobody is left who could send",
    "close each sender when it is through (`async with send`), so that the receiver ends",
);
pub(super) const CHANNEL_DRAINED: Said = said(
    "channel-never-drained",
    "and nobody is left who could receive",
    "keep a receiver until the senders are through, and close it when it is (`async with receive`), so that senders fail",
);
pub(super) const FUTURE: Said = said(
    "future-never-completed",
    "and nobody is left who could complete it",
    "complete the future on every path (set_exception in an except block), or wait with a timeout",
);
pub(super) const LOCK: Said = said(
    "lock-never-released",
    "and nobody is left who could release it",
    "take the lock by `with`, so that it is given back on every path",
);
pub(super) const STARVED: Said = said(
    "executor-starvation",
    "which no worker of its pool is free to do",
    "do not wait in a pool for work of the same pool: use a second pool for the inner tasks, submit from outside, or call the inner function directly",
);
pub(super) const STREAM: Said = said(
    "socket-peer-silent",
    "and who has the other end is not going to send",
    "agree on who speaks first, send and drain what is expected before waiting for the answer, and give reads a timeout (asyncio.timeout, trio.fail_after)",
);
pub(super) const DRAIN: Said = said(
    "pipe-full",
    "and who has the other end is not going to read",
    "read while writing: let one task read and another write, and do not drain() before the other side can read",
);
pub(super) const LOOP_AT_REST: Said = said(
    "future-never-completed",
    "and the event loop that is to complete it does not run",
    "start the loop's thread (run_forever) before run_coroutine_threadsafe(), do not use it after stop(), and check loop.is_running()",
);
pub(super) const TO_THREAD: Said = said(
    "to-thread-deadlock",
    "",
    "do not let a thread wait for its event loop (run_coroutine_threadsafe().result(), from_thread.run) while a task on that loop waits for the thread and holds what is needed there",
);
pub(super) const LOST: Said = said(
    "pool-result-lost",
    "and the workers are all idle: the one that had the task is gone",
    "use concurrent.futures.ProcessPoolExecutor, which raises BrokenProcessPool when a worker dies; or get() with a timeout, and find out why the worker died (exit, OOM killer, segmentation fault)",
);

/// The cause by the library call.
pub(super) fn by_call(call: &str, type_name: &str) -> Option<&'static Said> {
    let method = call.rsplit('.').next().unwrap_or(call);
    let class = type_name.rsplit('.').next().unwrap_or(type_name);
    let is_queue = class.ends_with("Queue");
    if call == "Queue.get" || (is_queue && matches!(method, "get" | "")) {
        return Some(&FED);
    }
    if call == "Queue.put" || (is_queue && method == "put") {
        return Some(&DRAINED);
    }
    if call == "Queue.join" || (is_queue && method == "join") {
        return Some(&TASK_DONE);
    }
    if class.contains("ReceiveChannel") || class == "MemoryObjectReceiveStream" {
        return Some(&CHANNEL_FED);
    }
    if class.contains("SendChannel") || class == "MemoryObjectSendStream" {
        return Some(&CHANNEL_DRAINED);
    }
    if is_pool_call(call, type_name) {
        return Some(&LOST);
    }
    match class {
        "Event" => Some(&EVENT),
        "Condition" => Some(&CONDITION),
        "Semaphore" | "BoundedSemaphore" | "CapacityLimiter" => Some(&SEMAPHORE),
        "Barrier" => Some(&BARRIER),
        "Future" => Some(&FUTURE),
        "Lock" | "lock" | "RLock" | "StrictFIFOLock" => Some(&LOCK),
        _ => match call {
            // It waits for an event that serve_forever() sets at its end.
            "Event.wait" | "BaseServer.shutdown" => Some(&EVENT),
            "Condition.wait" | "Condition.wait_for" => Some(&CONDITION),
            "Semaphore.acquire" => Some(&SEMAPHORE),
            "Barrier.wait" => Some(&BARRIER),
            _ if is_future_call(call) => Some(&FUTURE),
            _ => None,
        },
    }
}
