//! The state of a run, record by record. It reads nothing and has no clock.

use super::item::Item;
use super::limit::TestLimit;
use super::news::{News, What, Who};
use super::record::Record;
use super::runner::{Apart, Current, Runner};
use crate::model::{
    Birth, Counts, Foreign, Key, Role, SlowTest, TestOutcome, TestPhase, TestSource,
};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Most finished tests that are kept. Later ones are only counted.
pub(super) const MOST_TESTS: usize = 1_000_000;
/// Most processes that are followed at once.
const MOST_RUNNERS: usize = 10_000;
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
    /// Whether a test of Rust was seen.
    pub(super) rust: bool,
    /// What tests of processes that have ended, and are forgotten, left behind in them, by the number of the test.
    pub(super) left_in_ended: Vec<(u64, Birth)>,
    pub(super) next: u64,
    /// Bytes of messages that are kept.
    pub(super) messages: usize,
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
    /// The key of its process.
    pub(crate) key: Key,
    /// Its process: another, where it is a thread that runs a test of libtest.
    pub(crate) process: Who,
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
            rust: false,
            left_in_ended: Vec::new(),
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

    /// How a test of this process ended; the last one of that name.
    pub(crate) fn outcome_of(&self, who: Who, test: &Foreign) -> Option<TestOutcome> {
        let ended = self.done.iter().rev();
        ended
            .filter(|item| item.who == who)
            .find(|item| *item.test == *test)?
            .outcome
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
        let short_lived = runner.role == Role::Forked || runner.role.is_rust();
        let of_no_interest = short_lived || runner.apart.is_some();
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
        } else if runner.source != TestSource::Plugin {
            // Nobody saw how far it came.
            None
        } else if runner.role == Role::Forked && runner.phase == TestPhase::Teardown {
            Some(item.reported())
        } else {
            Some(TestOutcome::Crashed)
        };
        self.credit(runner);
        self.close(current.number, now, outcome, None);
    }

    /// A test that has ended in a forked process is one of the process that forked it, too.
    pub(super) fn credit(&mut self, runner: &Runner) {
        let parent = runner.parent.filter(|_| runner.apart.is_none());
        if let Some(parent) = parent.and_then(|parent| self.runners.get_mut(&parent)) {
            parent.finished += 1;
        }
    }

    /// The processes of the run that live, the oldest first.
    pub(crate) fn running(&self) -> Vec<Running> {
        let alive = self.runners.values().filter(|runner| runner.alive);
        alive.map(|runner| self.one_running(runner)).collect()
    }

    fn one_running(&self, runner: &Runner) -> Running {
        Running {
            who: runner.who,
            key: runner.process.key(),
            process: runner.process,
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
            Some(runner) if runner.source != TestSource::Plugin => {
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
    pub(super) fn close_own(&mut self, runner: &Runner, at: u64) {
        if let Some(current) = runner.current.filter(|current| current.owner) {
            self.close(current.number, at, None, None);
        }
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
    pub(super) fn own_group(&mut self, runner: &mut Runner) -> Option<&mut Group> {
        let group = self.group_of(runner);
        self.groups
            .get_mut(group)
            .filter(|_| runner.apart.is_none())
    }

    pub(super) fn group_of(&mut self, runner: &mut Runner) -> usize {
        if let Some(group) = runner.group {
            return group;
        }
        let group = self.group(runner.who.key().as_str());
        runner.group = Some(group);
        group
    }

    pub(super) fn group(&mut self, name: &str) -> usize {
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
