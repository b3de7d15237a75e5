//! One process, one sample: kernel facts before, memory, kernel facts after.

use super::facts::{arguments, last_number, read_bounded, signal_mask};
use super::files::{FileIndex, Files};
use super::kernel::{self, Stat, SyscallLine};
use super::looks::{Looker, SeenThread, Stopped};
use super::maps::{self, Maps};
use super::memory::{CachedMemory, Memory, ProcessMemory, Range, ReadError};
use super::merge::{self, RawThread};
use super::namespace::NamespaceIds;
use super::python::{self, BlockedThread, Located, PythonPart, PythonProcess, Stacks, ThreadStack};
use super::shared_locks;
use super::signals;
use super::stop::{Held, Stop};
use super::waits::Surroundings;
use super::{CaptureError, ProcessResult};
use crate::model::{Coverage, Gap, GapKind, Key, Pause, Pid, Process, RuntimeKind, Tid, Zombie};
use crate::target;
use std::collections::BTreeSet;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::PathBuf;

/// How often a changing list of threads is read anew before that is reported.
const MAX_ATTEMPTS: usize = 3;

/// Reads one process, sample after sample.
#[derive(Debug)]
pub(super) struct ProcessReader {
    pid: Pid,
    how: How,
    known: Option<Known>,
}

/// What one sample has of a process.
pub(super) struct ProcessSample {
    pub(super) process: Process,
    pub(super) gaps: Vec<Gap>,
    pub(super) pause: Option<Pause>,
}

/// How processes are read.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct How {
    /// Local variables too.
    pub(super) locals: bool,
    /// Stopped while they are read.
    pub(super) stop: bool,
}

/// What was found out about a process image; an exec makes it void.
#[derive(Debug)]
struct Known {
    image: (u64, Option<PathBuf>),
    located: Kind,
}

#[derive(Debug)]
enum Kind {
    Python(Box<PythonProcess>),
    NotPython,
    Bits32,
    Unreadable(String),
}

/// All threads of a process, looked at twice around the reading of its memory.
struct ThreadPass {
    threads: Vec<RawThread>,
    python: Option<PythonPart>,
    test: Option<crate::model::RunningTest>,
    /// The process counts pids as we do.
    same_namespace: bool,
    /// How it was held still meanwhile.
    held: Option<Held>,
}

impl ProcessReader {
    pub(super) fn new(pid: Pid, how: How) -> Self {
        Self {
            pid,
            how,
            known: None,
        }
    }

    /// The CPython that was found in it.
    pub(super) fn python(&self) -> Option<&PythonProcess> {
        match &self.known.as_ref()?.located {
            Kind::Python(python) => Some(python),
            _ => None,
        }
    }

    /// One sample.
    pub(super) fn sample(&mut self, files: &FileIndex) -> ProcessResult {
        let pid = self.pid;
        let span = tracing::debug_span!("process", pid);
        let _entered = span.enter();
        let folder = format!("/proc/{pid}/");
        let leader = kernel::read_stat(&folder).ok_or_else(|| self.absent())?;
        if leader.flags & kernel::KERNEL_THREAD_FLAG != 0 {
            return Err(CaptureError::KernelThread(pid));
        }
        let tids = self.thread_ids()?;
        // The leader may have ended with other threads alive; then its memory is reached through one of those.
        let Some(alive) = live_thread(pid, &tids, &leader) else {
            return Err(CaptureError::Zombie(Box::new(Zombie {
                process: Key::process(pid, leader.start_ticks),
                pid,
                parent: leader.ppid,
                name: leader.comm,
            })));
        };
        let memory = ProcessMemory::new(alive);
        self.check_access(alive, &memory)?;
        let key = Key::process(pid, leader.start_ticks);
        let mut gaps = Vec::new();
        self.identify(alive, &leader, &memory);
        let pass = self.read_threads(&key, alive, tids, &memory, &mut gaps)?;
        let runtime = self.describe_runtime(&key, &mut gaps);
        let pause = pass.held.map(|held| Pause {
            process: key.clone(),
            stopped_us: held.for_us,
            native: false,
        });
        let span = tracing::debug_span!("assemble");
        let _entered = span.enter();
        let (process, gaps) = assemble(key, &leader, (pid, alive), runtime, pass, gaps, files);
        Ok(ProcessSample {
            process,
            gaps,
            pause,
        })
    }

