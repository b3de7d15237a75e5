//! What can be seen of a test process from outside, when it has no ring.

use super::news::Who;
use super::record::Births;
use super::runner::Runner;
use super::tracker::Tracker;
use crate::model::{Counted, Counts, Foreign, Role, TestPhase, TestSource, Tid};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A look at a process that runs pytest.
///
/// That it does must be known: the variable that names the test is inherited by all that a test starts.
#[derive(Clone, Debug)]
pub(crate) struct Observation {
    /// The process.
    pub(crate) who: Who,
    /// When, on CLOCK_MONOTONIC, in nanoseconds.
    pub(crate) at: u64,
    /// Its name as an xdist worker.
    pub(crate) worker: Option<Foreign>,
    /// The test and its phase, of `PYTEST_CURRENT_TEST` in its live environment.
    pub(crate) test: Option<(Foreign, TestPhase)>,
    /// What was counted.
    pub(crate) counts: Counts,
    /// Its threads and when each started, in clock ticks from boot.
    pub(crate) threads: Vec<(Tid, u64)>,
    /// Its children.
    pub(crate) children: Vec<Who>,
}

impl Tracker {
    /// Takes in a look at a process. It adds nothing for one that has a ring, which knows better.
    pub(crate) fn observe(&mut self, seen: &Observation) {
        let known = self.runners.remove(&seen.who);
        let first = known.is_none();
        let mut runner = match known {
            Some(runner) if runner.source == TestSource::Environ => runner,
            Some(runner) => {
                self.runners.insert(seen.who, runner);
                return;
            }
            None if self.has_room() => Runner::new(seen.who, TestSource::Environ, seen.at),
            None => return,
        };
        if runner.worker.is_none() && seen.worker.is_some() {
            runner.worker = seen.worker.clone().map(Arc::new);
            runner.role = Role::Worker;
        }
        let before = runner.here();
        self.follow(&mut runner, seen);
        let after = runner.here();
        // As with the numbers: what is new when a test is seen to have ended is that test's.
        let ended = before.test.is_some() && before.test != after.test;
        let place = if first || ended { before } else { after };
        let births = births(&mut runner, seen);
        runner
            .ledger
            .enter(&births, &place, &place, Counted::Sampled);
        runner.counts = seen.counts;
        self.runners.insert(seen.who, runner);
    }

    /// Follows the name of the test.
    fn follow(&mut self, runner: &mut Runner, seen: &Observation) {
        let ran = runner.current.map(|current| current.number);
        let same = seen.test.as_ref().is_some_and(|(name, phase)| {
            // A phase that is earlier again is another run of the same test.
            ran.is_some() && runner.name.as_deref() == Some(name) && *phase >= runner.phase
        });
        match (&seen.test, ran) {
            (Some((_, phase)), Some(number)) if same => {
                if *phase != runner.phase {
                    self.event(seen.at);
                    runner.enter(*phase, seen.at);
                    if let Some(item) = self.open.get_mut(&number) {
                        item.phase = *phase;
                    }
                }
            }
            (None, None) => {}
            (test, ran) => {
                self.event(seen.at);
                if let Some(number) = ran {
                    runner.finished += 1;
                    runner.leave_test();
                    runner.move_on(TestPhase::Between, seen.at);
                    self.close(number, seen.at, None, Some(seen.counts));
                }
                let Some((name, phase)) = test else { return };
                // Between two tests that follow each other, what changed belongs to the first.
                let before = if ran.is_some() {
                    seen.counts
                } else {
                    runner.counts
                };
                runner.move_on(*phase, seen.at);
                let mut item = self.open_item(runner, seen.at, Arc::new(name.clone()));
                item.phase = *phase;
                item.before = before;
                item.how = Counted::Sampled;
                self.open.insert(item.number, item);
            }
        }
    }
}

/// What is new and what is gone since the last look.
fn births(runner: &mut Runner, seen: &Observation) -> Births {
    let main = i64::from(seen.who.pid);
    let threads = seen
        .threads
        .iter()
        .map(|&(tid, start)| (i64::from(tid), start));
    let threads: BTreeMap<i64, u64> = threads.filter(|(tid, _)| *tid != main).collect();
    let children = seen.children.iter();
    let children = children.map(|child| (i64::from(child.pid), child.start_ticks));
    let children: BTreeMap<i64, u64> = children.collect();
    let births = Births {
        os_threads: missing(&threads, &runner.seen_threads),
        children: missing(&children, &runner.seen_children),
        gone_threads: missing(&runner.seen_threads, &threads),
        gone_children: missing(&runner.seen_children, &children),
        ..Births::default()
    };
    runner.seen_threads = threads;
    runner.seen_children = children;
    births
}

/// The ids of the first that are not in the second. One with another start is another one.
fn missing(all: &BTreeMap<i64, u64>, from: &BTreeMap<i64, u64>) -> Vec<i64> {
    let missing = all.iter().filter(|(id, start)| from.get(id) != Some(start));
    missing.map(|(id, _)| *id).collect()
}
