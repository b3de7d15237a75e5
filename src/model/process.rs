//! Processes.

use super::{EventLoop, Foreign, Interpreter, Key, Pid, PythonRuntime, Thread, ThreadKind, Tid};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One process of the tree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Process {
    /// Its key.
    pub key: Key,
    /// Its process id.
    pub pid: Pid,
    /// Its parent's.
    pub ppid: Pid,
    /// Its id in its own pid namespace, where that differs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace_pid: Option<Pid>,
    /// Name of its leader (`comm`).
    pub name: Foreign,
    /// Its arguments, secrets redacted.
    pub argv: Vec<Foreign>,
    /// State letter of its leader, as in `proc_pid_stat(5)`.
    pub state: String,
    /// Pid of the process that traces it, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tracer: Option<Pid>,
    /// Signals that it catches (`SigCgt` of `proc_pid_status(5)`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub caught_signals: Vec<i32>,
    /// Signals that it ignores (`SigIgn`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ignored_signals: Vec<i32>,
    /// Signals sent to the process that none of its threads has taken yet (`ShdPnd`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pending_signals: Vec<i32>,
    /// What it runs.
    pub runtime: RuntimeKind,
    /// Its CPython runtime.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub python: Option<PythonRuntime>,
    /// The test it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test: Option<RunningTest>,
    /// Its interpreters, main one first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub interpreters: Vec<Interpreter>,
    /// Its threads, by thread id.
    pub threads: Vec<Thread>,
    /// Its event loops with their tasks, main interpreter's first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub event_loops: Vec<EventLoop>,
    /// Locks between processes (`multiprocessing.Lock` and such) that its threads hold.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shared_locks_held: Vec<SharedLock>,
    /// How much of it was read.
    pub coverage: Coverage,
}

/// A lock between processes that a thread holds: it is in a `with` block of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SharedLock {
    /// Where the lock is, the same in all processes that share it: device, inode and offset of its memory.
    pub memory: Foreign,
    /// The thread.
    pub thread: Key,
    /// Where its block was entered: "worker (pool.py:7)".
    pub place: Foreign,
    /// The thread stood still while it was read.
    pub settled: bool,
}

/// What a process runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RuntimeKind {
    /// CPython.
    Python,
    /// A program written in Rust, as its native stacks show.
    Rust,
    /// Anything else, or not told apart.
    Other,
    /// Could not be looked at.
    Unknown,
}

/// The test that a process runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RunningTest {
    /// pytest's node id.
    pub id: Foreign,
    /// `setup`, `call` or `teardown`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
    /// The process was started by the test rather than runs it: the variable was in its environment from the start.
    pub inherited: bool,
}

/// How much was read of a process. Numbers that differ are explained by gaps.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Coverage {
    /// Threads that the kernel lists.
    pub threads: usize,
    /// Threads that were settled.
    pub settled: usize,
    /// Interpreters read.
    pub interpreters: usize,
    /// Thread states read.
    pub thread_states: usize,
    /// Frames read.
    pub frames: usize,
}

impl Process {
    /// The thread with this key.
    #[must_use]
    pub fn thread(&self, key: &Key) -> Option<&Thread> {
        let near = key.tid().and_then(|tid| self.nearest(tid));
        near.filter(|thread| &thread.key == key)
            .or_else(|| self.threads.iter().find(|thread| &thread.key == key))
    }

    /// The thread with this id.
    #[must_use]
    pub fn thread_by_tid(&self, tid: Tid) -> Option<&Thread> {
        self.nearest(tid)
            .or_else(|| self.threads.iter().find(|thread| thread.tid == tid))
    }

    /// The thread with this id, if threads are in order: the kernel lists them so as a rule, and who looks up each of thousands
    /// is glad of it.
    fn nearest(&self, tid: Tid) -> Option<&Thread> {
        let at = self.threads.binary_search_by_key(&tid, |thread| thread.tid);
        self.threads.get(at.ok()?)
    }

    /// Whether any thread's native stack is known.
    #[must_use]
    pub fn has_native_stacks(&self) -> bool {
        self.threads.iter().any(|thread| thread.native.is_some())
    }

    /// Whether it is a program other than Python that can be judged, by its native stacks.
    #[must_use]
    pub fn is_known_native(&self) -> bool {
        self.python.is_none() && self.has_native_stacks()
    }

    /// Whether a thread of this process is its leader, on which Python's main thread runs.
    #[must_use]
    pub fn is_led_by(&self, thread: &Thread) -> bool {
        thread.tid == self.pid
    }

    /// Whether all live threads block this signal; `None` where their masks were not all read.
    #[must_use]
    pub fn blocks_everywhere(&self, signal: i32) -> Option<bool> {
        let mut all_read = true;
        for thread in &self.threads {
            match &thread.kernel.signals {
                _ if thread.kind == ThreadKind::Exited => {}
                Some(masks) if masks.blocked.contains(&signal) => {}
                Some(_) => return Some(false),
                None => all_read = false,
            }
        }
        all_read.then_some(true)
    }
}
