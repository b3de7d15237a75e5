//! The interpreter cannot end before a thread of it: idle, busy, or an executor's.

use super::scene::{Scene, Verdict};
use crate::analysis::case::Standing;
use crate::analysis::wording;
use crate::model::{Grade, Motion, Thread};

impl<'c> Scene<'c, '_> {
    pub(super) fn thread(&self, culprit: &'c Thread, executor: bool) -> Option<Verdict<'c>> {
        let standing = self.case.standing(culprit);
        let busy = standing == Standing::Active;
        if busy && !self.runs_in_circles(culprit) {
            return None;
        }
        if standing == Standing::Gil {
            return self.gil(culprit);
        }
        let certainty = self.certainty(&[self.waiter, culprit], culprit, standing)?;
        let n = self.interpreter.id;
        let name = wording::who(culprit);
        let doing = self.doing(culprit);
        let (id, noun) = match (executor, busy) {
            (true, _) => ("destroy-blocked-by-executor", "executor worker"),
            (false, true) => ("destroy-blocked-by-busy-thread", "non-daemon thread"),
            (false, false) => ("destroy-blocked-by-idle-thread", "non-daemon thread"),
        };
        let mut evidence = vec![
            self.case.fact(
                Grade::Read,
                format!(
                    "{} joins {name} in the interpreter's own thread shutdown",
                    wording::who(self.waiter)
                ),
                &[(&self.waiter.key, "wait")],
            ),
            self.case.fact(
                Grade::Read,
                format!(
                    "{name} has a thread state in interpreter {n}{}",
                    made_by(culprit, n)
                ),
                &[(&culprit.key, "python")],
            ),
            self.case.fact(
                self.grade_of_wait(culprit),
                format!("{name} {doing}"),
                &[(&culprit.key, "wait")],
            ),
        ];
        evidence.extend(self.stillness(culprit));
        evidence.extend(self.others(&[self.waiter, culprit], standing));
        evidence.extend(self.blocked_signals());
        let mut blockers = vec![culprit];
        let owner = self.owner_of_awaited_lock(culprit);
        if let Some(owner) = owner {
            evidence.push(self.case.fact(
                Grade::Derived,
                format!(
                    "the owner field of that RLock names {}, which {}",
                    wording::who(owner),
                    self.doing(owner)
                ),
                &[(&culprit.key, "wait"), (&owner.key, "wait")],
            ));
            blockers.push(owner);
        }
        let remedy = if let Some(owner) = owner {
            format!(
                "free {} first: it waits for an RLock that {} owns; then have both end before interpreter {n} is ended",
                wording::name(culprit),
                wording::name(owner)
            )
        } else if executor {
            format!(
                "end the task that runs in {}, or call shutdown(cancel_futures=True) and make the task stop, before \
                 interpreter {n} is ended",
                wording::name(culprit)
            )
        } else if self.interpreter.own_gil && n != 0 {
            format!(
                "tell {} to stop and join it before interpreter {n} is ended (an isolated interpreter refuses daemon \
                 threads, so that is the only way)",
                wording::name(culprit)
            )
        } else {
            format!(
                "tell {} to stop and join it before interpreter {n} is ended, or start it with daemon=True; whether a \
                 thread is a daemon is inherited from the thread that starts it, so say it at the call",
                wording::name(culprit)
            )
        };
        Some(Verdict {
            id,
            certainty,
            reason: format!("for its {noun} {}, which {doing}", wording::name(culprit)),
            blockers,
            evidence,
            refuted_if: self.refutation(culprit, standing),
            remedy,
        })
    }

    /// The thread that the owner field of the RLock names that `thread` waits for.
    pub(super) fn owner_of_awaited_lock(&self, thread: &Thread) -> Option<&'c Thread> {
        let owner = thread.wait.as_ref()?.owner.as_ref()?;
        if owner.grade < Grade::Derived {
            return None;
        }
        self.process.thread(owner.thread.as_ref()?)
    }

    pub(super) fn refutation(&self, culprit: &Thread, standing: Standing) -> String {
        let name = wording::name(culprit);
        match standing {
            Standing::Internal => {
                format!("another thread, or native code, wakes {name} and it returns")
            }
            Standing::External => {
                format!("what {name} waits for arrives from outside, and it returns")
            }
            Standing::FarOff(_) | Standing::Timed => {
                format!("the time that {name} waits for is meant to be waited out")
            }
            _ => format!("{name} comes to its end by itself: it may be slow rather than stuck"),
        }
    }

    pub(super) fn doing(&self, culprit: &Thread) -> String {
        let place = wording::at(culprit);
        let call = culprit.wait.as_ref().and_then(|wait| wait.call.as_ref());
        // Where the thread runs nothing of the project, the place is that of the call.
        let place =
            match call.and_then(|call| place.strip_prefix(&format!(" at {} ", call.untrusted()))) {
                Some(file) => format!(" {file}"),
                None => place,
            };
        match (&culprit.wait, self.case.standing(culprit)) {
            (_, Standing::Active) if self.case.motion(&culprit.key) == Motion::Stirring => {
                format!("wakes and waits again{place}")
            }
            (_, Standing::Active) => {
                let cpu = self
                    .case
                    .cpu_percent(&culprit.key)
                    .map_or_else(String::new, |percent| format!(" ({percent} % CPU)"));
                format!("goes round in a loop{place}{cpu}")
            }
            (Some(wait), _) => format!("{}{place}", wording::waits(wait)),
            (None, _) => format!("stands still{place}"),
        }
    }

    pub(super) fn runs_in_circles(&self, thread: &Thread) -> bool {
        match self.case.motion(&thread.key) {
            Motion::Looping | Motion::Busy | Motion::Unknown => true,
            // It may work off one short job after the other, which is no news unless the run is overdue.
            Motion::Stirring => self.case.overdue,
            Motion::Still | Motion::Moving | Motion::Starved => false,
        }
    }
}

/// ", made by threading, not a daemon": what is known of a thread's state in an interpreter.
fn made_by(thread: &Thread, interpreter: i64) -> String {
    let Some(state) = thread.state_of(interpreter) else {
        return String::new();
    };
    let mut text = String::new();
    if state.whence.as_deref() == Some("threading") {
        text.push_str(", made by threading");
    }
    match state.daemon {
        Some(false) => text.push_str(", daemon=False"),
        Some(true) => text.push_str(", daemon=True"),
        None => {}
    }
    text
}
