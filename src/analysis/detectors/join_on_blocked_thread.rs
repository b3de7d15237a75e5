//! `Thread.join` on a thread that cannot end: the chain of waits is followed to its root. See
//! `docs/detectors/join-on-blocked-thread.md`.

use super::{Cause, Detector, Meta, Outcome, outcome};
use crate::analysis::case::{Case, Closure, Standing, destroyers};
use crate::analysis::chain::{Chain, Link, Waits};
use crate::analysis::language::Language;
use crate::analysis::{polling, signature, wait_graph, wording};
use crate::model::{Certainty, Finding, Grade, Key, Process, Thread, WaitKind};
use std::collections::BTreeSet;

const JOIN: &str = "join-on-blocked-thread";
const AT_EXIT: &str = "exit-blocked-by-thread";

static META: Meta = Meta {
    name: "join_on_blocked_thread",
    causes: &[
        Cause {
            id: JOIN,
            summary: "A thread joins another that waits for something that nobody will do.",
            page: include_str!("../../../docs/detectors/join-on-blocked-thread.md"),
        },
        Cause {
            id: AT_EXIT,
            summary: "The program is through, and its exit waits for a thread that does not end.",
            page: include_str!("../../../docs/detectors/exit-blocked-by-thread.md"),
        },
    ],
};

/// The detector.
pub(super) struct JoinOnBlockedThread;

impl Detector for JoinOnBlockedThread {
    fn meta(&self) -> &'static Meta {
        &META
    }

    fn detect(&self, case: &Case<'_>) -> Outcome {
        let mut findings: Vec<Finding> = Vec::new();
        for process in case.judgeable() {
            let ending: BTreeSet<&Key> = destroyers(process)
                .into_iter()
                .map(|(_, thread, _)| &thread.key)
                .collect();
            let joined: BTreeSet<&Key> = joins(process).map(|(_, target)| target).collect();
            let waits = Waits::of(process);
            for (waiter, _) in joins(process) {
                if ending.contains(&waiter.key) {
                    continue;
                }
                let chain = without_lead_in(waits.chain(waiter));
                // Where a lock closes the circle, or its holder is the root, there is a detector for that.
                let over_a_lock = chain.closes_over_a_lock()
                    || (chain.closes.is_none()
                        && chain.links.last().is_some_and(|link| !link.is_join()));
                if over_a_lock {
                    continue;
                }
                // A chain is told from its start; one that runs into the end of an interpreter is that detector's.
                let starts_elsewhere = chain.closes.is_none() && joined.contains(&waiter.key);
                let ends = chain
                    .threads
                    .iter()
                    .any(|thread| ending.contains(&thread.key));
                if starts_elsewhere || ends {
                    continue;
                }
                let Some(finding) = judge(case, process, &chain) else {
                    continue;
                };
                // A cycle is found again from each of its threads; two joins of one stuck thread are one hang.
                let known = findings.iter_mut().find(|known| {
                    members(known) == members(&finding)
                        || known.blockers.last() == finding.blockers.last()
                });
                match known {
                    None => findings.push(finding),
                    Some(known) if members(known).contains(&finding.waiter) => {}
                    Some(known) if known.affected.contains(&finding.waiter) => {}
                    Some(known) => known.affected.push(finding.waiter),
                }
            }
        }
        outcome(case, findings)
    }
}

fn members(finding: &Finding) -> BTreeSet<&Key> {
    finding.blockers.iter().chain([&finding.waiter]).collect()
}

fn joins(process: &Process) -> impl Iterator<Item = (&Thread, &Key)> {
    process.threads.iter().filter_map(|thread| {
        let wait = thread.wait.as_ref()?;
        (wait.kind == WaitKind::ThreadExit).then_some((thread, wait.target.as_ref()?))
    })
}

