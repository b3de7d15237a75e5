//! One look at a process tree.

use super::{Foreign, Gap, Key, Pid, Process};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One sample: the whole tree, looked at once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Snapshot {
    /// Milliseconds since the first sample began.
    pub at_ms: u64,
    /// How long reading it took, in microseconds.
    pub took_us: u64,
    /// The processes, parents before children.
    pub processes: Vec<Process>,
    /// Processes of the tree that have ended and that their parents have not waited for (zombies): there is nothing to be read of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub zombies: Vec<Zombie>,
    /// How long each process was stopped for reading; empty when nothing was stopped.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pauses: Vec<Pause>,
    /// What could not be read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gaps: Vec<Gap>,
}

/// A process that has ended and that its parent has not waited for (state Z of `proc_pid_stat(5)`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Zombie {
    /// Its key.
    pub process: Key,
    /// Its process id.
    pub pid: Pid,
    /// Its parent.
    pub parent: Pid,
    /// Its name (`comm`).
    pub name: Foreign,
}

/// How long a process was stopped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Pause {
    /// The process.
    pub process: Key,
    /// For how long, in microseconds.
    pub stopped_us: u64,
    /// It was stopped after the sample was read, for the native stacks only.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub native: bool,
}

impl Snapshot {
    /// Shares with an earlier sample what has not changed since and takes much memory: tasks.
    pub fn share_with(&mut self, earlier: &Self) {
        for process in &mut self.processes {
            let Some(before) = earlier.process(&process.key) else {
                continue;
            };
            for event_loop in &mut process.event_loops {
                let mut loops = before.event_loops.iter();
                if let Some(known) = loops.find(|known| known.key == event_loop.key) {
                    event_loop.share_tasks(known);
                }
            }
        }
    }

    /// The process with this key.
    #[must_use]
    pub fn process(&self, key: &Key) -> Option<&Process> {
        self.processes.iter().find(|process| &process.key == key)
    }
    /// The thread with this key.
    #[must_use]
    pub fn thread(&self, key: &Key) -> Option<&super::Thread> {
        let owner = key.process_part();
        let mut processes = self.processes.iter();
        processes
            .find(|process| process.key.as_str() == owner)?
            .thread(key)
    }
}
