//! Event loops of several interpreters that wait, and nobody is left to wake any of them. See
//! `docs/detectors/event-loops-at-standstill.md`.
//!
//! Within one interpreter this says little: a loop that only Ctrl-C ends may be meant so. No signal reaches a
//! sub-interpreter, so the loop in there is woken by its peer, or never.

use super::{Cause, Detector, Meta, Outcome, outcome};
use crate::analysis::case::{Case, Closure};
use crate::analysis::loops::{
    SleepingLoops, certainty, is_idle, others, stillness, task_waits, waiting_tasks,
};
use crate::analysis::{signature, wording};
use crate::model::{
    Certainty, EventLoop, Evidence, Finding, Grade, Interpreter, Process, Task, Thread,
};
use std::collections::BTreeSet;

static META: Meta = Meta {
    name: "event_loops_at_standstill",
    causes: &[Cause {
        id: "event-loops-at-standstill",
        summary: "Event loops of several interpreters wait for each other's messages, and none will come.",
        page: include_str!("../../../docs/detectors/event-loops-at-standstill.md"),
    }],
};

/// The detector.
pub(super) struct EventLoopsAtStandstill;

impl Detector for EventLoopsAtStandstill {
    fn meta(&self) -> &'static Meta {
        &META
    }

    fn detect(&self, case: &Case<'_>) -> Outcome {
        let findings = case
            .judgeable()
            .filter_map(|process| judge(case, process))
            .collect();
        outcome(case, findings)
    }
}

/// A sleeping loop, with its thread and interpreter.
struct Sleeper<'c> {
    event_loop: &'c EventLoop,
    thread: &'c Thread,
    interpreter: &'c Interpreter,
}

fn judge(case: &Case<'_>, process: &Process) -> Option<Finding> {
    let sleeping = SleepingLoops::of(case, process);
    if sleeping.all.len() != process.event_loops.len() {
        return None;
    }
    let sleepers: Vec<Sleeper<'_>> = sleeping
        .all
        .iter()
        .filter_map(|(event_loop, thread)| {
            let mut interpreters = process.interpreters.iter();
            let interpreter = interpreters.find(|it| it.key == event_loop.interpreter)?;
            Some(Sleeper {
                event_loop,
                thread,
                interpreter,
            })
        })
        .collect();
    let parent = sleepers
        .iter()
        .min_by_key(|sleeper| sleeper.interpreter.id)?;
    let children: Vec<&Sleeper<'_>> = sleepers
        .iter()
        .filter(|sleeper| sleeper.interpreter.id != parent.interpreter.id)
        .collect();
    if rests_on_purpose(parent.event_loop) && !case.overdue {
        return None;
    }
    let deaf = children.iter().find(|child| is_deaf(child.event_loop));
    let child = deaf.or(children.first())?;
    let closure = sleeping.closure(case, process, &BTreeSet::new());
    let certainty = match (certainty(case, &closure)?, &closure) {
        _ if rests_on_purpose(parent.event_loop) => Certainty::Possible,
        // Ctrl-C still reaches the main thread, which is how it may be meant to end.
        (Certainty::Certain, Closure::Closed) if process.test.is_none() => Certainty::Probable,
        (certainty, _) => certainty,
    };
    let task = own_task(child.event_loop)?;
    let mut evidence = Vec::new();
    for sleeper in [parent, *child] {
        evidence.push(is_idle(case, sleeper.event_loop, sleeper.thread));
        if let Some(task) = own_task(sleeper.event_loop) {
            evidence.push(case.fact(
                Grade::Derived,
                format!(
                    "interpreter {}: {} {}",
                    sleeper.interpreter.id,
                    wording::task(task),
                    task_waits(task)
                ),
                &[
                    (&sleeper.thread.key, "python"),
                    (&sleeper.interpreter.key, "id"),
                ],
            ));
        }
        evidence.extend(stillness(case, sleeper.thread));
    }
    evidence.push(listens(case, child));
    evidence.push(others(case, process, &closure));
    let involved = [parent.thread, child.thread];
    let hears = if is_deaf(child.event_loop) {
        "no task of it listens to anybody, so no message or cancel can reach it"
    } else {
        "nobody is left to write what it waits for, so no message or cancel reaches it"
    };
    Some(Finding {
        id: "event-loops-at-standstill".to_owned(),
        title: format!(
            "The event loop of interpreter {} on {} waits for ever ({} {}): {hears}, and the one on {} waits, too.",
            child.interpreter.id,
            wording::name(child.thread),
            wording::task(task),
            task_waits(task),
            wording::name(parent.thread),
        )
        .into(),
        certainty,
        waiter: parent.thread.key.clone(),
        blockers: vec![child.thread.key.clone()],
        affected: children
            .iter()
            .map(|other| other.thread.key.clone())
            .filter(|key| *key != child.thread.key)
            .collect(),
        evidence,
        refuted_if: "a signal (Ctrl-C) or native code wakes one of the loops".into(),
        remedy: "take the end of the channel for a cancel in the child, note a cancel that could not be sent in the \
                 parent, and bound the wait for the child's end"
            .into(),
        site: String::new(),
        signature: signature::signature("event-loops-at-standstill", &involved),
    })
}

/// A task of the program's own to show: one that waits for no file, if there is one.
fn own_task(event_loop: &EventLoop) -> Option<&Task> {
    let listens = |task: &&Task| reads(task).is_some();
    waiting_tasks(event_loop)
        .find(|task| !listens(task))
        .or_else(|| waiting_tasks(event_loop).next())
}

/// Somebody has put a loop to rest until Ctrl-C comes.
fn rests_on_purpose(event_loop: &EventLoop) -> bool {
    waiting_tasks(event_loop).any(|task| {
        let call = task.awaits.as_ref().and_then(|awaits| awaits.call.as_ref());
        call.is_some_and(|call| call.untrusted() == "trio.sleep_forever")
    })
}

/// The descriptor that a task waits for.
fn reads(task: &Task) -> Option<i32> {
    task.awaits.as_ref()?.descriptor
}

/// None of the loop's tasks waits for a file.
fn is_deaf(event_loop: &EventLoop) -> bool {
    waiting_tasks(event_loop).all(|task| reads(task).is_none())
}

fn listens(case: &Case<'_>, child: &Sleeper<'_>) -> Evidence {
    let reading: Vec<String> = waiting_tasks(child.event_loop)
        .filter_map(|task| {
            Some(format!(
                "{} waits for fd {}",
                wording::task(task),
                reads(task)?
            ))
        })
        .collect();
    let id = child.interpreter.id;
    let text = if reading.is_empty() {
        format!("no task in interpreter {id} waits for a file that its loop watches")
    } else {
        let ends = "the other end is this process's own";
        format!("in interpreter {id} {}; {ends}", reading.join(", "))
    };
    case.fact(Grade::Derived, text, &[(&child.thread.key, "wait")])
}
