//! Which tasks of an event loop that goes on may ever go on themselves. A loop whose timers keep it going says nothing of a
//! task that waits for something that no timer, file, thread or other task leads to.

use super::case::Case;
use super::liveness::{Enders, Others};
use super::pools::is_thread_call;
use super::roles;
use crate::model::{Await, EventLoop, Foreign, Key, Process, Task, TaskState, Thread, Wait};
use std::collections::{BTreeMap, BTreeSet};

/// The loops of a process that idle and go on by themselves, and what is to be known of each.
pub(super) struct LiveLoops<'a> {
    loops: Vec<(&'a EventLoop, &'a Thread)>,
}

impl<'a> LiveLoops<'a> {
    pub(super) fn of(
        case: &Case<'a>,
        process: &'a Process,
        goes_on: impl Fn(&'a Thread) -> bool,
    ) -> Self {
        let loops = process.event_loops.iter().filter_map(|event_loop| {
            let thread = process.thread(event_loop.thread.as_ref()?)?;
            let stops = event_loop.stopping || event_loop.guest;
            let idles = || {
                // A timer may have run while it was read: what matters, its tasks, is compared over all looks.
                let samples = case
                    .samples
                    .iter()
                    .filter_map(|sample| sample.process(&process.key));
                let mut views = samples.filter_map(|then| {
                    then.event_loops
                        .iter()
                        .find(|then| then.key == event_loop.key)
                });
                views.any(|then| {
                    then.idle != Some(false) && then.running.is_none() && then.ready == Some(0)
                })
            };
            (!stops && goes_on(thread) && idles()).then_some((event_loop, thread))
        });
        Self {
            loops: loops.collect(),
        }
    }

    /// The threads that run them: they do what their tasks and callbacks do.
    pub(super) fn threads(&self) -> impl Iterator<Item = &'a Key> {
        self.loops.iter().map(|(_, thread)| &thread.key)
    }

    /// Who can end what: of the threads, by the task that the loop runs for; of tasks; and of loops as far as they are timers,
    /// files and callbacks.
    pub(super) fn enders(
        &self,
        case: &Case<'a>,
        process: &'a Process,
    ) -> Vec<(&'a Key, Enders<'a>)> {
        let mut out = Vec::new();
        for (event_loop, thread) in &self.loops {
            let main = event_loop
                .main
                .as_ref()
                .and_then(|key| event_loop.task(key));
            let in_own_code = |task: &&Task| task.frames.iter().any(|frame| !frame.is_library());
            let of_thread = match main.filter(in_own_code) {
                Some(main) => Enders::Any(Others {
                    threads: vec![&main.key],
                    ..Others::default()
                }),
                None => Enders::World,
            };
            out.push((&thread.key, of_thread));
            out.push((&event_loop.key, Enders::World));
            for task in &event_loop.tasks {
                let by = of_task(case, process, event_loop, thread, task);
                out.push((&task.key, by));
            }
        }
        out
    }
}

fn of_task<'a>(
    case: &Case<'a>,
    process: &'a Process,
    event_loop: &'a EventLoop,
    thread: &'a Thread,
    task: &'a Task,
) -> Enders<'a> {
    // The library's own wake nothing but what others tell them to.
    if task.system {
        return Enders::Bystander;
    }
    let Some(awaits) = &task.awaits else {
        return Enders::World;
    };
    let by_itself = task.state != TaskState::Waiting
        || awaits.remaining_ms.is_some()
        || awaits.descriptor.is_some()
        || case.samples.len() < 2;
    if by_itself
        || waits_for_another_process(awaits)
        || is_parked(case, process, event_loop, thread, task, awaits)
        || !is_unmoved(case, task)
    {
        return Enders::World;
    }
    let holders = awaits
        .holders
        .iter()
        .filter_map(|holder| holder.task.as_ref());
    let threads = awaits.thread.iter().chain(&awaits.tasks).chain(holders);
    if awaits.thread.is_none() && is_thread_call(awaits) {
        return Enders::World;
    }
    Enders::Any(Others {
        threads: threads.collect(),
        own: true,
        except: out_of_reach(case, task),
        ..Others::default()
    })
}

fn call(awaits: &Await) -> &str {
    awaits.call.as_ref().map_or("", Foreign::untrusted)
}

fn class(awaits: &Await) -> &str {
    let object = awaits.object.as_ref();
    let name = object.map_or("", |object| object.type_name.untrusted());
    name.rsplit('.').next().unwrap_or(name)
}

fn waits_for_another_process(awaits: &Await) -> bool {
    class(awaits) == "Process" || call(awaits).ends_with("sleep_forever")
}

