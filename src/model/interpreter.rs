//! Python runtimes, interpreters, global interpreter locks and thread states.

use super::{Addr, Foreign, Frame, Key, Tid};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The CPython runtime of a process (`_PyRuntime`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PythonRuntime {
    /// Version as text, such as `3.14.10`; `3.10.?` where the patch level is not readable from outside.
    pub version: String,
    /// Minor version (the `14` of 3.14).
    pub minor: u8,
    /// Built without a global interpreter lock.
    pub free_threaded: bool,
    /// Who read the frames.
    pub reader: PythonReader,
    /// The runtime itself is being finalized: the process is exiting (`_PyRuntime._finalizing`).
    pub finalizing: bool,
    /// In a process with several interpreters, up to 3.12, where CPython notes another thread: it was found out which thread
    /// runs each thread state.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub running_threads_known: bool,
    /// Signal state: `_PyRuntime.signals` from 3.12 on, before that static variables of `signalmodule.c`, which can be read where
    /// the program is not stripped of its symbols.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signals: Option<PythonSignals>,
}

/// Which reader produced the Python part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum PythonReader {
    /// hangscope's own reader.
    Own,
    /// py-spy's library: frames only, no thread state flags, no waits on interpreter objects.
    PySpy,
}

/// CPython's own signal state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PythonSignals {
    /// Signals caught by the C handler whose Python handler has not run yet.
    pub pending: Vec<i32>,
    /// Signals whose Python handler is a function of the program, as far as that could be read: none of Python's own and of
    /// libraries.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub handled: Vec<i32>,
    /// Signals whose Python handler is a test runner's own watchdog (pytest-timeout): it ends the test and wakes nobody before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub watchdogs: Vec<i32>,
    /// `signal.set_wakeup_fd`'s descriptor, if set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wakeup_fd: Option<i32>,
    /// Whether that descriptor, a pipe or a UNIX socket, takes no further byte, so that the signals that come now wake no event
    /// loop. Absent where that was not looked at: it is when a signal is pending or the main thread waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wakeup_full: Option<bool>,
    /// The main thread, the only one that runs Python's signal handlers, and only for the main interpreter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub served_by: Option<Key>,
    /// What that thread did when the pending signals were seen; absent when none is pending.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unserved: Option<Unserved>,
}

/// Why a signal that CPython has noted has not reached its Python handler: what the main thread does instead of going round
/// the evaluation loop of the main interpreter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Unserved {
    /// It runs: it may be about to serve it, or be in native code.
    Running,
    /// It waits for the GIL.
    WaitsForGil,
    /// It waits in a call that did not end at the signal.
    Waits,
    /// It runs code of another interpreter, where handlers do not run.
    OtherInterpreter,
    /// It is stopped by a signal or a tracer.
    Stopped,
    /// It has ended.
    Ended,
    /// That could not be told.
    Unknown,
}

impl Unserved {
    /// Words that follow "the main thread"; none if that is not known.
    #[must_use]
    pub fn in_words(self) -> Option<&'static str> {
        match self {
            Self::Running => Some("runs, and has not come to it"),
            Self::WaitsForGil => Some("waits for the GIL"),
            Self::Waits => Some("waits in a call that the signal did not end"),
            Self::OtherInterpreter => Some("runs another interpreter, where no handler runs"),
            Self::Stopped => Some("is stopped"),
            Self::Ended => Some("has ended"),
            Self::Unknown => None,
        }
    }
}

/// One interpreter (`PyInterpreterState`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Interpreter {
    /// Its key.
    pub key: Key,
    /// Its id; 0 is the main interpreter.
    pub id: i64,
    /// Where it is.
    pub address: Addr,
    /// Who made it (`_whence`, 3.13+).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub whence: Option<String>,
    /// `Py_EndInterpreter` (or exit) has begun (`finalizing`).
    pub finalizing: bool,
    /// Past thread shutdown and atexit: `_finalizing` names the thread state that tears it down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub torn_down_by: Option<Addr>,
    /// Has a GIL of its own rather than the main interpreter's.
    pub own_gil: bool,
    /// Its GIL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gil: Option<Gil>,
    /// The thread state that runs its `__main__` now (`threads.main`, 3.13+).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub running_main: Option<Addr>,
    /// Number of its thread states.
    pub thread_states: usize,
}

/// A global interpreter lock (`struct _gil_runtime_state`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Gil {
    /// Its key: interpreters that share a GIL show the same.
    pub key: Key,
    /// Whether it is taken.
    pub locked: bool,
    /// The thread state that holds it; absent when it is free.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder: Option<Addr>,
    /// The thread of that thread state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder_thread: Option<Key>,
    /// How often it has changed hands.
    pub switches: u64,
}

/// A thread state (`PyThreadState`): one thread's presence in one interpreter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ThreadState {
    /// Where it is.
    pub address: Addr,
    /// Its number within its interpreter (`id`).
    pub id: u64,
    /// The interpreter.
    pub interpreter: Key,
    /// The interpreter's id.
    pub interpreter_id: i64,
    /// `thread_id`: the `pthread_t` that Python calls `ident`.
    pub ident: Addr,
    /// `native_thread_id` as CPython noted it, translated to hangscope's pid namespace where it is live.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tid: Option<Tid>,
    /// Who made it (`_whence`, 3.13+): `init`, `fini`, `threading`, `c-api`, `exec`, `threading-daemon`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub whence: Option<String>,
    /// `detached`, `attached`, `suspended` or `shutting-down` (3.13+).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// Names of the set `_status` bits (3.12+).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub status: Vec<String>,
    /// Whether it holds its interpreter's GIL.
    pub holds_gil: bool,
    /// `threading.Thread.name` from its own interpreter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Foreign>,
    /// `threading.Thread.daemon`, where the interpreter knows the thread.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub daemon: Option<bool>,
    /// Hash over the variables of the innermost frame: unchanged while a loop goes round without getting anywhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
    /// Frames, innermost first.
    pub frames: Vec<Frame>,
    /// Why the list of frames ends early, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cut: Option<Foreign>,
}
