//! Tests over their limit: looked at, then made to end by the mildest means that works.
//!
//! 1. A real-time signal asks the plugin to fail just this test, the way a Ctrl-C would end it.
//! 2. The same, by force: an exception is raised wherever the test is.
//! 3. The process is killed, if it is a worker that pytest-xdist replaces or was forked for the one test. Tests of Rust
//!    begin here: nothing in them can be asked.
//! 4. The run is ended.

use super::following::{Limited, head_start};
use super::processes::Process;
use super::supervisor::Supervisor;
use super::testrun::Running;
use super::{OnHang, kill};
use crate::model::{Event, Key, Pid, Report, Role, Trigger, WaitKind};
use std::path::Path;
use std::time::{Duration, Instant};

/// A look before pytest-timeout acts takes its samples in this part of the time that is left.
const HURRY: u32 = 6;
/// Most characters of the verdict that a failing test shows.
const MAX_VERDICT: usize = 1_500;

/// Between two signals for the same request.
const REMIND_EVERY: Duration = Duration::from_millis(300);

/// A test over its limit.
#[derive(Debug)]
pub(super) struct Overdue {
    running: Running,
    limited: Limited,
    /// What its failure says.
    line: String,
    step: Step,
}

/// What has been done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Nothing yet.
    Due,
    /// It is looked at.
    Looked,
    /// The plugin has been asked to fail it, and was reminded then.
    Asked {
        until: Instant,
        forced: bool,
        reminded: Instant,
    },
    /// Its process has been killed.
    Killed { until: Instant },
}

/// Identifies a test that runs in a process, and which of its limits.
pub(super) type Told = (Key, u32, bool);

impl Supervisor {
    /// Finds tests over their limit and takes the next step with those that were found before.
    pub(super) fn look_at_tests(&mut self, now: Instant) {
        if !self.may_act() {
            return;
        }
        let running = self.following.running();
        self.settle_overdue(&running);
        for running in running {
            let anew = self.anew.get(&(running.key.clone(), running.serial));
            let reached = self
                .following
                .limits_reached(&running, &self.options, anew.copied());
            for limited in reached {
                let told = (running.key.clone(), running.serial, limited.acts);
                if self.told_overdue.insert(told) {
                    self.overdue.push(Overdue {
                        running: running.clone(),
                        limited,
                        line: String::new(),
                        step: Step::Due,
                    });
                }
            }
        }
        self.look_at_due();
        self.take_next_steps(now);
    }

    fn look_at_due(&mut self) {
        let due = |one: &&Overdue| one.step == Step::Due;
        if self.dump.is_some() {
            return;
        }
        let Some(first) = self.overdue.iter().find(due) else {
            return;
        };
        let length = first.limited.length;
        let trigger = Trigger::TestTimeout {
            limit_ms: u64::try_from(length.as_millis()).unwrap_or(u64::MAX),
            test: first.running.place(),
            whose: first.limited.whose.to_owned(),
        };
        let hurried = self
            .overdue
            .iter()
            .filter(due)
            .any(|one| one.limited.hurried);
        let interval = if hurried {
            self.options.interval.min(head_start(length) / HURRY)
        } else {
            self.options.interval
        };
        for one in &mut self.overdue {
            if one.step == Step::Due {
                one.step = Step::Looked;
            }
        }
        self.look_every(trigger, self.options.samples, interval);
    }

    /// A look at the run is over: acts on the tests that it was for.
    pub(super) fn overdue_looked(&mut self, report: Option<&Report>, bundle: Option<&Path>) {
        let looked: Vec<Overdue> = self
            .overdue
            .extract_if(.., |one| one.step == Step::Looked)
            .collect();
        let running = self.following.running();
        for mut one in looked {
            if !one.runs(&running) || self.end.is_some() {
                self.act(format!("{} ended while it was looked at", one.place()));
                continue;
            }
            if !one.limited.acts {
                continue;
            }
            if let Some(why) = report.and_then(|it| reason_to_wait(it, &one.running.key)) {
                self.act(format!("{}: {why}: left alone", one.place_and_limit()));
                continue;
            }
            if self.options.on_hang == OnHang::End {
                self.end_run(Some(one.place_and_limit()));
                return;
            }
            one.line = verdict_line(report, &one, bundle);
            if self.following.ask(&one.running, 1, &one.line) {
                one.step = self.asked(false);
                self.overdue.push(one);
            } else {
                self.harder(one);
            }
        }
    }

