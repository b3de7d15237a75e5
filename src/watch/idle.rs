//! Nothing happens: no test begins or ends and nothing gets further. And: a test takes long, on a terminal.

use super::Options;
use super::supervisor::Supervisor;
use crate::archive::Bundle;
use crate::model::{Event, Motion, Report, Role, SlowStatus, Trigger, WaitKind};
use std::time::{Duration, Instant};

/// When a test is first told to be slow; then each time that it has taken twice as long.
const SLOW_AFTER: Duration = Duration::from_secs(10);

/// What has been said about idleness.
#[derive(Debug, Default)]
pub(super) struct Idle {
    /// The last test event at that time. Nothing more is said until there is another.
    told_after: Option<u64>,
    /// A look for the sake of `--idle-timeout` is under way.
    ending: bool,
}

/// What has been said about slow tests.
#[derive(Debug, Default)]
pub(super) struct Slow {
    /// The test (or other place), and after how long it is told next.
    now: Option<(String, Duration)>,
}

/// Whether a thread gets on after all: it moves, or has been woken by data. Bytes that come through sockets are counted
/// nowhere that we can read, and a slow download takes hardly any CPU.
pub(super) fn gets_further(report: &Report) -> bool {
    let Some(last) = report.samples.last() else {
        return false;
    };
    report.analysis.progress.iter().any(|thread| {
        let waits_for_data = || {
            let wait = last.thread(&thread.thread).and_then(|it| it.wait.as_ref());
            wait.is_some_and(|wait| {
                matches!(
                    wait.kind,
                    WaitKind::Connection | WaitKind::Read | WaitKind::Write
                )
            })
        };
        match thread.motion {
            Motion::Moving | Motion::Busy => true,
            Motion::Stirring => waits_for_data(),
            _ => false,
        }
    })
}

impl Supervisor {
    /// Acts when nothing happens for too long.
    pub(super) fn look_at_idleness(&mut self) {
        if !self.may_act() {
            return;
        }
        self.tell_slow();
        let event = self.following.last_event();
        let quiet = self.following.since_last_event().min(self.progress.quiet());
        // Looked at for a reason of its own already, or asked for by whoever waits at a prompt.
        if self.dump.is_some() || !self.overdue.is_empty() || self.following.is_standing() {
            return;
        }
        let Options {
            idle_timeout,
            report_after,
            ..
        } = self.options;
        let (length, ends) = match (idle_timeout, report_after) {
            (Some(length), _) if quiet >= length && !self.idle.ending => (length, true),
            (_, Some(length)) if quiet >= length && self.idle.told_after != Some(event) => {
                (length, false)
            }
            _ => return,
        };
        self.idle.told_after = Some(event);
        self.idle.ending = ends;
        let limit_ms = u64::try_from(length.as_millis()).unwrap_or(u64::MAX);
        self.look(
            Trigger::IdleTimeout { limit_ms, ends },
            self.options.samples,
        );
    }

    /// A look for idleness has found the opposite: as if it had not been.
    pub(super) fn not_idle(&mut self, bundle: Option<Bundle>) {
        self.idle = Idle::default();
        self.progress.note(Instant::now());
        if let Some(bundle) = bundle {
            bundle.discard();
        }
    }

    /// The look for `--idle-timeout` is over.
    pub(super) fn idle_looked(&mut self, told: bool) {
        self.idle.ending = false;
        let Some(length) = self.options.idle_timeout else {
            return;
        };
        if self.following.since_last_event() < length {
            // A test began or ended meanwhile.
            return;
        }
        let why = format!("idle timeout ({} s)", length.as_secs_f64());
        self.end_run((!told).then_some(why));
    }

    /// On a terminal a test that takes long is told, so that nobody wonders.
    fn tell_slow(&mut self) {
        if !self.options.status {
            return;
        }
        let mut running = self.following.running();
        // They wait for their workers, and for the tests on their threads, all along.
        running.retain(|running| {
            let waits = running.role == Role::Controller
                || (running.role == Role::Libtest && !running.in_test());
            !waits && running.apart.is_none()
        });
        let Some(longest) = running.iter().max_by_key(|running| running.elapsed()) else {
            return;
        };
        let place = longest.place();
        let name = format!("{} {}", longest.key.as_str(), longest.serial);
        let due = match &self.slow.now {
            Some((known, due)) if *known == name => *due,
            _ => SLOW_AFTER,
        };
        let elapsed = longest.elapsed();
        if elapsed < due {
            self.slow.now = Some((name, due));
            return;
        }
        self.slow.now = Some((name, due.saturating_mul(2)));
        let (finished, collected, slowest) = self.following.totals();
        let status = SlowStatus {
            place,
            elapsed_ms: u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
            others: running.len() - 1,
            finished,
            collected,
            slowest,
            threads: self.following.threads_seen(),
        };
        self.sink.send(Event::Slow(status));
    }
}