    /// A 32-bit process counts its system calls differently; their numbers mean nothing to us.
    fn is_32_bit(&self) -> bool {
        matches!(
            self.known.as_ref().map(|known| &known.located),
            Some(Kind::Bits32)
        )
    }

    fn absent(&self) -> CaptureError {
        if self.known.is_some() {
            CaptureError::Gone(self.pid)
        } else {
            CaptureError::NoSuchProcess(self.pid)
        }
    }

    fn thread_ids(&self) -> Result<Vec<Tid>, CaptureError> {
        kernel::thread_ids(self.pid).map_err(|error| match error.kind() {
            ErrorKind::NotFound => self.absent(),
            ErrorKind::PermissionDenied => self.denied(),
            _ => self.proc_error(&error),
        })
    }

    fn denied(&self) -> CaptureError {
        CaptureError::Denied {
            pid: self.pid,
            denied: target::explain_denied(self.pid),
        }
    }

    fn proc_error(&self, error: &io::Error) -> CaptureError {
        CaptureError::Proc {
            pid: self.pid,
            error: error.to_string(),
        }
    }

    /// Reading memory needs the right to attach; better to know before half of the data is in.
    fn check_access(&self, alive: Tid, memory: &ProcessMemory) -> Result<(), CaptureError> {
        let probe = Range {
            address: super::memory::PAGE,
            length: 1,
        };
        match memory.read_many(&[probe]).pop() {
            Some(Err(ReadError::Denied)) => Err(self.denied()),
            Some(Err(ReadError::Gone)) if !thread_exists(self.pid, alive) => {
                Err(CaptureError::Gone(self.pid))
            }
            _ => Ok(()),
        }
    }

    /// Finds out what the process runs, unless that is known from an earlier sample.
    fn identify(&mut self, alive: Tid, leader: &Stat, memory: &ProcessMemory) {
        let program = fs::read_link(format!("/proc/{}/task/{alive}/exe", self.pid)).ok();
        let image = (leader.start_ticks, program);
        // A process that did not look like Python may just not have loaded it yet.
        let settled = self.known.as_ref().is_some_and(|known| {
            known.image == image && matches!(known.located, Kind::Python(_) | Kind::Bits32)
        });
        if settled {
            return;
        }
        let span = tracing::debug_span!("locate");
        let located = span.in_scope(|| match Maps::read(self.pid, alive) {
            Ok(maps) => {
                let cached = CachedMemory::new(memory);
                match python::locate(&maps, &cached) {
                    Located::Python(runtime) => {
                        tracing::debug!(version = runtime.version(), "found CPython");
                        Kind::Python(Box::new(PythonProcess::new(self.pid, *runtime, &maps)))
                    }
                    Located::NotPython => Kind::NotPython,
                    Located::Bits32 => Kind::Bits32,
                    Located::Unreadable(cause) => Kind::Unreadable(cause),
                }
            }
            Err(error) => Kind::Unreadable(format!("its memory map: {error}")),
        });
        self.known = Some(Known { image, located });
    }

    fn describe_runtime(&self, key: &Key, gaps: &mut Vec<Gap>) -> RuntimeKind {
        let gap = |kind, cause: String| Gap::new(Some(key.clone()), kind, "stacks", cause);
        match self.known.as_ref().map(|known| &known.located) {
            Some(Kind::Python(_)) => RuntimeKind::Python,
            Some(Kind::NotPython) => {
                gaps.push(gap(
                    GapKind::NotApplicable,
                    "not a Python process, and its native stacks were not taken".to_owned(),
                ));
                RuntimeKind::Other
            }
            Some(Kind::Bits32) => {
                gaps.push(
                    gap(
                        GapKind::Unsupported,
                        "a 32-bit process; hangscope reads 64-bit ones".to_owned(),
                    )
                    .remedy("run the suite with a 64-bit interpreter"),
                );
                RuntimeKind::Other
            }
            Some(Kind::Unreadable(cause)) => {
                gaps.push(gap(GapKind::Denied, cause.clone()));
                RuntimeKind::Unknown
            }
            None => RuntimeKind::Unknown,
        }
    }

