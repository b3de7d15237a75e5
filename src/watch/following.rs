//! Follows the tests of a run: by the rings of the plugin, and where that is not loaded from outside.

use super::kill::signal_process;
use super::supervisor::Supervisor;
use super::surveying::Scope;
use super::testrun::{
    Mark, Observation, Rings, RunFolder, Running, TestLimit, Tracker, Who, environment, now_ns,
};
use super::{OnHang, Options, cargo};
use crate::inspect::{RustLook, Survey, Surveyed};
use crate::model::{
    Counts, Foreign, Leak, LeftKind, Pid, RunRecord, SlowTest, TestOutcome, TestPhase, TestSource,
};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Between two looks at the rings. A ring holds some thousand tests.
pub(super) const EVERY: Duration = Duration::from_millis(50);
/// pytest-timeout ends a test by itself: we look half of its limit earlier, but not more than this.
const EARLIER_AT_MOST: Duration = Duration::from_secs(2);

/// Said when a process runs pytest without our plugin.
const NOT_REACHED: &str = "The plugin did not reach a process that runs pytest (PYTHONPATH is dropped by python -I and -E, env -i, \
                           sudo, tox's set_env): its tests are known from outside only, and none can be made to fail alone.";

/// A limit that a test has reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limited {
    pub(super) length: Duration,
    pub(super) whose: &'static str,
    /// Whether something is done about it, beside telling.
    pub(super) acts: bool,
    /// It is for the call alone (pytest-timeout's `timeout_func_only`).
    pub(super) call_only: bool,
    /// pytest-timeout will act on it: what we see of the test we must see before.
    pub(super) hurried: bool,
}

/// The tests of the run.
#[derive(Debug)]
pub(super) struct Following {
    /// Removed when this is dropped.
    folder: Option<RunFolder>,
    environment: Vec<(OsString, OsString)>,
    rings: Option<Rings>,
    tracker: Tracker,
    /// Processes that run tests and have no ring.
    observed: BTreeMap<Pid, Who>,
    /// Threads of all processes at the last survey.
    threads: Option<u32>,
    began: String,
}

impl Following {
    /// Prepares to follow. Without a folder for the plugin the run is followed from outside.
    pub(super) fn start(options: &Options) -> Self {
        let mut following = Self {
            folder: None,
            environment: Vec::new(),
            rings: None,
            tracker: Tracker::new(now_ns()),
            observed: BTreeMap::new(),
            threads: None,
            began: jiff::Timestamp::now()
                .strftime("%Y-%m-%dT%H:%M:%SZ")
                .to_string(),
        };
        if !options.plugin {
            return following;
        }
        let made = RunFolder::make().and_then(|folder| {
            let rings = Rings::open(folder.path())?;
            if options.test_timeout.is_some() && options.on_hang == OnHang::Continue {
                folder.allow_interrupts()?;
            }
            Ok((folder, rings))
        });
        match made {
            Ok((folder, rings)) => {
                let changes = environment(folder.path(), &|name| std::env::var_os(name));
                following.environment = changes.set;
                let (runner, note) = cargo::environment(folder.path(), &options.command, &|name| {
                    std::env::var_os(name)
                });
                following.environment.extend(runner);
                for note in changes.notes.into_iter().chain(note) {
                    following.tracker.note(note.into());
                }
                following.folder = Some(folder);
                following.rings = Some(rings);
            }
            Err(error) => following.tracker.note(
                format!("The pytest plugin is not loaded, there is no folder for it: {error}.")
                    .into(),
            ),
        }
        following
    }

    /// What the command's environment has that ours has not.
    pub(super) fn environment(&self) -> &[(OsString, OsString)] {
        &self.environment
    }

    /// Reads what is new. Returns whether a test began or ended.
    fn poll(&mut self) -> bool {
        let before = self.tracker.last_event_ns();
        for news in self.rings.as_mut().map(Rings::poll).unwrap_or_default() {
            self.tracker.hear(&news);
        }
        self.tracker.last_event_ns() != before
    }

