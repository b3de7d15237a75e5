//! Native stacks of a process whose sample has been taken: a short stop in which registers and stacks are copied, then the
//! unwinding while it runs again, and what the frames tell of its waits.

mod copy;
mod describe;
mod read;
mod splice;
mod test_threads;
mod thread_names;
mod waits;

use super::memory::{CachedMemory, ProcessMemory};
use super::namespace::NamespaceIds;
use super::native::{self, Architecture, Images, ObjectCache, Registers, StackBytes, Walk};
use super::python::{Evaluation, PythonProcess};
use super::stop::{Held, Stop};
use crate::model::{
    Addr, Gap, GapKind, Grade, NativeFrame, Pause, Process, RuntimeKind, Thread, ThreadKind, Tid,
};
use read::StackReader;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Most running Python threads whose frames are read while the process stands still; a GIL lets one of an interpreter run.
const MAX_RUNNING: usize = 8;

/// Longest that lines and inlined functions are looked for in one process.
const MOST_FOR_LINES: Duration = Duration::from_secs(5);

/// What came of it, beside the stacks in the process's threads.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) pause: Option<Pause>,
    pub(super) gaps: Vec<Gap>,
}

/// How each thread's Python frames are spread over calls of CPython's evaluation function, or why that is not known.
type Evaluations = BTreeMap<Tid, Result<Vec<Evaluation>, String>>;

/// A thread's native stack before its frames have names.
struct Unwound {
    walk: Walk,
    stack: StackBytes,
    /// General registers that are known.
    registers: Vec<u64>,
    moved: bool,
    grade: Grade,
}

impl Unwound {
    /// Reads what lies on the stack that the thread uses; nothing of other memory.
    fn read_stack(&self, address: u64, size: usize, memory: &CachedMemory<'_>) -> Option<u64> {
        let frames = &self.walk.frames;
        let end = frames.iter().filter_map(|frame| frame.cfa).max()?;
        let used = frames.first()?.sp..end;
        used.contains(&address)
            .then(|| native::read(std::slice::from_ref(&self.stack), memory, address, size))?
    }
}

/// Adds native stacks to the threads of a process.
pub(super) fn add(
    process: &mut Process,
    python: Option<&PythonProcess>,
    cache: &ObjectCache,
    no_stop: bool,
) -> Outcome {
    let mut outcome = Outcome::default();
    let key = process.key.clone();
    let gap = |kind, cause: String| Gap::new(Some(key.clone()), kind, "native stacks", cause);
    let alive = process
        .threads
        .iter()
        .find(|thread| thread.kind != ThreadKind::Exited)
        .map(|thread| thread.tid);
    let Some(alive) = alive else {
        return outcome;
    };
    let (images, regions) = match Images::read(process.pid, alive) {
        Ok(read) => read,
        Err(error) => {
            let kind = match error.kind() {
                std::io::ErrorKind::Unsupported => GapKind::Unsupported,
                _ => GapKind::Gone,
            };
            outcome.gaps.push(gap(kind, error.to_string()));
            return outcome;
        }
    };
    let memory = ProcessMemory::new(alive);
    let span = tracing::debug_span!("stop_and_copy").entered();
    let copied = match no_stop {
        true => None,
        false => {
            let meanwhile = |registers: &BTreeMap<Tid, Registers>| {
                running_evaluations(process, python, &memory, registers)
            };
            let at_rest = process.threads.iter().filter(|thread| is_at_rest(thread));
            let at_rest = at_rest.map(|thread| thread.tid).collect();
            match copy::copy((process.pid, at_rest), &memory, &regions, meanwhile) {
                Ok(copied) => Some(copied),
                Err(cause) => {
                    outcome.gaps.push(
                        gap(GapKind::Denied, format!("it cannot be stopped: {cause}"))
                            .remedy("what is shown was read without a stop, as with --no-stop"),
                    );
                    None
                }
            }
        }
    };
    drop(span);
    let span = tracing::debug_span!("unwind").entered();
    let with_lines = |module: usize| has_own_code(&images, module);
    let was_held = copied.is_some();
    let (stopped, running, stop) = match copied {
        Some(copied) => (Some(copied.threads), copied.more, Some(copied.stop)),
        None => (None, Evaluations::new(), None),
    };
    let reader = StackReader {
        pid: process.pid,
        images: &images,
        cache,
        memory: &memory,
        python,
        running: &running,
        with_lines: &with_lines,
        until: Instant::now() + MOST_FOR_LINES,
    };
    let (unwound, missing_lines) = reader.read(&mut process.threads, stopped);
    drop(span);
    let held = stop.and_then(Stop::end);
    outcome.pause = held.map(|held| pause(process, held));
    let live = CachedMemory::small(&memory);
    let mut symbols = reader.symbolizer(&live);
    let without = process.threads.iter().filter(|thread| {
        thread.kind != ThreadKind::Exited && was_held && !unwound.contains_key(&thread.tid)
    });
    let unheld = without.count();
    if unheld > 0 {
        let cause = match unheld {
            1 => "a thread has ended, or did not stop in time".to_owned(),
            _ => format!("{unheld} threads have ended, or did not stop in time"),
        };
        outcome.gaps.push(gap(GapKind::Moving, cause));
    }
    if process.runtime == RuntimeKind::Other && process.threads.iter().any(runs_rust) {
        process.runtime = RuntimeKind::Rust;
    }
    if process.runtime == RuntimeKind::Rust {
        thread_names::complete(&mut process.threads, &unwound, &memory, &regions);
        test_threads::mark(process, &memory, &regions);
    }
    let program = images.program();
    let reason = program.and_then(|program| missing_lines.get(&program));
    if let (Some(program), Some(reason)) = (program, reason) {
        let (what, cause, remedy) = match is_nameless(process, images.name(program)) {
            true => (
                "names of the program's functions",
                "it is stripped; what it waits in, and who holds Rust's locks, is told by those",
                "for Rust, strip = \"debuginfo\" or false in the profile; for C, strip -g at most; or keep what was stripped off as a \
                 debug file",
            ),
            false => (
                "source lines of the program",
                *reason,
                "for Rust, debug = \"line-tables-only\" in the profile; for C, -g",
            ),
        };
        let about = Gap::new(Some(key.clone()), GapKind::NotApplicable, what, cause);
        outcome.gaps.push(about.remedy(remedy));
    }
    let tids: Vec<Tid> = process.threads.iter().map(|thread| thread.tid).collect();
    let namespace = NamespaceIds::of(process.pid, alive, &tids);
    waits::tell(
        process,
        &unwound,
        (&images, &regions),
        &live,
        &mut symbols,
        &namespace,
    );
    outcome
}

