//! What is known of event loops and their tasks beyond what their threads wait for.

use super::case::{Case, Closure};
use super::wording;
use crate::model::{
    Certainty, EventLoop, Evidence, Grade, Key, Motion, Process, Task, TaskState, Thread,
};
use std::collections::BTreeSet;

/// Event loops of a process that nothing will ever wake but the others of the process.
pub(super) struct SleepingLoops<'c> {
    pub(super) all: Vec<(&'c EventLoop, &'c Thread)>,
}

impl<'c> SleepingLoops<'c> {
    pub(super) fn of(case: &Case<'_>, process: &'c Process) -> Self {
        let all = process.event_loops.iter().filter_map(|event_loop| {
            let thread = process.thread(event_loop.thread.as_ref()?)?;
            sleeps(case, event_loop, thread).then_some((event_loop, thread))
        });
        Self { all: all.collect() }
    }

    /// The loop that a thread runs, if it sleeps.
    pub(super) fn on(&self, thread: &Key) -> Option<&'c EventLoop> {
        self.all
            .iter()
            .find(|(_, runs)| &runs.key == thread)
            .map(|(event_loop, _)| *event_loop)
    }

    /// Whether anything but `known` threads and the sleeping loops could end a wait.
    pub(super) fn closure(
        &self,
        case: &Case<'_>,
        process: &Process,
        known: &BTreeSet<&Key>,
    ) -> Closure {
        case.closure_but_for(process, known, |thread| self.on(&thread.key).is_some())
    }
}

/// Whether a loop is idle in all samples, without a timer, and waits for no file that anything outside of the process can
/// write to.
fn sleeps(case: &Case<'_>, event_loop: &EventLoop, thread: &Thread) -> bool {
    let idle = |seen: &EventLoop| seen.is_idle_without_timer() && !seen.moving && !seen.guest;
    let in_all = case.samples.iter().all(|sample| {
        let processes = sample.processes.iter();
        let mut loops = processes.flat_map(|process| &process.event_loops);
        loops
            .find(|seen| seen.key == event_loop.key)
            .is_some_and(idle)
    });
    let wait = thread.wait.as_ref();
    in_all
        && matches!(case.motion(&thread.key), Motion::Still | Motion::Unknown)
        && wait.is_some_and(|wait| wait.has_outside_peer() == Some(false))
}

/// The tasks of the program's own that wait, and not merely for other tasks.
pub(super) fn waiting_tasks(event_loop: &EventLoop) -> impl Iterator<Item = &Task> {
    event_loop
        .tasks
        .iter()
        .map(AsRef::as_ref)
        .filter(|task| !task.system && task.state == TaskState::Waiting)
        .filter(|task| {
            let awaits = task.awaits.as_ref();
            awaits.is_none_or(|awaits| awaits.tasks.is_empty())
        })
}

/// "waits in trio.Event.wait at worker (app.py:7)".
pub(super) fn task_waits(task: &Task) -> String {
    let call = task.awaits.as_ref().and_then(|awaits| awaits.call.as_ref());
    let call = call.map_or_else(String::new, |call| format!(" in {}", call.untrusted()));
    format!("waits{call}{}", wording::task_at(task))
}

/// How sure a wait that nothing but `closure` could end is to be a hang; nothing where it had better not be told.
pub(super) fn certainty(case: &Case<'_>, closure: &Closure) -> Option<Certainty> {
    match closure {
        _ if !case.has_motion() => Some(Certainty::Possible),
        Closure::Closed => Some(Certainty::Certain),
        Closure::Unclear | Closure::OpenSignal(_) | Closure::OutOfReach(_) => {
            Some(Certainty::Probable)
        }
        Closure::OpenThread(thread) => {
            let circles = matches!(case.motion(thread), Motion::Looping | Motion::Busy);
            (circles || case.overdue).then_some(Certainty::Possible)
        }
    }
}

/// What a loop waits for, and that it has not moved.
pub(super) fn is_idle(case: &Case<'_>, event_loop: &EventLoop, thread: &Thread) -> Evidence {
    let waits = thread.wait.as_ref().map(wording::waits);
    case.fact(
        Grade::Derived,
        format!(
            "the event loop on {} is idle and has no timer; its thread {}, none of which leads out of the process",
            wording::who(thread),
            waits.unwrap_or_default()
        ),
        &[(&thread.key, "wait"), (&event_loop.interpreter, "id")],
    )
}

/// Who else could end the wait.
pub(super) fn others(case: &Case<'_>, process: &Process, closure: &Closure) -> Evidence {
    let text = match closure {
        Closure::Closed => "nobody in the process could end that wait: all threads wait, without a deadline, for things \
                            of the same process, and event loops on them are idle"
            .to_owned(),
        closure => wording::closure(process, closure),
    };
    case.fact(Grade::Derived, text, &[(&process.key, "threads")])
}

/// "unmoved in 3 samples over 0.4 s".
pub(super) fn stillness(case: &Case<'_>, thread: &Thread) -> Option<Evidence> {
    if !case.has_motion() || case.motion(&thread.key) != Motion::Still {
        return None;
    }
    Some(case.fact(
        Grade::Derived,
        format!(
            "{} has not moved in {} samples over {}",
            wording::who(thread),
            case.views(&thread.key).count(),
            wording::duration(case.span_ms())
        ),
        &[(&thread.key, "python")],
    ))
}
