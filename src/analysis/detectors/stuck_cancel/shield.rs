//! The task waits under a shield: the cancel stops there, and the shield has no deadline.

use super::Scene;
use super::thread::{capital, doing};
use crate::analysis::loops::{certainty, others, stillness, task_waits};
use crate::analysis::{signature, wording};
use crate::model::{CancelScope, Finding, Grade, Key, Thread};
use std::collections::BTreeSet;

impl<'c> Scene<'c, '_> {
    pub(super) fn in_shield(&self) -> Option<Finding> {
        let (case, process, task) = (self.case, self.process, self.task);
        let shield = self.shield()?;
        // In a loop that goes on, some other task may do what this one waits for.
        self.sleeping.on(&self.thread.key)?;
        let known = BTreeSet::from([&self.thread.key]);
        let closure = self.sleeping.closure(case, process, &known);
        let certainty = certainty(case, &closure)?;
        let place = shield
            .place
            .as_ref()
            .map_or_else(String::new, |place| format!(" in {}", place.untrusted()));
        let mut evidence = vec![
            case.fact(
                Grade::Read,
                format!(
                    "{} of the event loop on {} is cancelled from outside of a shield{place} that has no deadline",
                    wording::task(task),
                    wording::who(self.thread)
                ),
                &[(&self.thread.key, "python")],
            ),
            case.fact(
                Grade::Derived,
                format!("under that shield it {}", task_waits(task)),
                &[(&self.thread.key, "python")],
            ),
            crate::analysis::loops::is_idle(case, self.event_loop, self.thread),
        ];
        let other = self.only_other();
        if let Some(other) = other {
            evidence.push(case.fact(
                Grade::Derived,
                format!(
                    "the only other thread that could end that wait is {}, which {}",
                    wording::who(other),
                    doing(other)
                ),
                &[(&other.key, "python")],
            ));
        }
        evidence.extend(stillness(case, self.thread));
        evidence.push(others(case, process, &closure));
        let involved: Vec<&Thread> = [self.thread].into_iter().chain(other).collect();
        let keys: Vec<&Key> = involved.iter().map(|thread| &thread.key).collect();
        let end = other.map_or_else(String::new, |other| {
            format!(", while {} {}", wording::name(other), doing(other))
        });
        Some(Finding {
            id: "cancel-stopped-by-shield".to_owned(),
            title: format!(
                "{} on {} is cancelled, but {} under a shield without a deadline{place}{end}.",
                capital(&wording::task(task)),
                wording::name(self.thread),
                task_waits(task),
            )
            .into(),
            certainty,
            waiter: self.thread.key.clone(),
            blockers: other.iter().map(|thread| thread.key.clone()).collect(),
            affected: case.affected_by(&keys, &keys),
            evidence,
            refuted_if: "something outside of what was seen still ends what the shielded code waits for".into(),
            remedy: "give the shield a deadline (CancelScope(shield=True, deadline=...), or move_on_after(seconds, \
                     shield=True)), and say what is left undone when it passes"
                .into(),
            site: String::new(),
            signature: signature::signature("cancel-stopped-by-shield", &involved),
        })
    }

    /// The shield that keeps a cancel from the task, if it will do so for ever.
    fn shield(&self) -> Option<&'c CancelScope> {
        let scopes = &self.task.scopes;
        if self.task.cancelled || scopes.iter().all(|scope| !scope.cancelled) {
            return None;
        }
        let cancelled = scopes.iter().position(|scope| scope.cancelled)?;
        let within = scopes.get(..cancelled)?;
        let ends_by_itself = within.iter().any(|scope| scope.deadline_ms.is_some());
        let mut shields = within.iter().filter(|scope| scope.shield);
        // The outermost one is where the cancel has stopped.
        shields.next_back().filter(|_| !ends_by_itself)
    }

    /// The only other thread of the process, but for those of sleeping loops and idle pools.
    fn only_other(&self) -> Option<&'c Thread> {
        let mut others = self
            .process
            .threads
            .iter()
            .filter(|thread| thread.key != self.thread.key && !thread.python.is_empty());
        others.next().filter(|_| others.next().is_none())
    }
}
