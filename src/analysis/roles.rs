//! What threads are there for: workers of pools, watchdogs, servers of managers, threads of event loops.

use crate::model::{
    Descriptor, EventLoop, Frame, Process, SocketState, Thread, ThreadKind, WaitKind,
};

/// A pool's thread without work; not the worker that waits for the timers and files of a whole runtime (tokio): what it wakes for
/// goes on. Where there is no timer, and no file but those that it is woken by from within the process, it has none either. A runtime
/// without files waits for its timers on a condition variable.
pub(super) fn idles_in_pool(thread: &Thread) -> bool {
    let Some(wait) = &thread.wait else {
        return false;
    };
    let call = wait.call.as_ref().map_or("", |call| call.untrusted());
    let is_driver = match wait.kind {
        WaitKind::Poll => wait.timed != Some(false) || wait.has_outside_peer() != Some(false),
        _ => call == "idle tokio worker" && wait.timed == Some(true),
    };
    call.starts_with("idle ") && !is_driver
}

/// A native thread that waits on a lock for a time, as faulthandler's watchdog does: rarely does it wake Python code.
pub(super) fn is_watchdog(thread: &Thread) -> bool {
    let waits_for_lock = thread
        .wait
        .as_ref()
        .is_some_and(|wait| wait.kind == WaitKind::Futex);
    thread.kind == ThreadKind::Native && waits_for_lock
}

/// A thread that wakes nothing of the program's by itself: a pool's worker without work, or one of the test runner's own,
/// such as execnet's that reads from the xdist controller.
pub(super) fn is_bystander(thread: &Thread) -> bool {
    if idles_in_pool(thread) || is_runners_timer(thread) || is_managers_own(thread) {
        return true;
    }
    // It runs the program's tasks, whose frames are not on its stack.
    let mut frames = thread.frames();
    if frames.any(|frame| frame.in_file("asyncio/base_events.py")) {
        return false;
    }
    // execnet starts an xdist worker by `python -c`.
    let starts_it = |frame: &Frame| {
        frame.file.untrusted() == "<string>" && frame.function.untrusted() == "<module>"
    };
    let mut own = thread
        .frames()
        .filter(|frame| !frame.is_stdlib() && !starts_it(frame))
        .peekable();
    own.peek().is_some() && own.all(Frame::is_test_runner)
}

/// pytest-timeout's timer, which ends the test, and wakes nobody before.
fn is_runners_timer(thread: &Thread) -> bool {
    let name = thread.display_name().untrusted();
    let mut frames = thread.frames();
    name.starts_with("pytest_timeout ") && frames.any(|frame| frame.is("Timer.run", "threading.py"))
}

/// The main thread of a `multiprocessing` manager, which waits for its end.
fn is_managers_own(thread: &Thread) -> bool {
    let mut frames = thread.frames();
    frames.any(|frame| frame.is("Server.serve_forever", "multiprocessing/managers.py"))
}

/// The thread of a manager that waits for clients.
pub(super) fn accepts_for_manager(thread: &Thread) -> bool {
    let mut frames = thread.frames();
    frames.any(|frame| frame.is("Server.accepter", "multiprocessing/managers.py"))
}

/// The thread of a manager that serves a client.
pub(super) fn serves_client(thread: &Thread) -> bool {
    let mut frames = thread.frames();
    frames.any(|frame| frame.is("Server.serve_client", "multiprocessing/managers.py"))
}

/// Whether a thread waits for connections, and for nothing else.
pub(super) fn accepts(thread: &Thread) -> bool {
    let Some(wait) = &thread.wait else {
        return false;
    };
    let listens = |file: &Descriptor| file.state == Some(SocketState::Listen);
    wait.kind == WaitKind::Connection
        || (wait.kind == WaitKind::Poll && !wait.files.is_empty() && wait.files.iter().all(listens))
}

/// The event loop that a thread runs, if it does nothing else now.
pub(super) fn idle_loop_of<'p>(process: &'p Process, thread: &Thread) -> Option<&'p EventLoop> {
    process
        .event_loops
        .iter()
        .find(|event_loop| event_loop.thread.as_ref() == Some(&thread.key))
        .filter(|event_loop| event_loop.is_idle_without_timer())
}

/// The event loop whose thread is this one, where that waits for something else: in a coroutine or a callback.
pub(super) fn blocked_loop_of<'p>(process: &'p Process, thread: &Thread) -> Option<&'p EventLoop> {
    let wait = thread.wait.as_ref()?;
    process.event_loops.iter().find(|event_loop| {
        event_loop.thread.as_ref() == Some(&thread.key)
            && event_loop.idle != Some(true)
            && !event_loop.guest
            && (event_loop.running.is_some() || wait.kind != WaitKind::Poll)
    })
}
