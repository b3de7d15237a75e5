//! Captures of the run: begun, heard, told of.

use super::dump::{Dump, Said, Taken, Target};
use super::supervisor::{Phase, Supervisor};
use crate::inspect::Samples;
use crate::model::{Event, Trigger};
use std::time::{Duration, Instant};

/// How long a capture is waited for when the command has ended meanwhile.
pub(super) const TAIL_AT_MOST: Duration = Duration::from_secs(10);

impl Supervisor {
    /// Begins a capture.
    pub(super) fn look(&mut self, trigger: Trigger, samples: Samples) {
        self.look_every(trigger, samples, self.options.interval);
    }

    /// Begins a capture with these pauses between its samples.
    pub(super) fn look_every(&mut self, trigger: Trigger, samples: Samples, interval: Duration) {
        // What the tests have written is newer than the last turn of the loop.
        self.follow(Instant::now());
        let target = Target {
            root: self.link.root(),
            guardian: self.link.guardian(),
            command: self.link.command().unwrap_or_default(),
        };
        let failure = if self.plain {
            Some("hangscope has failed before".to_owned())
        } else {
            match Dump::start(
                self.inspect,
                target,
                &self.options,
                (samples, interval),
                trigger.clone(),
                self.following.record(),
            ) {
                Ok(dump) => {
                    self.dump = Some(dump);
                    self.dump_until = Some(self.look_until());
                    None
                }
                Err(error) => Some(error.to_string()),
            }
        };
        if let Some(why) = failure {
            let taken = Taken {
                failure: Some(why),
                ..Taken::default()
            };
            self.looked(&trigger, taken);
        }
    }

    /// Hears what a capture says.
    pub(super) fn read_dump(&mut self) {
        for said in self.dump.as_mut().map(Dump::read).unwrap_or_default() {
            match said {
                // nextest gives ten seconds: there is time to tell slow from stuck.
                Said::Saved if self.options.own_test => {}
                Said::Saved => self.forward_held(),
                Said::Done(taken) => {
                    if let Some(dump) = self.dump.take() {
                        self.looked(&dump.trigger, *taken);
                    }
                }
            }
        }
    }

    pub(super) fn give_dump_up(&mut self, why: &str) {
        if let Some(dump) = self.dump.take() {
            let taken = Taken {
                failure: Some(why.to_owned()),
                ..Taken::default()
            };
            self.looked(&dump.trigger, taken);
        }
    }

    /// A capture is over, well or not.
    fn looked(&mut self, trigger: &Trigger, taken: Taken) {
        self.tail = None;
        self.forward_held();
        let gets_further = taken.report.as_ref().is_some_and(super::idle::gets_further);
        // What ended by itself was not idle either.
        let idle = matches!(trigger, Trigger::IdleTimeout { .. });
        // A limit of the run that was reached meanwhile goes on below.
        if idle && self.phase == Phase::Running && (gets_further || self.end.is_some()) {
            self.not_idle(taken.bundle);
            return;
        }
        // The run may have deleted it.
        let bundle = taken.bundle.as_ref().map(|bundle| bundle.path().to_owned());
        let bundle = bundle.filter(|path| path.exists());
        if let Some(why) = taken.archive_failure {
            self.sink.send(if bundle.is_some() {
                let what = format!("the bundle lacks what was seen later: {why}");
                Event::Trouble { what: what.into() }
            } else {
                Event::ArchiveFailed { why: why.into() }
            });
        }
        if let Some(why) = taken.failure {
            self.sink.send(Event::CaptureFailed { why: why.into() });
        }
        let told = taken.report.is_some();
        if let Some(report) = &taken.report {
            self.sink.send(Event::Verdict {
                report: Box::new(report.clone()),
                bundle: bundle.clone(),
                ended: self.end.is_some(),
            });
        }
        self.bundles.extend(taken.bundle);
        if self.phase == Phase::Running {
            match trigger {
                Trigger::IdleTimeout { ends: true, .. } if self.end.is_none() => {
                    self.idle_looked(told);
                }
                _ => self.overdue_looked(taken.report.as_ref(), bundle.as_deref()),
            }
        }
        self.last_report = taken.report.map(|report| (report, bundle));
        if !matches!(self.phase, Phase::LookingAtHang(_)) {
            return;
        }
        if self.end.is_some() {
            // It ended by itself while we looked: that is how the run ended.
            self.phase = Phase::Running;
        } else if matches!(trigger, Trigger::RunTimeout { .. }) {
            let why = self.run_timeout().filter(|_| !told);
            self.end_run(why);
        } else {
            self.reach_limit();
        }
    }
}
