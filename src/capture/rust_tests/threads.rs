//! The threads of a process that runs tests on threads: which of them run which test.

use super::births::{Births, SeenThread, ThreadRole};
use super::names::{Said, test_of};
use super::{RustThread, Started, started};
use crate::capture::facts::read_bounded;
use crate::capture::kernel;
use crate::capture::maps::{Region, regions};
use crate::capture::memory::ProcessMemory;
use crate::capture::rust_names::COMM;
use crate::model::{Foreign, Pid, Tid};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;

/// Most threads of a process that are looked at.
const MAX_THREADS: usize = 5_000;
/// How often a stack without a test's name is looked at before the thread counts as one of the test's own: a thread that
/// has just been started has not got so far.
const LOOKS: u8 = 3;
/// How often the stack of a thread that always runs is looked for.
const SEARCHES: u8 = 20;

/// The threads of one process.
#[derive(Debug, Default)]
pub(super) struct Threads {
    known: BTreeMap<Tid, Thread>,
    /// Whether a test's name was found to be its thread's own: then it is of all others.
    sure: bool,
    births: Births,
    /// Those of the last look.
    seen: Vec<SeenThread>,
}

#[derive(Debug)]
struct Thread {
    started: Started,
    comm: Vec<u8>,
    looks: u8,
    searches: u8,
    name: Name,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Name {
    /// Not known yet.
    Sought,
    /// It runs this test.
    Test(String),
    /// It runs this test, or has its stack from a thread that did.
    Unsure(String),
    /// It is somebody else's thread.
    Other,
    /// What it is called is all that can be known.
    Comm,
}

impl Threads {
    /// Looks at the threads of this process.
    pub(super) fn look(&mut self, pid: Pid) {
        let main = comm(pid, pid);
        let tids: BTreeSet<Tid> = kernel::thread_ids(pid)
            .unwrap_or_default()
            .into_iter()
            .filter(|tid| *tid != pid)
            .take(MAX_THREADS)
            .collect();
        self.known.retain(|tid, _| tids.contains(tid));
        let mut map: Option<Vec<Region>> = None;
        let memory = ProcessMemory::new(pid);
        for tid in tids {
            let now = comm(pid, tid);
            if !self.is_known(pid, tid, &now) {
                let Some(started) = started(pid, tid) else {
                    continue;
                };
                let thread = Thread {
                    started,
                    comm: now,
                    looks: 0,
                    searches: 0,
                    name: Name::Sought,
                };
                self.known.insert(tid, thread);
            }
            let Some(thread) = self
                .known
                .get_mut(&tid)
                .filter(|it| it.name == Name::Sought)
            else {
                continue;
            };
            if thread.comm == main {
                // It has not been given its name yet, or never will be.
                continue;
            }
            let regions = map.get_or_insert_with(|| regions(pid, pid));
            let last = thread.looks + 1 >= LOOKS;
            match test_of(&memory, (pid, tid), &thread.comm, regions, last) {
                Said::Test(name) => {
                    self.sure = true;
                    thread.name = Name::Test(name);
                }
                Said::Unsure(name) => {
                    thread.looks = thread.looks.saturating_add(1);
                    if thread.looks >= LOOKS {
                        thread.name = Name::Unsure(name);
                    }
                }
                Said::Nothing => {
                    thread.looks = thread.looks.saturating_add(1);
                    if thread.looks >= LOOKS {
                        thread.name = Name::Other;
                    }
                }
                Said::NoStack => {
                    thread.searches = thread.searches.saturating_add(1);
                    if thread.searches >= SEARCHES {
                        thread.name = Name::Comm;
                    }
                }
                Said::Denied => thread.name = Name::Comm,
            }
        }
        self.seen = self.seen_threads();
        let mut regions = || map.take().unwrap_or_else(|| regions(pid, pid));
        self.births.look(pid, &memory, &self.seen, &mut regions);
    }

    fn seen_threads(&self) -> Vec<SeenThread> {
        let tests: BTreeSet<Started> = self.tests().into_iter().map(|(test, _)| test).collect();
        let one = |it: &Thread| SeenThread {
            thread: it.started,
            comm: it.comm.clone(),
            role: match it.name {
                _ if tests.contains(&it.started) => ThreadRole::Test,
                Name::Sought => ThreadRole::Unclear,
                _ => ThreadRole::Other,
            },
        };
        self.known.values().map(one).collect()
    }

    /// Those of which it is known which test started them.
    pub(super) fn born(&self) -> Vec<RustThread> {
        self.births.of(&self.seen)
    }