/// Whether no function of the program's own file is known by name.
fn is_nameless(process: &Process, program: &str) -> bool {
    let stacks = process.threads.iter().flat_map(|thread| &thread.native);
    let frames = stacks.flat_map(|stack| &stack.frames);
    let of_program = |frame: &&NativeFrame| {
        let module = frame.module.as_ref();
        module.is_some_and(|module| module.untrusted() == program)
    };
    let mut own = frames.filter(of_program).peekable();
    own.peek().is_some() && own.all(|frame| frame.function.is_none())
}

/// Whether a thread was started by Rust's runtime.
fn runs_rust(thread: &Thread) -> bool {
    let mut frames = thread.native.iter().flat_map(|stack| &stack.frames);
    frames.any(|frame| {
        let name = frame.function_name();
        name.contains("std::rt::lang_start") || name.contains("__rust_begin_short_backtrace")
    })
}

/// Whether a file is the user's: of the system's libraries and of CPython functions are enough, and their debug
/// information is large.
fn has_own_code(images: &Images, module: usize) -> bool {
    let path = images.path(module);
    let name = images.name(module);
    let is_python = name.starts_with("libpython") || name.starts_with("python");
    let of_system = ["/lib/", "/usr/lib/", "/lib64/", "/usr/lib64/"]
        .iter()
        .any(|folder| path.starts_with(folder));
    !is_python && !of_system && name != "[vdso]"
}

fn pause(process: &Process, held: Held) -> Pause {
    Pause {
        process: process.key.clone(),
        stopped_us: held.for_us,
        native: true,
    }
}

/// Whether a thread was seen in a wait without a timeout: it is likely not to notice a stop.
fn is_at_rest(thread: &Thread) -> bool {
    let wait = thread.wait.as_ref();
    thread.settled
        && thread.kernel.syscall.is_some()
        && wait.is_some_and(|wait| wait.timed != Some(true))
}

/// Whether a thread is in the very call that the sample saw it in.
fn is_where_it_was(thread: &Thread, sp: u64, pc: u64) -> bool {
    thread.kernel.syscall.as_ref().is_some_and(|call| {
        call.stack_pointer == Addr(sp) && Architecture::is_in_call(call.instruction_pointer.0, pc)
    })
}

/// The evaluations of threads that run: known only while they are stopped. Nothing for one that has other Python frames now
/// than in the sample.
fn running_evaluations(
    process: &Process,
    python: Option<&PythonProcess>,
    memory: &ProcessMemory,
    registers: &BTreeMap<Tid, Registers>,
) -> Evaluations {
    let Some(python) = python else {
        return Evaluations::new();
    };
    let cached = CachedMemory::new(memory);
    let runs = |thread: &&Thread| {
        let registers = registers.get(&thread.tid);
        registers.is_some_and(|registers| {
            !thread.python.is_empty() && !is_where_it_was(thread, registers.sp, registers.pc)
        })
    };
    process
        .threads
        .iter()
        .filter(runs)
        .take(MAX_RUNNING)
        .map(|thread| {
            let known = match same_frames(python, &cached, thread) {
                // Those are counted later.
                true if python.evaluation_function().is_some() => Ok(Vec::new()),
                true => evaluations_of(Some(python), &cached, thread),
                false => Err("its Python frames have changed since they were read".to_owned()),
            };
            (thread.tid, known)
        })
        .collect()
}

/// Whether a thread is in the same Python functions as in the sample.
fn same_frames(python: &PythonProcess, memory: &CachedMemory<'_>, thread: &Thread) -> bool {
    thread.python.iter().all(|state| {
        python
            .functions(memory, state.address.0)
            .is_some_and(|now| {
                now.iter()
                    .eq(state.frames.iter().map(|frame| &frame.function))
            })
    })
}

fn evaluations_of(
    python: Option<&PythonProcess>,
    memory: &CachedMemory<'_>,
    thread: &Thread,
) -> Result<Vec<Evaluation>, String> {
    let Some(python) = python else {
        return Ok(Vec::new());
    };
    let mut all = Vec::new();
    for state in &thread.python {
        all.extend(python.evaluations(memory, state.address.0)?);
    }
    Ok(all)
}
