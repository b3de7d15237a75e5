//! What is due when: the limit, the steps that end a run, and what else must not wait for ever.

use super::supervisor::{Phase, Supervisor};
use super::wire::{Order, Word};
use crate::inspect::Samples;
use crate::model::{Event, Trigger};
use std::time::{Duration, Instant};

/// How long a capture may hold up the end of a hung run, beside the pauses between its samples.
const LOOK_AT_MOST: Duration = Duration::from_secs(60);
/// How long the verdict may take to be written before the run is ended regardless.
const VERDICT_AT_MOST: Duration = Duration::from_secs(3);

impl Supervisor {
    /// When the loop must look again, if nothing happens.
    pub(super) fn next_time(&self) -> Option<Instant> {
        let phase = match self.phase {
            Phase::Running => self
                .limit
                .and_then(|limit| limit.until())
                .filter(|_| self.end.is_none()),
            Phase::LookingAtHang(until) => Some(until),
            Phase::Terminating(until) => until,
            Phase::Killing | Phase::Gone => None,
        };
        let held = self.held.as_ref().map(|(_, until)| *until);
        let tests = self
            .is_running()
            .then(|| Instant::now() + super::following::EVERY);
        phase
            .into_iter()
            .chain(held)
            .chain(self.tail)
            .chain(tests)
            .chain(self.orphaned_until.filter(|_| self.is_running()))
            .min()
    }

    /// Whether the command runs and nothing ends it yet.
    fn is_running(&self) -> bool {
        self.phase == Phase::Running && self.end.is_none()
    }

    /// Whether limits on tests and on idleness may act: nothing ends the run, it is not suspended, and we have not failed.
    pub(super) fn may_act(&self) -> bool {
        self.is_running() && self.stood_since.is_none() && !self.plain
    }

    /// Does what is due.
    pub(super) fn look_at_clocks(&mut self, now: Instant) {
        if self.held.as_ref().is_some_and(|(_, until)| *until <= now) {
            self.forward_held();
        }
        if self.tail.is_some_and(|until| until <= now) {
            self.give_dump_up("it was still at it when the command had ended");
        }
        if self.dump.is_some() && self.dump_until.is_some_and(|until| until <= now) {
            self.give_dump_up("it took too long");
        }
        if self.is_running() && self.orphaned_until.is_some_and(|until| until <= now) {
            self.kill();
        }
        match self.phase {
            Phase::Running
                if self.end.is_none() && self.limit.is_some_and(|limit| limit.is_over(now)) =>
            {
                self.reach_limit();
            }
            Phase::LookingAtHang(until) if until <= now => {
                self.give_dump_up("it was still at it when the run had to be ended");
                // Without a capture that could have been given up, after a failure of ours.
                if matches!(self.phase, Phase::LookingAtHang(_)) {
                    let why = self.run_timeout();
                    self.end_run(why);
                }
            }
            Phase::Terminating(Some(until)) if until <= now => self.kill(),
            _ => {}
        }
    }

    pub(super) fn reach_limit(&mut self) {
        let Some(limit) = self.limit else { return };
        self.phase = Phase::LookingAtHang(self.look_until());
        // One that a signal began is shown as that; ours follows it.
        if self.dump.is_none() {
            let limit_ms = limit.millis();
            self.look(Trigger::RunTimeout { limit_ms }, self.options.samples);
        }
    }

    /// When a capture that begins now is given up.
    pub(super) fn look_until(&self) -> Instant {
        let now = Instant::now();
        let looking = LOOK_AT_MOST + self.options.interval.saturating_mul(self.samples());
        now.checked_add(looking).unwrap_or(now + LOOK_AT_MOST)
    }

    fn samples(&self) -> u32 {
        match self.options.samples {
            Samples::Exactly(count) => count,
            Samples::Auto => 3,
        }
    }

    /// The run's limit, in words; `None` when there is none.
    pub(super) fn run_timeout(&self) -> Option<String> {
        let limit = self.limit?;
        let length = Duration::from_millis(limit.millis());
        Some(format!("run timeout ({} s)", length.as_secs_f64()))
    }

    /// Ends the run because of a limit. By now all that could be saved is. `why` is given when no verdict has told it.
    pub(super) fn end_run(&mut self, why: Option<String>) {
        if let Some(why) = why {
            self.sink.send(Event::Ending { why: why.into() });
        }
        self.ended_by_us = true;
        self.following.mark_all_hung();
        self.sink.flush(VERDICT_AT_MOST);
        self.phase = Phase::Terminating(Instant::now().checked_add(self.options.grace));
        self.link.order(Order::Terminate);
    }

    /// Ends the tree for good. The guardian answers when it is gone.
    pub(super) fn kill(&mut self) {
        self.phase = Phase::Killing;
        // Killing by ourselves reaps what a capture may still wait for; it has had its time.
        if let Some(Word::Gone(left)) = self.link.order(Order::Kill) {
            self.hear(Word::Gone(left));
        }
    }
}