/// What leads into a circle is not part of it, and told as affected.
fn without_lead_in(mut chain: Chain<'_>) -> Chain<'_> {
    if let Some(start) = chain.closes {
        chain.threads.drain(..start);
        chain.links.drain(..start);
        chain.closes = Some(0);
    }
    chain
}

fn judge(case: &Case<'_>, process: &Process, chain: &Chain<'_>) -> Option<Finding> {
    let (waiter, root) = (*chain.threads.first()?, *chain.threads.last()?);
    let language = Language::of(process);
    if root.key == waiter.key && chain.closes.is_none() {
        return None;
    }
    let unmoved = chain
        .threads
        .iter()
        .all(|thread| matches!(case.standing_in_tree(thread), Standing::Internal));
    // Where the last one waits for another process, the cause is to be looked for there.
    if !unmoved || case.standing(root) != Standing::Internal {
        return None;
    }
    let known: BTreeSet<&Key> = chain.threads.iter().map(|thread| &thread.key).collect();
    let all_joins = chain.links.iter().all(|link| link.is_join());
    let name = |thread: &Thread| wording::name_among(thread, chain.threads.iter().copied());
    let (waiter_name, root_name) = (name(waiter), name(root));
    let closure = case.closure(process, &known);
    let is_main = process.is_led_by(waiter);
    // Whoever goes on may be about to do what the root waits for.
    let open = matches!(closure, Closure::OpenThread(_) | Closure::OpenSignal(_));
    if open && chain.closes.is_none() && !case.overdue {
        return None;
    }
    let is_seen = case.has_motion() && !wait_graph::guesses_at_locks(process);
    let certainty = match (is_seen, chain.closes.is_some(), &closure) {
        (false, _, _) => Certainty::Possible,
        (true, true, _) if all_joins => Certainty::Certain,
        (true, true, _) => Certainty::Probable,
        // An owner field names a thread by an id that is used again after the thread's end.
        (true, false, Closure::Closed) if !all_joins => Certainty::Probable,
        // Ctrl-C still ends a join in the main thread, which is how a service may be meant to end.
        (true, false, Closure::Closed) if is_main && process.test.is_none() && !at_exit(waiter) => {
            Certainty::Probable
        }
        (true, false, Closure::Closed) => Certainty::Certain,
        // A thread that could not be judged, such as a library's own, rarely wakes Python code.
        (true, false, Closure::Unclear | Closure::OutOfReach(_)) => Certainty::Probable,
        (true, false, _) => Certainty::Possible,
    };
    let wait = root.wait.as_ref()?;
    let root_place = wording::at(root);
    let end = if let Some(next) = chain.closing() {
        format!("which waits for {} in turn", name(next))
    } else {
        format!("which {}{root_place}", wording::waits(wait))
    };
    let through: String = chain
        .threads
        .get(1..chain.threads.len() - 1)
        .unwrap_or_default()
        .iter()
        .map(|thread| format!("{}, which waits for ", name(thread)))
        .collect();
    let here = wording::at(waiter);
    let (id, operation) = if at_exit(waiter) {
        (AT_EXIT, "at the exit of its interpreter waits for")
    } else {
        (JOIN, "joins")
    };
    let mut evidence = Vec::new();
    for (from, link, to) in chain.steps() {
        let (from_name, to_name) = (wording::who(from), wording::who(to));
        let (text, grade) = match link {
            Link::Join => (
                format!("{from_name} waits for the end of {to_name}"),
                from.wait.as_ref().map_or(Grade::Derived, |wait| wait.grade),
            ),
            Link::Lock(holder) => (
                format!("{from_name} waits for a lock that {to_name} holds"),
                holder.grade,
            ),
        };
        evidence.push(case.fact(grade, text, &[(&from.key, "wait"), (&to.key, "python")]));
    }
    if chain.closes.is_none() {
        let on = wait
            .object
            .as_ref()
            .map_or_else(String::new, wording::on_object);
        evidence.push(case.fact(
            wait.grade,
            format!(
                "{} {}{root_place}{on}, without a deadline",
                wording::who(root),
                wording::waits(wait)
            ),
            &[(&root.key, "wait")],
        ));
        evidence.push(case.fact(
            Grade::Derived,
            wording::closure(process, &closure),
            &[(&process.key, "threads")],
        ));
    }
    evidence.extend(polling::stillness(case, &chain.threads).map(|text| {
        let at = [(&waiter.key, "python"), (&root.key, "python")];
        case.fact(Grade::Derived, text, &at)
    }));
    let blockers: Vec<Key> = chain
        .threads
        .iter()
        .skip(1)
        .map(|thread| thread.key.clone())
        .collect();
    let targets: Vec<&Key> = chain.threads.iter().map(|thread| &thread.key).collect();
    Some(Finding {
        id: id.to_owned(),
        title: format!("{waiter_name}{here} {operation} {through}{root_name}, {end}.").into(),
        certainty,
        waiter: waiter.key.clone(),
        blockers,
        affected: case.affected_by(&targets, &targets),
        evidence,
        refuted_if: format!("{} wakes {root_name}", language.others()).into(),
        remedy: remedy(language, chain.closes.is_some(), &root_name).into(),
        site: String::new(),
        signature: signature::signature(id, &chain.threads),
    })
}

fn remedy(language: Language, is_circle: bool, root: &str) -> String {
    if is_circle {
        let timeout = language.pick(", or join with a timeout", "", "");
        return format!(
            "break the cycle: one of these threads must not wait for the next (let it end first, take the locks in one \
             order{timeout})"
        );
    }
    let before = language.pick(
        "set the event, put the sentinel, release the lock), or join with a timeout and report the thread",
        "send the last message, drop the sender, notify, unpark, release the lock); std has no join with a timeout, but \
         JoinHandle::is_finished() and a channel with recv_timeout()",
        "signal the condition, post the semaphore, write to or close the pipe, release the lock), or look by pthread_tryjoin_np() \
         and report the thread",
    );
    format!("make sure that what {root} waits for happens before the join ({before}")
}

/// Whether the join is the one that the end of the main thread does (`threading._shutdown`).
fn at_exit(thread: &Thread) -> bool {
    thread
        .python
        .first()
        .and_then(|state| state.frames.last())
        .is_some_and(|frame| frame.is("_shutdown", "threading.py"))
}
