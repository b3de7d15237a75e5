//! Causes of waits in Rust's and C's own primitives, by the call that capture has recognised on the native stack.

use super::said::{Said, said};

/// The workers of a runtime are all blocked.
pub(super) const BLOCKED_POOL: Said = said(
    "executor-starvation",
    "and none of the pool's workers is free to do what is waited for",
    "do not block a runtime's workers: await instead (tokio::sync, tokio::time), move what blocks to spawn_blocking or a thread \
     of its own, and hold no lock over a rayon join, install or scope",
);

/// The cause; `None` if the call is none of these.
pub(super) fn cause(call: &str) -> Option<Said> {
    let (channel, method) = call.rsplit_once("::").unwrap_or(("", call));
    let found = match (channel, method) {
        (_, "recv") => said(
            "channel-never-fed",
            "and nobody is left who could send: each sender that is still alive is kept by a thread that waits, or by the \
             receiver itself",
            "drop every sender that does not send any more, also the one that was cloned for the workers, before receiving to \
             the end; or use recv_timeout()",
        ),
        (_, "send") => said(
            "channel-never-drained",
            "and nobody is left who could receive",
            "receive while the senders are at work, before joining them; or use try_send() or a channel without a bound",
        ),
        (_, "select") => said(
            "channel-never-fed",
            "and nobody is left who could send or receive on any of its channels",
            "drop the ends of channels that are through, or select with a default or a timeout",
        ),
        ("Condvar", "wait") | ("", "pthread_cond_wait") => said(
            "condition-never-notified",
            "and nobody is left who could notify it",
            "look at the condition under its mutex before each wait, in a loop (a notification before the wait is lost), and \
             change it under the mutex",
        ),
        ("Barrier", "wait") | ("", "pthread_barrier_wait") => said(
            "barrier-never-filled",
            "and the parties that are missing do not come",
            "make the number of parties match the threads that arrive, also when one of them fails",
        ),
        ("", "sem_wait") => said(
            "semaphore-never-released",
            "and nobody is left who could post it",
            "post the semaphore on every path, or use sem_timedwait()",
        ),
        ("thread", "park") => said(
            "thread-never-unparked",
            "and nobody is left who could unpark it",
            "unpark the thread on every path, also when what should do that fails; or use park_timeout(), or a channel",
        ),
        ("thread", "scope") => said(
            "stuck-cause-unknown",
            "for its scoped threads to end",
            "let the scoped threads end",
        ),
        (_, "tokio block_on" | "futures block_on") => said(
            "future-never-completed",
            "and nobody is left who could wake it: no other thread is at work, and no timer or file can",
            "keep what completes the future alive, and let it do so also when it fails; or put a timeout around it \
             (tokio::time::timeout)",
        ),
        (_, "tokio runtime's end") => said(
            "executor-starvation",
            "for a blocking task that does not end",
            "let closures of spawn_blocking end, or end the runtime by shutdown_timeout() or shutdown_background()",
        ),
        (_, "rayon job") => said(
            "executor-starvation",
            "for a job that no worker of the pool is free to run",
            "do not block in a rayon job (on channels, locks held over join or install, other jobs): its worker can do nothing \
             else meanwhile",
        ),
        ("Once", "call_once" | "wait") => said(
            "lock-never-released",
            "and nobody is left who could end its initialisation",
            "do not use a lazily initialised value within its own initialisation",
        ),
        _ => return None,
    };
    Some(found)
}
