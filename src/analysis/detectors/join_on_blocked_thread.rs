//! `Thread.join` on a thread that cannot end: the chain of waits is followed to its root. See
//! `docs/detectors/join-on-blocked-thread.md`.

use super::{Cause, Detector, Meta, Outcome, outcome};
use crate::analysis::case::{Case, Closure, Standing, destroyers};
use crate::analysis::{signature, wait_graph, wording};
use crate::model::{Certainty, EdgeKind, Finding, Grade, Key, Process, Thread, WaitKind};
use std::collections::BTreeSet;

static META: Meta = Meta {
    name: "join_on_blocked_thread",
    causes: &[Cause {
        id: "join-on-blocked-thread",
        summary: "A thread joins another that waits for something that nobody will do.",
        page: include_str!("../../../docs/detectors/join-on-blocked-thread.md"),
    }],
};

/// Longest chain that is followed.
const MAX_CHAIN: usize = 1000;

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
            for (waiter, _) in joins(process) {
                if ending.contains(&waiter.key) {
                    continue;
                }
                let chain = chain(case, process, waiter);
                // A chain is told from its start; one that runs into the end of an interpreter is that detector's.
                let starts_elsewhere = chain.closes.is_none() && joined.contains(&waiter.key);
                let ends = chain
                    .threads
                    .iter()
                    .any(|thread| ending.contains(&thread.key));
                let joins = chain.kinds.contains(&EdgeKind::Joins);
                if starts_elsewhere || ends || !joins {
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

/// Who waits for whom, from a join on.
struct Chain<'c> {
    threads: Vec<&'c Thread>,
    /// How each thread but the last waits for the next.
    kinds: Vec<EdgeKind>,
    /// The last thread waits for the one of this number: a cycle.
    closes: Option<usize>,
}

fn chain<'c>(case: &Case<'_>, process: &'c Process, start: &'c Thread) -> Chain<'c> {
    let mut chain = Chain {
        threads: vec![start],
        kinds: Vec::new(),
        closes: None,
    };
    let mut last = start;
    while chain.threads.len() < MAX_CHAIN {
        let Some((next, kind)) = wait_graph::next_thread(&case.edges, &last.key) else {
            break;
        };
        let Some(next) = process.thread(next) else {
            break;
        };
        // The holder of a GIL is not stuck for that; its own detector judges it.
        if last
            .wait
            .as_ref()
            .is_some_and(|wait| wait.kind == WaitKind::Gil)
        {
            break;
        }
        chain.kinds.push(kind);
        if let Some(start) = chain
            .threads
            .iter()
            .position(|thread| thread.key == next.key)
        {
            chain.closes = Some(start);
            break;
        }
        chain.threads.push(next);
        last = next;
    }
    chain.without_lead_in();
    chain
}

impl Chain<'_> {
    /// What leads into a cycle of joins is not part of it, and told as affected. A cycle of locks alone is told with the
    /// join that leads into it.
    fn without_lead_in(&mut self) {
        let Some(start) = self.closes else {
            return;
        };
        if self
            .kinds
            .iter()
            .skip(start)
            .any(|kind| *kind == EdgeKind::Joins)
        {
            self.threads.drain(..start);
            self.kinds.drain(..start);
            self.closes = Some(0);
        }
    }

    /// The thread that the last one waits for, in a cycle.
    fn closing(&self) -> Option<&Thread> {
        self.threads.get(self.closes?).copied()
    }
}

