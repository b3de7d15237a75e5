//! An exit callback or a finalizer of the interpreter does not return.

use super::scene::{Scene, Verdict};
use crate::analysis::case::Standing;
use crate::analysis::wording;
use crate::model::{Certainty, Frame, Grade};

impl<'c> Scene<'c, '_> {
    pub(super) fn callback_or_teardown(&self) -> Option<Verdict<'c>> {
        match self.state.frames.last() {
            // Past the callbacks, Python code is a finalizer.
            Some(frame) if self.interpreter.torn_down_by.is_some() => self.unknown(&format!(
                "in {}, run while the interpreter is torn down",
                frame.place()
            )),
            Some(callback) if self.interpreter.finalizing => self.callback(callback),
            _ => self.unknown("in native code"),
        }
    }

    pub(super) fn callback(&self, callback: &'c Frame) -> Option<Verdict<'c>> {
        let standing = self.case.standing(self.waiter);
        if standing == Standing::Active {
            return None;
        }
        let certainty = self.certainty(&[self.waiter], self.waiter, standing)?;
        let wait = self.waiter.wait.as_ref();
        let waits = wait.map_or_else(|| "stands still".to_owned(), wording::waits);
        let inner = self.state.frames.first().unwrap_or(callback);
        let mut evidence = vec![
            self.case.fact(
                Grade::Derived,
                format!(
                    "interpreter {} ends, its thread shutdown is over or runs callbacks, its teardown has not begun: what \
                     runs is the exit callback {}",
                    self.interpreter.id,
                    callback.place()
                ),
                &[(&self.interpreter.key, "finalizing"), (&self.waiter.key, "python")],
            ),
            self.case.fact(
                self.grade_of_wait(self.waiter),
                format!("it {waits} at {}", inner.place()),
                &[(&self.waiter.key, "wait")],
            ),
        ];
        let mut blockers = Vec::new();
        let mut held = String::new();
        if let Some(owner) = wait.and_then(|wait| wait.owner.as_ref()) {
            match self.owner_of_awaited_lock(self.waiter) {
                Some(thread) => {
                    held = format!(", whose owner is {}", wording::name(thread));
                    let place = wording::place(thread).unwrap_or_default();
                    evidence.push(self.case.fact(
                        owner.grade,
                        format!(
                            "the lock's owner field names {}, now at {place}",
                            wording::who(thread)
                        ),
                        &[(&self.waiter.key, "wait"), (&thread.key, "python")],
                    ));
                    blockers.push(thread);
                }
                None => evidence.push(self.case.fact(
                    owner.grade,
                    format!(
                        "the lock's owner field names {}, which is no live Python thread",
                        owner.ident
                    ),
                    &[(&self.waiter.key, "wait")],
                )),
            }
        }
        if let Some(thread) = self.awaited_thread() {
            held = format!(": {}", wording::name(thread));
            evidence.push(self.case.fact(
                Grade::Read,
                format!(
                    "that thread is {}, which {}",
                    wording::who(thread),
                    self.doing(thread)
                ),
                &[(&self.waiter.key, "wait"), (&thread.key, "wait")],
            ));
            blockers.push(thread);
        }
        evidence.extend(self.stillness(self.waiter));
        evidence.extend(self.others(&[self.waiter], standing));
        evidence.extend(self.blocked_signals());
        Some(Verdict {
            id: "destroy-blocked-by-atexit",
            certainty,
            reason: format!(
                "in its exit callback {}, which {waits}{held}",
                callback.place()
            ),
            blockers,
            evidence,
            refuted_if: "something still wakes the callback and it returns".to_owned(),
            remedy: format!(
                "make the callback {} bounded (a timeout), or undo what it waits for before the interpreter is ended",
                callback.function.untrusted()
            ),
        })
    }

    pub(super) fn unknown(&self, place: &str) -> Option<Verdict<'c>> {
        let blocked = matches!(
            self.case.standing(self.waiter),
            Standing::Internal | Standing::External | Standing::FarOff(_)
        );
        if !blocked || !self.case.has_motion() {
            return None;
        }
        let wait = self.waiter.wait.as_ref()?;
        let mut evidence = vec![self.case.fact(
            Grade::Read,
            format!("{} {}", wording::who(self.waiter), wording::waits(wait)),
            &[(&self.waiter.key, "wait")],
        )];
        evidence.extend(self.stillness(self.waiter));
        Some(Verdict {
            id: "destroy-blocked-by-unknown",
            certainty: Certainty::Probable,
            reason: format!(
                "{place}: none of the threads and callbacks that hangscope sees explains it"
            ),
            blockers: Vec::new(),
            evidence,
            refuted_if: "what it waits for happens".to_owned(),
            remedy: format!(
                "look at the native stack: gdb -p {} -batch -ex 'thread apply all bt'",
                self.process.pid
            ),
        })
    }
}
