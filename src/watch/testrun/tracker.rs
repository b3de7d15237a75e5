//! The state of a run, record by record. It reads nothing and has no clock.

use super::item::Item;
use super::limit::{Mark, TestLimit};
use super::news::{News, What, Who};
use super::record::{Body, PhaseReport, Record, Session, Setup};
use super::runner::{Apart, Current, Runner};
use crate::model::{
    Counted, Counts, Foreign, Key, Pid, Role, SlowTest, TestOutcome, TestPhase, TestSource,
};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Most finished tests that are kept. Later ones are only counted.
pub(super) const MOST_TESTS: usize = 1_000_000;
/// Most processes that are followed at once.
const MOST_RUNNERS: usize = 10_000;
/// Most bytes of messages that are kept.
const MOST_MESSAGES: usize = 64 * 1024 * 1024;
/// Most notes.
const MOST_NOTES: usize = 100;

/// What all test processes of a run are doing and have done.
#[derive(Debug)]
pub(crate) struct Tracker {
    /// When the run began, on CLOCK_MONOTONIC.
    pub(super) began: u64,
    pub(super) runners: BTreeMap<Who, Runner>,
    /// Tests that run.
    pub(super) open: BTreeMap<u64, Item>,
    /// Tests of the run that have ended.
    pub(super) done: Vec<Item>,
    pub(super) groups: Vec<Group>,
    /// Tests of the run that have ended, those that are not kept, too.
    pub(super) finished: usize,
    pub(super) slowest: Option<(u64, Arc<Foreign>)>,
    pub(super) junit: Option<Foreign>,
    pub(super) lost: u64,
    pub(super) notes: Vec<Foreign>,
    /// Whether any process has a ring.
    pub(super) rings: bool,
    next: u64,
    messages: usize,
    last_event: u64,
    most_tests: usize,
}

/// Tests that were collected together: those of a session, or of a controller and its workers.
#[derive(Debug, Default)]
pub(super) struct Group {
    name: String,
    pub(super) collected: Option<usize>,
    pub(super) list: Vec<Foreign>,
    /// Not all tests of it that began are known.
    pub(super) incomplete: bool,
}

/// A process of the run that lives.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Running {
    /// It.
    pub(crate) who: Who,
    /// Its key.
    pub(crate) key: Key,
    /// Where what is known of it comes from.
    pub(crate) source: TestSource,
    /// What it is to the run.
    pub(crate) role: Role,
    /// Its name as an xdist worker.
    pub(crate) worker: Option<Foreign>,
    /// Why its tests are none of the run. No limit is for such a process.
    pub(crate) apart: Option<Apart>,
    /// What it is at.
    pub(crate) phase: TestPhase,
    /// The test that it runs, or the module that it collects.
    pub(crate) test: Option<Foreign>,
    /// The number of the test in this process, for [`Rings::request`](super::Rings::request).
    pub(crate) serial: u32,
    /// When the phase began, on CLOCK_MONOTONIC, moved on by the time that a debugger was in control.
    pub(crate) since_ns: u64,
    /// When the test (or the phase, outside of tests) began, likewise.
    pub(crate) test_since_ns: u64,
    /// The limit that the project has for this test.
    pub(crate) limit: TestLimit,
    /// Whether pytest-timeout itself acts on its limits.
    pub(crate) timeout_active: bool,
    /// Whether the project's limit for all tests is for the call alone.
    pub(crate) func_only: bool,
    /// The real-time signal that announces a request, if it takes any.
    pub(crate) signal: Option<i32>,
    /// A debugger is in control: its clocks stand.
    pub(crate) standing: bool,
    /// The stage of the last request that the plugin acted on in this test; 0 if none.
    pub(crate) interrupted: u8,
    /// The process that was forked to run the test, while this one waits.
    pub(crate) runs_in: Option<Who>,
}

