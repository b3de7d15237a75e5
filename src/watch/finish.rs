//! After the end of a run: the terminal, the orphans, the bundles' last words.

use super::processes::Process;
use super::supervisor::{Phase, Supervisor};
use super::{Finished, WatchError};
use crate::archive::{self, Bundle};
use crate::model::{Event, Leak, Outcome, OutcomeKind, Report, RunRecord, TestOutcome};
use rustix::io::Errno;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

/// How long processes that end along with the command are waited for before they count as left behind.
const ORPHANS_SETTLE: Duration = Duration::from_millis(200);
/// How long the end of a run waits for the sink: whoever reads our standard error may have stopped.
const SINK_AT_MOST: Duration = Duration::from_secs(3);

impl Supervisor {
    /// Puts all in order and says how the run ended.
    pub(super) fn finish(mut self) -> Result<Finished, WatchError> {
        let killed = self.phase == Phase::Gone;
        if let Some(terminal) = &mut self.terminal {
            terminal.take_back();
            if killed {
                terminal.restore_modes();
            }
        }
        if let Some(errno) = self.not_started {
            self.link.release();
            return Err(self.start_error(errno));
        }
        if !killed {
            self.tell_orphans();
        }
        self.link.release();
        let outcome = if killed && self.ended_by_us {
            Outcome::timed_out(self.options.hang_exit_code)
        } else {
            self.end.unwrap_or(Outcome::RUNNING)
        };
        let (record, leaks) = self.last_words();
        let (report, bundle) = self.last_report.take().unzip();
        for bundle in &mut self.bundles {
            // The run may have deleted it; that is its right.
            let _ = bundle.set_outcome(outcome);
        }
        if let Some(newest) = self.bundles.last_mut() {
            let _ = newest.set_record(&record, report.as_ref());
        }
        self.mend_junit(&record, report.as_ref());
        self.sink.flush(SINK_AT_MOST);
        Ok(Finished {
            outcome,
            record,
            leaks,
            report,
            bundle: bundle.flatten(),
        })
    }

    /// What the tests' processes have written since the last look, and what all of it comes to.
    fn last_words(&mut self) -> (RunRecord, Vec<Leak>) {
        let body = AssertUnwindSafe(|| {
            self.following.finish();
            let leaks = self.following.leaks(&self.options.fail_on_leak);
            (self.following.record(), leaks)
        });
        catch_unwind(body).unwrap_or_default()
    }

    /// pytest writes its own JUnit file at the end of the session. In a run that did not get there it is missing, or
    /// lacks the test that hung.
    fn mend_junit(&mut self, record: &RunRecord, report: Option<&Report>) {
        let Some(path) = record.junit.as_ref() else {
            return;
        };
        let unfinished = record.tests.iter().any(|test| {
            matches!(
                test.outcome,
                TestOutcome::Hung | TestOutcome::Crashed | TestOutcome::Running
            )
        });
        if !unfinished {
            return;
        }
        let path = Path::new(path.untrusted());
        let bundle = self.bundles.last().map(Bundle::path);
        let took = Duration::from_millis(record.took_ms);
        let now = SystemTime::now();
        let began = now.checked_sub(took).unwrap_or(now);
        if let Err(error) = archive::mend_junit(path, record, report, bundle, began) {
            let what = format!("the JUnit file is not complete: {error}");
            self.sink.send(Event::Trouble { what: what.into() });
        }
    }

    fn start_error(&self, errno: i32) -> WatchError {
        let command = self.options.command.first().cloned().unwrap_or_default();
        let source = io::Error::from_raw_os_error(errno);
        match Errno::from_raw_os_error(errno) {
            Errno::NOENT => WatchError::NotFound { command, source },
            Errno::AGAIN | Errno::NOMEM => WatchError::Guardian(source),
            _ => WatchError::CannotRun { command, source },
        }
    }

    /// Says which processes outlive the command.
    fn tell_orphans(&mut self) {
        if self.end.is_some_and(|end| end.kind == OutcomeKind::Unknown) {
            self.sink.send(Event::Trouble {
                what: "how the command ended is not known: its status was lost".into(),
            });
        }
        let until = Instant::now() + ORPHANS_SETTLE;
        loop {
            let left = self.link.alive();
            if left.is_empty() {
                return;
            }
            if Instant::now() >= until {
                self.sink
                    .send(Event::LeftBehind(left.iter().map(Process::left).collect()));
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
