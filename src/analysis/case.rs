//! The samples, with what all detectors need of them worked out once.

use super::liveness::Liveness;
use super::roles;
use super::{progress, wait_graph};
use crate::model::{
    Evidence, Grade, Interpreter, Key, Motion, Pid, Process, Reference, Run, Snapshot, Task,
    Thread, ThreadProgress, ThreadState, Trigger, Wait, WaitEdge, WaitKind,
};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Longest line of parents that is followed.
const MAX_DEPTH: usize = 1000;
/// A sleep that ends within this time is taken for a pause, not for a hang.
const SHORT_WAIT_MS: u64 = 60_000;

/// What keeps a thread from going on, judged over all samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// Its stack changes, or it uses CPU.
    Active,
    /// The machine gives it no CPU.
    Starved,
    /// Waits for something that only code of its own process can do, without a deadline.
    Internal,
    /// Waits for a GIL.
    Gil,
    /// Waits with a deadline that is near, or not known.
    Timed,
    /// Sleeps or waits until a time that is far off (milliseconds left).
    FarOff(u64),
    /// Waits for something from outside: data, a connection, a child, a signal.
    External,
    /// Stopped, traced, or not readable.
    Unclear,
}

/// Signals that are caught without the program's doing: INT by Python, those of crashes by faulthandler (ILL, ABRT, BUS,
/// FPE, SEGV), WINCH by the readline library. The handler of any other may wake a thread.
const PYTHONS_OWN_SIGNALS: [i32; 7] = [2, 4, 6, 7, 8, 11, 28];
/// ILL, TRAP, ABRT, BUS, FPE, SEGV (Rust's runtime catches two of them), PIPE, CHLD, WINCH.
const NATIVE_CRASH_SIGNALS: [i32; 9] = [4, 5, 6, 7, 8, 11, 13, 17, 28];
/// glibc's own and real-time signals come after it.
const LAST_STANDARD_SIGNAL: i32 = 31;
/// Signals from here on are for programs; before come glibc's own.
const FIRST_REALTIME_SIGNAL: i32 = 34;

/// Newest CPython minor version whose sub-interpreters' thread states may name the wrong thread.
const LAST_MINOR_WITH_CREATORS_IDS: u8 = 12;

/// Whether a wait can be ended by something outside of a set of threads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Closure {
    /// No: all other threads wait, without a deadline, for things of the same process.
    Closed,
    /// This thread goes on or waits for events, and may wake others.
    OpenThread(Key),
    /// The process catches this signal, and the handler may wake a thread.
    OpenSignal(i32),
    /// This thread goes on, and was found not to come to what is waited for.
    OutOfReach(Key),
    /// Some thread could not be judged.
    Unclear,
}

/// The samples of a report, indexed.
pub(super) struct Case<'a> {
    pub(super) samples: &'a [Snapshot],
    pub(super) last: &'a Snapshot,
    /// The tasks of each sample: there may be ten thousands that wait for one another.
    tasks: Vec<HashMap<&'a Key, &'a Task>>,
    pub(super) edges: Vec<WaitEdge>,
    pub(super) progress: BTreeMap<Key, ThreadProgress>,
    /// The run is over its limit: what may be a hang is worth telling, where a look at a process that nobody
    /// complains of had better be silent.
    pub(super) overdue: bool,
    /// The watched run that the processes belong to.
    run: Option<&'a Run>,
    /// Who of the whole tree may ever go on.
    pub(super) liveness: Liveness,
}

impl<'a> Case<'a> {
    pub(super) fn new(
        samples: &'a [Snapshot],
        trigger: &Trigger,
        run: Option<&'a Run>,
    ) -> Option<Self> {
        let last = samples.last()?;
        let mut case = Self {
            samples,
            last,
            tasks: samples.iter().map(tasks_of).collect(),
            edges: wait_graph::edges(samples),
            progress: progress::of(samples),
            overdue: trigger.is_overdue(),
            run,
            liveness: Liveness::default(),
        };
        case.liveness = Liveness::of(&case);
        Some(case)
    }