    fn asked(&self, forced: bool) -> Step {
        Step::Asked {
            until: self.after_grace(),
            forced,
            reminded: Instant::now(),
        }
    }

    fn take_next_steps(&mut self, now: Instant) {
        for one in &mut self.overdue {
            if let Step::Asked { reminded, .. } = &mut one.step
                && now.saturating_duration_since(*reminded) >= REMIND_EVERY
            {
                *reminded = now;
                self.following.remind(&one.running);
            }
        }
        let due: Vec<Overdue> = self
            .overdue
            .extract_if(.., |one| match one.step {
                Step::Asked { until, .. } | Step::Killed { until } => until <= now,
                Step::Due | Step::Looked => false,
            })
            .collect();
        for mut one in due {
            match one.step {
                Step::Asked { forced: false, .. }
                    if self.following.ask(&one.running, 2, &one.line) =>
                {
                    one.step = self.asked(true);
                    self.overdue.push(one);
                }
                Step::Asked { .. } => self.harder(one),
                _ => self.end_run(Some(one.place_and_limit())),
            }
        }
    }

    /// The test cannot be made to fail: its process has to go, or the run.
    fn harder(&mut self, mut one: Overdue) {
        self.following.mark_hung(&one.running);
        let role = one.running.role;
        let apart = matches!(role, Role::Worker | Role::Forked) || role.is_rust();
        if apart && !self.is_command(one.running.process.pid) {
            // Of a libtest binary, the whole process.
            let process = one.running.process;
            let is_killed = |other: &Overdue| {
                matches!(other.step, Step::Killed { .. }) && other.running.process == process
            };
            let means = if self.overdue.iter().any(is_killed) {
                format!(
                    "its test binary (process {}) is killed as said",
                    process.pid
                )
            } else {
                kill::kill_subtree(process.pid, process.start_ticks);
                means(role, process.pid)
            };
            self.act(format!(
                "{}: it cannot be interrupted: {means}",
                one.place_and_limit()
            ));
            one.step = Step::Killed {
                until: self.after_grace(),
            };
            self.overdue.push(one);
        } else {
            self.end_run(Some(one.place_and_limit()));
        }
    }

    /// Whether a process is the watched command itself: with it the run ends.
    fn is_command(&self, pid: Pid) -> bool {
        Process::read(pid).is_some_and(|process| process.parent == self.link.root())
    }

    /// Drops tests that have ended, or got on since they were asked to, and says what became of them.
    fn settle_overdue(&mut self, running: &[Running]) {
        let looked: Vec<&Overdue> = self
            .overdue
            .iter()
            .filter(|one| one.step == Step::Looked)
            .collect();
        let over = |one: &&Overdue| !one.runs(running) || one.has_got_on(running);
        if let Some(dump) = &self.dump
            && !looked.is_empty()
            && looked.iter().all(over)
        {
            // Samples to come would show something else.
            dump.stop();
        }
        let settled: Vec<Overdue> = self
            .overdue
            .extract_if(.., |one| {
                let ended = !one.runs(running) && one.step != Step::Looked;
                ended || (one.is_asked() && one.has_got_on(running))
            })
            .collect();
        for one in settled {
            let got_on = one.now(running);
            if let Some(now) = got_on {
                // Its teardown may take its time, as if it were a test.
                let serial = (now.key.clone(), now.serial);
                self.told_overdue
                    .remove(&(serial.0.clone(), serial.1, one.limited.acts));
                self.anew.insert(serial, now.since_ns);
            }
            self.tell_end(&one, got_on.is_some());
        }
    }

