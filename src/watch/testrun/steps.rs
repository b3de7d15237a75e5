//! What each record changes.

use super::item::Item;
use super::limit::{Mark, TestLimit};
use super::record::{Body, PhaseReport, Record, Session, Setup};
use super::runner::{Apart, Current, Runner};
use super::tracker::Tracker;
use crate::model::{Counted, Foreign, Pid, Role, TestOutcome, TestPhase};
use std::sync::Arc;

/// Most bytes of messages that are kept.
const MOST_MESSAGES: usize = 64 * 1024 * 1024;

impl Tracker {
    /// Takes in a record of a process.
    pub(super) fn step(&mut self, runner: &mut Runner, at: u64, record: &Record) {
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
                let (place, kernel_place) = (&runner.place, &runner.kernel_place);
                runner
                    .ledger
                    .enter(births, place, kernel_place, Counted::Inside);
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
            runner.count(before, record.counts);
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
        if let Some(value) = &setup.no_time {
            let (file, value) = (setup.file.untrusted(), value.untrusted());
            self.note(
                format!("The mark hangscope({value}) in {file} is no time and sets no limit: write 60s, 2m or 1h30m.")
                    .into(),
            );
        }
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
        let mut item = Item::new(self.next, name, runner.process, at);
        item.binary.clone_from(&runner.binary);
        item.file.clone_from(&runner.file);
        item.line = runner.line;
        item.worker.clone_from(&runner.worker);
        item.counts = runner.apart.is_none();
        item.fleeting = runner.role == Role::Forked;
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
            self.credit(runner);
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
}
