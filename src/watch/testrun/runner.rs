//! A process that runs tests.

use super::births::{Ledger, Place};
use super::limit::TestLimit;
use super::news::Who;
use crate::model::{Counts, Foreign, Pid, Role, TestPhase, TestSource, Tid};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Why the tests of a process are not tests of the run: they are not counted, and no limit is for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Apart {
    /// Its session runs in a test of another one.
    Nested,
    /// It was forked by a test, and runs the tests after that one, too.
    Escaped,
}

/// The part that a process has in its test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Current {
    /// The number of the test in the run.
    pub(super) number: u64,
    /// It began the test and will end it. A process that was forked in the test only runs it.
    pub(super) owner: bool,
}

/// A process that runs tests.
#[derive(Debug)]
pub(super) struct Runner {
    pub(super) who: Who,
    /// Its process: another, where it is a thread that runs a test of libtest.
    pub(super) process: Who,
    /// The binary of a Rust test.
    pub(super) binary: Option<Arc<Foreign>>,
    pub(super) source: TestSource,
    pub(super) role: Role,
    pub(super) worker: Option<Arc<Foreign>>,
    pub(super) root: Option<Foreign>,
    /// The tests that it was collected with, once that is known.
    pub(super) group: Option<usize>,
    pub(super) apart: Option<Apart>,
    /// The processes above it, nearest first.
    pub(super) above: Vec<Pid>,
    /// The process that it was forked from.
    pub(super) parent: Option<Who>,
    /// It was forked in this test.
    pub(super) forked_in: Option<u64>,
    /// The signal that announces a request; 0 when it takes none.
    pub(super) signal: i32,
    pub(super) global_limit: TestLimit,
    pub(super) timeout_active: bool,
    pub(super) func_only: bool,

    pub(super) alive: bool,
    pub(super) phase: TestPhase,
    /// Since when; moved on by the time that a debugger was in control.
    pub(super) phase_since: u64,
    /// Since when the test runs, or what else it is at; moved on likewise.
    pub(super) test_since: u64,
    /// Since when a debugger is in control.
    pub(super) standing: Option<u64>,
    pub(super) serial: u32,
    pub(super) current: Option<Current>,
    /// The test that runs or ran last, or the module that is collected.
    pub(super) name: Option<Arc<Foreign>>,
    pub(super) file: Option<Arc<Foreign>>,
    pub(super) line: Option<u32>,
    pub(super) limit: TestLimit,
    /// The stage of the last request that the plugin acted on in this test.
    pub(super) interrupted: u8,
    pub(super) begun: usize,
    pub(super) finished: usize,
    /// Records were lost since its last test began.
    pub(super) lost: u64,

    /// Where it was before it last counted: what is new since was born there.
    pub(super) place: Place,
    /// The same for interpreters and what only the kernel counts, and where it was while these were not counted.
    pub(super) kernel_place: Place,
    pub(super) unasked: Option<Place>,
    pub(super) ledger: Ledger,
    /// The last numbers that were counted.
    pub(super) counts: Counts,
    pub(super) fds_at_start: Option<u32>,
    pub(super) fds_at_finish: Option<u32>,

    /// What was seen of it from outside the last time, and when each had started.
    pub(super) seen_threads: BTreeMap<i64, u64>,
    pub(super) seen_children: BTreeMap<i64, u64>,
    /// Of a binary of Rust, the threads that run its tests or did, and where a thread that one of them starts is born.
    pub(super) threads_of_tests: BTreeMap<Who, Place>,
}

impl Runner {
    /// It counted; `before` is where it was until then.
    pub(super) fn count(&mut self, before: Place, counts: Counts) {
        if counts.os_threads.is_some() {
            self.kernel_place = self.unasked.take().unwrap_or_else(|| before.clone());
        } else if self.unasked.is_none() || before.phase == TestPhase::Call {
            // Setup and teardown of most tests do nothing: what came in one of several phases came in the call.
            self.unasked = Some(before.clone());
        }
        self.place = before;
        self.counts = counts;
    }

    /// A process of which nothing is known yet.
    pub(super) fn new(who: Who, source: TestSource, now: u64) -> Self {
        Self {
            who,
            process: who,
            binary: None,
            source,
            role: Role::Session,
            worker: None,
            root: None,
            group: None,
            apart: None,
            above: Vec::new(),
            parent: None,
            forked_in: None,
            signal: 0,
            global_limit: TestLimit::Unsaid,
            timeout_active: false,
            func_only: false,
            alive: true,
            phase: TestPhase::Start,
            phase_since: now,
            test_since: now,
            standing: None,
            serial: 0,
            current: None,
            name: None,
            file: None,
            line: None,
            limit: TestLimit::Unsaid,
            interrupted: 0,
            begun: 0,
            finished: 0,
            lost: 0,
            place: Place {
                phase: TestPhase::Start,
                test: None,
                begun: 0,
            },
            kernel_place: Place {
                phase: TestPhase::Start,
                test: None,
                begun: 0,
            },
            unasked: None,
            ledger: Ledger::default(),
            counts: Counts::default(),
            fds_at_start: None,
            fds_at_finish: None,
            seen_threads: BTreeMap::new(),
            seen_children: BTreeMap::new(),
            threads_of_tests: BTreeMap::new(),
        }
    }

    /// The thread that it is, if it is one.
    pub(super) fn thread(&self) -> Option<Tid> {
        (self.process != self.who).then_some(self.who.pid)
    }

    /// Whether it is in a test.
    pub(super) fn in_test(&self) -> bool {
        matches!(
            self.phase,
            TestPhase::Setup | TestPhase::Call | TestPhase::Teardown
        )
    }

    /// Where it is now.
    pub(super) fn here(&self) -> Place {
        let test = self.current.zip(self.name.clone());
        Place {
            phase: self.phase,
            test: test.map(|(current, name)| (current.number, name)),
            begun: self.begun,
        }
    }

    /// Goes on to a phase of the same test.
    pub(super) fn enter(&mut self, phase: TestPhase, now: u64) {
        if self.standing.is_some() {
            // The debugger is still in control: what it took so far does not count, and it goes on.
            self.go_on(now);
            self.stand(now);
        }
        self.phase = phase;
        self.phase_since = now;
    }

    /// Goes on to what is not a phase of the same test.
    pub(super) fn move_on(&mut self, phase: TestPhase, now: u64) {
        self.standing = None;
        self.enter(phase, now);
        self.test_since = now;
    }

    /// A debugger takes control.
    pub(super) fn stand(&mut self, now: u64) {
        self.standing.get_or_insert(now);
    }

    /// The debugger has left: the time that it took does not count.
    pub(super) fn go_on(&mut self, now: u64) {
        if let Some(since) = self.standing.take() {
            let stood = now.saturating_sub(since);
            self.phase_since = self.phase_since.saturating_add(stood);
            self.test_since = self.test_since.saturating_add(stood);
        }
    }

    /// Forgets the test that it was in.
    pub(super) fn leave_test(&mut self) {
        self.current = None;
        self.limit = TestLimit::Unsaid;
        self.interrupted = 0;
    }
}