    fn tell_end(&mut self, one: &Overdue, got_on: bool) {
        let place = one.place();
        let pid = one.running.process.pid;
        match one.step {
            Step::Asked { .. } if !got_on && !self.following.has_failed(&one.running) => {
                self.act(format!("{place} ended by itself; the run goes on"));
            }
            Step::Asked { forced: false, .. } => {
                self.act(format!("{place} was made to fail; the run goes on"));
            }
            Step::Asked { forced: true, .. } => self.act(format!(
                "{place} was made to fail by force; the run goes on, but results of process {pid} after this are not \
                 trustworthy"
            )),
            Step::Killed { .. } => self.act(format!(
                "process {pid} is gone with {place}; the run goes on"
            )),
            Step::Due | Step::Looked => {}
        }
    }

    fn act(&mut self, what: String) {
        self.sink.send(Event::Acting { what: what.into() });
    }

    fn after_grace(&self) -> Instant {
        let now = Instant::now();
        now.checked_add(self.options.grace).unwrap_or(now)
    }
}

impl Overdue {
    /// Where the test is now, if it runs.
    fn now<'r>(&self, running: &'r [Running]) -> Option<&'r Running> {
        let same = |now: &&Running| {
            now.in_test() && now.who == self.running.who && now.serial == self.running.serial
        };
        running.iter().find(same)
    }

    fn runs(&self, running: &[Running]) -> bool {
        self.now(running).is_some()
    }

    fn is_asked(&self) -> bool {
        matches!(self.step, Step::Asked { .. })
    }

    /// Whether it has come to another phase since.
    fn has_got_on(&self, running: &[Running]) -> bool {
        self.now(running)
            .is_some_and(|now| now.phase != self.running.phase)
    }

    fn place(&self) -> String {
        self.running.place().untrusted().to_owned()
    }

    fn place_and_limit(&self) -> String {
        format!(
            "{}: {} ({})",
            self.place(),
            self.limited.whose,
            span(self.limited.length)
        )
    }
}

/// A duration as a sentence has it.
fn span(length: Duration) -> String {
    format!("{} s", length.as_secs_f64())
}

/// What is done about a test that cannot be interrupted, and what comes of it.
fn means(role: Role, pid: Pid) -> String {
    match role {
        Role::Libtest => format!(
            "its test binary (process {pid}) is killed, with all tests that it has not finished (cargo goes on with other \
             binaries only if told to: --no-fail-fast)"
        ),
        Role::Nextest => {
            format!(
                "its process {pid} is killed; nextest counts it as failed and goes on as it is told to (--no-fail-fast)"
            )
        }
        Role::Doctest => format!("its process {pid} is killed; the other doctests go on"),
        _ => format!("its process {pid} is killed"),
    }
}

/// Why a test over its limit is no hang: somebody looks into it, or is asked for something.
fn reason_to_wait(report: &Report, key: &Key) -> Option<&'static str> {
    let process = report.samples.last()?.process(key)?;
    if process.tracer.is_some() {
        return Some("a debugger is attached");
    }
    if matches!(process.state.as_str(), "T" | "t") {
        return Some("it is stopped");
    }
    let asks = process.threads.iter().any(|thread| {
        thread.wait.as_ref().is_some_and(|wait| {
            let file = wait.descriptor.as_ref().and_then(|it| it.file.as_ref());
            wait.kind == WaitKind::Read
                && file.is_some_and(|file| {
                    let file = file.untrusted();
                    file.starts_with("/dev/pts/") || file.starts_with("/dev/tty")
                })
        })
    });
    asks.then_some("it waits for input from the terminal")
}

/// What the failing test says: limit, cause, where more is.
fn verdict_line(report: Option<&Report>, one: &Overdue, bundle: Option<&Path>) -> String {
    let mut line = format!(
        "hangscope: {} ({})",
        one.limited.whose,
        span(one.limited.length)
    );
    let findings = report.map_or(&[][..], |report| &report.analysis.findings);
    let own = findings
        .iter()
        .find(|finding| finding.waiter.of_process() == one.running.key)
        .or(findings.first());
    if let Some(finding) = own {
        let title = finding.title.untrusted();
        line.push_str(&format!(": {}: {title}", finding.id));
    }
    if let Some(bundle) = bundle {
        line.push_str(&format!("; see {}", bundle.join("report.txt").display()));
    }
    // Names in it are the target's own, and go to a terminal.
    line.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(MAX_VERDICT)
        .collect()
}