impl Tracker {
    /// A run that began then, on CLOCK_MONOTONIC.
    pub(crate) fn new(began: u64) -> Self {
        Self {
            began,
            runners: BTreeMap::new(),
            open: BTreeMap::new(),
            done: Vec::new(),
            groups: Vec::new(),
            finished: 0,
            slowest: None,
            junit: None,
            lost: 0,
            notes: Vec::new(),
            rings: false,
            next: 0,
            messages: 0,
            last_event: began,
            most_tests: MOST_TESTS,
        }
    }

    /// Takes in what the rings tell.
    pub(crate) fn hear(&mut self, news: &News) {
        let (who, at) = (news.who, news.at);
        match &news.what {
            What::Opened(above) => {
                let above = above.clone();
                self.with(who, at, |_, runner| runner.above = above);
            }
            What::Record(record) => self.apply(who, at, record),
            What::Lost(records) => self.lose(who, at, *records),
            What::Collected(tests) => self.with(who, at, |tracker, runner| {
                if let Some(group) = tracker.own_group(runner) {
                    group.list.clone_from(tests);
                    group.collected = group.collected.max(Some(tests.len()));
                }
            }),
            What::Stopped(why) => self.stop(who, at, why),
            What::Ended => self.ended(who, at),
        }
    }

    /// When a test process was last heard of, on CLOCK_MONOTONIC; the start of the run if never.
    pub(crate) fn last_event_ns(&self) -> u64 {
        self.last_event
    }

    /// Says something of the run that is not known, once.
    pub(crate) fn note(&mut self, note: Foreign) {
        if self.notes.len() < MOST_NOTES && !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }

    /// The test that this process runs is hung, and the process is being ended for it.
    pub(crate) fn mark_hung(&mut self, who: Who) {
        let current = self.runners.get(&who).and_then(|runner| runner.current);
        if let Some(item) = current.and_then(|current| self.open.get_mut(&current.number)) {
            item.hung = true;
        }
    }

    /// The whole job was suspended for so many nanoseconds, which count for no clock.
    pub(crate) fn stood(&mut self, length: u64) {
        for runner in self.runners.values_mut().filter(|runner| runner.alive) {
            runner.phase_since = runner.phase_since.saturating_add(length);
            runner.test_since = runner.test_since.saturating_add(length);
        }
        self.last_event = self.last_event.saturating_add(length);
    }

    /// Tests that have ended, those that were collected, and the slowest one.
    pub(crate) fn totals(&self) -> (usize, Option<usize>, Option<SlowTest>) {
        let mut collected = self
            .groups
            .iter()
            .filter_map(|group| group.collected)
            .peekable();
        let collected = collected.peek().is_some().then(|| collected.sum());
        let slowest = self.slowest.as_ref().map(|(took_ms, test)| SlowTest {
            test: (**test).clone(),
            took_ms: *took_ms,
        });
        (self.finished, collected, slowest)
    }

    /// The process is gone.
    pub(crate) fn ended(&mut self, who: Who, now: u64) {
        let Some(mut runner) = self.runners.remove(&who) else {
            return;
        };
        runner.alive = false;
        if let Some(current) = runner.current {
            self.die(&runner, current, now);
            runner.leave_test();
        }
        // Thousands of tests may each be run in a process of its own.
        let of_no_interest = runner.role == Role::Forked || runner.apart.is_some();
        if !of_no_interest && self.runners.len() < MOST_RUNNERS {
            self.runners.insert(who, runner);
        }
    }

    /// A process died in a test.
    fn die(&mut self, runner: &Runner, current: Current, now: u64) {
        let Some(item) = self.open.get_mut(&current.number) else {
            return;
        };
        if !current.owner {
            // pytest-forked's child ends in the teardown as a rule; what came of it, its parent says.
            item.child_died |= item.hung || runner.phase != TestPhase::Teardown;
            return;
        }
        let outcome = if item.hung {
            Some(TestOutcome::Hung)
        } else if runner.source == TestSource::Environ {
            // Nobody saw how far it came.
            None
        } else if runner.role == Role::Forked && runner.phase == TestPhase::Teardown {
            Some(item.reported())
        } else {
            Some(TestOutcome::Crashed)
        };
        self.close(current.number, now, outcome, None);
    }

