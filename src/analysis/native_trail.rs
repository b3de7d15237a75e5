//! Whom a native wait is for, where the call itself tells: the threads of a scope, the workers of a runtime.

use super::roles;
use super::trail::How;
use crate::model::{NativeFrame, Process, Thread, Wait};

/// The thread that keeps `thread` waiting. `is_stuck` tells of a thread whether it can ever go on.
pub(super) fn next<'c>(
    process: &'c Process,
    thread: &Thread,
    wait: &Wait,
    is_stuck: impl Fn(&Thread) -> bool,
) -> Option<(How, &'c Thread)> {
    let (how, is_of_it): (How, fn(&Thread) -> bool) = match wait.call.as_ref()?.untrusted() {
        "thread::scope" => return of_scope(process, thread, &is_stuck),
        // A scope that was inlined parks, too; and whoever should unpark it may be the one that waits.
        "thread::park" => {
            let mut others = process.threads.iter();
            let waits = |other: &&Thread| {
                let call = other.wait.as_ref().and_then(|wait| wait.call.as_ref());
                other.key != thread.key
                    && !roles::idles_in_pool(other)
                    && is_stuck(other)
                    && call.is_some_and(|call| call.untrusted() != "thread::park")
            };
            return others.find(waits).map(|other| (How::Might, other));
        }
        "tokio block_on" => {
            let job = || blocking_job(process, thread, &is_stuck).map(|job| (How::Might, job));
            return of_pool(process, thread, wait, is_tokio_worker, How::Pool, &is_stuck)
                .or_else(job);
        }
        "tokio runtime's end" => (How::Pool, is_tokio_thread),
        "rayon job" => (How::Pool, is_rayon_worker),
        _ => return None,
    };
    of_pool(process, thread, wait, is_of_it, how, &is_stuck)
}

/// The blocked thread that keeps a scope waiting. Which are of the scope is not known: they began after the thread that opened it.
fn of_scope<'c>(
    process: &'c Process,
    thread: &Thread,
    is_stuck: &impl Fn(&Thread) -> bool,
) -> Option<(How, &'c Thread)> {
    let mut younger = process.threads.iter().filter(|other| {
        let began = (other.kernel.start_ticks, other.tid);
        !process.is_led_by(other)
            && began > (thread.kernel.start_ticks, thread.tid)
            && !roles::idles_in_pool(other)
    });
    let first = younger.next()?;
    let how = match younger.clone().next() {
        None => How::Scope,
        Some(_) => How::Might,
    };
    (is_stuck(first) && younger.all(is_stuck)).then_some((how, first))
}

/// A job for blocking calls that will not end: what a future waits for where no worker of the runtime is blocked.
fn blocking_job<'c>(
    process: &'c Process,
    thread: &Thread,
    is_stuck: &impl Fn(&Thread) -> bool,
) -> Option<&'c Thread> {
    let mut jobs = process.threads.iter().filter(|other| {
        other.key != thread.key
            && is_tokio_thread(other)
            && !is_tokio_worker(other)
            && !roles::idles_in_pool(other)
    });
    let first = jobs.next()?;
    (!is_tokio_thread(thread) && is_stuck(first) && jobs.all(is_stuck)).then_some(first)
}

/// The blocked worker that keeps a thread waiting which waits for a pool.
fn of_pool<'c>(
    process: &'c Process,
    thread: &Thread,
    wait: &Wait,
    of_pool: fn(&Thread) -> bool,
    how: How,
    is_stuck: &impl Fn(&Thread) -> bool,
) -> Option<(How, &'c Thread)> {
    let mut workers = process
        .threads
        .iter()
        .filter(|other| other.key != thread.key && of_pool(other))
        .peekable();
    workers.peek()?;
    let mut blocked = Vec::new();
    let mut any_is_free = false;
    for worker in workers {
        if roles::idles_in_pool(worker) {
            any_is_free = true;
        } else if is_stuck(worker) {
            blocked.push(worker);
        } else {
            return None;
        }
    }
    // A runtime's end waits for what is at work, a scope for whoever is left, a job for those who have begun with it: one that is
    // free would have taken what is not begun. What a future waits for need not be the work of a worker.
    let how = match how {
        How::Pool if any_is_free && is_future(wait) => How::Might,
        how => how,
    };
    blocked.first().map(|worker| (how, *worker))
}

fn is_future(wait: &Wait) -> bool {
    wait.call
        .as_ref()
        .is_some_and(|call| call.untrusted() == "tokio block_on")
}

fn has_frame(thread: &Thread, test: impl Fn(&str) -> bool) -> bool {
    let frames = thread.native.iter().flat_map(|stack| &stack.frames);
    frames.map(NativeFrame::function_name).any(test)
}

/// Whether a thread is one of a runtime's.
pub(super) fn is_worker(thread: &Thread) -> bool {
    is_tokio_thread(thread) || is_rayon_worker(thread)
}

fn is_tokio_worker(thread: &Thread) -> bool {
    has_frame(thread, |name| name.contains("multi_thread::worker"))
}

fn is_tokio_thread(thread: &Thread) -> bool {
    is_tokio_worker(thread) || has_frame(thread, |name| name.contains("runtime::blocking::pool"))
}

fn is_rayon_worker(thread: &Thread) -> bool {
    has_frame(thread, |name| {
        name.contains("rayon_core::registry")
            && (name.contains("ThreadBuilder") || name.contains("main_loop"))
    })
}
