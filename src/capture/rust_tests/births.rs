//! Which test has started a thread: the one whose output the thread's own goes to, or else the only one that ran when
//! the thread was first seen.

use super::output::OutputCapture;
use super::stacks::thread_pointer;
use super::{RustThread, Started};
use crate::capture::maps::Region;
use crate::capture::memory::Memory;
use crate::model::Pid;
use std::collections::{BTreeMap, BTreeSet};

/// How often a thread is looked at before nothing more is expected of it: a test is recognised after a few looks.
const LOOKS: u8 = 10;
/// For how many looks the output of a test that has ended is remembered: threads that it left may not be known yet.
const REMEMBERED: u64 = 50;

/// A thread of a test binary, as it was just seen.
#[derive(Clone, Debug)]
pub(super) struct SeenThread {
    pub(super) thread: Started,
    pub(super) comm: Vec<u8>,
    pub(super) role: ThreadRole,
}

/// What a thread of a test binary does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ThreadRole {
    /// It runs a test.
    Test,
    /// It does not.
    Other,
    /// Not known yet.
    Unclear,
}

/// The threads of one process, and the tests that started them.
#[derive(Debug, Default)]
pub(super) struct Births {
    /// Absent until it was looked for.
    capture: Option<Option<OutputCapture>>,
    /// Whose output is held where, and at which look the test was last seen.
    outputs: BTreeMap<u64, (Test, u64)>,
    known: BTreeMap<Started, Known>,
    /// The tests of the look before.
    tests: BTreeSet<Started>,
    /// Number of the present look.
    now: u64,
}

#[derive(Clone, Debug)]
struct Test {
    thread: Started,
    comm: Vec<u8>,
}

#[derive(Debug)]
struct Known {
    /// The look at which it was first seen.
    since: u64,
    /// The only test that ran when it was first seen, and at the look before.
    alone: Option<Test>,
    looks: u8,
    /// Who started it, or of a test that its output is known.
    test: Option<Test>,
}

impl Births {
    /// Takes in a look.
    pub(super) fn look(
        &mut self,
        pid: Pid,
        memory: &dyn Memory,
        seen: &[SeenThread],
        regions: &mut dyn FnMut() -> Vec<Region>,
    ) {
        self.now += 1;
        let now = self.now;
        let tests: BTreeSet<Started> = of_role(seen, ThreadRole::Test).collect();
        self.outputs.retain(|_, (test, last_seen)| {
            if tests.contains(&test.thread) {
                *last_seen = now;
            }
            *last_seen + REMEMBERED > now
        });
        let alive: BTreeSet<Started> = seen.iter().map(|it| it.thread).collect();
        self.known.retain(|thread, _| alive.contains(thread));
        let mut running = seen.iter().filter(|it| it.role == ThreadRole::Test);
        let alone = match (running.next(), running.next()) {
            (Some(only), None) => Some(Test::of(only)),
            _ => None,
        };
        let alone = alone.filter(|it| self.tests.iter().all(|before| *before == it.thread));
        for thread in &alive {
            self.known.entry(*thread).or_insert_with(|| Known {
                since: now,
                alone: alone.clone().filter(|test| test.thread.1 <= thread.1),
                looks: 0,
                test: None,
            });
        }
        let is_open = |it: &&SeenThread| {
            let known = self.known.get(&it.thread);
            it.role != ThreadRole::Unclear
                && known.is_some_and(|known| known.test.is_none() && known.looks < LOOKS)
        };
        let mut open: Vec<&SeenThread> = seen.iter().filter(is_open).collect();
        // The tests first, so that their threads find them.
        open.sort_by_key(|it| it.role != ThreadRole::Test);
        if !open.is_empty() {
            let capture = *self.capture.get_or_insert_with(|| OutputCapture::of(pid));
            let regions = capture.map(|_| regions()).unwrap_or_default();
            for it in open {
                let output = capture.and_then(|capture| {
                    let pointer = thread_pointer(memory, (pid, it.thread.0), &regions)?;
                    capture.read(memory, pointer)
                });
                if it.role == ThreadRole::Test {
                    self.see_test(it, output);
                } else {
                    self.see_other(it.thread, output, &tests);
                }
            }
        }
        self.tests = tests;
    }

    fn see_test(&mut self, test: &SeenThread, output: Option<u64>) {
        let Some(known) = self.known.get_mut(&test.thread) else {
            return;
        };
        known.looks += 1;
        let Some(output) = output else { return };
        known.test = Some(Test::of(test));
        self.outputs.insert(output, (Test::of(test), self.now));
    }

    fn see_other(&mut self, thread: Started, output: Option<u64>, tests: &BTreeSet<Started>) {
        let Some(known) = self.known.get_mut(&thread) else {
            return;
        };
        known.looks += 1;
        known.test = match output {
            // What holds a test's output is freed at its end, and another test's may be put in its place: only where the two
            // were seen together it is the same.
            Some(output) => {
                let found = self.outputs.get(&output);
                let together = found.filter(|(_, last_seen)| *last_seen >= known.since);
                together.map(|(test, _)| test.clone())
            }
            // A test that had begun by then may have been recognised since.
            None => known.alone.clone().filter(|alone| {
                let mut others = tests.iter().filter(|test| **test != alone.thread);
                others.all(|test| test.1 > thread.1)
            }),
        };
    }

