//! Tasks of event loops: what runs, or waits, below the level of threads.

use super::{Addr, Foreign, Frame, Grade, HolderEvidence, Key, WaitObject};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::sync::Arc;

/// What runs tasks on a thread: a trio run (`trio.run`) or an asyncio event loop.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EventLoop {
    /// Its key.
    pub key: Key,
    /// Whose it is. anyio shows as the one that it runs on.
    pub library: TaskLibrary,
    /// Its type: `trio._core._run.Runner`, `asyncio.unix_events._UnixSelectorEventLoop`, `uvloop.Loop`.
    pub type_name: Foreign,
    /// The interpreter that it belongs to.
    pub interpreter: Key,
    /// The thread that runs it; absent when none does, or that could not be told (trio's guest mode).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thread: Option<Key>,
    /// The thread state that runs it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thread_state: Option<Addr>,
    /// The task that runs now (asyncio: the thread state's or `_current_tasks`' entry; trio: the one whose coroutine executes).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub running: Option<Key>,
    /// The task that it runs for, and ends with (asyncio: `run_until_complete`'s; trio: `trio.run`'s).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub main: Option<Key>,
    /// It waits for a timer, the outside or another thread: nothing runs and nothing is ready to. Absent where that cannot
    /// be told: loops that are not written in Python, or whose thread ran while it was read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle: Option<bool>,
    /// Tasks (trio: `runq` and calls from other threads) or callbacks (asyncio: `_ready`) that are ready to run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready: Option<u64>,
    /// `stop()` was called: it ends when it has come round once more (asyncio: `_stopping`).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stopping: bool,
    /// Timers that are set: callbacks in asyncio's `_scheduled` that are not cancelled, trio's deadlines in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timers: Option<u64>,
    /// Milliseconds until the next timer; negative when it is overdue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_timer_ms: Option<i64>,
    /// It runs inside of another event loop, or of anyio's pytest plugin (trio's guest mode): another thread waits for the outside
    /// in its stead.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub guest: bool,
    /// Tasks came, went or ran while they were read: what is told of them may be of different moments.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub moving: bool,
    /// Its tasks that have not ended, oldest first as far as that is known.
    // Those that are as they were in the sample before are shared with it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tasks: Vec<Arc<Task>>,
}

/// Libraries that have tasks.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum TaskLibrary {
    /// trio.
    Trio,
    /// asyncio of the standard library, with any event loop.
    Asyncio,
}

/// A task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Task {
    /// Its key.
    pub key: Key,
    /// Its name. An asyncio task that was never asked for it has a number, shown as asyncio would.
    pub name: Foreign,
    /// What it does.
    pub state: TaskState,
    /// One of the library's own (trio: the init task, and what that has started besides the main task).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub system: bool,
    /// The task whose nursery it runs in (trio).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<Key>,
    /// That nursery.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nursery: Option<Addr>,
    /// Its frames, innermost first: the coroutines that await each other, and of a running task also the functions that
    /// they have called.
    // Tasks at the same place share them.
    #[serde(default, skip_serializing_if = "is_empty")]
    pub frames: Arc<[Frame]>,
    /// What it waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub awaits: Option<Await>,
    /// The cancel scopes that it is in, innermost first (trio's cancel scopes, asyncio's `timeout` blocks).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<CancelScope>,
    /// A cancellation is due: trio, effectively cancelled; asyncio, `cancel()` was called and not taken back.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cancelled: bool,
    /// How often `cancel()` was called on it and not taken back (asyncio 3.11+): one that waits on has swallowed them.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub cancel_requests: u32,
    /// Waits in a way that a cancellation does not end (trio: it has no abort function, or that has refused).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub uncancellable: bool,
}

/// What a task does.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum TaskState {
    /// Runs now, on the event loop's thread.
    Running,
    /// Will run as soon as its turn comes.
    Ready,
    /// Waits.
    Waiting,
}

/// What a task waits for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Await {
    /// The library call in the program's own terms (`trio.Event.wait`, `asyncio.Queue.get`): the outermost function of the
    /// library that the program's own code awaits. Absent where the program awaits an object of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub call: Option<Foreign>,
    /// The object, with what it says of itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<WaitObject>,
    /// Tasks whose end it waits for: a nursery's or task group's, those of `gather` or `wait`, an awaited task.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tasks: Vec<Key>,
    /// Who holds what it waits for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub holders: Vec<TaskHolder>,
    /// The thread that does what it waits for (`to_thread.run_sync`, `run_in_executor`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thread: Option<Key>,
    /// The thread state of that thread.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thread_state: Option<Addr>,
    /// The file descriptor that is to become ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub descriptor: Option<i32>,
    /// Milliseconds until the wait ends by itself, or is cancelled by a deadline; negative when that is overdue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remaining_ms: Option<i64>,
    /// Tasks, threads and event loops (that is, their callbacks and timers) whose code was followed to the end without coming to
    /// what is awaited: they are not going to act on it. Others may, or could not be followed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub out_of_reach: Vec<Key>,
    /// How the claim came about.
    pub grade: Grade,
}

/// A task that holds what another waits for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TaskHolder {
    /// The task; absent when it has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<Key>,
    /// What says so: `owner-field` (trio's `Lock._owner`, a limiter's borrowers) or `with-block`.
    pub by: HolderEvidence,
    /// The function that took it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<Foreign>,
    /// How the claim came about.
    pub grade: Grade,
}

/// A cancel scope, or a `timeout` block.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CancelScope {
    /// Where it is.
    pub address: Addr,
    /// Milliseconds until its deadline; negative when that has passed. Absent without one, or with a clock of the
    /// program's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_ms: Option<i64>,
    /// Cancellations from outside stop at it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub shield: bool,
    /// `cancel()` was called, or its deadline has passed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cancel_called: bool,
    /// What is inside is cancelled: by itself, or from outside.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cancelled: bool,
    /// The function that is in its `with` block.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<Foreign>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_zero(count: &u32) -> bool {
    *count == 0
}

fn is_empty(frames: &Arc<[Frame]>) -> bool {
    frames.is_empty()
}

impl EventLoop {
    /// Lets go of tasks that are as they were in an earlier sample, in favour of those.
    pub(super) fn share_tasks(&mut self, earlier: &Self) {
        let by_key: HashMap<&Key, &Arc<Task>> =
            earlier.tasks.iter().map(|task| (&task.key, task)).collect();
        for task in &mut self.tasks {
            if let Some(known) = by_key.get(&task.key)
                && *known == task
            {
                *task = Arc::clone(known);
            }
        }
    }

    /// The task with this key.
    #[must_use]
    pub fn task(&self, key: &Key) -> Option<&Task> {
        self.tasks
            .iter()
            .find(|task| &task.key == key)
            .map(Arc::as_ref)
    }

    /// Number of tasks that wait.
    #[must_use]
    pub fn parked(&self) -> usize {
        self.tasks
            .iter()
            .filter(|task| task.state == TaskState::Waiting)
            .count()
    }

    /// It is idle, and no timer will wake it: only the outside or another thread can.
    #[must_use]
    pub fn is_idle_without_timer(&self) -> bool {
        self.idle == Some(true) && self.timers == Some(0)
    }
}

impl Await {
    /// One that nothing is known of yet.
    #[must_use]
    pub fn unknown() -> Self {
        Self {
            call: None,
            object: None,
            tasks: Vec::new(),
            holders: Vec::new(),
            thread: None,
            thread_state: None,
            descriptor: None,
            remaining_ms: None,
            out_of_reach: Vec::new(),
            grade: Grade::Derived,
        }
    }
}
