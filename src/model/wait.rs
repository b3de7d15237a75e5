//! What a thread waits for.

use super::{Addr, Foreign, Key, Pid};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How a claim came about. The same three words everywhere.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum Grade {
    /// A heuristic.
    Guessed,
    /// Follows from what was read.
    Derived,
    /// A field of the target or of the kernel says so.
    Read,
}

/// What a blocked thread waits for. Set once, where kernel and Python facts of a thread are joined.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Wait {
    /// What kind of thing it is.
    pub kind: WaitKind,
    /// The call in the program's own terms ("Event.wait", "Queue.get"), from the frames.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub call: Option<Foreign>,
    /// Address of the object waited on: lock, GIL, thread handle, or the bare futex word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<Addr>,
    /// The thread (join), GIL or lock waited on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<Key>,
    /// The thread that an owner field names, and how sure that is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<Owner>,
    /// The Python object that is waited on, in the program's own terms: the queue, event or lock that its call names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<WaitObject>,
    /// The C function that the innermost Python frame has called and that has not returned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub native_call: Option<NativeCall>,
    /// Who holds the lock that is waited for, best evidence first; several if they agree on different evidence.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub holders: Vec<Holder>,
    /// Where no holder is known: frames of other threads that reach the lock or object. Not evidence that they hold it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub suspects: Vec<Holder>,
    /// Why no holder is known, where there must be one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder_unknown: Option<Foreign>,
    /// File descriptor and what it refers to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub descriptor: Option<Descriptor>,
    /// Milliseconds until the wait ends by itself; absent if it has no deadline or that cannot be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remaining_ms: Option<u64>,
    /// Milliseconds that a sleep was asked to last, where only that is known and not when it began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub length_ms: Option<u64>,
    /// Whether the wait ends by itself at some time; absent if unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timed: Option<bool>,
    /// How the claim came about.
    pub grade: Grade,
}

/// A Python object that a thread waits on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WaitObject {
    /// Its type with the module: `queue.Queue`, `threading.Event`, `_thread.lock`.
    pub type_name: Foreign,
    /// Where it is.
    pub address: Addr,
    /// How the waiting code refers to it (`jobs`, `self._cond`): a variable, or an attribute of one, that holds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Foreign>,
    /// What it says of itself: `qsize`, `maxsize`, `unfinished_tasks` of a queue, `value` of a semaphore, `set` of an event.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub state: Vec<ObjectFact>,
    /// How it was found: by its address (`read`) or by the frames that wait (`derived`).
    pub grade: Grade,
}

/// A C function that Python code has called.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NativeCall {
    /// Its name with module or class: `time.sleep`, `sqlite3.Cursor.execute`, `usleep (ctypes)`.
    pub function: Foreign,
    /// By its place on the evaluation stack (`derived`, 3.14+), or as the only C function there (`guessed`).
    pub grade: Grade,
}

/// A value that an object keeps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ObjectFact {
    /// What it is.
    pub name: String,
    /// Its value.
    pub value: Foreign,
}

/// A thread that holds what another waits for, or may.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Holder {
    /// The thread; absent when it has ended, or is of another process that could not be told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thread: Option<Key>,
    /// What says so.
    pub by: HolderEvidence,
    /// The function and line that took it, or that reaches it: "worker (pool.py:7)".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<Foreign>,
    /// How the claim came about; at most `guessed` if waiter or holder ran while it was read.
    pub grade: Grade,
}

/// What says that a thread holds a lock.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum HolderEvidence {
    /// A frame is in a `with` block of it.
    WithBlock,
    /// A suspended generator or coroutine that a frame refers to is in a `with` block of it.
    SuspendedWithBlock,
    /// Its owner field, and something else that agrees.
    OwnerField,
    /// Its owner field alone. The id in it is given to a new thread once its own has ended, so it may name the wrong one.
    BareOwnerField,
    /// The import system's own note of who imports a module (`_ModuleLock.owner`).
    ImportLock,
    /// A `multiprocessing` lock's note that a thread of this process holds it.
    ProcessLock,
    /// A frame reaches the object by a variable: a suspect, no more.
    Reference,
}

/// A lock's owner as its owner field names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Owner {
    /// The owner's `pthread_t`.
    pub ident: Addr,
    /// The live thread of that ident; absent when the owner is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thread: Option<Key>,
    /// `pthread_t` values are re-used after a thread's end, so this is at most `derived`.
    pub grade: Grade,
}

/// An open file of the target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Descriptor {
    /// Its number.
    pub number: i32,
    /// What `/proc/PID/fd/N` points at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<Foreign>,
    /// For a pipe: the other processes that have it open; absent where that could not be found out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub also_open_in: Option<Vec<Pid>>,
}

/// Kinds of waits.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum WaitKind {
    /// A global interpreter lock.
    Gil,
    /// Another thread's end (`Thread.join`, `threading._shutdown`).
    ThreadExit,
    /// A `threading.Lock` (also what Event, Condition and Queue are made of).
    Lock,
    /// A `threading.RLock`.
    RLock,
    /// Some other futex of this process: semaphore, native mutex, condition variable.
    Futex,
    /// A futex shared with other processes.
    SharedFutex,
    /// A time.
    Sleep,
    /// Data to read.
    Read,
    /// Room to write.
    Write,
    /// Events on a set of files.
    Poll,
    /// A connection.
    Connection,
    /// A child process's end.
    Child,
    /// A signal.
    Signal,
    /// A file lock.
    FileLock,
    /// Some other system call.
    Syscall,
}

impl Wait {
    /// Whether only code of the same process can end this wait: it is on something of the process, or on a pipe that no
    /// other process has open.
    #[must_use]
    pub fn is_internal(&self) -> bool {
        let own_pipe = self
            .descriptor
            .as_ref()
            .and_then(|descriptor| descriptor.also_open_in.as_ref())
            .is_some_and(Vec::is_empty);
        self.kind.is_internal()
            || (matches!(self.kind, WaitKind::Read | WaitKind::Write) && own_pipe)
    }
}

impl HolderEvidence {
    /// What says so, in words that follow "holds it" or "may hold it".
    #[must_use]
    pub fn in_words(self) -> &'static str {
        match self {
            Self::WithBlock => "by a `with` block",
            Self::SuspendedWithBlock => {
                "by a `with` block of a generator or coroutine that is suspended"
            }
            Self::OwnerField => "by the lock's owner field",
            Self::BareOwnerField => {
                "by the lock's owner field, unless that is of an earlier thread with the same id"
            }
            Self::ImportLock => "by the import system's own note",
            Self::ProcessLock => "by the lock's own note",
            Self::Reference => "as it can reach the lock",
        }
    }
}

impl WaitKind {
    /// Whether such a wait is on something that only code of the same process can change.
    #[must_use]
    pub fn is_internal(self) -> bool {
        matches!(
            self,
            Self::Gil | Self::ThreadExit | Self::Lock | Self::RLock | Self::Futex
        )
    }
}
