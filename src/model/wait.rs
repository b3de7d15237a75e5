//! What a thread waits for.

use super::{Addr, ChildWait, Descriptor, Foreign, Key, Pid};
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
    /// The thread (join), GIL, lock or child process waited on.
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
    /// For a lock between processes: device, inode and offset of its memory, the same in all that share it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shared_memory: Option<Foreign>,
    /// For a lock between processes: those that have its memory and are not in the sample.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shared_with: Vec<Pid>,
    /// Who holds the lock that is waited for, best evidence first; several if they agree on different evidence.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub holders: Vec<Holder>,
    /// Where no holder is known: frames of other threads that reach the lock or object. Not evidence that they hold it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub suspects: Vec<Holder>,
    /// Why no holder is known, where there must be one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder_unknown: Option<Foreign>,
    /// Threads whose variables, and what these lead to, were followed to the end without coming to the lock or object: they are
    /// not going to act on it. Others may, or could not be followed. Likewise tasks, and event loops (their callbacks and timers).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub out_of_reach: Vec<Key>,
    /// Threads of the process after whose end the waiting code asks, if it may do so again and again (`while t.is_alive():
    /// t.join(1)`) and calls nothing that might help them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub asks_after: Vec<Key>,
    /// The same of children, by pid.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub asks_after_children: Vec<Pid>,
    /// The task whose result it waits for (`run_coroutine_threadsafe`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<Key>,
    /// File descriptor and what it refers to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub descriptor: Option<Descriptor>,
    /// The files that are polled: those of `poll(2)` and `select(2)`, or those that the epoll of `descriptor` watches. At most 64
    /// of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<Descriptor>,
    /// Number of files that are polled, if that is more than `files` has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files_in_all: Option<usize>,
    /// Of a wait for a child's end: for which.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub child: Option<ChildWait>,
    /// Milliseconds until the wait ends by itself; absent if it has no deadline or that cannot be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remaining_ms: Option<u64>,
    /// Milliseconds that a sleep or poll was asked to last, where only that is known and not when it began.
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
    /// The lock that it is kept in, and so is waited for with that lock in hand: a channel's receiver within a `Mutex`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept_in: Option<Addr>,
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

impl WaitObject {
    /// What it says of itself in a few words: `qsize 0, maxsize 10`. Nothing for a lock, of which that says nothing new.
    #[must_use]
    pub fn state_words(&self) -> Option<Foreign> {
        let facts = self
            .state
            .iter()
            .filter(|fact| !matches!(fact.name.as_str(), "locked" | "maxvalue"));
        let words: Vec<String> = facts
            .map(|fact| format!("{} {}", fact.name, fact.value.untrusted()))
            .collect();
        (!words.is_empty()).then(|| words.join(", ").into())
    }
}

impl NativeCall {
    /// Whether the function tells more than the system call that it makes: `sqlite3.Connection.execute` does, `time.sleep`
    /// does not.
    #[must_use]
    pub fn is_telling(&self) -> bool {
        const PLAIN: [&str; 8] = [
            "time.",
            "select.",
            "posix.",
            "_socket.",
            "_thread.",
            "_queue.",
            "_signal.",
            "_contextvars.",
        ];
        let function = self.function.untrusted();
        !PLAIN.iter().any(|module| function.starts_with(module))
    }
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
    /// The owner that a mutex or read-write lock of the C library notes (`pthread_mutex_t.__data.__owner`,
    /// `pthread_rwlock_t.__data.__cur_writer`).
    PthreadMutex,
    /// A frame of the thread refers to the lock and would drop a guard of that kind if a panic passed it, as its landing pad
    /// (Itanium C++ ABI, exception handling) shows.
    DroppedGuard,
    /// The lock is held, and the process has no other thread.
    OnlyThread,
    /// The thread's stack is the only other one that refers to the lock, and a circle of waits closes by it.
    OnlyReference,
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
    /// The files that it waits for: the one that it reads or writes, or those that it polls.
    pub fn all_files(&self) -> impl Iterator<Item = &Descriptor> {
        self.descriptor.iter().chain(&self.files)
    }

    /// Whether only code of the same process can end this wait: it is on something of the process, or on pipes and socket pairs
    /// that no other process has.
    #[must_use]
    pub fn is_internal(&self) -> bool {
        let own_file = self
            .descriptor
            .as_ref()
            .is_some_and(Descriptor::is_internal);
        match self.kind {
            WaitKind::Read | WaitKind::Write => own_file,
            WaitKind::Poll => self.polls_all_of(Descriptor::is_internal),
            kind => kind.is_internal(),
        }
    }

    /// Of a poll: whether anything outside of the process may end it, such as a process with the other end of a pipe, a
    /// terminal, a network. `None` where that is not known, or the wait is none on a set of files.
    #[must_use]
    pub fn has_outside_peer(&self) -> Option<bool> {
        let known: Vec<Option<bool>> = self
            .files
            .iter()
            .map(Descriptor::has_outside_peer)
            .collect();
        if known.contains(&Some(true)) {
            return Some(true);
        }
        let all_quiet = self.polls_all_of(|file| file.has_outside_peer() == Some(false));
        all_quiet.then_some(false)
    }