    /// Whether any thread of any process has a stack, of Python or a native one.
    pub(super) fn has_stacks(&self) -> bool {
        self.samples
            .iter()
            .flat_map(|sample| &sample.processes)
            .flat_map(|process| &process.threads)
            .any(|thread| !thread.python.is_empty() || thread.native.is_some())
    }

    /// A fact that a finding rests on, with the places in the last sample that show it.
    pub(super) fn fact(&self, grade: Grade, text: String, at: &[(&Key, &str)]) -> Evidence {
        Evidence {
            text: text.into(),
            grade,
            at: at
                .iter()
                .map(|(key, field)| Reference {
                    sample: self.samples.len() - 1,
                    key: (*key).clone(),
                    field: (*field).to_owned(),
                })
                .collect(),
        }
    }

    /// The watched run that the processes belong to.
    pub(super) fn run(&self) -> Option<&'a Run> {
        self.run
    }

    /// The processes of which it is known which thread runs what.
    pub(super) fn judgeable(&self) -> impl Iterator<Item = &'a Process> {
        self.last
            .processes
            .iter()
            .filter(|process| is_judgeable(process))
    }

    /// Whether nothing in a process can ever go on: all its threads wait, without a deadline, for things of the same process.
    pub(super) fn is_at_a_standstill(&self, process: &Process) -> bool {
        let runs_python = process
            .threads
            .iter()
            .any(|thread| !thread.python.is_empty());
        let stuck = |thread: &Thread| {
            self.standing_in_tree(thread) == Standing::Internal || roles::idles_in_pool(thread)
        };
        self.has_motion()
            && runs_python
            && self.waking_signal(process).is_none()
            && process.threads.iter().all(stuck)
            && !process.threads.iter().all(roles::idles_in_pool)
            && !rests_until_cancelled(process)
    }

    /// Whether there is more than one look: with one, slow and stuck look alike.
    pub(super) fn has_motion(&self) -> bool {
        self.samples.len() > 1
    }

    /// Time from the first to the last sample, in milliseconds.
    pub(super) fn span_ms(&self) -> u64 {
        let first = self.samples.first().map_or(0, |sample| sample.at_ms);
        self.last.at_ms.saturating_sub(first)
    }

    pub(super) fn motion(&self, thread: &Key) -> Motion {
        self.progress
            .get(thread)
            .map_or(Motion::Unknown, |progress| progress.motion)
    }

    pub(super) fn cpu_percent(&self, thread: &Key) -> Option<u32> {
        self.progress.get(thread)?.cpu_percent
    }

    /// What keeps a thread of the last sample from going on.
    pub(super) fn standing(&self, thread: &Thread) -> Standing {
        match self.motion(&thread.key) {
            Motion::Moving | Motion::Busy | Motion::Looping | Motion::Stirring => {
                return Standing::Active;
            }
            Motion::Starved => return Standing::Starved,
            Motion::Still | Motion::Unknown => {}
        }
        if matches!(thread.kernel.state.as_str(), "T" | "t" | "Z" | "X") {
            return Standing::Unclear;
        }
        if self.gil_wanted_by(&thread.key).is_some() {
            return Standing::Gil;
        }
        match &thread.wait {
            Some(wait) => standing_of_wait(wait),
            None if thread.kernel.state == "R" => Standing::Active,
            None => Standing::Unclear,
        }
    }

    /// The same with regard to the other processes: a wait for one that can never go on is as good as one for a thing of its
    /// own process.
    pub(super) fn standing_in_tree(&self, thread: &Thread) -> Standing {
        match self.standing(thread) {
            // An active one that is stuck asks again and again whether others have ended.
            Standing::External | Standing::Timed | Standing::FarOff(_) | Standing::Active
                if self.liveness.is_stuck(&thread.key) =>
            {
                Standing::Internal
            }
            standing => standing,
        }
    }

    /// Whether anything in the process but the threads in `known` can do something about what those wait for.
    pub(super) fn closure(&self, process: &Process, known: &BTreeSet<&Key>) -> Closure {
        self.closure_but_for(process, known, |_| false)
    }

    /// The same where it is known of some threads, beyond what they wait for, that they will do nothing.
    pub(super) fn closure_but_for(
        &self,
        process: &Process,
        known: &BTreeSet<&Key>,
        will_do_nothing: impl Fn(&Thread) -> bool,
    ) -> Closure {
        let mut closure = Closure::Closed;
        let all_stuck = known.iter().all(|key| self.liveness.is_stuck(key));
        for thread in &process.threads {
            if known.contains(&thread.key) || roles::is_bystander(thread) || will_do_nothing(thread)
            {
                continue;
            }
            match self.standing_in_tree(thread) {
                Standing::Internal => {}
                Standing::Timed | Standing::FarOff(_) if roles::is_watchdog(thread) => {
                    closure = Closure::Unclear;
                }
                Standing::Unclear => closure = Closure::Unclear,
                _ if all_stuck && self.has_motion() => {
                    closure = Closure::OutOfReach(thread.key.clone());
                }
                _ => return Closure::OpenThread(thread.key.clone()),
            }
        }
        match (closure, self.waking_signal(process)) {
            (Closure::Closed, Some(signal)) => Closure::OpenSignal(signal),
            (closure, _) => closure,
        }
    }

    /// A signal whose handler may wake a thread; not the one that hangscope's own plugin takes.
    pub(super) fn waking_signal(&self, process: &Process) -> Option<i32> {
        let ours = self.run.and_then(|run| run.process(&process.key)?.signal);
        let python = process.python.as_ref();
        let signals = python.and_then(|python| python.signals.as_ref());
        let handled = signals.map_or(&[][..], |signals| &signals.handled);
        let watchdogs = signals.map_or(&[][..], |signals| &signals.watchdogs);
        process.caught_signals.iter().copied().find(|signal| {
            if watchdogs.contains(signal) {
                return false;
            }
            if handled.contains(signal) {
                return Some(*signal) != ours;
            }
            let standard = (1..=LAST_STANDARD_SIGNAL).contains(signal);
            let may_wake = (standard && !PYTHONS_OWN_SIGNALS.contains(signal))
                || *signal >= FIRST_REALTIME_SIGNAL;
            may_wake && Some(*signal) != ours
        })
    }

    /// The same of a program that is not Python: a handler of its own for anything but a crash or a child's end, which
    /// may be how it is told to go on.
    pub(super) fn native_waking_signal(process: &Process) -> Option<i32> {
        let mut caught = process.caught_signals.iter().copied();
        caught.find(|signal| {
            !NATIVE_CRASH_SIGNALS.contains(signal)
                && ((1..=LAST_STANDARD_SIGNAL).contains(signal) || *signal >= FIRST_REALTIME_SIGNAL)
        })
    }

    /// The pids of the processes above one, nearest first, as far as they are in the last sample.
    pub(super) fn ancestors(&self, pid: Pid) -> impl Iterator<Item = Pid> {
        let processes = &self.last.processes;
        let parent = move |of: &Pid| {
            let child = processes.iter().find(|process| process.pid == *of)?;
            let parent = processes.iter().find(|process| process.pid == child.ppid)?;
            Some(parent.pid)
        };
        std::iter::successors(parent(&pid), parent).take(MAX_DEPTH)
    }

    /// The parent that a process is a copy of, without an exec since.
    pub(super) fn forked_from(&self, process: &Process) -> Option<&'a Process> {
        self.last.processes.iter().find(|parent| {
            parent.pid == process.ppid
                && parent.runtime == process.runtime
                && !process.argv.is_empty()
                && parent.argv == process.argv
                && process.threads.len() == 1
        })
    }

    /// The GIL that a thread waits for in most of the samples. Not in all: a waiter wakes every few milliseconds to ask
    /// for it, and may be seen doing that.
    pub(super) fn gil_wanted_by(&self, thread: &Key) -> Option<&'a Key> {
        let wanted: Vec<&Key> = self
            .views(thread)
            .filter_map(|view| view.wait.as_ref())
            .filter(|wait| wait.kind == WaitKind::Gil)
            .filter_map(|wait| wait.target.as_ref())
            .collect();
        let enough = wanted.len() * 2 > self.samples.len();
        wanted.last().copied().filter(|_| enough)
    }

    /// All samples' views of a thread.
    pub(super) fn views(&self, thread: &Key) -> impl Iterator<Item = &'a Thread> {
        self.samples
            .iter()
            .filter_map(move |sample| sample.thread(thread))
    }

    /// All samples' views of a task.
    pub(super) fn task_views(&self, task: &Key) -> impl Iterator<Item = &'a Task> {
        let views = self.tasks.iter();
        views.filter_map(move |tasks| tasks.get(task).copied())
    }

    /// A task of the last sample.
    pub(super) fn task(&self, key: &Key) -> Option<&'a Task> {
        self.tasks.last()?.get(key).copied()
    }

    /// The thread that waits for the end of `thread` or for what it holds, directly or through others.
    pub(super) fn affected_by(&self, threads: &[&Key], except: &[&Key]) -> Vec<Key> {
        wait_graph::upstream(&self.edges, threads)
            .into_iter()
            .filter(|key| key.as_str().contains("/t") && !except.contains(&key))
            .collect()
    }
}