    /// Whether nothing new can be learnt of a thread by its name. A test may give its own thread another one.
    fn is_known(&self, pid: Pid, tid: Tid, comm: &[u8]) -> bool {
        self.known.get(&tid).is_some_and(|known| {
            let is_test = matches!(known.name, Name::Test(_));
            known.comm == comm || (is_test && started(pid, tid) == Some(known.started))
        })
    }

    /// Those that run tests, and which. Of several with one name the first that started is the test's: a thread without a
    /// name inherits its `comm`.
    pub(super) fn tests(&self) -> Vec<(Started, Foreign)> {
        let mut found: BTreeMap<String, Started> = BTreeMap::new();
        for thread in self.known.values() {
            let name = match &thread.name {
                Name::Test(name) => name.clone(),
                // A standard library whose threads look different: better by the stack alone than not at all.
                Name::Unsure(name) if !self.sure => name.clone(),
                Name::Comm => {
                    let cut = if thread.comm.len() < COMM { "" } else { "…" };
                    format!("{}{cut}", String::from_utf8_lossy(&thread.comm))
                }
                Name::Sought | Name::Other | Name::Unsure(_) => continue,
            };
            let first = found.entry(name).or_insert(thread.started);
            if (thread.started.1, thread.started.0) < (first.1, first.0) {
                *first = thread.started;
            }
        }
        let tests = found.into_iter();
        tests
            .map(|(name, started)| (started, Foreign::from(name)))
            .collect()
    }
}

/// The name of a thread, without the newline that the kernel adds.
fn comm(pid: Pid, tid: Tid) -> Vec<u8> {
    let mut bytes = read_bounded(&format!("/proc/{pid}/task/{tid}/comm"));
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
    }
    bytes
}

/// Threads of a process, less those of its tests, and its open files.
pub(super) fn counts(pid: Pid, tests: usize) -> (Option<u32>, Option<u32>) {
    let entries = |name: &str| {
        let folder = fs::read_dir(format!("/proc/{pid}/{name}")).ok()?;
        Some(folder.take(100_000).count())
    };
    let threads = entries("task").map(|count| count.saturating_sub(tests));
    let narrow = |count: Option<usize>| count.and_then(|count| u32::try_from(count).ok());
    (narrow(threads), narrow(entries("fd")))
}

#[cfg(test)]
mod tests {
    use super::{LOOKS, Threads};
    use std::sync::mpsc::channel;

    fn own_pid() -> i32 {
        i32::try_from(std::process::id()).expect("a pid")
    }

    fn names(threads: &Threads) -> Vec<String> {
        let tests = threads.tests();
        tests
            .iter()
            .map(|(_, name)| name.untrusted().to_owned())
            .collect()
    }

    #[test]
    fn the_thread_of_this_very_test_is_found_and_no_thread_of_its_own() {
        let own = std::thread::current().name().map(str::to_owned);
        let own = own.expect("libtest names it");
        let (hold, held) = channel::<()>();
        // It has the name that the kernel knows of this test.
        let child = std::thread::spawn(move || held.recv());
        let looker = std::thread::Builder::new().name("looker".to_owned());
        let name = own.clone();
        let looks = looker.spawn(move || {
            let mut threads = Threads::default();
            let mut look = || {
                threads.look(own_pid());
                names(&threads)
            };
            // It may take some looks until the test waits for this thread, which has the names that it looks for on its
            // own stack, and so is found, too.
            let found = (0..100).map(|_| look()).find(|found| found.contains(&name));
            let later: Vec<Vec<String>> = (0..=LOOKS).map(|_| look()).collect();
            (found, later)
        });
        let (found, later) = looks.expect("a thread").join().expect("it looks");
        let mine = |found: &[String]| found.iter().filter(|name| **name == own).count();
        assert!(found.is_some_and(|found| mine(&found) == 1), "it is found");
        for found in later {
            assert_eq!(mine(&found), 1, "{found:?}");
            let cut = found.iter().filter(|name| own.starts_with(*name));
            assert_eq!(cut.count(), 1, "the child is not listed: {found:?}");
        }
        drop(hold);
        let _ = child.join();
    }

    #[test]
    fn a_test_that_runs_and_has_renamed_its_thread_is_still_itself() {
        let own = std::thread::current().name().map(str::to_owned);
        let own = own.expect("libtest names it");
        let mut threads = Threads::default();
        // This thread runs while it is looked at, so its stack is found by its id.
        threads.look(own_pid());
        assert!(names(&threads).contains(&own), "{:?}", names(&threads));
        std::fs::write("/proc/thread-self/comm", "other").expect("a name");
        threads.look(own_pid());
        assert!(names(&threads).contains(&own), "{:?}", names(&threads));
    }
}
