//! Facts that several causes rest on.

use super::scene::Scene;
use crate::analysis::case::Standing;
use crate::analysis::wording;
use crate::model::{Evidence, Grade, Key, Motion, Thread, signal_name};
use std::collections::BTreeSet;

impl Scene<'_, '_> {
    /// Who else may help, if anybody.
    pub(super) fn others(&self, known: &[&Thread], standing: Standing) -> Option<Evidence> {
        if standing != Standing::Internal {
            return None;
        }
        let known: BTreeSet<&Key> = known.iter().map(|thread| &thread.key).collect();
        let closure = self.case.closure(self.process, &known);
        let text = wording::closure(self.process, &closure);
        Some(
            self.case
                .fact(Grade::Derived, text, &[(&self.process.key, "threads")]),
        )
    }

    pub(super) fn grade_of_wait(&self, thread: &Thread) -> Grade {
        thread
            .wait
            .as_ref()
            .map_or(Grade::Derived, |wait| wait.grade)
    }

    /// "unmoved in 3 samples over 1.0 s", if so.
    pub(super) fn stillness(&self, thread: &Thread) -> Option<Evidence> {
        if !self.case.has_motion() || self.case.motion(&thread.key) != Motion::Still {
            return None;
        }
        let views = self.case.views(&thread.key).count();
        Some(self.case.fact(
            Grade::Derived,
            format!(
                "{} has not moved in {views} samples over {}",
                wording::who(thread),
                wording::duration(self.case.span_ms())
            ),
            &[(&thread.key, "python")],
        ))
    }

    /// Signals that have arrived and cannot be served, since the main thread is the one that waits.
    pub(super) fn blocked_signals(&self) -> Option<Evidence> {
        let pending = &self.process.python.as_ref()?.signals.as_ref()?.pending;
        if pending.is_empty() || !self.process.is_led_by(self.waiter) {
            return None;
        }
        let names: Vec<String> = pending.iter().map(|signal| signal_name(*signal)).collect();
        Some(self.case.fact(
            Grade::Read,
            format!(
                "{} arrived and cannot be served: the main thread runs as interpreter {} and does not return to Python",
                names.join(", "),
                self.interpreter.id
            ),
            &[(&self.process.key, "python.signals")],
        ))
    }
}
