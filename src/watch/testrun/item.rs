//! One test of a run (pytest's word for it is item).

use super::news::Who;
use super::record::{PhaseReport, Said};
use crate::model::{Counted, Counts, Foreign, TestOutcome, TestPhase, TestRecord};
use std::sync::Arc;

/// A test that has begun.
#[derive(Clone, Debug)]
pub(super) struct Item {
    /// Its number in the run, in the order in which they began.
    pub(super) number: u64,
    /// pytest's node id.
    pub(super) test: Arc<Foreign>,
    /// The binary of a Rust test.
    pub(super) binary: Option<Arc<Foreign>>,
    /// Its file and line.
    pub(super) file: Option<Arc<Foreign>>,
    pub(super) line: Option<u32>,
    /// The process that began it.
    pub(super) who: Who,
    pub(super) worker: Option<Arc<Foreign>>,
    /// Which tests it was collected with.
    pub(super) group: usize,
    /// Whether it is a test of the run; not one of a session in a test.
    pub(super) counts: bool,
    /// On CLOCK_MONOTONIC, in nanoseconds.
    pub(super) began: u64,
    pub(super) ended: Option<u64>,
    pub(super) phase: TestPhase,
    /// How it ended; absent also when it has ended and nobody knows how.
    pub(super) outcome: Option<TestOutcome>,
    /// How it ends as far as its reports say.
    so_far: TestOutcome,
    pub(super) message: Option<Foreign>,
    pub(super) before: Counts,
    pub(super) after: Option<Counts>,
    pub(super) how: Counted,
    /// Its process was forked for it: what it leaves in there goes with it.
    pub(super) fleeting: bool,
    /// Its process is being ended since it hangs.
    pub(super) hung: bool,
    /// The process that was forked to run it died on the way.
    pub(super) child_died: bool,
}

impl Item {
    /// A test that begins.
    pub(super) fn new(number: u64, test: Arc<Foreign>, who: Who, began: u64) -> Self {
        Self {
            number,
            test,
            binary: None,
            file: None,
            line: None,
            who,
            worker: None,
            group: 0,
            counts: true,
            began,
            ended: None,
            phase: TestPhase::Setup,
            outcome: None,
            so_far: TestOutcome::Passed,
            message: None,
            before: Counts::default(),
            after: None,
            how: Counted::Inside,
            fleeting: false,
            hung: false,
            child_died: false,
        }
    }

    /// Takes a report of one of its phases, with `room` bytes for its message.
    pub(super) fn report(&mut self, report: &PhaseReport, room: usize) {
        let outcome = match (report.said, report.phase) {
            (Said::Failed, TestPhase::Call) => TestOutcome::Failed,
            (Said::Failed, _) => TestOutcome::Error,
            (Said::Skipped | Said::ExpectedFailure, _) => TestOutcome::Skipped,
            (Said::UnexpectedPass, _) => TestOutcome::Passed,
            (Said::Other, _) => return,
        };
        let weight = |outcome| match outcome {
            TestOutcome::Passed => 0,
            TestOutcome::Skipped => 1,
            _ => 2,
        };
        let heavier = weight(outcome) > weight(self.so_far);
        let fits = report.message.untrusted().len() <= room && !report.message.is_empty();
        if fits && (heavier || self.message.is_none()) {
            self.message = Some(report.message.clone());
        }
        if heavier {
            self.so_far = outcome;
        }
    }

    /// How it ended as far as its reports say.
    pub(super) fn reported(&self) -> TestOutcome {
        self.so_far
    }

    /// How it ended when its process says that it ended so.
    pub(super) fn judged(&self, said: TestOutcome) -> TestOutcome {
        match said {
            TestOutcome::Failed | TestOutcome::Error if self.child_died && self.hung => {
                TestOutcome::Hung
            }
            TestOutcome::Failed | TestOutcome::Error if self.child_died => TestOutcome::Crashed,
            said => said,
        }
    }

    /// Whether it was counted before and after.
    pub(super) fn is_counted(&self) -> bool {
        let both = |after: &Counts| {
            crate::model::LeftKind::ALL
                .iter()
                .any(|&kind| self.before.get(kind).is_some() && after.get(kind).is_some())
        };
        !self.fleeting && self.after.as_ref().is_some_and(both)
    }

    /// Milliseconds that it took until its end, or now.
    pub(super) fn took_ms(&self, now: u64) -> u64 {
        self.ended.unwrap_or(now).saturating_sub(self.began) / 1_000_000
    }

    /// What the model says of it. `None` for one that has ended in a way that nobody knows.
    pub(super) fn record(&self, run_began: u64, now: u64) -> Option<TestRecord> {
        let outcome = match (self.outcome, self.ended) {
            (Some(outcome), _) => outcome,
            (None, None) if self.hung => TestOutcome::Hung,
            (None, None) => TestOutcome::Running,
            (None, Some(_)) => return None,
        };
        Some(TestRecord {
            test: (*self.test).clone(),
            binary: self.binary.as_deref().cloned(),
            file: self.file.as_deref().cloned(),
            line: self.line,
            process: self.who.key(),
            worker: self.worker.as_deref().cloned(),
            started_ms: self.began.saturating_sub(run_began) / 1_000_000,
            took_ms: self.took_ms(now),
            phase: self.phase,
            outcome,
            message: self.message.clone(),
            before: self.before,
            after: self.after,
        })
    }
}