    /// Of a poll: "3 files: fd 4 (pipe from pid 7), fd 5 (eventfd) and 1 more"; "fd 4 (…)" for one. The files that something
    /// outside may happen on come first. `None` where the files are not known.
    #[must_use]
    pub fn files_words(&self) -> Option<Foreign> {
        self.files_said(Descriptor::words)
    }

    /// The same for narrow columns: "3 files: pipe from pid 7 (fd 4), …".
    #[must_use]
    pub fn short_files_words(&self) -> Option<Foreign> {
        self.files_said(Descriptor::short_words)
    }

    fn files_said(&self, words: fn(&Descriptor) -> Foreign) -> Option<Foreign> {
        const MAX_NAMED: usize = 3;
        let in_all = self.files_in_all.unwrap_or(self.files.len());
        if in_all == 0 {
            return None;
        }
        let mut files: Vec<&Descriptor> = self.files.iter().collect();
        files.sort_by_key(|file| match file.has_outside_peer() {
            Some(true) => 0,
            None => 1,
            Some(false) => 2,
        });
        let named: Vec<String> = files
            .iter()
            .take(MAX_NAMED)
            .map(|file| words(file).untrusted().to_owned())
            .collect();
        let more = in_all.saturating_sub(named.len());
        let named = named.join(", ");
        Some(Foreign::from(match (in_all, more) {
            (1, _) => named,
            (_, 0) => format!("{in_all} files: {named}"),
            _ => format!("{in_all} files: {named} and {more} more"),
        }))
    }

    /// Whether the set of polled files is known wholly, is not empty, and each is as asked.
    fn polls_all_of(&self, test: impl Fn(&Descriptor) -> bool) -> bool {
        self.kind == WaitKind::Poll
            && self.files_in_all.is_none()
            && !self.files.is_empty()
            && self.files.iter().all(test)
    }
}

impl HolderEvidence {
    /// Whether it is read from native stacks, which are taken once, after the last sample. Of Python's waits the owner of a
    /// mutex is read in each sample, and that it is said of all of them does no harm.
    #[must_use]
    pub fn is_native(self) -> bool {
        matches!(
            self,
            Self::PthreadMutex | Self::DroppedGuard | Self::OnlyThread | Self::OnlyReference
        )
    }

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
            Self::PthreadMutex => "by the lock's note of its owner",
            Self::DroppedGuard => "by a guard that this function drops at its end",
            Self::OnlyThread => "as the only thread of the process",
            Self::OnlyReference => {
                "as the only other thread whose stack refers to it, which closes a circle"
            }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{FileKind, Peer};

    fn poll(files: Vec<Descriptor>) -> Wait {
        let json = r#"{"kind": "poll", "timed": false, "grade": "read"}"#;
        let mut wait: Wait = serde_json::from_str(json).expect("a wait");
        wait.files = files;
        wait
    }

    fn pipe(number: i32, processes: &[i32]) -> Descriptor {
        Descriptor {
            number,
            kind: Some(FileKind::Pipe),
            peer: Some(Peer {
                processes: processes.to_vec(),
                own: vec![number + 1],
                complete: true,
                ..Peer::default()
            }),
            ..Descriptor::default()
        }
    }

    #[test]
    fn a_poll_is_internal_if_all_of_its_files_are() {
        assert!(poll(vec![pipe(4, &[]), pipe(6, &[])]).is_internal());
        assert!(!poll(vec![pipe(4, &[]), pipe(6, &[9])]).is_internal());
        assert!(!poll(Vec::new()).is_internal(), "the set is not known");
        let mut cut = poll(vec![pipe(4, &[])]);
        cut.files_in_all = Some(2);
        assert!(!cut.is_internal());
        assert_eq!(cut.has_outside_peer(), None);
        assert_eq!(poll(vec![pipe(4, &[])]).has_outside_peer(), Some(false));
        assert_eq!(poll(vec![pipe(4, &[3])]).has_outside_peer(), Some(true));
    }

    #[test]
    fn words_of_a_set() {
        let said = |wait: Wait| wait.files_words().map(|words| words.untrusted().to_owned());
        assert_eq!(said(poll(Vec::new())), None);
        let two = poll(vec![pipe(4, &[]), pipe(6, &[9])]);
        assert_eq!(
            said(two).as_deref(),
            Some(
                "2 files: fd 6 (pipe from pid 9 and fd 7 of its own), fd 4 (pipe from fd 5 of its own)"
            )
        );
        let many = (0..9).map(|number| Descriptor {
            number,
            ..Descriptor::default()
        });
        assert_eq!(
            said(poll(many.collect())).as_deref(),
            Some("9 files: fd 0, fd 1, fd 2 and 6 more")
        );
    }
}