    /// Both looks at all threads and, between them, the memory. Threads that come or go make it start over.
    fn read_threads(
        &self,
        key: &Key,
        alive: Tid,
        mut tids: Vec<Tid>,
        memory: &ProcessMemory,
        gaps: &mut Vec<Gap>,
    ) -> Result<ThreadPass, CaptureError> {
        let mut attempt = 1;
        loop {
            let pass = self.one_pass(key, alive, &tids, memory, gaps);
            // Of a process that was held still there is nothing to be read anew.
            if pass.held.is_some_and(|held| !held.cut) {
                return Ok(pass);
            }
            let now = self.thread_ids()?;
            if now == tids {
                return Ok(pass);
            }
            if attempt == MAX_ATTEMPTS {
                gaps.push(Gap::new(
                    Some(key.clone()),
                    GapKind::Moving,
                    "a consistent list of threads",
                    format!("threads came or went in each of {MAX_ATTEMPTS} attempts"),
                ));
                return Ok(pass);
            }
            tids = now;
            attempt += 1;
        }
    }

    fn one_pass(
        &self,
        key: &Key,
        alive: Tid,
        tids: &[Tid],
        memory: &ProcessMemory,
        gaps: &mut Vec<Gap>,
    ) -> ThreadPass {
        let tasks = kernel::Tasks::of(self.pid);
        let looker = Looker {
            tasks: &tasks,
            memory,
            bits_32: self.is_32_bit(),
            stops: self.how.stop,
        };
        let mut seen = tracing::debug_span!("first_look").in_scope(|| looker.first(tids));
        let stop = self.stop(&seen, key, gaps);
        let stopped = stop
            .as_ref()
            .map(|stop| stop.stopped.clone())
            .unwrap_or_default();
        let known: BTreeSet<Tid> = seen.iter().map(SeenThread::tid).collect();
        let begun = stopped.difference(&known);
        seen.extend(begun.map(|tid| looker.begun(*tid, true)));
        let tids: Vec<Tid> = seen.iter().map(SeenThread::tid).collect();
        let namespace = NamespaceIds::of(self.pid, alive, &tids);
        for meaning in seen.iter_mut().filter_map(|seen| seen.meaning.as_mut()) {
            let mut ours = tids.iter().copied();
            meaning.joins = meaning
                .joins
                .and_then(|joined| ours.find(|tid| namespace.inner(*tid) == joined));
        }
        let (mut part, mut test) = (None, None);
        if let Some(Kind::Python(process)) = self.known.as_ref().map(|known| &known.located) {
            let span = tracing::debug_span!("python", threads = tids.len());
            let _entered = span.enter();
            let (blocked, stacks) = self.for_python(&seen, &namespace);
            let stacks = Stacks {
                threads: &stacks,
                regions: &|| maps::regions(self.pid, alive),
            };
            let read = || process.read(self.pid, key, memory, &blocked, &stacks, self.how.locals);
            part = Some(looker.meanwhile(&mut seen, read));
            let at_start = read_bounded(&format!("/proc/{}/task/{alive}/environ", self.pid));
            test = process.running_test(&CachedMemory::small(memory), &at_start);
        }
        tracing::debug_span!("last_look").in_scope(|| looker.last(&mut seen));
        let held = stop.and_then(Stop::end);
        if held.is_some_and(|held| held.cut) {
            gaps.push(Gap::new(
                Some(key.clone()),
                GapKind::Moving,
                "threads that stood still during the whole reading",
                "reading took longer than hangscope holds a process",
            ));
        }
        let stopped = Stopped {
            threads: stopped,
            whole: held.is_some_and(|held| !held.cut),
        };
        let threads =
            tracing::debug_span!("join_looks").in_scope(|| looker.join(seen, &namespace, &stopped));
        ThreadPass {
            threads,
            python: part,
            test,
            same_namespace: namespace.is_ours(),
            held,
        }
    }

