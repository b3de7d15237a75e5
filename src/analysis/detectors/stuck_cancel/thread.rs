//! The task waits for a worker thread: it is cancelled, and will hear of that when the thread has ended.

use super::Scene;
use crate::analysis::chain::{Link, Waits};
use crate::analysis::loops::{certainty, others, stillness, task_waits};
use crate::analysis::{case::Standing, signature, wording};
use crate::model::{Certainty, Finding, Grade, Key, Motion, Thread};
use std::collections::BTreeSet;

impl Scene<'_, '_> {
    pub(super) fn on_thread(&self) -> Option<Finding> {
        let (case, process, task) = (self.case, self.process, self.task);
        if !task.cancelled || !task.uncancellable {
            return None;
        }
        let worker = process.thread(task.awaits.as_ref()?.thread.as_ref()?)?;
        let chain = Waits::of(process).chain(worker);
        if chain.closes.is_some() {
            return None;
        }
        let root = *chain.threads.last()?;
        let known: BTreeSet<&Key> = chain.threads.iter().map(|thread| &thread.key).collect();
        let closure = self.sleeping.closure(case, process, &known);
        let certainty = match case.standing(root) {
            Standing::Internal => certainty(case, &closure)?,
            Standing::Active if goes_in_circles(case.motion(&root.key)) => Certainty::Possible,
            _ => return None,
        };
        let (loop_thread, root_name) = (wording::name(self.thread), wording::name(root));
        let through: String = chain
            .steps()
            .map(|(from, link, _)| match link {
                Link::Join => format!("{}, which joins ", wording::name(from)),
                Link::Lock(_) => {
                    format!("{}, which waits for a lock held by ", wording::name(from))
                }
            })
            .collect();
        let doing = doing(root);
        let mut evidence = vec![
            case.fact(
                Grade::Read,
                format!(
                    "{} of the event loop on {} is cancelled; it {}, and that wait does not end by a cancel",
                    wording::task(task),
                    wording::who(self.thread),
                    task_waits(task)
                ),
                &[(&self.thread.key, "python")],
            ),
            case.fact(
                task.awaits.as_ref()?.grade,
                format!("it waits for what {} does", wording::who(worker)),
                &[(&worker.key, "python")],
            ),
        ];
        for (from, link, to) in chain.steps() {
            let what = match link {
                Link::Join => "waits for the end of",
                Link::Lock(_) => "waits for a lock held by",
            };
            evidence.push(case.fact(
                from.wait.as_ref().map_or(Grade::Derived, |wait| wait.grade),
                format!("{} {what} {}", wording::who(from), wording::who(to)),
                &[(&from.key, "wait"), (&to.key, "python")],
            ));
        }
        evidence.push(case.fact(
            root.wait.as_ref().map_or(Grade::Derived, |wait| wait.grade),
            format!("{} {doing}", wording::who(root)),
            &[(&root.key, "python")],
        ));
        evidence.extend(stillness(case, root));
        evidence.push(others(case, process, &closure));
        let involved: Vec<&Thread> = [self.thread]
            .into_iter()
            .chain(chain.threads.clone())
            .collect();
        let keys: Vec<&Key> = involved.iter().map(|thread| &thread.key).collect();
        Some(Finding {
            id: "cancel-waits-for-thread".to_owned(),
            title: format!(
                "{} on {loop_thread} is cancelled, and waits for thread {through}{root_name}, which {doing}.",
                capital(&wording::task(task)),
            )
            .into(),
            certainty,
            waiter: self.thread.key.clone(),
            blockers: chain.threads.iter().map(|thread| thread.key.clone()).collect(),
            affected: case.affected_by(&keys, &keys),
            evidence,
            refuted_if: format!("{root_name} comes to its end by itself, or native code wakes it").into(),
            remedy: format!(
                "tell {root_name} to stop before the cancel, or let the task leave the thread to itself: \
                 to_thread.run_sync(..., abandon_on_cancel=True), within a bound"
            )
            .into(),
            site: String::new(),
            signature: signature::signature("cancel-waits-for-thread", &involved),
        })
    }
}

fn goes_in_circles(motion: Motion) -> bool {
    matches!(motion, Motion::Looping | Motion::Busy)
}

/// What a thread does, and where.
pub(super) fn doing(thread: &Thread) -> String {
    let place = wording::at(thread);
    let waits = thread.wait.as_ref().map(wording::waits);
    format!(
        "{}{place}",
        waits.unwrap_or_else(|| "goes round in a loop".to_owned())
    )
}

/// With a capital first letter.
pub(super) fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| {
        first.to_uppercase().chain(letters).collect()
    })
}