    /// The processes of the run that live, the oldest first.
    pub(crate) fn running(&self) -> Vec<Running> {
        let alive = self.runners.values().filter(|runner| runner.alive);
        alive.map(|runner| self.one_running(runner)).collect()
    }

    fn one_running(&self, runner: &Runner) -> Running {
        Running {
            who: runner.who,
            key: runner.who.key(),
            source: runner.source,
            role: runner.role,
            worker: runner.worker.as_deref().cloned(),
            apart: runner.apart,
            phase: runner.phase,
            test: runner
                .name
                .as_deref()
                .filter(|_| runner.in_test() || runner.phase == TestPhase::Collection)
                .cloned(),
            serial: runner.serial,
            since_ns: runner.phase_since,
            test_since_ns: runner.test_since,
            limit: runner.limit,
            timeout_active: runner.timeout_active,
            func_only: runner.func_only,
            signal: Some(runner.signal).filter(|&signal| signal > 0),
            standing: runner.standing.is_some(),
            interrupted: runner.interrupted,
            runs_in: self.child_in_test(runner).map(|child| child.who),
        }
    }

    /// The process that was forked from this one and runs a test for it, while it waits.
    pub(super) fn child_in_test(&self, runner: &Runner) -> Option<&Runner> {
        if runner.current.is_some_and(|current| !current.owner) {
            return None;
        }
        let own = |child: &&Runner| {
            child.alive && child.parent == Some(runner.who) && child.apart == runner.apart
        };
        let mut children = self.runners.values().filter(own).filter(|child| {
            match (runner.current, child.current) {
                (Some(own), Some(theirs)) => own.number == theirs.number,
                // pytest-forked: the parent runs no part of the test itself.
                (None, Some(_)) => runner.phase == TestPhase::Between,
                (_, None) => false,
            }
        });
        let child = children.next();
        // With several it does not wait for one of them, but hands out tests.
        child.filter(|_| children.next().is_none())
    }

    /// Takes in a record. `at` is its time, bounded by the reader.
    pub(crate) fn apply(&mut self, who: Who, at: u64, record: &Record) {
        self.with(who, at, |tracker, runner| tracker.step(runner, at, record));
    }

    /// Works on one process, which is taken out meanwhile.
    pub(super) fn with(&mut self, who: Who, at: u64, work: impl FnOnce(&mut Self, &mut Runner)) {
        self.event(at);
        self.rings = true;
        let mut runner = match self.runners.remove(&who) {
            // What its ring tells goes before what was seen from outside.
            Some(runner) if runner.source == TestSource::Environ => {
                self.close_own(&runner, at);
                Runner::new(who, TestSource::Plugin, at)
            }
            Some(runner) => runner,
            None if self.has_room() => Runner::new(who, TestSource::Plugin, at),
            None => return,
        };
        work(self, &mut runner);
        self.runners.insert(who, runner);
    }

    /// Something happened then.
    pub(super) fn event(&mut self, at: u64) {
        self.last_event = self.last_event.max(at);
    }

    /// Whether one more process can be followed. One that is gone makes room for it.
    pub(super) fn has_room(&mut self) -> bool {
        if self.runners.len() < MOST_RUNNERS {
            return true;
        }
        let mut all = self.runners.values();
        let gone = all.find(|runner| !runner.alive).map(|runner| runner.who);
        let gone = gone.and_then(|who| self.runners.remove(&who));
        if gone.is_none() {
            self.note("There are too many test processes; some are not followed.".into());
        }
        gone.is_some()
    }

    /// The test that a process began has ended, nobody knows how.
    fn close_own(&mut self, runner: &Runner, at: u64) {
        if let Some(current) = runner.current.filter(|current| current.owner) {
            self.close(current.number, at, None, None);
        }
    }

