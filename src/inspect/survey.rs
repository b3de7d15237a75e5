//! A cheap look at a process tree: who is there, what each has used, which test it runs. No stacks.

use crate::capture::{Marked, RustLook, RustTests, Seen, TestNames};
use crate::model::{Foreign, Key, Pid, RunningTest};
use crate::target;
use std::collections::BTreeSet;
use std::fs;
use std::os::linux::fs::MetadataExt;

/// Most threads of a process that are listed one by one.
const MAX_LISTED: usize = 1_000;

/// What one look saw.
#[derive(Clone, Debug, Default)]
pub struct Survey {
    /// The processes, parents before children.
    pub processes: Vec<Surveyed>,
    /// The tests of Rust among them.
    pub rust: RustLook,
}

/// A process in a [`Survey`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Surveyed {
    /// Its key.
    pub key: Key,
    /// Its process id.
    pub pid: Pid,
    /// Its parent's.
    pub ppid: Pid,
    /// Clock ticks from boot to its start.
    pub start_ticks: u64,
    /// Its name (`comm`).
    pub name: Foreign,
    /// State letter of its leader, as in `proc_pid_stat(5)`.
    pub state: char,
    /// CPU time that it has used, in clock ticks; user and system, with that of children it has waited for.
    pub cpu_ticks: u64,
    /// Bytes that it has read and written by system calls (`rchar`, `wchar` of `proc_pid_io(5)`).
    pub io_bytes: Option<u64>,
    /// Its threads.
    pub threads: u32,
    /// Kernel ids of its threads; at most 1,000, and none when not asked for.
    pub tids: Vec<i32>,
    /// Its open file descriptors.
    pub fds: Option<u32>,
    /// The test that its environment names.
    pub test: Option<RunningTest>,
}

/// Looks at a tree again and again.
#[derive(Debug, Default)]
pub struct Surveyor {
    tests: TestNames,
    rust: RustTests,
}

impl Surveyor {
    /// One that also takes up the test that nextest has started hangscope for.
    #[must_use]
    pub fn with_own_test(own_test: bool) -> Self {
        Self {
            rust: RustTests::with_own(own_test),
            ..Self::default()
        }
    }

    /// Looks at everything below `root`, without `exclude`. `telling` are processes that tell of their tests themselves:
    /// of all others the running test is wanted, and their threads are listed, too. `marked` are test binaries that cargo
    /// has told of.
    pub fn look(
        &mut self,
        root: Pid,
        exclude: &[Pid],
        telling: &BTreeSet<Pid>,
        marked: &Marked,
    ) -> Survey {
        let processes: Vec<Surveyed> = target::descendants(root, exclude)
            .into_iter()
            .filter_map(|pid| self.look_at(pid, !telling.contains(&pid)))
            .collect();
        let seen: Vec<Seen> = processes
            .iter()
            .map(|process| Seen {
                pid: process.pid,
                ppid: process.ppid,
                start_ticks: process.start_ticks,
                name: process.name.clone(),
            })
            .collect();
        let rust = self.rust.look(&seen, marked, telling);
        Survey { processes, rust }
    }

    fn look_at(&mut self, pid: Pid, closely: bool) -> Option<Surveyed> {
        let stat = procfs::process::Process::new(pid).ok()?.stat().ok()?;
        let ticks = stat.utime + stat.stime;
        let reaped = u64::try_from(stat.cutime + stat.cstime).unwrap_or(0);
        Some(Surveyed {
            key: Key::process(pid, stat.starttime),
            pid,
            ppid: stat.ppid,
            start_ticks: stat.starttime,
            name: Foreign::from(stat.comm),
            state: stat.state,
            cpu_ticks: ticks + reaped,
            io_bytes: io_bytes(pid),
            threads: u32::try_from(stat.num_threads).unwrap_or(0),
            tids: if closely { tids(pid) } else { Vec::new() },
            fds: closely.then(|| fds(pid)).flatten(),
            test: closely
                .then(|| self.tests.running_test(pid, stat.starttime))
                .flatten(),
        })
    }
}

fn io_bytes(pid: Pid) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/io")).ok()?;
    let field = |name: &str| -> Option<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().parse().ok()
    };
    field("rchar:")?.checked_add(field("wchar:")?)
}

fn tids(pid: Pid) -> Vec<i32> {
    fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .take(MAX_LISTED)
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect()
}

/// Since Linux 6.2 the size of the folder is the number of open descriptors; before, it is 0.
fn fds(pid: Pid) -> Option<u32> {
    let folder = format!("/proc/{pid}/fd");
    let size = fs::metadata(&folder).ok()?.st_size();
    if size > 0 {
        return u32::try_from(size).ok();
    }
    u32::try_from(fs::read_dir(folder).ok()?.count()).ok()
}
