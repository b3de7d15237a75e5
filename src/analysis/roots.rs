//! One finding a root: several detectors may see the same hang from different ends.

use super::detectors;
use crate::model::{Certainty, Finding, Key};
use std::collections::BTreeSet;

/// Causes that tell why tasks are not called off or woken. That what such a task waits for never comes is found, too, and says
/// less.
const OF_TASKS: [&str; 3] = [
    "cancel-stopped-by-shield",
    "cancel-waits-for-thread",
    "event-loops-at-standstill",
];

/// What a joined thread waits for, where that says more than that it is joined: it is not called upon to end.
const BEHIND_JOIN: [&str; 7] = [
    "semaphore-never-released",
    "barrier-never-filled",
    "condition-never-notified",
    "channel-never-drained",
    "queue-never-drained",
    "lock-never-released",
    "pipe-full",
];

/// Leaves out what is said of a join if as much is known of why the joined thread does not come to its end.
pub(super) fn without_joins(findings: Vec<Finding>) -> Vec<Finding> {
    let told: Vec<(Key, Certainty)> = findings
        .iter()
        .filter(|finding| BEHIND_JOIN.contains(&finding.id.as_str()))
        .map(|finding| (finding.root().clone(), finding.certainty))
        .collect();
    let said_better = |join: &Finding| {
        join.id == "join-on-blocked-thread"
            && told.iter().any(|(root, certainty)| {
                root == join.root()
                    && (*certainty >= join.certainty || *certainty > Certainty::Possible)
            })
    };
    findings
        .into_iter()
        .filter(|finding| !said_better(finding))
        .collect()
}

/// Leaves out what general detectors say of a process of whose tasks a special one tells why they do not go on.
pub(super) fn without_general(findings: Vec<Finding>) -> Vec<Finding> {
    let told: BTreeSet<Key> = findings
        .iter()
        .filter(|finding| {
            OF_TASKS.contains(&finding.id.as_str()) && finding.certainty > Certainty::Possible
        })
        .map(|finding| finding.waiter.of_process())
        .collect();
    let said_better = |finding: &Finding| {
        let process = finding.waiter.of_process();
        detectors::is_general(&finding.id)
            && told.contains(&process)
            && finding
                .blockers
                .iter()
                .all(|blocker| blocker.of_process() == process)
    };
    findings
        .into_iter()
        .filter(|finding| !said_better(finding))
        .collect()
}

/// Keeps, of findings about one hang, the one that is nearest to its root; the threads of the others are affected by it.
/// Findings come most specific first.
pub(super) fn one_each(findings: Vec<Finding>) -> Vec<Finding> {
    let mut kept: Vec<Finding> = Vec::new();
    for finding in findings {
        let same_root = kept
            .iter_mut()
            .find(|first| first.id != finding.id && first.root() == finding.root());
        match same_root {
            Some(first) => absorb(first, finding),
            None => kept.push(finding),
        }
    }
    let mut index = 0;
    while index < kept.len() {
        match kept
            .iter()
            .position(|other| goes_deeper(other, &kept[index]))
        {
            Some(deeper) => {
                let shallow = kept.remove(index);
                // What comes after the removed one has moved up.
                let deeper = if deeper > index { deeper - 1 } else { deeper };
                absorb(&mut kept[deeper], shallow);
                index = 0;
            }
            None => index += 1,
        }
    }
    kept
}

/// Whether what one finding takes for the root waits in turn, as the other one says, and no less surely.
fn goes_deeper(other: &Finding, finding: &Finding) -> bool {
    let root = finding.root();
    let on_the_way = other.blockers.iter().rev().skip(1);
    let mut waiting = on_the_way.chain(&other.affected).chain([&other.waiter]);
    other.id != finding.id && other.certainty >= finding.certainty && waiting.any(|key| key == root)
}

fn absorb(kept: &mut Finding, other: Finding) {
    let more: Vec<Key> = other
        .affected
        .into_iter()
        .chain(other.blockers)
        .chain([other.waiter])
        .collect();
    for key in more {
        let known =
            key == kept.waiter || kept.blockers.contains(&key) || kept.affected.contains(&key);
        if !known && key.as_str().contains("/t") {
            kept.affected.push(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{one_each, without_general};
    use crate::model::{Certainty, Finding, Key};

    fn finding(
        id: &str,
        certainty: Certainty,
        waiter: i32,
        blockers: &[i32],
        affected: &[i32],
    ) -> Finding {
        let key = |tid: &i32| Key::process(1, 1).thread(*tid);
        Finding {
            id: id.to_owned(),
            title: id.into(),
            certainty,
            waiter: key(&waiter),
            blockers: blockers.iter().map(key).collect(),
            evidence: Vec::new(),
            affected: affected.iter().map(key).collect(),
            refuted_if: "".into(),
            remedy: "".into(),
            site: String::new(),
            signature: String::new(),
        }
    }

    fn told(findings: Vec<Finding>) -> Vec<(String, usize)> {
        one_each(findings)
            .into_iter()
            .map(|finding| (finding.id, finding.affected.len()))
            .collect()
    }

    #[test]
    fn why_tasks_do_not_go_on_is_told_without_what_they_wait_for() {
        let left = |certainty, id: &str, process: i32| {
            let special = finding("cancel-stopped-by-shield", certainty, 1, &[], &[]);
            let mut other = finding(id, Certainty::Certain, 1, &[2], &[]);
            other.waiter = Key::process(process, 1).thread(process);
            without_general(vec![special, other]).len()
        };
        assert_eq!(left(Certainty::Probable, "event-never-set", 1), 1);
        assert_eq!(left(Certainty::Possible, "event-never-set", 1), 2);
        assert_eq!(left(Certainty::Probable, "deadlock", 1), 2);
        assert_eq!(left(Certainty::Probable, "event-never-set", 9), 2);
    }

    #[test]
    fn of_two_with_one_root_the_more_specific_is_kept() {
        let specific = finding("a", Certainty::Probable, 1, &[2, 3], &[]);
        let general = finding("b", Certainty::Certain, 4, &[3], &[5]);
        assert_eq!(told(vec![specific, general]), [("a".to_owned(), 2)]);
    }

    #[test]
    fn who_waits_in_turn_is_no_root() {
        let shallow = finding("a", Certainty::Certain, 1, &[2], &[]);
        let circle = finding("b", Certainty::Certain, 2, &[3], &[]);
        assert_eq!(told(vec![shallow.clone(), circle]), [("b".to_owned(), 1)]);
        let doubtful = finding("b", Certainty::Possible, 2, &[3], &[]);
        assert_eq!(told(vec![shallow, doubtful]).len(), 2);
    }

    #[test]
    fn two_that_point_at_each_other_leave_one() {
        let one = finding("a", Certainty::Certain, 1, &[2], &[]);
        let other = finding("b", Certainty::Certain, 2, &[1], &[]);
        assert_eq!(told(vec![one, other]).len(), 1);
    }
}
