//! Read: the kernel's and CPython's view of each process of a tree, without stopping or changing any.
//!
//! A part that cannot be read becomes a [`Gap`]; an error is returned only when there is nothing at all.

mod children;
mod elf;
mod facts;
mod files;
mod joined_wait;
mod kernel;
mod looks;
mod maps;
pub mod memory;
mod merge;
mod namespace;
mod native;
mod native_stacks;
mod parallel;
mod process;
mod pthread;
mod python;
mod rust_names;
mod rust_tests;
mod sets;
mod shared_locks;
mod signals;
mod stop;
mod syscall;
mod test_names;
mod waits;

use crate::model::{Gap, GapKind, Key, Pid, Snapshot, Zombie};
use crate::target::{self, AccessDenied};
use files::FileIndex;
use native::ObjectCache;
use process::{How, ProcessReader, ProcessSample};
pub use rust_tests::{
    Marked, RustBinary, RustHow, RustLook, RustTest, RustTests, RustThread, Seen, Started,
    holds_doctests,
};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};
pub use test_names::TestNames;

/// Whether native stacks can be unwound on this machine's architecture.
#[must_use]
pub fn unwinds_here() -> bool {
    native::Architecture::host().is_some()
}

/// Why there is no snapshot at all.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CaptureError {
    /// There is no such process.
    #[error("no process {0}")]
    NoSuchProcess(Pid),
    /// It ended before anything was read.
    #[error("process {0} ended while it was read")]
    Gone(Pid),
    /// It is a zombie: it has ended and waits for its parent to notice.
    #[error("process {} has ended (zombie); its parent {} has not waited for it", .0.pid, .0.parent)]
    Zombie(Box<Zombie>),
    /// It is a kernel thread.
    #[error("process {0} is a kernel thread and has no program to look into")]
    KernelThread(Pid),
    /// The kernel refuses.
    #[error("cannot read process {pid} ({}): permission denied", .denied.reason)]
    Denied {
        /// The process.
        pid: Pid,
        /// Why, and what helps.
        denied: AccessDenied,
    },
    /// `/proc` cannot be used.
    #[error("cannot read /proc/{pid}: {error}")]
    Proc {
        /// The process.
        pid: Pid,
        /// What the kernel said.
        error: String,
    },
}

impl CaptureError {
    /// The same as a gap, for a report that has other samples.
    #[must_use]
    pub fn as_gap(&self) -> Gap {
        let kind = match self {
            Self::Denied { .. } | Self::Proc { .. } => GapKind::Denied,
            Self::KernelThread(_) => GapKind::NotApplicable,
            Self::NoSuchProcess(_) | Self::Gone(_) | Self::Zombie(_) => GapKind::Gone,
        };
        Gap::new(None, kind, "a further sample", self.to_string())
    }
}

/// A capture of one tree over several samples. What does not change between samples is found once.
#[derive(Debug)]
pub struct Session {
    root: Pid,
    tree: bool,
    exclude: Vec<Pid>,
    how: How,
    /// The limit on open files, if it is too low for us to work.
    few_files: Option<u64>,
    readers: BTreeMap<Pid, ProcessReader>,
}

impl Session {
    /// Prepares to look at `root`, and with `tree` at all its descendants except those in `exclude`.
    #[must_use]
    pub fn new(root: Pid, tree: bool, exclude: &[Pid]) -> Self {
        let files = raise_file_limit();
        Self {
            few_files: files.filter(|files| *files < MIN_FILES),
            root,
            tree,
            exclude: exclude.to_vec(),
            how: How::default(),
            readers: BTreeMap::new(),
        }
    }

    /// Reads local variables too. They may hold secrets.
    #[must_use]
    pub fn with_locals(mut self, wanted: bool) -> Self {
        self.how.locals = wanted;
        self
    }

    /// Stops each process for the time in which its memory is read, half a second at most.
    #[must_use]
    pub fn stopping(mut self, wanted: bool) -> Self {
        self.how.stop = wanted;
        self
    }

