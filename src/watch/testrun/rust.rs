//! The tests of Rust binaries: seen from outside, since nothing in them tells of itself.

use super::births::Place;
use super::inventory::MOST_LEFT;
use super::news::Who;
use super::runner::Runner;
use super::tracker::Tracker;
use crate::inspect::{RustBinary, RustHow, RustLook, RustTest, RustThread, Started};
use crate::model::{Counted, Counts, Foreign, Role, TestPhase, TestSource};
use std::collections::BTreeMap;
use std::sync::Arc;

impl Tracker {
    /// Takes in a look at `at`, on CLOCK_MONOTONIC. `began` says when what started at so many clock ticks did.
    pub(crate) fn see_rust(&mut self, look: &RustLook, at: u64, began: &dyn Fn(u64) -> u64) {
        let binaries: BTreeMap<Who, &RustBinary> = look
            .binaries
            .iter()
            .map(|binary| (who(binary.process), binary))
            .collect();
        let tests: BTreeMap<Who, &RustTest> = look
            .tests
            .iter()
            .map(|test| (of_test(test), test))
            .collect();
        // Before tests are ended: what is gone with its test was cleared away by it.
        for (&who, binary) in &binaries {
            self.miss_threads(who, binary);
        }
        let of_rust = self.runners.values().filter(|runner| runner.role.is_rust());
        let gone: Vec<Who> = of_rust
            .map(|runner| runner.who)
            .filter(|who| !binaries.contains_key(who) && !tests.contains_key(who))
            .collect();
        for who in gone {
            self.event(at);
            self.end_rust(who, at, &binaries);
        }
        for (&who, binary) in &binaries {
            if !self.runners.contains_key(&who) {
                self.begin_binary(who, binary, began(who.start_ticks).min(at));
            }
        }
        for (&who, test) in &tests {
            if self.runners.contains_key(&who) {
                self.see_again(who, test);
            } else {
                let counts = binaries.get(&of_process(test)).map(|it| counts(it));
                self.begin_rust(who, test, began(who.start_ticks).min(at), counts);
            }
        }
        for (&who, binary) in &binaries {
            self.see_threads(who, binary);
        }
    }

    /// Strikes out the threads of tests that have ended.
    fn miss_threads(&mut self, who: Who, binary: &RustBinary) {
        let Some(host) = self.runners.get_mut(&who) else {
            return;
        };
        let now: BTreeMap<i64, u64> = binary.born.iter().map(id_and_start).collect();
        let runs = |test: u64| self.open.contains_key(&test);
        let is_gone = |id: i64, start: u64| now.get(&id) != Some(&start);
        for (&id, &start) in &host.seen_threads {
            if is_gone(id, start) {
                host.ledger.miss_thread(id, &runs);
            }
        }
        host.seen_threads.retain(|&id, start| !is_gone(id, *start));
    }

    /// Enters the threads that tests have started.
    fn see_threads(&mut self, who: Who, binary: &RustBinary) {
        let Some(host) = self.runners.get_mut(&who) else {
            return;
        };
        for born in &binary.born {
            let (id, start) = id_and_start(born);
            if host.seen_threads.insert(id, start).is_some() {
                continue;
            }
            if let Some(place) = host.threads_of_tests.get(&self::who(born.test)) {
                host.ledger.see_thread(id, born.name.clone(), place);
                tracing::debug!(
                    process = who.pid,
                    thread = id,
                    "a test has started a thread"
                );
            }
        }
    }

    fn begin_binary(&mut self, who: Who, binary: &RustBinary, began: u64) {
        if !self.has_room() {
            return;
        }
        self.rust = true;
        self.event(began);
        let mut runner = Runner::new(who, TestSource::Cargo, began);
        runner.role = Role::Libtest;
        runner.binary = Some(Arc::new(binary.name.clone()));
        runner.move_on(TestPhase::Between, began);
        self.runners.insert(who, runner);
    }