    /// What the reading of Python has to know of the threads: which wait, and where their stacks are.
    fn for_python(
        &self,
        seen: &[SeenThread<'_>],
        namespace: &NamespaceIds,
    ) -> (Vec<BlockedThread>, Vec<ThreadStack>) {
        let blocked = seen.iter().filter_map(|seen| {
            Some(BlockedThread {
                native_id: namespace.inner(seen.tid()),
                tid: seen.tid(),
                futex: seen.meaning.as_ref()?.futex,
            })
        });
        let stacks = seen.iter().map(|seen| ThreadStack {
            native_id: namespace.inner(seen.tid()),
            stack_pointer: match &seen.first.syscall {
                SyscallLine::In(call) => Some(call.stack_pointer.0),
                _ => None,
            },
            is_first: seen.tid() == self.pid,
        });
        (blocked.collect(), stacks.collect())
    }

    /// Stops the process, if that was asked for and can be done.
    fn stop(&self, seen: &[SeenThread], key: &Key, gaps: &mut Vec<Gap>) -> Option<Stop> {
        if !self.how.stop {
            return None;
        }
        let at_rest = seen.iter().filter(|seen| {
            let meaning = seen.meaning.as_ref();
            meaning.is_some_and(|meaning| meaning.timed != Some(true))
        });
        match Stop::begin(self.pid, at_rest.map(SeenThread::tid).collect()) {
            Ok(stop) => Some(stop),
            Err(cause) => {
                gaps.push(Gap::new(
                    Some(key.clone()),
                    GapKind::Denied,
                    "a look at it while it is stopped",
                    cause,
                ));
                None
            }
        }
    }
}

/// Puts a process together from its parts.
fn assemble(
    key: Key,
    leader: &Stat,
    (pid, alive): (Pid, Tid),
    runtime: RuntimeKind,
    pass: ThreadPass,
    mut gaps: Vec<Gap>,
    files: &FileIndex,
) -> (Process, Vec<Gap>) {
    let around = Surroundings {
        pid,
        tids: pass.threads.iter().map(|thread| thread.tid).collect(),
        same_namespace: pass.same_namespace,
        files: Files::new(pid, alive, files),
    };
    let mut merged = merge::merge(&key, pass.threads, pass.python, &around);
    let shared_locks_held = shared_locks::locate(
        (pid, alive),
        &mut merged.threads,
        std::mem::take(&mut merged.shared_locks),
    );
    gaps.extend(merged.gaps);
    if !merged.threads.is_empty()
        && merged
            .threads
            .iter()
            .all(|thread| thread.kernel.runs == 0 && !thread.settled)
    {
        gaps.push(Gap::new(
            Some(key.clone()),
            GapKind::Unsupported,
            "which threads stood still while they were read",
            "this kernel or sandbox offers no /proc/PID/task/TID/schedstat or syscall",
        ));
    }
    let coverage = Coverage {
        threads: merged.threads.len(),
        settled: merged
            .threads
            .iter()
            .filter(|thread| thread.settled)
            .count(),
        interpreters: merged.interpreters.len(),
        thread_states: merged
            .threads
            .iter()
            .map(|thread| thread.python.len())
            .sum(),
        frames: merged
            .threads
            .iter()
            .map(|thread| thread.frames().count())
            .sum(),
    };
    let status = read_bounded(&format!("/proc/{pid}/status"));
    let status = String::from_utf8_lossy(&status).into_owned();
    let inner_pid = last_number(&status, "NStgid:").filter(|inner| *inner != pid);
    let mut process = Process {
        namespace_pid: inner_pid,
        pid,
        ppid: leader.ppid,
        name: leader.comm.clone(),
        argv: arguments(&read_bounded(&format!("/proc/{pid}/task/{alive}/cmdline"))),
        state: leader.state.to_string(),
        tracer: last_number(&status, "TracerPid:").filter(|tracer| *tracer != 0),
        caught_signals: signal_mask(&status, "SigCgt:"),
        ignored_signals: signal_mask(&status, "SigIgn:"),
        pending_signals: signal_mask(&status, "ShdPnd:"),
        runtime,
        python: merged.runtime,
        test: pass.test,
        interpreters: merged.interpreters,
        threads: merged.threads,
        event_loops: merged.event_loops,
        shared_locks_held,
        coverage,
        key,
    };
    signals::complete(&mut process, &around.files);
    (process, gaps)
}

fn thread_exists(pid: Pid, tid: Tid) -> bool {
    kernel::read_stat(&format!("/proc/{pid}/task/{tid}/")).is_some()
}

/// A thread that still has the process's memory.
fn live_thread(pid: Pid, tids: &[Tid], leader: &Stat) -> Option<Tid> {
    let ended = |state: char| matches!(state, 'Z' | 'X');
    if !ended(leader.state) {
        return Some(pid);
    }
    tids.iter().copied().find(|tid| {
        kernel::read_stat(&format!("/proc/{pid}/task/{tid}/"))
            .is_some_and(|stat| !ended(stat.state))
    })
}
