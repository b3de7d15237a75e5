//! What the tests of a run left behind.

use super::item::Item;
use super::runner::Runner;
use super::tracker::Tracker;
use super::trend::trend;
use crate::model::{
    Birth, Counted, Inventory, Leak, LeftKind, Role, TestInventory, TestOutcome, TestPhase,
};
use std::collections::BTreeMap;

/// Most tests that are listed; the latest ones are.
const MOST_ROWS: usize = 5_000;
/// Most things that are listed as left, and of one test.
pub(super) const MOST_LEFT: usize = 2_000;

impl Tracker {
    /// What the tests left behind so far. `None` when nothing was counted.
    pub(crate) fn inventory(&self) -> Option<Inventory> {
        let items = || {
            self.done
                .iter()
                .chain(self.open.values())
                .filter(|item| item.counts)
        };
        let counted: Vec<&Item> = items().filter(|item| item.is_counted()).collect();
        let begun = items().any(|item| {
            let mut kinds = LeftKind::ALL.iter();
            kinds.any(|&kind| item.before.get(kind).is_some())
        });
        let mut outlived: BTreeMap<u64, Vec<Birth>> = BTreeMap::new();
        for runner in self.runners.values() {
            for (number, being) in runner.ledger.outlived() {
                let list = outlived.entry(number).or_default();
                if list.len() < MOST_LEFT {
                    list.push(being.birth(runner.begun));
                }
            }
        }
        for (number, birth) in &self.left_in_ended {
            outlived.entry(*number).or_default().push(birth.clone());
        }
        if counted.is_empty() && !begun && outlived.is_empty() {
            return None;
        }
        let has_left = |item: &Item| !item.fleeting && outlived.contains_key(&item.number);
        let mut shown: Vec<&Item> = items()
            .filter(|item| is_shown(item) || has_left(item))
            .collect();
        shown.sort_by_key(|item| item.number);
        let first = shown.len().saturating_sub(MOST_ROWS);
        let rows = shown.into_iter().skip(first);
        let sampled = counted.iter().all(|item| item.how == Counted::Sampled);
        Some(Inventory {
            how: if sampled && !self.rings {
                Counted::Sampled
            } else {
                Counted::Inside
            },
            tests: counted.len(),
            changed: rows
                .map(|item| TestInventory {
                    test: (*item.test).clone(),
                    process: item.who.key(),
                    worker: item.worker.as_deref().cloned(),
                    before: item.before,
                    after: item.after,
                    left: outlived.remove(&item.number).unwrap_or_default(),
                })
                .collect(),
            left: self.left(),
            trends: LeftKind::ALL
                .into_iter()
                .filter_map(|kind| {
                    trend(kind, counted.iter().filter_map(|item| change(item, kind)))
                })
                .collect(),
        })
    }

    /// What was born in a test and is there now, or was when its process ended in good order: with one that
    /// was killed, all that was in it is gone.
    fn left(&self) -> Vec<Birth> {
        self.of_the_run()
            .filter(|runner| runner.alive || is_over(runner))
            .flat_map(|runner| {
                let left = runner.ledger.left().into_iter();
                left.map(|being| being.birth(runner.begun))
            })
            .take(MOST_LEFT)
            .collect()
    }

    /// What of these kinds was born in a test and still there when its session finished. Processes that have
    /// not come so far have leaked nothing yet. Threads that `threading` knows are OS threads, too.
    pub(crate) fn leaks(&self, kinds: &[LeftKind]) -> Vec<Leak> {
        let wanted = |kind| {
            kinds.contains(&kind)
                || (kind == LeftKind::Thread && kinds.contains(&LeftKind::OsThread))
        };
        let mut leaks = Vec::new();
        for runner in self.of_the_run().filter(|runner| is_over(runner)) {
            let leak = |kind, birth, count| Leak {
                kind,
                process: runner.who.key(),
                worker: runner.worker.as_deref().cloned(),
                birth,
                count,
            };
            let beings = runner.ledger.leaked().into_iter();
            leaks.extend(
                beings
                    .filter(|being| wanted(being.kind))
                    .map(|being| leak(being.kind, Some(being.birth(runner.begun)), 1)),
            );
            let fds = runner.fds_at_finish.zip(runner.fds_at_start);
            let more = fds.map_or(0, |(finish, start)| finish.saturating_sub(start));
            // A controller's are the pipes to its workers.
            if wanted(LeftKind::Fd) && more > 0 && runner.role != Role::Controller {
                leaks.push(leak(LeftKind::Fd, None, more));
            }
        }
        leaks
    }

    /// The processes whose tests are those of the run, and that lived or ended on their own account.
    fn of_the_run(&self) -> impl Iterator<Item = &Runner> {
        let own = |runner: &&Runner| runner.apart.is_none() && runner.role != Role::Forked;
        self.runners.values().filter(own)
    }
}

/// Whether its session has finished.
fn is_over(runner: &Runner) -> bool {
    runner.phase >= TestPhase::SessionFinish
}

/// Whether a test is worth a row: a number is another than before, or it did not end.
fn is_shown(item: &Item) -> bool {
    match item.outcome {
        Some(TestOutcome::Hung | TestOutcome::Crashed) => true,
        _ if item.ended.is_none() => true,
        _ if item.fleeting => false,
        _ => LeftKind::ALL
            .iter()
            .any(|&kind| change(item, kind).is_some_and(|change| change != 0)),
    }
}

fn change(item: &Item, kind: LeftKind) -> Option<i64> {
    let after = item.after.as_ref()?.get(kind)?;
    Some(i64::from(after) - i64::from(item.before.get(kind)?))
}
