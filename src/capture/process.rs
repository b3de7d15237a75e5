//! One process, one sample: kernel facts before, memory, kernel facts after.

use super::facts::{arguments, caught_signals, last_number, read_bounded};
use super::kernel::{self, Look, Stat, SyscallLine, Task};
use super::maps::{self, Maps};
use super::memory::{CachedMemory, Memory, ProcessMemory, Range, ReadError};
use super::merge::{self, RawThread};
use super::namespace::NamespaceIds;
use super::pipes::PipeHolders;
use super::python::{self, FutexWaiter, Located, PythonPart, PythonProcess, Stacks, ThreadStack};
use super::syscall;
use super::{CaptureError, ProcessResult};
use crate::model::{
    Coverage, Descriptor, Foreign, Gap, GapKind, Key, Pid, Process, RuntimeKind, Tid,
};
use crate::target;
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::PathBuf;

/// How often a changing list of threads is read anew before that is reported.
const MAX_ATTEMPTS: usize = 3;
/// Most threads whose `/proc` files are kept open during a sample.
const MAX_OPEN_TASKS: usize = 8192;

/// Reads one process, sample after sample.
#[derive(Debug)]
pub(super) struct ProcessReader {
    pid: Pid,
    with_locals: bool,
    known: Option<Known>,
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
}

impl ProcessReader {
    pub(super) fn new(pid: Pid, with_locals: bool) -> Self {
        Self {
            pid,
            with_locals,
            known: None,
        }
    }

    /// One sample.
    pub(super) fn sample(&mut self, pipes: &PipeHolders) -> ProcessResult {
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
            return Err(CaptureError::Zombie {
                pid,
                parent: leader.ppid,
            });
        };
        let memory = ProcessMemory::new(alive);
        self.check_access(alive, &memory)?;
        let key = Key::process(pid, leader.start_ticks);
        let mut gaps = Vec::new();
        self.identify(alive, &leader, &memory);
        let pass = self.read_threads(&key, alive, tids, &memory, &mut gaps)?;
        let runtime = self.describe_runtime(&key, &mut gaps);
        Ok(assemble(
            key,
            &leader,
            (pid, alive),
            runtime,
            pass,
            gaps,
            pipes,
        ))
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
                        Kind::Python(Box::new(PythonProcess::new(*runtime, &maps)))
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
                    "not a Python process; hangscope shows what the kernel knows of it".to_owned(),
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
            let pass = self.one_pass(key, alive, &tids, memory);
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

    fn one_pass(&self, key: &Key, alive: Tid, tids: &[Tid], memory: &ProcessMemory) -> ThreadPass {
        let keep_open = tids.len() <= MAX_OPEN_TASKS;
        let mut tasks: Vec<Task> = tids.iter().map(|tid| Task::new(self.pid, *tid)).collect();
        let first: Vec<Look> = tasks
            .iter_mut()
            .map(|task| task.first_look(keep_open))
            .collect();
        let namespace = NamespaceIds::of(self.pid, alive, tids);
        let cached = CachedMemory::new(memory);
        let mut meanings: BTreeMap<Tid, syscall::Meaning> = BTreeMap::new();
        let mut wchans: BTreeMap<Tid, Foreign> = BTreeMap::new();
        for (task, look) in tasks.iter().zip(&first) {
            if let SyscallLine::In(call) = &look.syscall
                && !self.is_32_bit()
            {
                let wchan = task.wchan();
                let place = wchan.as_ref().map(Foreign::untrusted);
                meanings.insert(task.tid, syscall::meaning(call, place, Some(&cached)));
                if let Some(wchan) = wchan {
                    wchans.insert(task.tid, wchan);
                }
            }
        }
        let waiters: Vec<FutexWaiter> = meanings
            .iter()
            .filter_map(|(tid, meaning)| {
                Some(FutexWaiter {
                    native_id: namespace.inner(*tid),
                    tid: *tid,
                    address: meaning.futex?,
                })
            })
            .collect();
        let stacks: Vec<ThreadStack> = tids
            .iter()
            .zip(&first)
            .map(|(tid, look)| ThreadStack {
                native_id: namespace.inner(*tid),
                stack_pointer: match &look.syscall {
                    SyscallLine::In(call) => Some(call.stack_pointer.0),
                    _ => None,
                },
                is_first: *tid == self.pid,
            })
            .collect();
        let (mut part, mut test) = (None, None);
        if let Some(Kind::Python(process)) = self.known.as_ref().map(|known| &known.located) {
            let span = tracing::debug_span!("python", threads = tids.len());
            let _entered = span.enter();
            let stacks = Stacks {
                threads: &stacks,
                regions: &|| maps::regions(self.pid, alive),
            };
            part = Some(process.read(self.pid, key, memory, &waiters, &stacks, self.with_locals));
            let at_start = read_bounded(&format!("/proc/{}/task/{alive}/environ", self.pid));
            test = process.running_test(&cached, &at_start);
        }
        let threads = tasks
            .into_iter()
            .zip(first)
            .filter_map(|(mut task, first)| {
                let mut last = task.last_look();
                let settled = first.settled_until(&last);
                let same_call = first.syscall == last.syscall;
                if let SyscallLine::In(call) = &mut last.syscall
                    && self.is_32_bit()
                {
                    call.name = None;
                }
                let stat = task.stat()?;
                let native_id = namespace.inner(task.tid);
                Some(RawThread {
                    tid: task.tid,
                    native_id,
                    settled,
                    same_call,
                    meaning: meanings.remove(&task.tid),
                    wchan: wchans.remove(&task.tid).or_else(|| task.wchan()),
                    stat,
                    look: last,
                })
            })
            .collect();
        ThreadPass {
            threads,
            python: part,
            test,
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
    pipes: &PipeHolders,
) -> (Process, Vec<Gap>) {
    let files = |number: i32| {
        let file = fs::read_link(format!("/proc/{pid}/task/{alive}/fd/{number}"))
            .ok()
            .map(|path| path.to_string_lossy().into_owned());
        let pipe = file.as_ref().filter(|file| file.starts_with("pipe:["));
        Descriptor {
            number,
            also_open_in: pipe.and_then(|pipe| pipes.others(pipe, pid)),
            file: file.map(Foreign::from),
        }
    };
    let merged = merge::merge(&key, pass.threads, pass.python, &files);
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
    let process = Process {
        namespace_pid: inner_pid,
        pid,
        ppid: leader.ppid,
        name: leader.comm.clone(),
        argv: arguments(&read_bounded(&format!("/proc/{pid}/task/{alive}/cmdline"))),
        state: leader.state.to_string(),
        tracer: last_number(&status, "TracerPid:").filter(|tracer| *tracer != 0),
        caught_signals: caught_signals(&status),
        runtime,
        python: merged.runtime,
        test: pass.test,
        interpreters: merged.interpreters,
        threads: merged.threads,
        coverage,
        key,
    };
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