    fn see(&mut self, survey: &Survey) {
        self.threads = Some(survey.processes.iter().map(|process| process.threads).sum());
        let telling = self.telling();
        let alive: BTreeMap<Pid, &Surveyed> = survey
            .processes
            .iter()
            .map(|process| (process.pid, process))
            .collect();
        let at = now_ns();
        self.tracker
            .see_rust(&survey.rust, at, &|ticks| started_at(ticks, at));
        for process in &survey.processes {
            // What is below a process that tells of its tests belongs to these tests.
            let is_told = above(process, &alive).any(|pid| telling.contains(&pid));
            let sets = process.test.as_ref().is_some_and(|test| !test.inherited);
            if !is_told && (sets || self.observed.contains_key(&process.pid)) {
                let seen = observation(process, survey, at);
                if self.observed.insert(process.pid, seen.who).is_none() && self.rings.is_some() {
                    self.tracker.note(NOT_REACHED.into());
                }
                self.tracker.observe(&seen);
            }
        }
        let tracker = &mut self.tracker;
        self.observed.retain(|pid, who| {
            let lives = alive
                .get(pid)
                .is_some_and(|process| process.start_ticks == who.start_ticks);
            if !lives || telling.contains(pid) {
                tracker.ended(*who, at);
            }
            lives && !telling.contains(pid)
        });
    }

    /// Processes that tell of their tests themselves.
    fn telling(&self) -> BTreeSet<Pid> {
        self.running()
            .iter()
            .filter(|running| running.source == TestSource::Plugin)
            .map(|running| running.who.pid)
            .collect()
    }

    /// The folder in which cargo's runner notes test binaries.
    fn marks(&self) -> Option<PathBuf> {
        let folder = self.folder.as_ref()?;
        Some(folder.path().join(cargo::MARKS))
    }

    /// The processes that run tests now.
    pub(super) fn running(&self) -> Vec<Running> {
        self.tracker.running()
    }

    /// The limits that a running test has reached.
    /// Where it has been given time anew, that counts from `anew`.
    pub(super) fn limits_reached(
        &self,
        running: &Running,
        options: &Options,
        anew: Option<u64>,
    ) -> Vec<Limited> {
        // Another process runs this one's test, and has the limit.
        let elsewhere = running.runs_in.is_some();
        if running.apart.is_some() || running.standing || elsewhere || !running.in_test() {
            return Vec::new();
        }
        let now = now_ns();
        limits(running, options)
            .into_iter()
            .filter(|(limited, at)| {
                let begun = if limited.call_only && running.phase != TestPhase::Call {
                    return false;
                } else if limited.call_only {
                    running.since_ns
                } else {
                    anew.unwrap_or(running.test_since_ns)
                };
                since(begun, now) >= *at
            })
            .map(|(limited, _)| limited)
            .collect()
    }

    /// Whether someone sits at a debugger prompt.
    pub(super) fn is_standing(&self) -> bool {
        self.running().iter().any(|running| running.standing)
    }

    /// Asks the plugin to fail a test. False when there is nobody to ask.
    pub(super) fn ask(&self, running: &Running, stage: u32, text: &str) -> bool {
        let (Some(rings), Some(signal)) = (&self.rings, running.signal) else {
            return false;
        };
        // A process that does not catch it would die of it.
        catches(running.who.pid, signal)
            && rings
                .request(running.who, running.serial, stage, text)
                .is_ok_and(|written| written)
            && signal_process(running.who.pid, running.who.start_ticks, signal)
    }

    /// Sends the signal of the last request again if it has not been acted on: another thread may have caught it, or it
    /// came just before the main thread blocked.
    pub(super) fn remind(&self, running: &Running) {
        let pending = self
            .rings
            .as_ref()
            .is_some_and(|rings| rings.is_pending(running.who));
        if let Some(signal) = running.signal.filter(|_| pending)
            && catches(running.who.pid, signal)
        {
            signal_process(running.who.pid, running.who.start_ticks, signal);
        }
    }