fn judge(case: &Case<'_>, process: &Process, chain: &Chain<'_>) -> Option<Finding> {
    let (waiter, root) = (*chain.threads.first()?, *chain.threads.last()?);
    if root.key == waiter.key && chain.closes.is_none() {
        return None;
    }
    let unmoved = chain
        .threads
        .iter()
        .all(|thread| matches!(case.standing(thread), Standing::Internal));
    if !unmoved {
        return None;
    }
    let known: BTreeSet<&Key> = chain.threads.iter().map(|thread| &thread.key).collect();
    let all_joins = chain.kinds.iter().all(|kind| *kind == EdgeKind::Joins);
    let (waiter_name, root_name) = (wording::name(waiter), wording::name(root));
    let closure = case.closure(process, &known);
    let is_main = process.is_led_by(waiter);
    // Whoever goes on may be about to do what the root waits for.
    let open = matches!(closure, Closure::OpenThread(_) | Closure::OpenSignal(_));
    if open && chain.closes.is_none() && !case.overdue {
        return None;
    }
    let certainty = match (case.has_motion(), chain.closes.is_some(), &closure) {
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
        (true, false, Closure::Unclear) => Certainty::Probable,
        (true, false, _) => Certainty::Possible,
    };
    let wait = root.wait.as_ref()?;
    let root_place = wording::place(root).map_or_else(String::new, |place| format!(" at {place}"));
    let end = if let Some(next) = chain.closing() {
        format!("which waits for {} in turn", wording::name(next))
    } else {
        format!("which {}{root_place}", wording::waits(wait))
    };
    let through: String = chain
        .threads
        .get(1..chain.threads.len() - 1)
        .unwrap_or_default()
        .iter()
        .map(|thread| format!("{}, which waits for ", wording::name(thread)))
        .collect();
    let here = wording::place(waiter).map_or_else(String::new, |place| format!(" at {place}"));
    let operation = if at_exit(waiter) {
        "at the exit of its interpreter waits for"
    } else {
        "joins"
    };
    let mut evidence = Vec::new();
    for (index, kind) in chain.kinds.iter().enumerate() {
        let from = chain.threads[index];
        let to = chain
            .threads
            .get(index + 1)
            .copied()
            .or_else(|| chain.closing())
            .unwrap_or(waiter);
        let (text, grade) = match kind {
            EdgeKind::Joins => (
                format!(
                    "{} waits for the end of {}",
                    wording::who(from),
                    wording::who(to)
                ),
                from.wait.as_ref().map_or(Grade::Derived, |wait| wait.grade),
            ),
            _ => (
                format!(
                    "{} waits for an RLock whose owner field names {}",
                    wording::who(from),
                    wording::who(to)
                ),
                Grade::Derived,
            ),
        };
        evidence.push(case.fact(grade, text, &[(&from.key, "wait"), (&to.key, "python")]));
    }
    if chain.closes.is_none() {
        evidence.push(case.fact(
            wait.grade,
            format!(
                "{} {}{root_place}, without a deadline",
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
    if case.has_motion() {
        evidence.push(case.fact(
            Grade::Derived,
            format!(
                "none of them has moved in {} samples over {}",
                case.views(&root.key).count(),
                wording::duration(case.span_ms())
            ),
            &[(&waiter.key, "python"), (&root.key, "python")],
        ));
    }
    let blockers: Vec<Key> = chain
        .threads
        .iter()
        .skip(1)
        .map(|thread| thread.key.clone())
        .collect();
    let targets: Vec<&Key> = chain.threads.iter().map(|thread| &thread.key).collect();
    Some(Finding {
        id: "join-on-blocked-thread".to_owned(),
        title: format!(
            "{waiter_name}{here} {operation} {through}{root_name}, {end}."
        )
        .into(),
        certainty,
        waiter: waiter.key.clone(),
        blockers,
        affected: case.affected_by(&targets, &targets),
        evidence,
        refuted_if: format!(
            "a signal handler, native code or another process wakes {root_name}"
        )
        .into(),
        remedy: if chain.closes.is_some() {
            "break the cycle: one of these threads must not wait for the next (let it end first, take the locks in one \
             order, or join with a timeout)"
                .to_owned()
        } else {
            format!(
                "make sure that what {root_name} waits for happens before the join (set the event, put the sentinel, \
                 release the lock), or join with a timeout and report the thread"
            )
        }
        .into(),
        signature: signature::signature("join-on-blocked-thread", &chain.threads),
    })
}

/// Whether the join is the one that the end of the main thread does (`threading._shutdown`).
fn at_exit(thread: &Thread) -> bool {
    thread
        .python
        .first()
        .and_then(|state| state.frames.last())
        .is_some_and(|frame| frame.is("_shutdown", "threading.py"))
}