    fn step(&mut self, runner: &mut Runner, at: u64, record: &Record) {
        let before = runner.here();
        let counted = match &record.body {
            Body::Session(session) => {
                self.begin_session(runner, at, session);
                runner.fds_at_start = record.counts.fds;
                true
            }
            Body::Collect(module) => {
                runner.move_on(TestPhase::Collection, at);
                runner.name = Some(Arc::new(module.clone())).filter(|module| !module.is_empty());
                false
            }
            Body::Collected(collected) => {
                runner.move_on(TestPhase::Between, at);
                runner.name = None;
                if let Some(group) = self.own_group(runner) {
                    group.collected = group.collected.max(Some(collected.count));
                }
                true
            }
            Body::Setup(setup) => {
                self.begin_test(runner, at, record, setup);
                true
            }
            Body::Call => self.enter(runner, TestPhase::Call, at, record.serial),
            Body::Teardown => self.enter(runner, TestPhase::Teardown, at, record.serial),
            Body::Report(report) => {
                self.report(runner, report);
                false
            }
            Body::End(outcome) => {
                self.end_test(runner, at, *outcome, record);
                true
            }
            Body::Births(births) => {
                runner.ledger.enter(births, &runner.place, Counted::Inside);
                if births.unreadable || runner.ledger.is_overfull() {
                    self.note("A process made too many threads or processes to list all.".into());
                }
                return;
            }
            Body::PdbEnter => {
                runner.stand(at);
                false
            }
            Body::PdbLeave => {
                runner.go_on(at);
                false
            }
            Body::Finish => {
                self.leave_open_test(runner, at);
                runner.move_on(TestPhase::SessionFinish, at);
                runner.fds_at_finish = record.counts.fds;
                true
            }
            Body::Unconfigure => {
                self.leave_open_test(runner, at);
                runner.move_on(TestPhase::InterpreterExit, at);
                true
            }
            Body::Interrupted(stage) => {
                runner.interrupted = *stage;
                false
            }
        };
        // What was there at the finish is what its own list leaves, which directly follows it.
        if runner.phase == TestPhase::InterpreterExit {
            runner.ledger.finish();
        }
        if counted {
            runner.place = before;
            runner.counts = record.counts;
        }
    }

    fn begin_session(&mut self, runner: &mut Runner, at: u64, session: &Session) {
        self.close_own(runner, at);
        runner.leave_test();
        runner.worker = session.worker.as_deref().map(|name| Arc::new(name.into()));
        runner.root = session.root.as_deref().map(Foreign::from);
        runner.signal = session.signal.unwrap_or(0);
        runner.timeout_active = session.timeout_active;
        runner.func_only = session.func_only;
        runner.global_limit = session.timeout.map_or(TestLimit::Unsaid, |seconds| {
            TestLimit::seconds(Mark::Global, seconds)
        });
        runner.role = match session {
            Session { forked: true, .. } => Role::Forked,
            Session {
                controller: true, ..
            } => Role::Controller,
            Session {
                worker: Some(_), ..
            } => Role::Worker,
            _ => Role::Session,
        };
        runner.move_on(TestPhase::Start, at);
        runner.group = session.run.as_deref().map(|run| self.group(run));
        self.find_place(runner, session.ppid);
        if runner.apart.is_none() && self.junit.is_none() && session.worker.is_none() {
            self.junit = session.xmlpath.as_deref().map(Foreign::from);
        }
    }

    /// Says what a process is to those above it.
    fn find_place(&mut self, runner: &mut Runner, parent: Pid) {
        let parent = if parent > 0 {
            Some(parent)
        } else {
            runner.above.first().copied()
        };
        let parent = parent.and_then(|pid| self.alive(pid));
        match (runner.role, parent) {
            (Role::Forked, Some(parent)) => {
                runner.parent = Some(parent.who);
                runner.apart = parent.apart;
                runner.group = parent.group;
                runner.forked_in = parent.current.map(|current| current.number);
                let guest = |current: Current| Current {
                    owner: false,
                    ..current
                };
                runner.current = parent.current.map(guest);
                runner.phase = parent.phase;
                runner.phase_since = parent.phase_since;
                runner.test_since = parent.test_since;
                runner.standing = parent.standing;
                runner.serial = parent.serial;
                runner.name.clone_from(&parent.name);
                runner.file.clone_from(&parent.file);
                runner.line = parent.line;
                runner.limit = parent.limit;
                runner.global_limit = runner.global_limit.or(parent.global_limit);
                if runner.worker.is_none() {
                    runner.worker.clone_from(&parent.worker);
                }
            }
            (Role::Worker, Some(parent)) if parent.role == Role::Controller => {
                runner.apart = parent.apart;
            }
            _ => {
                let mut above = runner.above.iter().copied();
                let nested = above
                    .by_ref()
                    .filter_map(|pid| self.alive(pid))
                    .chain(parent)
                    .any(|above| above.in_test() || above.apart.is_some());
                runner.apart = nested.then_some(Apart::Nested);
            }
        }
    }