    /// Whether a test that ran has failed.
    pub(super) fn has_failed(&self, running: &Running) -> bool {
        let test = running.test.as_ref();
        let outcome = test.and_then(|test| self.tracker.outcome_of(running.who, test));
        matches!(outcome, Some(TestOutcome::Failed | TestOutcome::Error))
    }

    /// What ends this test's process is ours.
    pub(super) fn mark_hung(&mut self, running: &Running) {
        self.tracker.mark_hung(running.who);
    }

    /// What ends all running tests is ours.
    pub(super) fn mark_all_hung(&mut self) {
        for running in self.running() {
            self.mark_hung(&running);
        }
    }

    /// When something last began or ended; changes with every such event.
    pub(super) fn last_event(&self) -> u64 {
        self.tracker.last_event_ns()
    }

    /// For how long nothing has begun or ended.
    pub(super) fn since_last_event(&self) -> Duration {
        since(self.tracker.last_event_ns(), now_ns())
    }

    /// Time during which the whole job was suspended counts for no clock.
    pub(super) fn stood(&mut self, length: Duration) {
        self.tracker
            .stood(u64::try_from(length.as_nanos()).unwrap_or(u64::MAX));
    }

    /// Threads of all processes of the run, if they were counted.
    pub(super) fn threads_seen(&self) -> Option<u32> {
        self.threads
    }

    /// Finished tests, collected ones, the slowest one.
    pub(super) fn totals(&self) -> (usize, Option<usize>, Option<SlowTest>) {
        self.tracker.totals()
    }

    /// All that is known of the run.
    pub(super) fn record(&self) -> RunRecord {
        self.tracker.record(now_ns(), self.began.clone())
    }

    /// What was left behind of these kinds.
    pub(super) fn leaks(&self, kinds: &[LeftKind]) -> Vec<Leak> {
        self.tracker.leaks(kinds)
    }

    /// Reads the last of it. All processes of the run that were to end have ended.
    pub(super) fn finish(&mut self) {
        self.poll();
        let at = now_ns();
        self.tracker
            .see_rust(&RustLook::default(), at, &|ticks| started_at(ticks, at));
        for who in std::mem::take(&mut self.observed).into_values() {
            self.tracker.ended(who, at);
        }
    }
}

impl Running {
    /// What runs, in words.
    pub(super) fn place(&self) -> Foreign {
        if self.role.is_rust() {
            return self.test.clone().unwrap_or_default();
        }
        crate::model::place(self.phase, self.test.as_ref())
    }

    /// For how long the test, or the phase outside of tests, has been running.
    pub(super) fn elapsed(&self) -> Duration {
        since(self.test_since_ns, now_ns())
    }

    pub(super) fn in_test(&self) -> bool {
        matches!(
            self.phase,
            TestPhase::Setup | TestPhase::Call | TestPhase::Teardown
        )
    }
}

/// When what started at so many clock ticks after boot did, on CLOCK_MONOTONIC. A clock tick is 10 ms.
fn started_at(ticks: u64, now: u64) -> u64 {
    let boot = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let seconds = u64::try_from(boot.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(boot.tv_nsec).unwrap_or(0);
    let since_boot = seconds.saturating_mul(1_000_000_000).saturating_add(nanos);
    now.saturating_sub(since_boot.saturating_sub(ticks.saturating_mul(10_000_000)))
}

fn since(then: u64, now: u64) -> Duration {
    Duration::from_nanos(now.saturating_sub(then))
}

/// A process and those above it.
fn above<'a>(
    process: &Surveyed,
    alive: &'a BTreeMap<Pid, &Surveyed>,
) -> impl Iterator<Item = Pid> + use<'a> {
    let first = (process.pid, process.ppid);
    let next = |&(_, parent): &(Pid, Pid)| Some((parent, alive.get(&parent)?.ppid));
    // A tree that changes while it is read may go round in circles.
    std::iter::successors(Some(first), next)
        .take(alive.len() + 1)
        .map(|(pid, _)| pid)
}