fn tasks_of(sample: &Snapshot) -> HashMap<&Key, &Task> {
    let loops = sample.processes.iter().flat_map(|it| &it.event_loops);
    let tasks = loops.flat_map(|event_loop| &event_loop.tasks);
    tasks.map(|task| (&task.key, task.as_ref())).collect()
}

/// The thread of another process, a parent, that a lock notes as its owner: who was forked has the note, and not the thread.
pub(super) fn owner_in<'p>(parent: &'p Process, wait: &Wait) -> Option<&'p Thread> {
    let ident = wait.owner.as_ref()?.ident;
    let has = |thread: &&Thread| thread.python.iter().any(|state| state.ident == ident);
    parent.threads.iter().find(has)
}

/// Up to 3.12 the thread state of a sub-interpreter names the thread that made it, whichever thread runs it; unless the other
/// was found out, a verdict would accuse the wrong one.
pub(super) fn is_judgeable(process: &Process) -> bool {
    let misleading = process.python.as_ref().is_some_and(|python| {
        python.minor <= LAST_MINOR_WITH_CREATORS_IDS && !python.running_threads_known
    });
    !(misleading && process.interpreters.len() > 1)
}

/// Whether a task sleeps for ever: it rests until it is cancelled, by Ctrl-C for one, and was made for that.
fn rests_until_cancelled(process: &Process) -> bool {
    let tasks = process
        .event_loops
        .iter()
        .flat_map(|event_loop| &event_loop.tasks);
    tasks
        .filter_map(|task| task.awaits.as_ref()?.call.as_ref())
        .any(|call| call.untrusted().ends_with("sleep_forever"))
}

