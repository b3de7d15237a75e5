//! Whether anything in the tree gets further: the idle limit counts from the last time it did.
//!
//! Bytes read or written, more than a percent of one CPU over some seconds, processes that come or go. Counts of
//! system calls or context switches are no progress: a waiter that polls a lock has plenty of them.

use crate::inspect::Survey;
use crate::model::Key;
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

/// Over how long CPU time is added up: one clock tick in one second would be a percent already.
const WINDOW: Duration = Duration::from_secs(10);
/// Clock ticks in a second (`USER_HZ`): 100 on every Linux that we run on.
const TICKS: f64 = 100.0;

#[derive(Debug)]
struct Look {
    at: Instant,
    /// CPU ticks and bytes of each process.
    used: BTreeMap<Key, (u64, Option<u64>)>,
}

/// The recent past of a tree.
#[derive(Debug)]
pub(super) struct Progress {
    looks: VecDeque<Look>,
    last: Instant,
    /// When it was looked at last.
    looked: Option<Instant>,
}

impl Progress {
    /// Nothing seen yet: the present counts as progress.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            looks: VecDeque::new(),
            last: now,
            looked: None,
        }
    }

    /// For how long nothing has been seen to get further: what happened since the last look is not known.
    pub(super) fn quiet(&self) -> Duration {
        self.looked
            .map_or(Duration::ZERO, |at| at.saturating_duration_since(self.last))
    }

    /// Counts this moment as progress: a test event came, or the run was suspended until now.
    pub(super) fn note(&mut self, now: Instant) {
        self.last = self.last.max(now);
    }

    /// Takes a look in.
    pub(super) fn see(&mut self, survey: &Survey, now: Instant) {
        self.looked = Some(now);
        let used: BTreeMap<Key, (u64, Option<u64>)> = survey
            .processes
            .iter()
            .map(|process| (process.key.clone(), (process.cpu_ticks, process.io_bytes)))
            .collect();
        while self
            .looks
            .get(1)
            .is_some_and(|second| now.saturating_duration_since(second.at) >= WINDOW)
        {
            self.looks.pop_front();
        }
        let moved = match (self.looks.front(), self.looks.back()) {
            (Some(oldest), Some(newest)) => {
                // After a burst of work it must run now, too, or the burst would count for the whole window.
                !newest.used.keys().eq(used.keys())
                    || bytes(&newest.used) != bytes(&used)
                    || (ticks_since(newest, &used) > 0 && computes(oldest, &used, now))
            }
            _ => true,
        };
        if moved {
            self.last = now;
        }
        self.looks.push_back(Look { at: now, used });
    }
}

fn bytes(used: &BTreeMap<Key, (u64, Option<u64>)>) -> Vec<Option<u64>> {
    used.values().map(|(_, bytes)| *bytes).collect()
}

fn ticks_since(then: &Look, used: &BTreeMap<Key, (u64, Option<u64>)>) -> u64 {
    used.iter()
        .filter_map(|(key, (ticks, _))| {
            let (before, _) = then.used.get(key)?;
            Some(ticks.saturating_sub(*before))
        })
        .sum()
}

fn computes(then: &Look, used: &BTreeMap<Key, (u64, Option<u64>)>, now: Instant) -> bool {
    let ticks = ticks_since(then, used);
    let seconds = now.saturating_duration_since(then.at).as_secs_f64();
    // Two ticks at least: one may be our own look, charged to whoever ran.
    ticks >= 2 && f64::from(u32::try_from(ticks).unwrap_or(u32::MAX)) > seconds * TICKS / 100.0
}

#[cfg(test)]
mod tests {
    use super::Progress;
    use crate::inspect::{RustLook, Survey, Surveyed};
    use crate::model::{Foreign, Key};
    use std::time::{Duration, Instant};

    fn survey(cpu_ticks: u64, bytes: u64, pid: i32) -> Survey {
        Survey {
            processes: vec![Surveyed {
                key: Key::process(pid, 1),
                pid,
                ppid: 1,
                start_ticks: 1,
                name: Foreign::from("python"),
                state: 'S',
                cpu_ticks,
                io_bytes: Some(bytes),
                threads: 1,
                tids: Vec::new(),
                fds: None,
                test: None,
            }],
            rust: RustLook::default(),
        }
    }

    /// Seconds after the start at which progress was last seen, one look a second.
    fn last(looks: impl IntoIterator<Item = Survey>) -> u64 {
        let start = Instant::now();
        let mut progress = Progress::new(start);
        for (second, look) in looks.into_iter().enumerate() {
            progress.see(&look, start + Duration::from_secs(second as u64));
        }
        progress.last.duration_since(start).as_secs()
    }

    #[test]
    fn a_poller_makes_no_progress() {
        // Half a percent of a CPU.
        assert_eq!(last((0..60).map(|second| survey(second / 2, 0, 7))), 0);
    }

    #[test]
    fn what_computes_reads_or_starts_something_does() {
        assert_eq!(last((0..60).map(|second| survey(second * 3, 0, 7))), 59);
        assert_eq!(last((0..60).map(|second| survey(0, second, 7))), 59);
        let exec = (0..60).map(|second| survey(0, 0, if second < 30 { 7 } else { 8 }));
        assert_eq!(last(exec), 30);
    }

    #[test]
    fn what_nobody_has_looked_at_is_not_quiet() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut progress = Progress::new(start);
        assert_eq!(progress.quiet(), Duration::ZERO);
        progress.see(&survey(0, 0, 7), at(1));
        progress.see(&survey(0, 0, 7), at(4));
        assert_eq!(progress.quiet(), Duration::from_secs(3));
        progress.note(at(9));
        assert_eq!(progress.quiet(), Duration::ZERO);
    }

    #[test]
    fn a_burst_of_work_counts_while_it_lasts() {
        let burst = (0..60).map(|second| survey(if second < 5 { 0 } else { 30 }, 0, 7));
        assert_eq!(last(burst), 5);
    }
}
