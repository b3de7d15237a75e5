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
        phase.into_iter().chain(held).chain(self.tail).min()
    }

    /// Does what is due.
    pub(super) fn look_at_clocks(&mut self, now: Instant) {
        if self.held.as_ref().is_some_and(|(_, until)| *until <= now) {
            self.forward_held();
        }
        if self.tail.is_some_and(|until| until <= now) {
            self.give_dump_up("it was still at it when the command had ended");
        }
        match self.phase {
            Phase::Running
                if self.end.is_none() && self.limit.is_some_and(|limit| limit.is_over(now)) =>
            {
                self.reach_limit(now);
            }
            Phase::LookingAtHang(until) if until <= now => {
                self.give_dump_up("it was still at it when the run had to be ended");
                // Without a capture that could have been given up, after a failure of ours.
                if matches!(self.phase, Phase::LookingAtHang(_)) {
                    self.end_run(false);
                }
            }
            Phase::Terminating(Some(until)) if until <= now => self.kill(),
            _ => {}
        }
    }

    pub(super) fn reach_limit(&mut self, now: Instant) {
        let Some(limit) = self.limit else { return };
        let looking = LOOK_AT_MOST + self.options.interval.saturating_mul(self.samples());
        self.phase = Phase::LookingAtHang(now.checked_add(looking).unwrap_or(now + LOOK_AT_MOST));
        // One that a signal began is shown as that; ours follows it.
        if self.dump.is_none() {
            let limit_ms = limit.millis();
            self.look(Trigger::RunTimeout { limit_ms }, self.options.samples);
        }
    }

    fn samples(&self) -> u32 {
        match self.options.samples {
            Samples::Exactly(count) => count,
            Samples::Auto => 3,
        }
    }

    /// Ends the run because of the limit. By now all that could be saved is. A verdict has told of the limit.
    pub(super) fn end_run(&mut self, told: bool) {
        if let Some(limit) = self.limit.filter(|_| !told) {
            self.sink.send(Event::Ending {
                limit_ms: limit.millis(),
            });
        }
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
