//! Locks that are waited for and not given back: a circle, a thread that waits for itself, a holder that is stuck, and
//! one that has ended. See `docs/detectors/lock-*.md`.

mod blocked;
mod circle;
mod ended;
mod hold;
mod own;
mod turnstile;

use super::{Cause, Detector, Meta, Outcome, outcome};
use crate::analysis::case::{Case, destroyers};
use crate::analysis::chain::Waits;
use crate::model::{Finding, Key, Process, Thread};
use std::collections::BTreeSet;

static META: Meta = Meta {
    name: "stuck_lock",
    causes: &[
        Cause {
            id: circle::ID,
            summary: "Threads wait in a circle for locks that they hold.",
            page: include_str!("../../../../docs/detectors/lock-order-cycle.md"),
        },
        Cause {
            id: own::ID,
            summary: "A thread waits for a lock that it holds itself.",
            page: include_str!("../../../../docs/detectors/lock-self-deadlock.md"),
        },
        Cause {
            id: ended::ID,
            summary: "A thread waits for a lock whose holder has ended.",
            page: include_str!("../../../../docs/detectors/lock-holder-ended.md"),
        },
        Cause {
            id: blocked::ID,
            summary: "A thread waits for a lock whose holder waits for something that nobody will do.",
            page: include_str!("../../../../docs/detectors/lock-held-by-blocked-thread.md"),
        },
    ],
};

/// The detector.
pub(super) struct StuckLock;

impl Detector for StuckLock {
    fn meta(&self) -> &'static Meta {
        &META
    }

    fn detect(&self, case: &Case<'_>) -> Outcome {
        let findings = case
            .judgeable()
            .flat_map(|process| findings(case, process))
            .collect();
        outcome(case, findings)
    }
}

fn findings(case: &Case<'_>, process: &Process) -> Vec<Finding> {
    let waits = Waits::of(process);
    let mut found: Vec<Finding> = waits
        .circles()
        .iter()
        .filter_map(|circle| match circle.threads.as_slice() {
            [alone] => own::judge(case, process, alone),
            _ if circle.closes_over_a_lock() => circle::judge(case, process, circle),
            _ => None,
        })
        .collect();
    found.extend(ended::judge_all(case, process));
    // Who ends an interpreter waits for its threads in ways that no lock shows: that is another detector's.
    let ending: BTreeSet<&Key> = destroyers(process)
        .into_iter()
        .map(|(_, thread, _)| &thread.key)
        .collect();
    let mut judged: BTreeSet<&Key> = BTreeSet::new();
    for waiter in &process.threads {
        let Some((holder, link)) = waits.next(&waiter.key) else {
            continue;
        };
        // The holder that waits for another thread in turn is not the root.
        let is_root = waits.next(&holder.key).is_none() && !ending.contains(&holder.key);
        let is_new = is_root && !link.is_join() && !is_told(&found, holder);
        // Where all come to the same wait it is that wait that is the cause, and another detector's.
        if is_new
            && judged.insert(&holder.key)
            && !turnstile::is_passed_by_all(process, waiter, holder)
        {
            found.extend(blocked::judge(case, process, waiter, holder));
        }
    }
    found
}

/// Whether a finding says already what a thread waits for.
fn is_told(found: &[Finding], thread: &Thread) -> bool {
    found.iter().any(|finding| finding.waiter == thread.key)
}