    /// The process with this id that lives.
    fn alive(&self, pid: Pid) -> Option<&Runner> {
        let mut found = self.runners.values().rev();
        found.find(|runner| runner.who.pid == pid && runner.alive)
    }

    fn begin_test(&mut self, runner: &mut Runner, at: u64, record: &Record, setup: &Setup) {
        let same = |item: &Item| *item.test == setup.test;
        let joined = runner.current.is_some_and(|current| {
            !current.owner && self.open.get(&current.number).is_some_and(same)
        });
        self.count_missed(runner, record.serial);
        runner.limit = setup.limit.or(runner.global_limit);
        runner.interrupted = 0;
        runner.serial = record.serial;
        if joined {
            // It only says again in which test it was forked.
            return;
        }
        // Its end was lost, if it still has one.
        self.close_own(runner, at);
        if runner.forked_in.is_some() {
            runner.apart = runner.apart.or(Some(Apart::Escaped));
        }
        runner.move_on(TestPhase::Setup, at);
        let name = Arc::new(setup.test.clone());
        if runner.file.as_deref() != Some(&setup.file) {
            runner.file = Some(Arc::new(setup.file.clone())).filter(|file| !file.is_empty());
        }
        runner.line = setup.line;
        let mut item = self.open_item(runner, at, name);
        item.before = record.counts;
        self.open.insert(item.number, item);
    }

    /// A test that begins in this process now.
    pub(super) fn open_item(&mut self, runner: &mut Runner, at: u64, name: Arc<Foreign>) -> Item {
        self.next += 1;
        runner.begun += 1;
        runner.name = Some(Arc::clone(&name));
        runner.current = Some(Current {
            number: self.next,
            owner: true,
        });
        let mut item = Item::new(self.next, name, runner.who, at);
        item.file.clone_from(&runner.file);
        item.line = runner.line;
        item.worker.clone_from(&runner.worker);
        item.counts = runner.apart.is_none();
        item.group = self.group_of(runner);
        item
    }

    /// Tests of which every record was lost have left a hole in the numbers.
    fn count_missed(&mut self, runner: &mut Runner, serial: u32) {
        let lost = std::mem::take(&mut runner.lost);
        let hole = u64::from(serial.saturating_sub(runner.serial).saturating_sub(1));
        // A test has two records at least.
        let missed = usize::try_from(hole.min(lost / 2)).unwrap_or(0);
        runner.begun += missed;
        runner.finished += missed;
        if runner.apart.is_none() {
            self.finished += missed;
        }
    }

    fn enter(&mut self, runner: &mut Runner, phase: TestPhase, at: u64, serial: u32) -> bool {
        if runner.lost > 0 && serial != runner.serial {
            // It is of a test whose beginning was lost: what runs has no name.
            self.close_own(runner, at);
            runner.leave_test();
            runner.name = None;
            runner.move_on(phase, at);
        }
        runner.enter(phase, at);
        if serial > 0 {
            runner.serial = serial;
        }
        if let Some(item) = self.current(runner) {
            item.phase = phase;
        }
        true
    }

    fn current(&mut self, runner: &Runner) -> Option<&mut Item> {
        let current = runner.current?;
        self.open.get_mut(&current.number)
    }

    fn report(&mut self, runner: &Runner, report: &PhaseReport) {
        let room = MOST_MESSAGES.saturating_sub(self.messages);
        let Some(item) = self.current(runner) else {
            return;
        };
        let length = |item: &Item| {
            item.message
                .as_ref()
                .map_or(0, |text| text.untrusted().len())
        };
        let old = length(item);
        item.report(report, room);
        let new = length(item);
        self.messages = self.messages.saturating_sub(old) + new;
    }

