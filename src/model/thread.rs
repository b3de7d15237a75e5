//! Threads as the kernel knows them, with what Python has on each.

use super::{Addr, Foreign, Key, NativeStack, ThreadState, Tid, Wait};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One OS thread.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Thread {
    /// Its key.
    pub key: Key,
    /// Its thread id.
    pub tid: Tid,
    /// Its kernel name (`comm`, 15 bytes).
    pub name: Foreign,
    /// Its whole name, where the kernel has cut it and its program keeps it (Rust's standard library does).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub full_name: Option<Foreign>,
    /// Of a binary of Rust's tests, the thread that runs the test which started this one, if that still runs: what either
    /// prints goes to the same place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test: Option<Key>,
    /// What the kernel says.
    pub kernel: KernelThread,
    /// What kind of thread it is.
    pub kind: ThreadKind,
    /// Its thread states, the one that runs now first. A thread that runs a subinterpreter has two or more.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub python: Vec<ThreadState>,
    /// Its native stack, where that was looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub native: Option<NativeStack>,
    /// What it waits for; absent when it runs or that could not be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait: Option<Wait>,
    /// It did not run between the first and the last read of this sample, so its stack is consistent.
    pub settled: bool,
}

/// Kinds of threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ThreadKind {
    /// Has a thread state.
    Python,
    /// Has none: a native library's thread, or one that has left every interpreter.
    Native,
    /// Ended while it was read, or is a zombie.
    Exited,
}

/// What `/proc/PID/task/TID` says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KernelThread {
    /// State letter of `proc_pid_stat(5)`: R, S, D, T, t, Z, X, I.
    pub state: String,
    /// The system call it is in (`proc_pid_syscall(5)`); absent when it runs or that is not readable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub syscall: Option<Syscall>,
    /// Kernel function it sleeps in (`proc_pid_wchan(5)`); not read in a futex call, of which it says nothing more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wchan: Option<Foreign>,
    /// Start time in clock ticks since boot.
    pub start_ticks: u64,
    /// CPU time used, in nanoseconds (`schedstat`, first field).
    pub cpu_ns: u64,
    /// Time spent runnable but not running, in nanoseconds (`schedstat`, second field).
    pub run_delay_ns: u64,
    /// Number of times it was put on a CPU (`schedstat`, third field).
    pub runs: u64,
    /// Its signal masks. Read of all threads of a process with at most 64 of them or with a signal that waits to be
    /// served; else of the leader only, since the file is dear to read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signals: Option<ThreadSignals>,
}

/// A thread's signal masks (`proc_pid_status(5)`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ThreadSignals {
    /// Signals that it blocks (`SigBlk`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub blocked: Vec<i32>,
    /// Signals sent to this very thread that it has not taken yet (`SigPnd`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pending: Vec<i32>,
}

/// A system call in progress.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Syscall {
    /// Its number on this architecture.
    pub number: i64,
    /// Its name; absent for an unknown number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its six arguments.
    pub args: Vec<Addr>,
    /// Stack pointer.
    pub stack_pointer: Addr,
    /// Instruction pointer.
    pub instruction_pointer: Addr,
}

impl Thread {
    /// The name to show: Python's own name of the thread where there is one, else its program's or the kernel's.
    #[must_use]
    pub fn display_name(&self) -> &Foreign {
        self.python
            .iter()
            .find_map(|state| state.name.as_ref())
            .or(self.full_name.as_ref())
            .unwrap_or(&self.name)
    }

    /// All Python frames, innermost first, across the thread's thread states.
    pub fn frames(&self) -> impl Iterator<Item = &super::Frame> {
        self.python.iter().flat_map(|state| state.frames.iter())
    }

    /// The thread state of interpreter `id` on this thread.
    #[must_use]
    pub fn state_of(&self, id: i64) -> Option<&ThreadState> {
        self.python.iter().find(|state| state.interpreter_id == id)
    }
}