impl Supervisor {
    /// Takes in what the tests did since the last time.
    pub(super) fn follow(&mut self, now: Instant) {
        if self.plain {
            // It may be this that has failed.
            return;
        }
        if self.following.poll() {
            self.progress.note(now);
        }
        let Some(surveying) = &self.surveying else {
            return;
        };
        let surveys = surveying.read();
        if surveys.is_empty() {
            return;
        }
        surveying.set_scope(self.scope());
        for survey in &surveys {
            self.progress.see(survey, now);
            // A build is no test: whatever it waits for, it is left alone.
            if survey.rust.building {
                self.progress.note(now);
            }
            self.following.see(survey);
        }
    }

    /// What surveys look at.
    pub(super) fn scope(&self) -> Scope {
        Scope {
            root: self.link.root(),
            guardian: self.link.guardian(),
            telling: self.following.telling(),
            marks: self.following.marks(),
        }
    }
}

/// All limits of a test, and after how long each counts as reached.
fn limits(running: &Running, options: &Options) -> Vec<(Limited, Duration)> {
    let limited = |length, whose, acts| Limited {
        length,
        whose,
        acts,
        call_only: false,
        hurried: false,
    };
    let acts = options.test_timeout.is_some();
    let flag = options
        .test_timeout
        .map(|length| (limited(length, "test timeout", true), length));
    match running.limit {
        TestLimit::Without(Mark::Hangscope | Mark::Timeout) => Vec::new(),
        TestLimit::After(Mark::Hangscope, ms) => {
            let length = Duration::from_millis(ms);
            vec![(limited(length, "the test's hangscope mark", acts), length)]
        }
        TestLimit::After(Mark::Timeout, ms) => {
            let length = Duration::from_millis(ms);
            let mark = limited(length, "the test's timeout mark", acts);
            if running.timeout_active {
                // pytest-timeout goes first, and we only if that has no effect.
                let told = Limited {
                    acts: false,
                    hurried: true,
                    ..mark
                };
                let later = length.saturating_add(options.grace);
                vec![(told, earlier(length)), (mark, later)]
            } else {
                vec![(mark, length)]
            }
        }
        TestLimit::After(Mark::Global, ms) => {
            let length = Duration::from_millis(ms);
            let told = Limited {
                call_only: running.func_only,
                hurried: running.timeout_active,
                ..limited(length, "pytest's timeout", false)
            };
            let at = if running.timeout_active {
                earlier(length)
            } else {
                length
            };
            flag.into_iter().chain([(told, at)]).collect()
        }
        TestLimit::Without(Mark::Global) | TestLimit::Unsaid => flag.into_iter().collect(),
    }
}

/// How much earlier than pytest-timeout we look at a test with this limit.
pub(super) fn head_start(length: Duration) -> Duration {
    (length / 2).min(EARLIER_AT_MOST)
}

/// Early enough to see the test before it is ended.
fn earlier(length: Duration) -> Duration {
    length.saturating_sub(head_start(length))
}

/// Whether a process has a handler for a signal (`SigCgt` of `proc_pid_status(5)`).
fn catches(pid: Pid, signal: i32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("SigCgt:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(0);
    super::signals::is_in(mask, signal)
}

fn observation(process: &Surveyed, survey: &Survey, at: u64) -> Observation {
    let children: Vec<Who> = survey
        .processes
        .iter()
        .filter(|other| other.ppid == process.pid)
        .map(who)
        .collect();
    let own = process.test.as_ref().filter(|test| !test.inherited);
    Observation {
        who: who(process),
        at,
        worker: None,
        test: own.and_then(|test| {
            let phase = match test.phase.as_deref() {
                Some("setup") => TestPhase::Setup,
                Some("call") => TestPhase::Call,
                Some("teardown") => TestPhase::Teardown,
                _ => return None,
            };
            Some((test.id.clone(), phase))
        }),
        counts: Counts {
            threads: None,
            os_threads: Some(process.threads),
            interpreters: None,
            children: u32::try_from(children.len()).ok(),
            fds: process.fds,
        },
        threads: process.tids.iter().map(|&tid| (tid, 0)).collect(),
        children,
    }
}

fn who(process: &Surveyed) -> Who {
    Who {
        pid: process.pid,
        start_ticks: process.start_ticks,
    }
}
