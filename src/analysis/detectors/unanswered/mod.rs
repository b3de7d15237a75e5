//! Waits that nobody answers: each thread of a process, and of the processes that it waits for, waits for something that only
//! the others could do. The trail of waits is followed to its root, and what that waits for names the cause. See
//! `docs/detectors/` for each.

mod cause;
mod circle;
mod event_loop;
mod files;
mod locks;
mod native;
mod said;
mod swallowed;
mod verbs;

use super::{Cause, Detector, Meta, Outcome, outcome};
use crate::analysis::case::{Case, destroyers};
use crate::analysis::polling;
use crate::analysis::roles;
use crate::analysis::signature;
use crate::analysis::tracker::Tracker;
use crate::analysis::trail::{How, Node, Trail};
use crate::analysis::wait_graph;
use crate::analysis::wording;
use crate::model::{Certainty, Evidence, Finding, Foreign, Grade, Key, Pid, Process, Thread, Wait};
use cause::Root;
use std::collections::BTreeSet;

/// Most threads that a finding tells of as affected.
const MAX_AFFECTED: usize = 1000;

/// Most threads that one sentence names.
const MAX_NAMED: usize = 4;

macro_rules! causes {
    ($($id:literal: $summary:literal,)*) => {
        &[$(Cause {
            id: $id,
            summary: $summary,
            page: include_str!(concat!("../../../../docs/detectors/", $id, ".md")),
        },)*]
    };
}

static META: Meta = Meta {
    name: "unanswered",
    causes: causes! {
        "event-never-set": "An event is waited for, and nobody is left who could set it.",
        "condition-never-notified": "A condition is waited for, and nobody is left who could notify it.",
        "semaphore-never-released": "A permit is waited for, and nobody is left who could release one.",
        "barrier-never-filled": "A barrier waits for a party that does not come.",
        "queue-never-fed": "A queue is empty, and nobody is left who could put anything into it.",
        "queue-never-drained": "A queue is full, and nobody is left who could take anything out of it.",
        "queue-join-without-task-done": "Queue.join() waits for a task_done() that nobody is left to call.",
        "channel-never-fed": "A memory channel is received from, and nobody is left who could send.",
        "channel-never-drained": "A memory channel has no room, and nobody is left who could receive.",
        "thread-never-unparked": "A thread is parked, and nobody is left who could unpark it.",
        "future-never-completed": "A future is waited for, and nobody is left who could complete it.",
        "executor-starvation": "All workers of a pool wait for work that is queued in the same pool.",
        "to-thread-deadlock": "A thread waits for the event loop, which waits for the thread.",
        "event-loop-not-woken": "An event loop sleeps though a callback is ready: another thread added it without waking the loop.",
        "sync-wait-on-event-loop": "The event loop's own thread waits, so nothing else on the loop can run.",
        "lock-never-released": "A lock is waited for, and nobody is left who could release it.",
        "lock-held-at-fork": "A child inherited a lock that another thread held at the time of the fork.",
        "exit-blocked-by-atexit": "The program's exit waits in an atexit callback.",
        "pipe-full": "A process writes to a full pipe that nobody reads.",
        "pipe-never-fed": "A process reads from a pipe whose other end is not going to write or close.",
        "pipe-end-left-open": "A reader has the writing end of its own pipe open, so the end of file never comes.",
        "socket-peer-silent": "Both ends of a connection wait for each other.",
        "pool-result-lost": "A process pool's result is waited for, and the worker that had the task is gone.",
        "file-lock-deadlock": "A file lock is waited for, and the process that holds it waits, too.",
        "await-cycle": "Tasks await each other's end in a circle.",
        "stuck-cause-unknown": "Nothing can go on, and no known cause fits.",
    },
};

/// The detector.
pub(super) struct Unanswered;

