//! The tests of Rust that run in a process tree, by what the kernel and the test processes' memory show of them.
//!
//! nextest starts a process for each test and names it in its environment. A libtest binary starts a thread for each
//! test, and so does rustdoc, whose threads compile a doctest and then wait for the process that runs it (from edition
//! 2024 on a binary of all doctests does that, with a process each). Nothing is asked of the target, so a test is known
//! as soon as it is looked at, and one that ends between two looks is not.

mod births;
mod environment;
mod libtests;
mod names;
mod output;
mod program;
mod stacks;
mod threads;

use super::{children, kernel};
use crate::model::{Foreign, Pid, Tid};
use libtests::Libtests;
pub(super) use output::OutputCapture;
pub use program::holds_doctests;
use program::{Kind, Program};
pub(super) use stacks::thread_pointer;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use threads::Threads;

/// Most programs and threads that are remembered; past it all are found anew.
const MAX_KNOWN: usize = 50_000;

/// A process as a look at the tree has it.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Its process id.
    pub pid: Pid,
    /// Its parent's.
    pub ppid: Pid,
    /// Clock ticks from boot to its start.
    pub start_ticks: u64,
    /// Its name (`comm`).
    pub name: Foreign,
}

/// A process or thread: its id, and clock ticks from boot to its start.
pub type Started = (Pid, u64);

/// Test binaries that cargo said to start, by their process (`hangscope __cargo-runner`).
pub type Marked = BTreeMap<Started, PathBuf>;

/// How tests are run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RustHow {
    /// On threads of a test binary.
    Libtest,
    /// By nextest, each in a process.
    Nextest,
    /// A doctest: in a process that a thread of rustdoc, or of a binary of doctests, waits for.
    Doctest,
}

/// A test that runs.
#[derive(Clone, Debug)]
pub struct RustTest {
    /// The binary, as nextest names it: the package, and after `::` the test target if it is another than the library.
    pub binary: Foreign,
    /// Its name in the binary. Where only its beginning is known, that, and `…`.
    pub name: Foreign,
    /// How it is run.
    pub how: RustHow,
    /// The process that runs it.
    pub process: Started,
    /// The thread that runs it, in a libtest binary.
    pub thread: Option<Started>,
    /// Which attempt of how many, when nextest tries a test more than once.
    pub attempt: Option<(u32, u32)>,
    /// How many tests run in the process.
    pub tests_in_process: usize,
}

/// A process that runs tests, or is about to.
#[derive(Clone, Debug)]
pub struct RustBinary {
    /// It.
    pub process: Started,
    /// Its name, as in [`RustTest::binary`].
    pub name: Foreign,
    /// Its threads, less those that run tests.
    pub os_threads: Option<u32>,
    /// Its open files.
    pub fds: Option<u32>,
    /// Its threads of which it is known which test started them.
    pub born: Vec<RustThread>,
}

/// A thread that a test started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RustThread {
    /// It.
    pub thread: Started,
    /// Its name, if it has one of its own.
    pub name: Option<Foreign>,
    /// The thread of the test.
    pub test: Started,
}

/// What one look saw.
#[derive(Clone, Debug, Default)]
pub struct RustLook {
    /// Tests that run.
    pub tests: Vec<RustTest>,
    /// libtest binaries.
    pub binaries: Vec<RustBinary>,
    /// cargo is there: tests may begin at any time.
    pub cargo: bool,
    /// cargo waits for something that is no test: a compiler, a build script, a linker.
    pub building: bool,
}

/// Finds the Rust tests of a tree, again and again.
#[derive(Debug, Default)]
pub struct RustTests {
    programs: BTreeMap<Started, Program>,
    threads: BTreeMap<Started, Threads>,
    files: Libtests,
    /// Whether a test that our own environment names is one to be found: hangscope was started for it.
    own_test: bool,
}

impl RustTests {
    /// One that also takes up the test that nextest has started hangscope for.
    #[must_use]
    pub fn with_own(own_test: bool) -> Self {
        Self {
            own_test,
            ..Self::default()
        }
    }

