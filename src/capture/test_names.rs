//! The running test of a process, looked at so often that what does not change is found once.

use super::facts::read_bounded;
use super::maps::Maps;
use super::memory::{CachedMemory, ProcessMemory};
use super::python::environ;
use crate::model::{Pid, RunningTest};
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

/// Most processes that are remembered; past it all are found anew.
const MAX_KNOWN: usize = 20_000;

/// Reads `PYTEST_CURRENT_TEST` from the live environment of processes.
#[derive(Debug, Default)]
pub struct TestNames {
    known: BTreeMap<(Pid, u64), Known>,
}

#[derive(Debug)]
struct Known {
    /// An exec makes the address void.
    program: Option<PathBuf>,
    environ: Option<u64>,
}

impl TestNames {
    /// The test that a process runs now, if its environment says so. `start_ticks` tells it from a later process
    /// with its pid. Cheap for processes that are known.
    pub fn running_test(&mut self, pid: Pid, start_ticks: u64) -> Option<RunningTest> {
        let environ = self.environ(pid, start_ticks)?;
        let memory = ProcessMemory::new(pid);
        let memory = CachedMemory::new(&memory);
        let value = environ::pytest_current_test(&memory, environ)?;
        let at_start = read_bounded(&format!("/proc/{pid}/environ"));
        let inherited = environ::is_inherited(&value, &at_start);
        Some(environ::running_test(&value, inherited))
    }

    fn environ(&mut self, pid: Pid, start_ticks: u64) -> Option<u64> {
        let program = fs::read_link(format!("/proc/{pid}/exe")).ok();
        if let Some(known) = self.known.get(&(pid, start_ticks))
            && known.program == program
        {
            return known.environ;
        }
        if self.known.len() >= MAX_KNOWN {
            self.known.clear();
        }
        let environ = Maps::read(pid, pid)
            .ok()
            .and_then(|maps| environ::find(&maps));
        let known = Known { program, environ };
        self.known.insert((pid, start_ticks), known);
        environ
    }
}