    fn end_test(&mut self, runner: &mut Runner, at: u64, said: TestOutcome, record: &Record) {
        // For a process that was forked in the test, its parent says how it ended.
        if let Some(current) = runner.current.filter(|current| current.owner) {
            // After a loss it may be the end of a later one.
            let own = runner.lost == 0 || record.serial == runner.serial;
            let item = self.open.get(&current.number).filter(|_| own);
            let outcome = item.map(|item| item.judged(said));
            runner.finished += 1;
            self.close(current.number, at, outcome, own.then_some(record.counts));
        }
        runner.serial = runner.serial.max(record.serial);
        runner.leave_test();
        runner.move_on(TestPhase::Between, at);
    }

    /// The session goes on to its end while a test runs: it was interrupted.
    fn leave_open_test(&mut self, runner: &mut Runner, at: u64) {
        if let Some(current) = runner.current.filter(|current| current.owner) {
            let outcome = match self.open.get_mut(&current.number) {
                Some(item) if item.hung => TestOutcome::Hung,
                Some(item) => {
                    item.message
                        .get_or_insert_with(|| "The session ended before the test did.".into());
                    TestOutcome::Error
                }
                None => TestOutcome::Error,
            };
            self.close(current.number, at, Some(outcome), None);
        }
        runner.leave_test();
    }

    /// A test has ended. Without an outcome nobody knows how.
    pub(super) fn close(
        &mut self,
        number: u64,
        at: u64,
        outcome: Option<TestOutcome>,
        after: Option<Counts>,
    ) {
        let Some(mut item) = self.open.remove(&number) else {
            return;
        };
        item.ended = Some(at.max(item.began));
        item.outcome = outcome;
        item.after = after;
        if !item.counts {
            return;
        }
        self.finished += 1;
        let took = item.took_ms(at);
        if self.slowest.as_ref().is_none_or(|(most, _)| took > *most) {
            self.slowest = Some((took, Arc::clone(&item.test)));
        }
        if self.done.len() < self.most_tests {
            self.done.push(item);
        } else {
            if let Some(group) = self.groups.get_mut(item.group) {
                group.incomplete = true;
            }
            self.note(
                "There are too many tests to list all; the later ones are only counted.".into(),
            );
        }
    }

    fn lose(&mut self, who: Who, at: u64, records: u64) {
        self.lost = self.lost.saturating_add(records);
        self.with(who, at, |tracker, runner| {
            runner.lost = runner.lost.saturating_add(records);
            if let Some(group) = tracker.own_group(runner) {
                group.incomplete = true;
            }
        });
    }

    /// The ring of a process cannot be followed: what it runs is not known from here on.
    fn stop(&mut self, who: Who, at: u64, why: &str) {
        let pid = who.pid;
        self.note(
            format!("The tests of process {pid} are not followed: of its ring, {why}.").into(),
        );
        if let Some(runner) = self.runners.remove(&who) {
            self.close_own(&runner, at);
            if let Some(group) = runner.group.and_then(|group| self.groups.get_mut(group)) {
                group.incomplete = true;
            }
        }
    }

    /// The tests that this process's were collected with; none for one whose tests are none of the run.
    fn own_group(&mut self, runner: &mut Runner) -> Option<&mut Group> {
        let group = self.group_of(runner);
        self.groups
            .get_mut(group)
            .filter(|_| runner.apart.is_none())
    }

    fn group_of(&mut self, runner: &mut Runner) -> usize {
        if let Some(group) = runner.group {
            return group;
        }
        let group = self.group(runner.who.key().as_str());
        runner.group = Some(group);
        group
    }

    fn group(&mut self, name: &str) -> usize {
        if let Some(known) = self.groups.iter().position(|group| group.name == name) {
            return known;
        }
        if self.groups.len() < MOST_RUNNERS {
            self.groups.push(Group {
                name: name.to_owned(),
                ..Group::default()
            });
        }
        self.groups.len() - 1
    }
}