    /// The threads among those seen that tests have started.
    pub(super) fn of(&self, seen: &[SeenThread]) -> Vec<RustThread> {
        let others = seen.iter().filter(|it| it.role == ThreadRole::Other);
        let born = others.filter_map(|it| {
            let test = self.known.get(&it.thread)?.test.as_ref()?;
            // A thread without a name has that of the thread that started it.
            let name = (it.comm != test.comm)
                .then(|| String::from_utf8_lossy(&it.comm).into_owned().into());
            Some(RustThread {
                thread: it.thread,
                name,
                test: test.thread,
            })
        });
        born.collect()
    }
}

impl Test {
    fn of(seen: &SeenThread) -> Self {
        Self {
            thread: seen.thread,
            comm: seen.comm.clone(),
        }
    }
}

fn of_role(seen: &[SeenThread], role: ThreadRole) -> impl Iterator<Item = Started> {
    let of_role = seen.iter().filter(move |it| it.role == role);
    of_role.map(|it| it.thread)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::memory::{Range, ReadError};

    /// Nothing can be read.
    struct Nothing;

    impl Memory for Nothing {
        fn read_many(&self, ranges: &[Range]) -> Vec<Result<Vec<u8>, ReadError>> {
            let all = ranges.iter();
            all.map(|range| Err(ReadError::Unmapped(range.address)))
                .collect()
        }
    }

    fn seen(id: i32, ticks: u64, role: ThreadRole) -> SeenThread {
        SeenThread {
            thread: (id, ticks),
            comm: b"name".to_vec(),
            role,
        }
    }

    fn test(id: i32, ticks: u64) -> SeenThread {
        seen(id, ticks, ThreadRole::Test)
    }

    fn other(id: i32, ticks: u64) -> SeenThread {
        seen(id, ticks, ThreadRole::Other)
    }

    fn births() -> Births {
        Births {
            capture: Some(None),
            ..Births::default()
        }
    }

    /// The test that started the last thread of the last look.
    fn started(births: &mut Births, looks: &[&[SeenThread]]) -> Option<Started> {
        let mut last: &[SeenThread] = &[];
        for look in looks {
            births.look(1, &Nothing, look, &mut Vec::new);
            last = look;
        }
        let thread = last.last().expect("a thread").thread;
        let born = births.of(last);
        let found = born.iter().find(|born| born.thread == thread);
        found.map(|born| born.test)
    }

    #[test]
    fn a_thread_is_that_of_the_only_test() {
        let (a, b) = (test(10, 5), test(11, 5));
        let look = |looks: &[&[SeenThread]]| started(&mut births(), looks);
        assert_eq!(look(&[&[a.clone(), other(20, 6)]]), Some((10, 5)));
        let together = [a.clone(), b.clone(), other(20, 6)];
        assert_eq!(look(&[&together]), None, "either may have started it");
        let after_another: [&[SeenThread]; 2] = [&[b], &[a.clone(), other(20, 6)]];
        assert_eq!(look(&after_another), None, "or the one before");
        let older = [a.clone(), other(20, 4)];
        assert_eq!(look(&[&older]), None, "it was there before the test");
        // The other test had begun, but was not recognised yet.
        let begins: [&[SeenThread]; 2] = [
            &[a.clone(), seen(20, 6, ThreadRole::Unclear)],
            &[a.clone(), test(12, 6), other(20, 6)],
        ];
        assert_eq!(look(&begins), None);
        let later: [&[SeenThread]; 2] =
            [&[a.clone(), other(20, 6)], &[a, test(12, 9), other(20, 6)]];
        assert_eq!(look(&later), Some((10, 5)), "it is known already");
    }

    #[test]
    fn the_output_tells_tests_apart_that_run_together() {
        let mut births = births();
        let look = [test(10, 5), test(11, 5), other(20, 6), other(21, 6)];
        births.look(1, &Nothing, &look, &mut Vec::new);
        births.see_test(&look[0], Some(0x1000));
        births.see_test(&look[1], Some(0x2000));
        let tests = BTreeSet::from([(10, 5), (11, 5)]);
        births.see_other((20, 6), Some(0x2000), &tests);
        births.see_other((21, 6), Some(0x3000), &tests);
        let born = births.of(&look);
        assert_eq!(born.len(), 1, "nobody knows whose the last one is");
        assert_eq!((born[0].thread, born[0].test), ((20, 6), (11, 5)));
        assert_eq!(born[0].name, None, "it has the name of its test");
        // Both have ended; another one has the place of the first one's output, but was not recognised yet.
        let later = [seen(12, 8, ThreadRole::Unclear), other(20, 6), other(22, 9)];
        births.look(1, &Nothing, &later, &mut Vec::new);
        births.see_other((22, 9), Some(0x1000), &BTreeSet::new());
        let born = births.of(&later);
        assert_eq!((born.len(), born[0].test), (1, (11, 5)));
        births.see_test(&test(12, 8), Some(0x1000));
        births.see_other((22, 9), Some(0x1000), &BTreeSet::new());
        assert_eq!(births.of(&later)[1].test, (12, 8));
    }
}