    /// Looks at these processes, parents before children. `foreign` are processes that run tests of another kind:
    /// what is below one of them belongs to its test.
    pub fn look(&mut self, tree: &[Seen], marked: &Marked, foreign: &BTreeSet<Pid>) -> RustLook {
        if self.programs.len() + self.threads.len() > MAX_KNOWN {
            self.programs.clear();
            self.threads.clear();
        }
        let alive: BTreeSet<Started> = tree
            .iter()
            .map(|seen| (seen.pid, seen.start_ticks))
            .collect();
        self.programs.retain(|started, _| alive.contains(started));
        self.threads.retain(|started, _| alive.contains(started));
        let mut kinds: BTreeMap<Pid, Kind> = BTreeMap::new();
        let mut look = RustLook::default();
        for seen in tree {
            let above = kinds.get(&seen.ppid).copied().unwrap_or(Kind::Other);
            let started = (seen.pid, seen.start_ticks);
            let kind = if above.is_test() || above == Kind::Foreign || foreign.contains(&seen.pid) {
                Kind::Foreign
            } else {
                let known = self.programs.remove(&started);
                let mut program = Program::of(known, seen, self.own_test);
                let marked = marked.get(&started);
                let kind = match above {
                    Kind::Other => program.kind_by_file(marked, seen.pid, &mut self.files),
                    above => program.kind(above, marked),
                };
                let waits = matches!(above, Kind::Cargo | Kind::Doctests);
                look.building |= waits && program.builds && kind != Kind::Doctests;
                self.programs.insert(started, program);
                kind
            };
            kinds.insert(seen.pid, kind);
            look.cargo |= kind.is_cargo();
        }
        let look_at: Vec<(&Seen, Kind)> = tree
            .iter()
            .filter_map(|seen| Some((seen, kinds.get(&seen.pid).copied()?)))
            .collect();
        for &(seen, kind) in &look_at {
            match kind {
                Kind::Nextest => look.tests.extend(self.nextest(seen)),
                Kind::Libtest => self.libtest(seen, &mut look),
                Kind::Doctests | Kind::MergedDoctests => {
                    let children: Vec<&Seen> = look_at
                        .iter()
                        .filter(|(child, kind)| child.ppid == seen.pid && *kind == Kind::Doctest)
                        .map(|(child, _)| *child)
                        .collect();
                    self.doctests(seen, &children, &mut look);
                }
                _ => {}
            }
        }
        look.building &= look.tests.is_empty() && look.binaries.is_empty();
        look
    }

    fn nextest(&self, seen: &Seen) -> Option<RustTest> {
        let process = (seen.pid, seen.start_ticks);
        let test = self.programs.get(&process)?.nextest.as_ref()?;
        Some(RustTest {
            binary: test.binary.clone(),
            name: test.name.clone(),
            how: RustHow::Nextest,
            process,
            thread: None,
            attempt: test.attempt,
            tests_in_process: 1,
        })
    }

    fn libtest(&mut self, seen: &Seen, look: &mut RustLook) {
        let process = (seen.pid, seen.start_ticks);
        let Some(program) = self.programs.get(&process) else {
            return;
        };
        let binary = program.binary.clone();
        let threads = self.threads.entry(process).or_default();
        threads.look(seen.pid);
        let tests = threads.tests();
        let (os_threads, fds) = threads::counts(seen.pid, tests.len());
        look.binaries.push(RustBinary {
            process,
            name: binary.clone(),
            os_threads,
            fds,
            born: threads.born(),
        });
        look.tests
            .extend(tests.iter().map(|(thread, name)| RustTest {
                binary: binary.clone(),
                name: name.clone(),
                how: RustHow::Libtest,
                process,
                thread: Some(*thread),
                attempt: None,
                tests_in_process: tests.len(),
            }));
    }

    /// A thread is at a doctest of its own while it has a process for it: before, it compiles.
    fn doctests(&mut self, seen: &Seen, children: &[&Seen], look: &mut RustLook) {
        let process = (seen.pid, seen.start_ticks);
        let Some(program) = self.programs.get(&process).filter(|_| !children.is_empty()) else {
            return;
        };
        let binary = program.binary.clone();
        let threads = self.threads.entry(process).or_default();
        threads.look(seen.pid);
        let mut of_thread: BTreeMap<Pid, Foreign> = BTreeMap::new();
        for ((tid, _), name) in threads.tests() {
            for child in children::list(seen.pid, &[tid]) {
                of_thread.insert(child, name.clone());
            }
        }
        for child in children {
            let Some(name) = of_thread.remove(&child.pid) else {
                continue;
            };
            look.tests.push(RustTest {
                binary: binary.clone(),
                name,
                how: RustHow::Doctest,
                process: (child.pid, child.start_ticks),
                thread: None,
                attempt: None,
                tests_in_process: 1,
            });
        }
    }
}

/// A thread, and when it started.
fn started(pid: Pid, tid: Tid) -> Option<Started> {
    let stat = kernel::read_stat(&format!("/proc/{pid}/task/{tid}/"))?;
    Some((tid, stat.start_ticks))
}