/// Whether a task may have been put to rest for good: a program's main task on an event or future that only Ctrl-C ends, while
/// others do the work; any, where the loop serves the world outside.
fn is_parked(
    case: &Case<'_>,
    process: &Process,
    event_loop: &EventLoop,
    thread: &Thread,
    task: &Task,
    awaits: &Await,
) -> bool {
    if process.test.is_some()
        || !awaits.tasks.is_empty()
        || !matches!(class(awaits), "Event" | "Future")
    {
        return false;
    }
    let mut views = case
        .views(&thread.key)
        .filter_map(|thread| thread.wait.as_ref());
    let serves = views
        .by_ref()
        .last()
        .is_none_or(|wait| wait.has_outside_peer() != Some(false));
    let is_waited_for = || {
        let threads = process.threads.iter();
        let mut waits = threads.filter_map(|thread| thread.wait.as_ref()?.task.as_ref());
        waits.any(|key| *key == task.key)
    };
    serves || event_loop.main.as_ref() == Some(&task.key) || is_waited_for()
}

/// Whether a task waits in the same place for the same in all samples.
fn is_unmoved(case: &Case<'_>, task: &Task) -> bool {
    let object = |task: &Task| Some(task.awaits.as_ref()?.object.as_ref()?.address);
    let same = |view: &Task| {
        view.state == TaskState::Waiting
            && view.frames == task.frames
            && object(view) == object(task)
    };
    let views: Vec<&Task> = case.task_views(&task.key).collect();
    views.len() == case.samples.len() && views.into_iter().all(same)
}

/// Who cannot come to what a task awaits: most looks say so of those in which that could be asked.
fn out_of_reach<'a>(case: &Case<'a>, task: &Task) -> BTreeSet<&'a Key> {
    let views = case.task_views(&task.key);
    in_most(views.filter_map(|view| Some(view.awaits.as_ref()?.out_of_reach.as_slice())))
}

/// Tasks and loops that cannot come to what a thread waits for.
pub(super) fn tasks_out_of_reach<'a>(
    case: &Case<'a>,
    thread: &Thread,
    wait: &Wait,
) -> BTreeSet<&'a Key> {
    let process = thread.key.of_process();
    let same = case.samples.iter().filter_map(|sample| {
        let then = sample.process(&process)?;
        let same = then.thread(&thread.key)?.wait.as_ref()?;
        (same.address == wait.address).then_some(same.out_of_reach.as_slice())
    });
    let mut keys = in_most(same);
    keys.retain(|key| key.tid().is_none());
    keys
}

/// The keys that are in most of these lists that have any.
fn in_most<'a>(lists: impl Iterator<Item = &'a [Key]>) -> BTreeSet<&'a Key> {
    let mut often: BTreeMap<&Key, usize> = BTreeMap::new();
    let mut asked = 0;
    for list in lists.filter(|list| !list.is_empty()) {
        asked += 1;
        for key in list {
            *often.entry(key).or_default() += 1;
        }
    }
    let most = often.into_iter().filter(|(_, times)| times * 2 > asked);
    most.map(|(key, _)| key).collect()
}

/// The loop that a thread runs that is stuck by what its main task awaits, whatever its timers do.
pub(super) fn stuck_loop_of<'p>(
    case: &Case<'_>,
    process: &'p Process,
    thread: &Thread,
) -> Option<&'p EventLoop> {
    let mut loops = process.event_loops.iter();
    let event_loop = loops.find(|it| it.thread.as_ref() == Some(&thread.key))?;
    let main = event_loop.main.as_ref()?;
    (case.liveness.is_stuck(&thread.key) && case.liveness.is_stuck(main)).then_some(event_loop)
}

/// The thread that waits for the outside in the stead of a loop that runs as a guest on this thread, and has come to rest.
pub(super) fn poller_for<'p>(process: &'p Process, thread: &Thread) -> Option<&'p Thread> {
    roles::idle_loop_of(process, thread).filter(|event_loop| event_loop.guest)?;
    process.threads.iter().find(|other| polls_for_guest(other))
}

/// Whether this thread does that for one that is known and has come to rest.
pub(super) fn is_poller(process: &Process, thread: &Thread) -> bool {
    polls_for_guest(thread)
        && process
            .event_loops
            .iter()
            .filter(|event_loop| event_loop.guest && event_loop.thread.is_some())
            .any(EventLoop::is_idle_without_timer)
}

fn polls_for_guest(thread: &Thread) -> bool {
    thread.frames().any(|frame| {
        frame.function.untrusted().ends_with(".get_events") && frame.in_file("trio/_core/_run.py")
    })
}
