//! The interpreter cannot end before somebody lets go of a GIL.

use super::super::gil_held_in_native_call::stuck_gil;
use super::scene::{Scene, Verdict};
use crate::analysis::wording;
use crate::model::{Grade, Thread};

impl<'c> Scene<'c, '_> {
    /// The GIL that `waiting` needs is kept by a thread that does not move.
    pub(super) fn gil(&self, waiting: &'c Thread) -> Option<Verdict<'c>> {
        let stuck = stuck_gil(self.case, self.process, waiting)?;
        let holder = stuck.holder;
        let mut evidence = vec![self.case.fact(
            Grade::Read,
            format!("{} waits for the GIL", wording::who(waiting)),
            &[(&waiting.key, "wait")],
        )];
        evidence.extend(stuck.evidence);
        Some(Verdict {
            id: "destroy-blocked-by-gil",
            certainty: stuck.certainty,
            reason: format!(
                "for the GIL, which {} keeps {}",
                wording::name(holder),
                stuck.doing
            ),
            blockers: vec![holder],
            evidence,
            refuted_if: format!(
                "the native call of {} returns: it may be slow rather than stuck",
                wording::name(holder)
            ),
            remedy: format!(
                "make the native call of {} release the GIL or shorten it, or give the interpreter a GIL of its own \
                 (an isolated configuration)",
                wording::name(holder)
            ),
        })
    }
}
