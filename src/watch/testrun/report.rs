//! The model of a run, from its state.

use super::runner::Runner;
use super::tracker::Tracker;
use crate::model::{Foreign, Run, RunRecord, SlowTest, TestProcess, TestRecord, TestSource};
use std::collections::BTreeSet;

/// Most births that are listed of one process.
const MOST_BIRTHS: usize = 2_000;
/// Most processes that are listed.
const MOST_PROCESSES: usize = 1_000;

impl Tracker {
    /// What the run is doing at `now`, on CLOCK_MONOTONIC.
    pub(crate) fn run(&self, now: u64) -> Run {
        // Those that are gone make room for those that live.
        let mut dead_to_drop = self.runners.len().saturating_sub(MOST_PROCESSES);
        let mut processes = Vec::new();
        for runner in self.runners.values() {
            if !runner.alive && dead_to_drop > 0 {
                dead_to_drop -= 1;
            } else if processes.len() < MOST_PROCESSES {
                processes.push(self.process(runner, now));
            }
        }
        let collected: Vec<usize> = self
            .groups
            .iter()
            .filter_map(|group| group.collected)
            .collect();
        Run {
            source: self.source(),
            processes,
            finished: self.finished,
            collected: (!collected.is_empty()).then(|| collected.iter().sum()),
            slowest: self.slowest.as_ref().map(|(took_ms, test)| SlowTest {
                test: (**test).clone(),
                took_ms: *took_ms,
            }),
            inventory: self.inventory(),
            notes: self.all_notes(),
        }
    }

    fn process(&self, runner: &Runner, now: u64) -> TestProcess {
        // A process that waits for the one it forked for the test is where that one is.
        let at = self.child_in_test(runner).unwrap_or(runner);
        let until = runner.standing.unwrap_or(now);
        let ms = |since: u64| until.saturating_sub(since) / 1_000_000;
        TestProcess {
            key: runner.process.key(),
            pid: runner.process.pid,
            role: runner.role,
            binary: runner.binary.as_deref().cloned(),
            thread: runner.thread(),
            worker: runner.worker.as_deref().cloned(),
            phase: at.phase,
            test: at.name.as_deref().cloned(),
            file: at.file.as_deref().cloned(),
            line: at.line,
            root: runner.root.clone(),
            phase_ms: ms(at.phase_since),
            test_ms: ms(at.test_since),
            finished: runner.finished,
            alive: runner.alive,
            signal: Some(runner.signal).filter(|&signal| signal > 0),
            births: runner.ledger.list(runner.begun, MOST_BIRTHS),
        }
    }

    /// All that is known of the tests at `now`. `began_utc` is the time of the start of the run, RFC 3339.
    pub(crate) fn record(&self, now: u64, began_utc: String) -> RunRecord {
        let mut tests: Vec<(u64, TestRecord)> = self
            .done
            .iter()
            .chain(self.open.values().filter(|item| item.counts))
            .filter_map(|item| Some((item.number, item.record(self.began, now)?)))
            .collect();
        tests.sort_by_key(|(number, _)| *number);
        RunRecord {
            run: self.run(now),
            tests: tests.into_iter().map(|(_, test)| test).collect(),
            not_run: self.not_run(),
            began: began_utc,
            took_ms: now.saturating_sub(self.began) / 1_000_000,
            junit: self.junit.clone(),
        }
    }

    /// Tests that were collected and have not begun. Where records were lost nobody knows which those are.
    fn not_run(&self) -> Vec<Foreign> {
        let items = || self.done.iter().chain(self.open.values());
        let begun: BTreeSet<(usize, &Foreign)> =
            items().map(|item| (item.group, &*item.test)).collect();
        let groups = self.groups.iter().enumerate();
        groups
            .filter(|(_, group)| !group.incomplete)
            .flat_map(|(index, group)| group.list.iter().map(move |test| (index, test)))
            .filter(|test| !begun.contains(test))
            .map(|(_, test)| test.clone())
            .collect()
    }

    fn source(&self) -> TestSource {
        if self.rings {
            TestSource::Plugin
        } else if self.rust {
            TestSource::Cargo
        } else if self.runners.is_empty() && self.done.is_empty() {
            TestSource::None
        } else {
            TestSource::Environ
        }
    }

    fn all_notes(&self) -> Vec<Foreign> {
        let mut notes = self.notes.clone();
        if self.lost > 0 {
            let lost = self.lost;
            notes.push(
                format!("{lost} records of the test processes were overwritten before they were read: tests are missing.")
                    .into(),
            );
        }
        notes
    }
}