    /// Takes one sample; `at` is the time since the first one began.
    ///
    /// # Errors
    /// When the root process cannot be read at all.
    pub fn sample(&mut self, at: Duration) -> Result<Snapshot, CaptureError> {
        let began = Instant::now();
        let pids = if self.tree {
            target::descendants(self.root, &self.exclude)
        } else {
            vec![self.root]
        };
        let mut readers: Vec<ProcessReader> = pids
            .iter()
            .map(|pid| {
                let known = self.readers.remove(pid);
                known.unwrap_or_else(|| ProcessReader::new(*pid, self.how))
            })
            .collect();
        // Nobody may stop us while others stand still for our sake.
        let unstoppable = self.how.stop.then(stop::Unstoppable::begin);
        let files = FileIndex::default();
        let mut results = parallel::map(readers.iter_mut(), |reader| reader.sample(&files));
        drop(unstoppable);
        self.readers.extend(pids.iter().copied().zip(readers));
        let mut gaps = Vec::new();
        if let Some(files) = self.few_files {
            gaps.push(
                Gap::new(
                    None,
                    GapKind::Denied,
                    "some of what the kernel knows of the threads",
                    format!("hangscope may open only {files} files at a time"),
                )
                .remedy("raise the limit: ulimit -n 1024"),
            );
        }
        let mut snapshot = Snapshot {
            at_ms: u64::try_from(at.as_millis()).unwrap_or(u64::MAX),
            took_us: 0,
            processes: Vec::new(),
            zombies: Vec::new(),
            pauses: Vec::new(),
            gaps,
        };
        for (pid, result) in pids.iter().zip(results.drain(..)) {
            match result {
                Ok(sample) => {
                    snapshot.processes.push(sample.process);
                    snapshot.gaps.extend(sample.gaps);
                    snapshot.pauses.extend(sample.pause);
                }
                Err(error) if *pid == self.root => return Err(error),
                Err(CaptureError::NoSuchProcess(_) | CaptureError::Gone(_)) => {}
                Err(CaptureError::Zombie(zombie)) => snapshot.zombies.push(*zombie),
                Err(error) => {
                    let mut gap = error.as_gap();
                    gap.missing = format!("process {pid}").into();
                    snapshot.gaps.push(gap);
                }
            }
        }
        shared_locks::resolve(&mut snapshot);
        snapshot.took_us = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        Ok(snapshot)
    }
}

impl Session {
    /// Adds native stacks to a sample that was just taken: stops each of the processes in `wanted` for a moment, unless `no_stop`
    /// forbids that.
    pub fn add_native(&mut self, snapshot: &mut Snapshot, wanted: &BTreeSet<Key>, no_stop: bool) {
        let span = tracing::debug_span!("native", processes = wanted.len());
        let _entered = span.enter();
        let cache = ObjectCache::default();
        let unstoppable = (!no_stop).then(stop::Unstoppable::begin);
        // One after the other: each stands still for as short a time as possible.
        let outcomes: Vec<native_stacks::Outcome> = snapshot
            .processes
            .iter_mut()
            .filter(|process| wanted.contains(&process.key))
            .map(|process| {
                let reader = self.readers.get(&process.pid);
                let python = reader.and_then(ProcessReader::python);
                native_stacks::add(process, python, &cache, no_stop)
            })
            .collect();
        drop(unstoppable);
        for outcome in outcomes {
            snapshot.pauses.extend(outcome.pause);
            snapshot.gaps.extend(outcome.gaps);
        }
    }
}

type ProcessResult = Result<ProcessSample, CaptureError>;

/// Fewest open files that a capture gets by with.
const MIN_FILES: u64 = 64;

/// Two files a thread are kept open during a sample; the soft limit of 1,024 files would cost a re-open for each.
/// Returns the limit that holds then.
fn raise_file_limit() -> Option<u64> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).ok()?;
    let wanted = hard.min(65_536);
    let raised = wanted > soft && setrlimit(Resource::RLIMIT_NOFILE, wanted, hard).is_ok();
    let limit = if raised { wanted } else { soft };
    make_room_for_files(limit.min(looks::MOST_OPEN_FILES));
    Some(limit)
}

/// Has the kernel make its table of our open files large at once. Where threads share it, each of the steps by which it grows
/// waits until all CPUs have noticed (RCU), some milliseconds.
fn make_room_for_files(files: u64) {
    if let Ok(last) = i32::try_from(files.saturating_sub(1))
        && let Ok(file) = std::fs::File::open("/")
    {
        let _ = rustix::io::fcntl_dupfd_cloexec(file, last);
    }
}