impl Detector for Unanswered {
    fn meta(&self) -> &'static Meta {
        &META
    }

    fn detect(&self, case: &Case<'_>) -> Outcome {
        let tracker = Tracker::new(case);
        let mut findings: Vec<Finding> = Vec::new();
        let mut told: BTreeSet<&Key> = BTreeSet::new();
        let mut judged: BTreeSet<Pid> = BTreeSet::new();
        let known = |process: &&Process| process.python.is_some() || process.is_known_native();
        for process in case.judgeable().filter(known) {
            // What hangs below a process that hangs is part of the same.
            if case.ancestors(process.pid).any(|pid| judged.contains(&pid)) {
                continue;
            }
            let Some(start) = start(case, process, &told) else {
                continue;
            };
            judged.insert(process.pid);
            let trail = tracker.follow(process, start);
            told.extend(trail.nodes.iter().map(|node| node.key()));
            let trail = up_to_blocked_loop(trail);
            if is_anothers(&trail) {
                continue;
            }
            let Some(finding) = judge(case, &trail) else {
                continue;
            };
            let same = findings
                .iter_mut()
                .find(|known| known.root() == finding.root());
            match same {
                Some(known) => known.affected.push(finding.waiter),
                None => findings.push(finding),
            }
        }
        outcome(case, findings)
    }
}

/// The thread whose wait is worth following: the main thread, if it can never go on, and the process is no part of a trail yet.
fn start<'c>(case: &Case<'_>, process: &'c Process, told: &BTreeSet<&Key>) -> Option<&'c Thread> {
    let is_told = process
        .threads
        .iter()
        .any(|thread| told.contains(&thread.key));
    let read = !process.interpreters.is_empty() || process.is_known_native();
    if is_told || !read {
        return None;
    }
    let stuck = |thread: &&Thread| case.liveness.is_stuck(&thread.key);
    let main = process
        .threads
        .iter()
        .find(|thread| process.is_led_by(thread));
    // Where others go on, a thread that waits for work in vain may well be meant to; the main thread is not.
    let any = || process.threads.iter().find(stuck);
    let other = process.threads.iter().find(|thread| {
        stuck(thread)
            && !process.is_led_by(thread)
            && thread.frames().any(|frame| !frame.is_library())
    });
    main.filter(stuck)
        .filter(|main| other.is_none() || !is_parked(main))
        .or_else(|| other.filter(|_| main.is_some_and(|main| is_parked(main) && stuck(&main))))
        .or_else(|| any().filter(|_| !case.liveness.is_live(&process.key)))
}

/// Whether a thread waits for an event without a name, which nobody else can know: it was told to wait for ever.
fn is_parked(thread: &Thread) -> bool {
    let wait = thread.wait.as_ref();
    wait.is_some_and(|wait| {
        let anonymous = wait.object.as_ref().is_some_and(|object| {
            object.name.is_none() && object.type_name.untrusted() == "threading.Event"
        });
        let call = wait.call.as_ref().map(Foreign::untrusted);
        anonymous && call == Some("Event.wait") && wait.suspects.is_empty()
    })
}