    fn begin_rust(&mut self, who: Who, test: &RustTest, began: u64, counts: Option<Counts>) {
        if !self.has_room() {
            return;
        }
        self.rust = true;
        self.event(began);
        let mut runner = Runner::new(who, TestSource::Cargo, began);
        runner.process = of_process(test);
        runner.role = match test.how {
            RustHow::Libtest => Role::Libtest,
            RustHow::Nextest => Role::Nextest,
            RustHow::Doctest => Role::Doctest,
        };
        runner.binary = Some(Arc::new(test.binary.clone()));
        // Several tests of one process must not be taken for each other.
        runner.serial = u32::try_from(who.pid).unwrap_or(0);
        if let Some((file, line)) = doctest_place(test) {
            runner.file = Some(Arc::new(file.into()));
            runner.line = Some(line);
        }
        runner.move_on(TestPhase::Call, began);
        let mut item = self.open_item(&mut runner, began, Arc::new(name_of(test)));
        item.phase = TestPhase::Call;
        item.how = Counted::Sampled;
        // What a test leaves in a process of its own goes with it.
        item.fleeting = test.how != RustHow::Libtest;
        item.before = counts
            .filter(|_| test.tests_in_process == 1)
            .unwrap_or_default();
        if let Some(host) = self.runners.get_mut(&runner.process) {
            host.begun += 1;
            let place = Place {
                begun: host.begun,
                ..runner.here()
            };
            host.threads_of_tests.insert(who, place);
        }
        self.open.insert(item.number, item);
        self.runners.insert(who, runner);
    }

    /// Of tests that run at the same time in one process nobody can say which of them opened what.
    fn see_again(&mut self, who: Who, test: &RustTest) {
        let current = self.runners.get(&who).and_then(|runner| runner.current);
        let item = current.and_then(|current| self.open.get_mut(&current.number));
        if let Some(item) = item.filter(|_| test.tests_in_process > 1) {
            item.before = Counts::default();
        }
    }

    fn end_rust(&mut self, who: Who, at: u64, binaries: &BTreeMap<Who, &RustBinary>) {
        let Some(runner) = self.runners.get(&who) else {
            return;
        };
        let process = runner.process;
        let current = runner.current;
        if let (Some(binary), Some(current)) = (binaries.get(&process), current) {
            // The thread has ended, and its process lives.
            if let Some(host) = self.runners.get_mut(&process) {
                host.finished += 1;
            }
            let item = self.open.get(&current.number);
            let hung = item.is_some_and(|item| item.hung);
            let counted = item.is_some_and(|item| item.before != Counts::default());
            if !hung {
                // It did end, though nothing was counted.
                let after = if counted {
                    counts(binary)
                } else {
                    Counts::default()
                };
                self.close(current.number, at, None, Some(after));
            }
        }
        self.keep_what_is_left(who);
        self.ended(who, at);
    }

    /// A binary that has ended is forgotten, but not what its tests left behind.
    fn keep_what_is_left(&mut self, who: Who) {
        let Some(runner) = self.runners.get(&who) else {
            return;
        };
        for (test, being) in runner.ledger.outlived() {
            // A test that was at its end may have ended its threads since they were seen.
            let is_over = self.open.get(&test).is_none_or(|item| item.hung);
            if is_over && self.left_in_ended.len() < MOST_LEFT {
                self.left_in_ended.push((test, being.birth(runner.begun)));
            }
        }
    }
}

fn id_and_start(born: &RustThread) -> (i64, u64) {
    (i64::from(born.thread.0), born.thread.1)
}

fn who((pid, start_ticks): Started) -> Who {
    Who { start_ticks, pid }
}

fn of_process(test: &RustTest) -> Who {
    who(test.process)
}

/// What stands for a test: its thread, or its process.
fn of_test(test: &RustTest) -> Who {
    who(test.thread.unwrap_or(test.process))
}

/// The binary and the name; of one that nextest tries several times, which attempt it is.
fn name_of(test: &RustTest) -> Foreign {
    let (binary, name) = (test.binary.untrusted(), test.name.untrusted());
    let space = if binary.is_empty() { "" } else { " " };
    let attempt = test.attempt.map_or_else(String::new, |(attempt, total)| {
        format!(" (attempt {attempt} of {total})")
    });
    Foreign::from(format!("{binary}{space}{name}{attempt}"))
}

/// File and line in the name of a doctest: `src/lib.rs - add (line 5)`.
fn doctest_place(test: &RustTest) -> Option<(&str, u32)> {
    if test.how != RustHow::Doctest {
        return None;
    }
    let (file, rest) = test.name.untrusted().split_once(" - ")?;
    let (_, line) = rest.rsplit_once("(line ")?;
    let (line, _) = line.split_once(')')?;
    Some((file, line.parse().ok()?))
}

fn counts(binary: &RustBinary) -> Counts {
    Counts {
        os_threads: binary.os_threads,
        fds: binary.fds,
        ..Counts::default()
    }
}
