//! Which threads of the whole process tree may ever go on. One that waits goes on if something that can end its wait does:
//! another thread of its process, the process at the other end of its pipe, its child. What nothing live can reach is
//! stuck, however many processes wait for each other.

use super::case::{self, Case, Standing};
use super::task_liveness::{LiveLoops, is_poller, poller_for, tasks_out_of_reach};
use super::{polling, tracker, wait_graph};
use crate::model::{
    ChildState, Descriptor, FileKind, Grade, Holder, HolderEvidence, Key, Peer, Pid, Process,
    SocketState, Task, Thread, ThreadKind, Wait, WaitKind,
};
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
        let mut servers: BTreeSet<&Key> = BTreeSet::new();
        let mut runners: BTreeSet<&Key> = BTreeSet::new();
        for process in &case.last.processes {
            // The handlers of programs that are not Python clean up and end them, as a signal without a handler does.
            let caught = process.python.is_some() && case.waking_signal(process).is_some();
            let native = process.is_known_native();
            for thread in &process.threads {
                let told = native && may_be_told(process, thread);
                let by = if (caught || told) && !case::is_bystander(thread) {
                    Enders::World
                } else {
                    look.enders(process, thread)
                };
                enders.insert(&thread.key, (&process.key, by));
                if look.serves_own(process, thread) || case::accepts_for_manager(thread) {
                    servers.insert(&thread.key);
                }
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
            .filter(|(thread, (_, by))| *by != Enders::Bystander && !live_threads.contains(*thread))
            // Nobody is left to connect to it, but what it waits for is not what is missing.
            .filter(|(thread, _)| !servers.contains(*thread))
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

/// The other end, if somebody was found there. Who may have it as well out of our sight is of another user, and got it from one
/// of these: that is rare enough.
fn known_peer(file: &Descriptor) -> Option<&Peer> {
    let peer = file.peer.as_ref()?;
    let anybody = !peer.processes.is_empty() || !peer.own.is_empty();
    anybody.then_some(peer)
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

/// Whether a mutex notes its own waiter as the owner: as a rule a thread that locks twice, but some are locked by one thread
/// as a gate that another one opens.
fn is_own_note(thread: &Thread, wait: &Wait) -> bool {
    wait_graph::holder(wait).is_some_and(|holder| {
        holder.by == HolderEvidence::PthreadMutex && holder.thread.as_ref() == Some(&thread.key)
    })
}

fn is_resting_native(thread: &Thread) -> bool {
    thread.kind == ThreadKind::Native && thread.kernel.state == "S"
}

/// What the question needs of all processes.
struct Look<'a, 'c> {
    case: &'c Case<'a>,
    by_pid: BTreeMap<Pid, &'a Key>,
    pythons: Vec<&'a Key>,
}

impl<'a, 'c> Look<'a, 'c> {
    fn new(case: &'c Case<'a>) -> Self {
        let last = case.last;
        Self {
            case,
            by_pid: last
                .processes
                .iter()
                .map(|process| (process.pid, &process.key))
                .collect(),
            pythons: last
                .processes
                .iter()
                .filter(|process| process.python.is_some())
                .map(|process| &process.key)
                .collect(),
        }
    }

    fn enders(&self, process: &'a Process, thread: &'a Thread) -> Enders<'a> {
        if case::is_bystander(thread) {
            return Enders::Bystander;
        }
        if let Some(asked) = polling::asked(self.case, process, thread) {
            return Enders::Any(Others {
                threads: asked.threads,
                processes: asked.processes,
                ..Others::default()
            });
        }
        let Some(wait) = &thread.wait else {
            return Enders::World;
        };
        // Any process that has a proxy may connect.
        if case::accepts_for_manager(thread) {
            let others = self.pythons.iter().copied();
            return Enders::Any(Others {
                processes: others.filter(|key| **key != process.key).collect(),
                ..Others::default()
            });
        }
        if self.serves_own(process, thread) {
            let accepting = process.threads.iter().filter(|other| case::accepts(other));
            return Enders::Any(Others {
                own: true,
                except: accepting.map(|other| &other.key).collect(),
                ..Others::default()
            });
        }
        if let Some(poller) = poller_for(process, thread) {
            return match &poller.wait {
                Some(wait) => self.outside(process, thread, wait),
                None => Enders::World,
            };
        }
        if is_poller(process, thread) {
            return Enders::Bystander;
        }
        match self.case.standing(thread) {
            Standing::Internal => Enders::Any(match self.only_thread(process, thread, wait) {
                Some(only) if !is_own_note(thread, wait) => Others {
                    threads: vec![only],
                    ..Others::default()
                },
                _ => Others {
                    threads: wait.task.iter().collect(),
                    own: true,
                    except: self.out_of_reach(process, thread, wait),
                    ..Others::default()
                },
            }),
            Standing::External => self.outside(process, thread, wait),
            Standing::Timed | Standing::FarOff(_)
                if case::idle_loop_of(process, thread).is_some() =>
            {
                self.outside(process, thread, wait)
            }
            Standing::Timed | Standing::FarOff(_)
                if process.python.is_some() && case::is_watchdog(thread) =>
            {
                Enders::Bystander
            }
            // A library's own thread that could not be judged rarely wakes Python code.
            Standing::Unclear if is_resting_native(thread) => Enders::Bystander,
            _ => Enders::World,
        }
    }

    /// Whether a thread accepts connections, and only from other threads of its process: that runs a test, or its main thread is
    /// such a client, and it has no children that might be.
    fn serves_own(&self, process: &Process, thread: &Thread) -> bool {
        let is_own = |file: &Descriptor| {
            let peer = file.peer.as_ref();
            peer.is_some_and(|peer| !peer.own.is_empty() && !peer.closed)
        };
        let is_client = |thread: &Thread| {
            let files = thread
                .wait
                .iter()
                .flat_map(|wait| wait.descriptor.iter().chain(&wait.files));
            process.is_led_by(thread) && files.into_iter().any(is_own)
        };
        let mut all = self.case.last.processes.iter();
        let childless = all.all(|other| other.ppid != process.pid);
        // It is about to accept one.
        let queued = |file: &Descriptor| file.peer.as_ref().is_some_and(|peer| peer.unaccepted);
        let waits = process
            .threads
            .iter()
            .filter_map(|thread| thread.wait.as_ref());
        let mut files = waits.flat_map(|wait| wait.descriptor.iter().chain(&wait.files));
        case::accepts(thread)
            && !files.any(queued)
            && childless
            && (process.test.is_some() || process.threads.iter().any(is_client))
    }

    /// The threads that cannot come to what is waited for: most samples say so, as a thread that ran meanwhile cannot be
    /// followed, and none that it could.
    ///
    /// Not asked of events of a main thread outside of tests: it may be parked on one that only Ctrl-C ends, while others do the
    /// work.
    fn out_of_reach(
        &self,
        process: &Process,
        thread: &Thread,
        wait: &'a Wait,
    ) -> BTreeSet<&'a Key> {
        if process.is_known_native() {
            return self.out_of_native_reach(process, thread, wait);
        }
        let object = wait.object.as_ref();
        let is_event = object.is_none_or(|object| object.type_name.untrusted().ends_with("Event"));
        if is_event && process.test.is_none() && process.is_led_by(thread) {
            return BTreeSet::new();
        }
        let samples = self.case.samples.len();
        let mut often: BTreeMap<&Key, usize> = BTreeMap::new();
        for view in self.case.views(&thread.key) {
            let same = view
                .wait
                .as_ref()
                .filter(|then| then.address == wait.address);
            for key in same.into_iter().flat_map(|then| &then.out_of_reach) {
                *often.entry(key).or_default() += 1;
            }
        }
        // One that comes to it and will do nothing is among both.
        let reaches = |key: &Key| {
            let mut waits = self
                .case
                .views(&thread.key)
                .filter_map(|view| view.wait.as_ref());
            waits.any(|wait| {
                let suspected = |suspect: &Holder| suspect.thread.as_ref() == Some(key);
                wait.suspects.iter().any(suspected) && !wait.out_of_reach.contains(key)
            })
        };
        often
            .into_iter()
            .filter(|(key, times)| samples > 1 && times * 2 > samples && !reaches(key))
            .map(|(key, _)| key)
            .chain(tasks_out_of_reach(self.case, thread, wait))
            .collect()
    }

    /// The same by native stacks, which are taken once. Of a mutex that notes the waiter itself any thread that is out of reach
    /// will do. Otherwise only one that rests between what it does by the clock: another may have a lock that notes nobody, or
    /// be what the program is there for while its main thread waits for ever.
    fn out_of_native_reach(
        &self,
        process: &Process,
        thread: &Thread,
        wait: &'a Wait,
    ) -> BTreeSet<&'a Key> {
        let parked = wait
            .call
            .as_ref()
            .is_some_and(|call| call.untrusted() == "thread::park");
        if self.case.samples.len() < 2 || (parked && process.test.is_none()) {
            return BTreeSet::new();
        }
        let by_clock = |key: &Key| {
            let other = process.thread(key).and_then(|thread| thread.wait.as_ref());
            other.is_some_and(|other| {
                other.timed == Some(true) && other.files.is_empty() && other.descriptor.is_none()
            })
        };
        let noted = is_own_note(thread, wait);
        let keys = wait.out_of_reach.iter();
        keys.filter(|key| noted || by_clock(key)).collect()
    }

    /// Who alone can end a wait for a thread's end, or for a lock that knows its owner.
    fn only_thread(
        &self,
        process: &'a Process,
        waiter: &Thread,
        wait: &'a Wait,
    ) -> Option<&'a Key> {
        if wait.kind == WaitKind::ThreadExit {
            let target = wait.target.as_ref()?;
            return Some(&process.thread(target)?.key);
        }
        let holder = wait_graph::holder(wait)?;
        // Who waits for a plain lock in a block of it may use it as a signal, which another thread gives.
        let itself = holder.thread.as_ref() == Some(&waiter.key);
        let owned = wait.kind == WaitKind::RLock
            || matches!(
                holder.by,
                HolderEvidence::OwnerField | HolderEvidence::ImportLock
            )
            || holder.by.is_native()
            // Any thread may release a plain lock, but whoever took it by `with` does.
            || (holder.by == HolderEvidence::WithBlock && holder.grade == Grade::Read && !itself);
        let thread = process.thread(holder.thread.as_ref()?)?;
        owned.then_some(&thread.key)
    }

    /// A wait that something outside of the process may end.
    fn outside(&self, process: &'a Process, thread: &'a Thread, wait: &'a Wait) -> Enders<'a> {
        let mut files: Vec<&Descriptor> = Vec::new();
        let mut processes = Vec::new();
        match wait.kind {
            WaitKind::Read | WaitKind::Write => files.extend(wait.descriptor.as_ref()),
            WaitKind::Poll if wait.files_in_all.is_none() => files.extend(&wait.files),
            WaitKind::FileLock => {
                let holder = wait.descriptor.as_ref().and_then(|file| file.peer.as_ref());
                let holder = holder.and_then(|peer| peer.processes.first());
                return match holder.and_then(|pid| self.by_pid.get(pid)) {
                    Some(key) => Enders::Any(Others {
                        processes: vec![*key],
                        ..Others::default()
                    }),
                    None => Enders::World,
                };
            }
            WaitKind::SharedFutex
                if wait.timed == Some(false)
                    && process.python.is_some()
                    && wait.shared_with.is_empty() =>
            {
                return Enders::Any(Others {
                    processes: self.pythons.clone(),
                    own: true,
                    ..Others::default()
                });
            }
            WaitKind::Child => {
                let Some(child) = &wait.child else {
                    return Enders::World;
                };
                for child in &child.children {
                    match (child.state, child.pid.and_then(|pid| self.by_pid.get(&pid))) {
                        (ChildState::Alive, Some(key)) => processes.push(*key),
                        _ => return Enders::World,
                    }
                }
                if processes.is_empty() {
                    return Enders::World;
                }
                return Enders::Any(Others {
                    processes,
                    own: true,
                    except: self.out_of_reach(process, thread, wait),
                    ..Others::default()
                });
            }
            _ => return Enders::World,
        }
        // A server's socket in the set wakes the loop, but a task that reads from its own process waits on.
        let listens = |file: &&Descriptor| file.state == Some(SocketState::Listen);
        let connected = files.iter().any(|file| known_peer(file).is_some());
        let reads = case::idle_loop_of(process, thread).is_some_and(tracker::awaits_a_stream);
        if connected && reads {
            files.retain(|file| !listens(file));
        }
        if files.is_empty() {
            return Enders::World;
        }
        let mut except = BTreeSet::new();
        for file in files {
            match self.at_other_end(process, file) {
                Some(more) => processes.extend(more),
                None => return Enders::World,
            }
            // Who waits for new connections has accepted this one already, and does no more about it.
            let accepted = file.peer.as_ref().is_some_and(|peer| !peer.unaccepted);
            let is_socket = matches!(file.kind, Some(FileKind::TcpSocket | FileKind::UnixSocket));
            if is_socket && accepted {
                let accepting = process.threads.iter().filter(|other| case::accepts(other));
                except.extend(accepting.map(|other| &other.key));
            }
        }
        for key in &processes {
            except.extend(self.strangers_to(key, process));
        }
        Enders::Any(Others {
            processes,
            own: true,
            except,
            ..Others::default()
        })
    }

    /// Threads of a parent that cannot come to the object by which it knows this child, and so not to its pipes.
    fn strangers_to(&self, parent: &Key, child: &Process) -> BTreeSet<&'a Key> {
        let Some(parent) = self.case.last.process(parent) else {
            return BTreeSet::new();
        };
        let waits_for_it = |wait: &&Wait| {
            let children = wait.child.iter().flat_map(|child| &child.children);
            wait.kind == WaitKind::Child
                && children.into_iter().any(|one| one.pid == Some(child.pid))
        };
        let waiter = parent.threads.iter().find_map(|thread| {
            let wait = thread.wait.as_ref().filter(waits_for_it)?;
            Some((thread, wait))
        });
        waiter.map_or_else(BTreeSet::new, |(thread, wait)| {
            self.out_of_reach(parent, thread, wait)
        })
    }

    /// The other processes that can make something happen on a file; `None` where that may be one that is not known.
    fn at_other_end(&self, process: &Process, file: &Descriptor) -> Option<Vec<&'a Key>> {
        if file.is_internal() {
            return Some(Vec::new());
        }
        if file.state == Some(SocketState::Listen) {
            return None;
        }
        let pids: Vec<Pid> = match file.kind? {
            FileKind::Pipe => known_peer(file)?.processes.clone(),
            FileKind::UnixSocket | FileKind::TcpSocket => {
                let peer = known_peer(file)?;
                let also = file.also_open_in.iter().flatten();
                peer.processes.iter().chain(also).copied().collect()
            }
            FileKind::Pidfd => {
                let child = file.process.as_ref()?;
                vec![child.pid.filter(|_| child.state == ChildState::Alive)?]
            }
            FileKind::Eventfd => file.also_open_in.clone()?,
            _ => return None,
        };
        if file.peer.as_ref().is_some_and(|peer| peer.closed) {
            return None;
        }
        pids.into_iter()
            .filter(|pid| *pid != process.pid)
            .map(|pid| self.by_pid.get(&pid).copied())
            .collect()
    }
}