/// Where an event loop's own thread is blocked, that is the cause, unless what it waits for lies in another process.
fn up_to_blocked_loop(mut trail: Trail<'_>) -> Trail<'_> {
    let blocked = trail.nodes.iter().position(|node| match node {
        Node::Thread(process, thread) => roles::blocked_loop_of(process, thread).is_some(),
        Node::Task(..) => false,
    });
    if let Some(at) = blocked
        && let Some(here) = trail.nodes.get(at)
        && trail
            .nodes
            .iter()
            .skip(at)
            .all(|node| node.process().key == here.process().key)
    {
        trail.nodes.truncate(at + 1);
        trail.hows.truncate(at);
        trail.closes = None;
    }
    trail
}

/// Whether another detector is there for it: circles of joins and locks, joins in general, ends of interpreters.
fn is_anothers(trail: &Trail<'_>) -> bool {
    let threads_only =
        |nodes: &[Node<'_>]| nodes.iter().all(|node| matches!(node, Node::Thread(..)));
    if let Some((nodes, hows)) = trail.circle() {
        let of_locks = |how: &How| matches!(how, How::Join | How::Lock);
        let within = |how: &How| of_locks(how) || !how.is_exact();
        return threads_only(nodes)
            && nodes
                .iter()
                .all(|node| node.process().key == nodes[0].process().key)
            && (hows.iter().all(of_locks)
                || (hows.contains(&How::Lock) && hows.iter().all(within)));
    }
    trail.nodes.iter().any(|node| {
        destroyers(node.process())
            .iter()
            .any(|(_, thread, _)| &thread.key == node.key())
    })
}

fn judge(case: &Case<'_>, trail: &Trail<'_>) -> Option<Finding> {
    let (first, last) = (*trail.nodes.first()?, trail.root()?);
    let root = Root::of(case, trail)?;
    let certainty = certainty(case, trail, &root);
    let told = trail.nodes.len();
    let mut title = verbs::subject(first);
    let mut glue = " ";
    for (from, how, to) in trail.steps().take(told - 1) {
        title.push_str(&format!("{glue}{}", verbs::step(from, how, to)));
        glue = if how == How::Child { " " } else { ", which " };
    }
    title.push_str(&format!("{glue}{}.", root.phrase));
    let mut evidence: Vec<Evidence> = trail
        .steps()
        .map(|(from, how, to)| {
            let grade = if how.is_exact() {
                verbs::grade(from)
            } else {
                Grade::Derived
            };
            let text = format!(
                "{} {}",
                verbs::full_subject(from),
                verbs::step_alone(from, how, to)
            );
            case.fact(
                grade,
                text,
                &[
                    (verbs::place_key(from), "wait"),
                    (verbs::place_key(to), "wait"),
                ],
            )
        })
        .collect();
    if trail.closes.is_none() {
        evidence.push(case.fact(
            verbs::grade(last),
            format!("{} {}", verbs::full_subject(last), verbs::waits(last)),
            &[(verbs::place_key(last), "wait")],
        ));
    }
    evidence.extend(
        root.facts.iter().map(|(grade, text)| {
            case.fact(*grade, text.clone(), &[(verbs::place_key(last), "wait")])
        }),
    );
    evidence.push(nobody_left(case, trail));
    evidence.extend(stillness(case, trail).map(|text| {
        let at = [
            (verbs::place_key(first), "python"),
            (verbs::place_key(last), "python"),
        ];
        case.fact(Grade::Derived, text, &at)
    }));
    let keys: Vec<&Key> = trail.nodes.iter().map(|node| node.key()).collect();
    Some(Finding {
        id: root.id.to_owned(),
        title: title.into(),
        certainty,
        waiter: first.key().clone(),
        blockers: keys.iter().skip(1).map(|key| (*key).clone()).collect(),
        affected: affected(case, trail, &keys),
        evidence,
        refuted_if: root.refuted_if,
        remedy: root.remedy,
        site: String::new(),
        signature: signature::of_nodes(
            root.id,
            trail.nodes.iter().map(|node| match node {
                Node::Thread(_, thread) => Ok(*thread),
                Node::Task(..) => Err(node.frames()),
            }),
        ),
    })
}

/// That none of them has moved; of tasks the loop's thread tells.
fn stillness(case: &Case<'_>, trail: &Trail<'_>) -> Option<String> {
    let threads: Option<Vec<&Thread>> = trail
        .nodes
        .iter()
        .map(|node| match node {
            Node::Thread(_, thread) => Some(*thread),
            Node::Task(..) => None,
        })
        .collect();
    match threads {
        Some(threads) => polling::stillness(case, &threads),
        None => case.has_motion().then(|| {
            format!(
                "none of them has moved in {} samples over {}",
                case.samples.len(),
                wording::duration(case.span_ms())
            )
        }),
    }
}

/// That nobody else could end these waits.
fn nobody_left(case: &Case<'_>, trail: &Trail<'_>) -> Evidence {
    let mut processes: Vec<&Process> = Vec::new();
    for node in &trail.nodes {
        if processes
            .iter()
            .all(|known| known.key != node.process().key)
        {
            processes.push(node.process());
        }
    }
    let threads: usize = processes.iter().map(|process| process.threads.len()).sum();
    let of = match processes.as_slice() {
        [one] => format!("process {}", one.pid),
        all => format!("{} processes", all.len()),
    };
    let going_on = || {
        let threads = processes.iter().flat_map(|process| {
            let threads = process.threads.iter();
            threads.map(|thread| (*process, thread))
        });
        threads.filter(|(_, thread)| case.liveness.goes_on(thread))
    };
    let followed = going_on().all(|(process, thread)| wording::is_followed(process, &thread.key));
    let live: Vec<String> = going_on()
        .map(|(_, thread)| wording::who(thread))
        .take(MAX_NAMED)
        .collect();
    let tasks: Vec<String> = processes
        .iter()
        .flat_map(|process| case.liveness.tasks_going_on(process))
        .filter(|task| !task.system)
        .map(wording::task)
        .take(MAX_NAMED)
        .collect();
    let text = match threads {
        _ if !tasks.is_empty() => format!(
            "{} may go on, but nothing that the code of any refers to leads to what is waited for, nor do the timers and \
             callbacks of the event loop; of the threads of {of} none can go on but by these",
            tasks
                .into_iter()
                .chain(live)
                .collect::<Vec<String>>()
                .join(", ")
        ),
        _ if !live.is_empty() && !followed => format!(
            "{} may go on, but is not who has to end any of these waits; of the other threads of {of} none can go on",
            live.join(", ")
        ),
        _ if !live.is_empty() => format!(
            "{} may go on, but nothing that its code does or refers to leads to what is waited for; of the other threads of {of} \
             none can go on",
            live.join(", ")
        ),
        1 => format!(
            "{of} has no other thread, catches no signal that might help, and nothing outside is waited for"
        ),
        _ => format!(
            "of all {threads} threads of {of} none can go on: each waits, without a deadline, for one of the others or \
             idles in its pool"
        ),
    };
    let at: Vec<(&Key, &str)> = processes
        .iter()
        .map(|process| (&process.key, "threads"))
        .collect();
    case.fact(Grade::Derived, text, &at)
}

fn certainty(case: &Case<'_>, trail: &Trail<'_>, root: &Root) -> Certainty {
    let mut nodes = trail.nodes.iter();
    if !case.has_motion() || nodes.any(|node| wait_graph::guesses_at_locks(node.process())) {
        return Certainty::Possible;
    }
    let exact = trail
        .hows
        .iter()
        .all(|how| how.is_exact() && *how != How::Pool);
    let first = trail.nodes.first().map(|node| node.process());
    let in_test = first.is_some_and(|process| process.test.is_some());
    let through_processes = trail
        .nodes
        .iter()
        .any(|node| Some(&node.process().key) != first.map(|process| &process.key));
    let others_go_on = trail
        .nodes
        .iter()
        .any(|node| case.liveness.is_live(&node.process().key));
    let all_in_sight = trail.nodes.iter().all(|node| {
        let Node::Thread(_, thread) = node else {
            return true;
        };
        let wait = thread.wait.as_ref();
        let mut files = wait.into_iter().flat_map(Wait::all_files);
        files.all(|file| file.peer.as_ref().is_none_or(|peer| peer.complete))
    });
    // Ctrl-C ends a wait of the main thread, and may be meant to: by somebody who runs a service by hand.
    let sure = exact
        && all_in_sight
        && !others_go_on
        && (trail.closes.is_some() || in_test || through_processes);
    // That no other worker of a pool is free is known of those that were recognised.
    let ceiling = match trail.hows.contains(&How::Pool) {
        true => root.ceiling.min(Certainty::Probable),
        false => root.ceiling,
    };
    if sure {
        ceiling
    } else {
        ceiling.min(Certainty::Probable)
    }
}

/// The other threads of these processes that are stuck, and who waits for them.
fn affected(case: &Case<'_>, trail: &Trail<'_>, told: &[&Key]) -> Vec<Key> {
    let mut out: Vec<Key> = Vec::new();
    let mut seen: BTreeSet<&Key> = told.iter().copied().collect();
    for node in &trail.nodes {
        for thread in &node.process().threads {
            if case.liveness.is_stuck(&thread.key)
                && !thread.python.is_empty()
                && seen.insert(&thread.key)
                && out.len() < MAX_AFFECTED
            {
                out.push(thread.key.clone());
            }
        }
    }
    out
}