fn standing_of_wait(wait: &Wait) -> Standing {
    match wait.kind {
        WaitKind::Gil => return Standing::Gil,
        WaitKind::Read | WaitKind::Write if wait.is_internal() => return Standing::Internal,
        kind if kind.is_internal() && wait.timed == Some(false) => return Standing::Internal,
        _ => {}
    }
    let left = match wait.kind {
        // Its files may end it at any time.
        WaitKind::Poll => None,
        _ => wait.remaining_ms.or(wait.length_ms),
    };
    match left {
        Some(left) if left >= SHORT_WAIT_MS => Standing::FarOff(left),
        _ if wait.timed == Some(true) || wait.kind.is_internal() => Standing::Timed,
        _ => Standing::External,
    }
}

/// The interpreters of a process that are being ended, each with the thread that ends it and its thread state there:
/// one that CPython (3.13+) makes for the purpose. Before, thread states do not tell which thread it is.
pub(super) fn destroyers(process: &Process) -> Vec<(&Interpreter, &Thread, &ThreadState)> {
    let mut out = Vec::new();
    for interpreter in &process.interpreters {
        for thread in &process.threads {
            let ends_it = |state: &&ThreadState| {
                state.interpreter == interpreter.key && state.whence.as_deref() == Some("fini")
            };
            if let Some(state) = thread.python.iter().find(ends_it) {
                out.push((interpreter, thread, state));
            }
        }
    }
    out
}
