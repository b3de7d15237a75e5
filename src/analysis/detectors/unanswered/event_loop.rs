//! Causes of the wait of a thread that runs an event loop.

use super::cause::Root;
use super::said::said;
use super::verbs;
use crate::analysis::case::Case;
use crate::analysis::roles;
use crate::analysis::trail::Node;
use crate::analysis::wording;
use crate::model::{
    Certainty, EventLoop, Grade, NativeFrame, Process, TaskState, Thread, WaitKind,
};

/// The cause; `None` if the thread runs no event loop, or one that idles as it should.
pub(super) fn of(
    case: &Case<'_>,
    process: &Process,
    thread: &Thread,
    node: Node<'_>,
) -> Option<Root> {
    is_blocked(process, thread, node)
        .or_else(|| is_not_woken(case, process, thread, node))
        .or_else(|| blocks_runtime(thread, node))
}

/// A task or future blocks the one thread of its tokio runtime by a wait that is none of tokio's.
fn blocks_runtime(thread: &Thread, node: Node<'_>) -> Option<Root> {
    let wait = thread.wait.as_ref()?;
    let call = wait.call.as_ref()?.untrusted();
    let frames = &thread.native.as_ref()?.frames;
    let of_runtime = |frame: &NativeFrame| {
        let function = frame.function_name();
        function.contains("tokio::runtime::scheduler::current_thread")
    };
    let is_message = [
        "::recv",
        "::send",
        "Condvar::wait",
        "Barrier::wait",
        "thread::park",
    ]
    .iter()
    .any(|method| call.ends_with(method));
    if !is_message || call.contains("tokio") || !frames.iter().any(of_runtime) {
        return None;
    }
    let said = said(
        "sync-wait-on-event-loop",
        "",
        "never block in async code: await tokio's own channels, locks and timers, or move the call to spawn_blocking()",
    );
    let mut root = Root::new(
        &said,
        node,
        format!(
            "{} and so blocks the one thread of its tokio runtime, on which all its tasks run",
            verbs::waits(node)
        ),
    );
    root.facts.push((
        Grade::Read,
        "its native stack is within tokio's current-thread scheduler".to_owned(),
    ));
    root.ceiling = Certainty::Probable;
    root.refuted_if = "something outside of the runtime's tasks ends that wait".into();
    Some(root)
}

/// The event loop's own thread waits in a coroutine or callback.
fn is_blocked(process: &Process, thread: &Thread, node: Node<'_>) -> Option<Root> {
    let event_loop = roles::blocked_loop_of(process, thread)?;
    let runs = event_loop
        .running
        .as_ref()
        .and_then(|key| event_loop.task(key))
        .map_or_else(|| "a callback".to_owned(), wording::task);
    let said = said(
        "sync-wait-on-event-loop",
        "",
        "never block in a coroutine: await the loop's own primitives (asyncio.Queue, asyncio.Event, asyncio.wrap_future), or move the call to a thread (asyncio.to_thread, trio.to_thread.run_sync)",
    );
    let others = event_loop.parked();
    let mut root = Root::new(
        &said,
        node,
        format!(
            "{} and so blocks its event loop, on which {runs} runs",
            verbs::waits(node)
        ),
    );
    root.facts.push((
        Grade::Read,
        format!("{runs} runs on that event loop now; {others} other tasks wait for their turn or for events"),
    ));
    Some(root)
}

/// The loop sleeps without a timeout though there is something to do, which asyncio looks for before it sleeps
/// (`BaseEventLoop._run_once`): it came later, from another thread, by a call that does not wake the loop.
fn is_not_woken(
    case: &Case<'_>,
    process: &Process,
    thread: &Thread,
    node: Node<'_>,
) -> Option<Root> {
    let wait = thread.wait.as_ref()?;
    if wait.kind != WaitKind::Poll || wait.timed != Some(false) || !case.has_motion() {
        return None;
    }
    let mut loops = process.event_loops.iter();
    let event_loop = loops.find(|event_loop| event_loop.thread.as_ref() == Some(&thread.key))?;
    let has_work = |event_loop: &EventLoop| {
        event_loop.running.is_none() && (event_loop.stopping || event_loop.ready > Some(0))
    };
    let always = case.samples.iter().all(|sample| {
        let process = sample.process(&process.key);
        let mut loops = process.iter().flat_map(|process| &process.event_loops);
        loops.any(|then| then.key == event_loop.key && has_work(then))
    });
    if !always {
        return None;
    }
    let said = said(
        "event-loop-not-woken",
        "",
        "from another thread call loop.call_soon_threadsafe(future.set_result, value), loop.call_soon_threadsafe(loop.stop) or \
         asyncio.run_coroutine_threadsafe(): no other method of a loop, future, task, queue or event wakes it",
    );
    let ready = event_loop.ready.unwrap_or(0);
    let mut tasks = event_loop.tasks.iter();
    let task = tasks.find(|task| task.state == TaskState::Ready);
    let what = match task {
        Some(task) => format!(
            "{}{} is ready to run",
            wording::task(task),
            wording::task_at(task)
        ),
        None if event_loop.stopping => "stop() was called on it".to_owned(),
        None => format!("{ready} of its callbacks are ready to run"),
    };
    let mut root = Root::new(
        &said,
        node,
        format!(
            "sleeps in its event loop though {what}: another thread did that, and did not wake the loop"
        ),
    );
    root.facts.push((
        Grade::Read,
        format!(
            "in {} samples {ready} callbacks of the loop are ready{}, and it polls without a timeout",
            case.samples.len(),
            if event_loop.stopping { ", stop() was called" } else { "" },
        ),
    ));
    root.refuted_if = "the loop wakes in this moment".into();
    Some(root)
}
