//! The threads of a process that runs tests on threads: which of them run which test.

use super::names::{COMM, Said, test_of};
use super::{Started, started};
use crate::capture::facts::read_bounded;
use crate::capture::maps::{Region, regions};
use crate::capture::memory::ProcessMemory;
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
    /// It is somebody else's thread.
    Other,
    /// What it is called is all that can be known.
    Comm,
}

impl Threads {
    /// Looks at the threads of this process.
    pub(super) fn look(&mut self, pid: Pid) {
        let main = comm(pid, pid);
        let tids: BTreeSet<Tid> = fs::read_dir(format!("/proc/{pid}/task"))
            .into_iter()
            .flatten()
            .take(MAX_THREADS)
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .filter(|tid| *tid != pid)
            .collect();
        self.known.retain(|tid, _| tids.contains(tid));
        let mut map: Option<Vec<Region>> = None;
        let memory = ProcessMemory::new(pid);
        for tid in tids {
            let now = comm(pid, tid);
            if self.known.get(&tid).is_none_or(|known| known.comm != now) {
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
            match test_of(&memory, pid, tid, &thread.comm, regions) {
                Said::Test(name) => thread.name = Name::Test(name),
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
    }

    /// Those that run tests, and which. Of several that are known by the same `comm` only, the first that started is
    /// the test's, since a thread without a name inherits it.
    pub(super) fn tests(&self) -> Vec<(Started, Foreign)> {
        let mut found: Vec<(Started, Foreign)> = Vec::new();
        let mut by_comm: BTreeMap<&[u8], Started> = BTreeMap::new();
        for thread in self.known.values() {
            match &thread.name {
                Name::Test(name) => found.push((thread.started, Foreign::from(name.as_str()))),
                Name::Comm => {
                    let first = by_comm.entry(&thread.comm).or_insert(thread.started);
                    if (thread.started.1, thread.started.0) < (first.1, first.0) {
                        *first = thread.started;
                    }
                }
                Name::Sought | Name::Other => {}
            }
        }
        for (comm, started) in by_comm {
            let mut name = String::from_utf8_lossy(comm).into_owned();
            if comm.len() >= COMM {
                name.push('…');
            }
            found.push((started, Foreign::from(name)));
        }
        found
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

/// The processes that a thread has started and that live (`CONFIG_PROC_CHILDREN`).
pub(super) fn children(pid: Pid, tid: Tid) -> Option<Vec<Pid>> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{tid}/children")).ok()?;
    Some(
        text.split_ascii_whitespace()
            .filter_map(|pid| pid.parse().ok())
            .collect(),
    )
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
