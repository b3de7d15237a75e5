//! Which threads of the whole process tree may ever go on. One that waits goes on if something that can end its wait does:
//! another thread of its process, the process at the other end of its pipe, its child. What nothing live can reach is
//! stuck, however many processes wait for each other.

mod look;
mod outside;
mod reach;

use crate::analysis::case::Case;
use crate::analysis::roles;
use crate::analysis::task_liveness::LiveLoops;
use crate::model::{Key, Process, Task, Thread, Wait, WaitKind};
use look::Look;
use std::collections::{BTreeMap, BTreeSet};

/// Who can end a thread's wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Enders<'a> {
    /// It goes on by itself, or something that is not in the snapshot may end its wait.
    World,
    /// It has nothing to do and nothing to give: an idle pool worker, the test runner's own threads.
    Bystander,
    /// Any of these.
    Any(Others<'a>),
}

impl Enders<'_> {
    /// Whether a thread that nobody wakes any more misses nothing.
    fn is_idle(&self) -> bool {
        match self {
            Self::World => false,
            Self::Bystander => true,
            Self::Any(others) => others.clients,
        }
    }
}

/// Threads that can end a wait.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Others<'a> {
    /// Threads or tasks.
    pub(super) threads: Vec<&'a Key>,
    /// Any thread of these processes.
    pub(super) processes: Vec<&'a Key>,
    /// Any other thread of the own process,
    pub(super) own: bool,
    /// but for these.
    pub(super) except: BTreeSet<&'a Key>,
    /// They are clients: without them the thread has nothing to do, but what it waits for is not what is missing.
    pub(super) clients: bool,
}

/// The threads that can never go on, as far as the samples tell.
#[derive(Debug, Default)]
pub(super) struct Liveness {
    stuck: BTreeSet<Key>,
    /// Threads and tasks that may go on, by process.
    live: BTreeMap<Key, BTreeSet<Key>>,
}

impl Liveness {
    pub(super) fn of(case: &Case<'_>) -> Self {
        let look = Look::new(case);
        let mut enders: BTreeMap<&Key, (&Key, Enders<'_>)> = BTreeMap::new();
        let mut runners: BTreeSet<&Key> = BTreeSet::new();
        for process in &case.last.processes {
            // The handlers of programs that are not Python clean up and end them, as a signal without a handler does.
            let caught = process.python.is_some() && case.waking_signal(process).is_some();
            let native = process.is_known_native();
            for thread in &process.threads {
                let told = native && may_be_told(process, thread);
                let by = if (caught || told) && !roles::is_bystander(thread) {
                    Enders::World
                } else {
                    look.enders(process, thread)
                };
                enders.insert(&thread.key, (&process.key, by));
            }
            if !caught {
                let goes_on = |thread: &Thread| {
                    let by = enders.get(&thread.key);
                    by.is_some_and(|(_, by)| *by == Enders::World)
                };
                let loops = LiveLoops::of(case, process, goes_on);
                runners.extend(loops.threads());
                for (key, by) in loops.enders(case, process) {
                    enders.insert(key, (&process.key, by));
                }
            }
        }
        let mut live_threads: BTreeSet<&Key> = BTreeSet::new();
        let mut live: BTreeMap<&Key, BTreeSet<&Key>> = BTreeMap::new();
        loop {
            let mut grew = false;
            for (thread, (process, by)) in &enders {
                if live_threads.contains(thread) {
                    continue;
                }
                let goes_on = match by {
                    Enders::World => true,
                    Enders::Bystander => false,
                    Enders::Any(others) => {
                        let mut own_live = live.get(process).into_iter().flatten();
                        others.threads.iter().any(|key| live_threads.contains(key))
                            || others.processes.iter().any(|key| {
                                let mut threads = live.get(key).into_iter().flatten();
                                threads.any(|key| !others.except.contains(key))
                            })
                            || (others.own
                                && own_live.any(|key| {
                                    !others.except.contains(key) && !runners.contains(key)
                                }))
                    }
                };
                if goes_on {
                    live_threads.insert(thread);
                    live.entry(process).or_default().insert(thread);
                    grew = true;
                }
            }
            if !grew {
                break;
            }
        }
        let stuck = enders
            .iter()
            .filter(|(thread, (_, by))| !by.is_idle() && !live_threads.contains(*thread))
            .map(|(thread, _)| (*thread).clone())
            .collect();
        Self {
            stuck,
            live: live
                .into_iter()
                .map(|(process, threads)| (process.clone(), threads.into_iter().cloned().collect()))
                .collect(),
        }
    }

    /// Whether nothing that is known can ever end this thread's wait, or this task's beside others that go on.
    pub(super) fn is_stuck(&self, thread: &Key) -> bool {
        self.stuck.contains(thread)
    }

    /// Whether a thread may go on: not one that idles for good.
    pub(super) fn goes_on(&self, thread: &Thread) -> bool {
        let process = self.live.get(&thread.key.of_process());
        process.is_some_and(|live| live.contains(&thread.key))
    }

    /// The tasks of a process that may go on, on loops that do.
    pub(super) fn tasks_going_on<'p>(&self, process: &'p Process) -> Vec<&'p Task> {
        let live = self.live.get(&process.key);
        let tasks = process.event_loops.iter().flat_map(|it| &it.tasks);
        tasks
            .map(AsRef::as_ref)
            .filter(|task| live.is_some_and(|live| live.contains(&task.key)))
            .collect()
    }

    /// Whether some thread of this process may go on.
    pub(super) fn is_live(&self, process: &Key) -> bool {
        self.live.contains_key(process)
    }
}

/// Whether a signal handler may tell the thread to go on: not where it waits for a lock, a thread or a child, nor for what
/// another process is to write or read. Handlers end such a program (`sort` removes its files).
fn may_be_told(process: &Process, thread: &Thread) -> bool {
    let exact = |wait: &Wait| {
        matches!(
            wait.kind,
            WaitKind::Lock | WaitKind::RLock | WaitKind::ThreadExit | WaitKind::Child
        ) || (matches!(wait.kind, WaitKind::Read | WaitKind::Write) && !wait.is_internal())
    };
    Case::native_waking_signal(process).is_some() && !thread.wait.as_ref().is_some_and(exact)
}
