//! The Python part of a process: which CPython it runs, and all of its interpreters, thread states and frames.

mod bytecode;
mod code;
pub(super) mod environ;
mod evaluations;
mod frame;
mod generator;
mod heap;
mod holders;
mod inert;
mod interpreter;
pub(super) mod library;
mod lines;
mod locals;
mod names;
mod offsets;
mod process_locks;
mod pyspy;
mod qualname;
mod reach;
mod references;
mod running_thread;
mod runtime;
mod signals;
mod skeleton;
mod slots;
mod static_signals;
mod tasks;
mod thread_state;
mod waits;
mod with_blocks;

use super::maps::Maps;
use super::memory::{CachedMemory, Memory};
use crate::model::{
    Addr, EventLoop, Gap, GapKind, Interpreter, Key, Pid, PythonReader, PythonRuntime, RunningTest,
    Tid,
};
use code::CodeCache;
use heap::Heap;
use skeleton::Skeleton;
use static_signals::StaticSignals;
use std::collections::BTreeMap;

pub(crate) use evaluations::Evaluation;
pub(crate) use holders::RawHolder;
pub(crate) use offsets::{NEWEST_MINOR, OLDEST_MINOR};
pub(crate) use process_locks::HeldProcessLock;
pub(crate) use running_thread::{Stacks, ThreadStack};
pub(crate) use runtime::{Located, Runtime, locate};
pub(crate) use thread_state::RawThreadState;
pub(crate) use waits::{PythonWait, WaitTarget};

/// How often changing lists are read anew before that is reported.
const MAX_ATTEMPTS: usize = 3;

/// A CPython process whose layout is known; kept from sample to sample.
#[derive(Clone, Debug)]
pub(crate) struct PythonProcess {
    runtime: Runtime,
    environ: Option<u64>,
    static_signals: Option<StaticSignals>,
    asyncio: tasks::DebugSection,
}

/// What one sample reads of it.
#[derive(Debug)]
pub(crate) struct PythonPart {
    pub(crate) runtime: PythonRuntime,
    pub(crate) interpreters: Vec<Interpreter>,
    pub(crate) thread_states: Vec<RawThreadState>,
    pub(crate) waits: Vec<(Tid, PythonWait)>,
    pub(crate) process_locks: Vec<HeldProcessLock>,
    pub(crate) event_loops: Vec<EventLoop>,
    /// By task, thread states whose code does not come to what it awaits.
    pub(crate) out_of_reach: BTreeMap<Key, Vec<Addr>>,
    pub(crate) gaps: Vec<Gap>,
}

/// A thread that sits in a system call, to be told what it waits for while memory and kernel agree.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BlockedThread {
    /// In the target's pid namespace.
    pub(crate) native_id: Tid,
    pub(crate) tid: Tid,
    /// The futex word that it waits on, if it does.
    pub(crate) futex: Option<u64>,
}

impl PythonProcess {
    pub(crate) fn new(pid: Pid, runtime: Runtime, maps: &Maps) -> Self {
        Self {
            static_signals: static_signals::find(maps, runtime.minor),
            runtime,
            environ: environ::find(maps),
            asyncio: tasks::DebugSection::new(pid, maps),
        }
    }

    /// The pytest test that the process runs, by the live environment. `at_start` is the environment that the process was
    /// started with: a variable that was there already belongs to a test of its parent.
    pub(crate) fn running_test(
        &self,
        memory: &CachedMemory<'_>,
        at_start: &[u8],
    ) -> Option<RunningTest> {
        let value = environ::pytest_current_test(memory, self.environ?)?;
        let inherited = environ::is_inherited(&value, at_start);
        Some(environ::running_test(&value, inherited))
    }

    /// Reads interpreters, thread states, frames and what the given threads wait for.
    pub(crate) fn read(
        &self,
        pid: Pid,
        key: &Key,
        memory: &dyn Memory,
        blocked: &[BlockedThread],
        stacks: &Stacks<'_>,
        with_locals: bool,
    ) -> PythonPart {
        let mut part = match (&self.runtime.offsets, self.runtime.address) {
            (Some(_), Some(address)) if !self.runtime.free_threaded => {
                self.read_own(key, memory, address, blocked, stacks, with_locals)
            }
            _ => self.read_by_pyspy(pid, key),
        };
        if let Some(signals) = self.static_signals {
            let cached = CachedMemory::new(memory);
            part.runtime.signals = signals.read(&cached);
            if let (Some(found), Some(offsets)) = (&mut part.runtime.signals, &self.runtime.offsets)
            {
                let heap = Heap::new(&cached, offsets);
                found.handled = signals.handled(&heap);
                found.watchdogs = signals.watchdogs(&heap);
            }
        }
        part
    }

    fn read_own(
        &self,
        key: &Key,
        memory: &dyn Memory,
        address: u64,
        blocked: &[BlockedThread],
        stacks: &Stacks<'_>,
        with_locals: bool,
    ) -> PythonPart {
        let mut part = self.empty_part(PythonReader::Own);
        let Some(offsets) = &self.runtime.offsets else {
            return part;
        };
        for attempt in 1..=MAX_ATTEMPTS {
            let cached = CachedMemory::new(memory);
            let heap = Heap::new(&cached, offsets);
            let skeleton = match skeleton::skeleton(&heap, address) {
                Ok(skeleton) if skeleton.plausible(&heap) => skeleton,
                Ok(_) => {
                    part.gaps.push(Gap::new(
                        Some(key.clone()),
                        GapKind::Implausible,
                        "interpreters, thread states and Python frames",
                        format!(
                            "no main interpreter where CPython {} keeps it: the process is still starting, \
                             has finished Python, or is a build with another layout",
                            self.runtime.version()
                        ),
                    ));
                    return part;
                }
                Err(error) => {
                    part.gaps.push(Gap::new(
                        Some(key.clone()),
                        GapKind::Implausible,
                        "interpreters, thread states and Python frames",
                        error.to_string(),
                    ));
                    return part;
                }
            };
            let codes = CodeCache::default();
            let mut census =
                interpreter::census(&heap, &codes, address, &skeleton, key, with_locals);
            let notes_creators = self.notes_creators(census.interpreters.len());
            let placed = !notes_creators || running_thread::correct(&heap, &mut census, stacks);
            part.runtime.running_threads_known = notes_creators && placed;
            part.waits = waits::attribute(&heap, &census, address, blocked);
            part.process_locks = process_locks::held(&heap, &census);
            let (mut event_loops, tasks_missing) =
                tasks::read(&heap, &codes, &census, key, &self.asyncio, memory);
            let waits = &mut part.waits;
            let tids: Vec<(Tid, Tid)> = blocked.iter().map(|it| (it.tid, it.native_id)).collect();
            tasks::note_loops_at_rest(&heap, &census, &tids, waits);
            part.out_of_reach =
                tasks::rule_out(&heap, &codes, memory, &census, &mut event_loops, waits);
            part.event_loops = event_loops;
            part.runtime.finalizing = cached
                .u64(address.wrapping_add(offsets.runtime_finalizing))
                .is_ok_and(|thread_state| thread_state != 0);
            part.runtime.signals = signals::read(&heap, address);
            part.gaps = std::mem::take(&mut census.gaps);
            part.interpreters = census.interpreters;
            if !placed {
                part.gaps.push(self.creators_ids(key));
            }
            part.gaps.extend(tasks_missing);
            part.thread_states = census.thread_states;
            if same_again(memory, offsets, address, &skeleton) {
                break;
            }
            if attempt == MAX_ATTEMPTS {
                // Lists that lead nowhere are freed ones then.
                part.gaps.retain(|gap| gap.kind != GapKind::Implausible);
                part.gaps.push(Gap::new(
                    Some(key.clone()),
                    GapKind::Moving,
                    "a consistent list of thread states",
                    format!("threads came or went in each of {MAX_ATTEMPTS} attempts"),
                ));
            }
        }
        part
    }

    fn read_by_pyspy(&self, pid: Pid, key: &Key) -> PythonPart {
        let mut part = self.empty_part(PythonReader::PySpy);
        let version = self.runtime.version();
        let why = if self.runtime.free_threaded {
            format!(
                "CPython {version} is a free-threaded build, which hangscope cannot read itself yet"
            )
        } else {
            format!(
                "CPython {version} is outside of 3.{OLDEST_MINOR}–3.{NEWEST_MINOR}, which hangscope can read itself"
            )
        };
        match pyspy::read(pid, self.runtime.minor, key) {
            Ok(found) => {
                part.runtime.version = found.version;
                part.interpreters = found.interpreters;
                if self.notes_creators(part.interpreters.len()) {
                    part.gaps.push(self.creators_ids(key));
                }
                part.thread_states = found
                    .thread_states
                    .into_iter()
                    .map(|(state, tid)| RawThreadState {
                        native_id: tid.unwrap_or(0),
                        bound: false,
                        place: 0,
                        runs_nowhere: false,
                        thread_object: None,
                        raw_frames: Vec::new(),
                        state,
                    })
                    .collect();
                part.gaps.push(
                    Gap::new(
                        Some(key.clone()),
                        GapKind::Unsupported,
                        "interpreter and thread state, joins and locks",
                        format!("{why}; py-spy read its frames"),
                    )
                    .remedy(format!(
                        "for a diagnosis, run the suite on CPython 3.{OLDEST_MINOR} to 3.{NEWEST_MINOR} with a GIL"
                    )),
                );
            }
            Err(error) => part.gaps.push(
                Gap::new(
                    Some(key.clone()),
                    GapKind::Unsupported,
                    "interpreters, thread states and Python frames",
                    format!("{why}, and py-spy could not either: {error}"),
                )
                .remedy(format!(
                    "run the suite on a build of CPython 3.{OLDEST_MINOR} to 3.{NEWEST_MINOR} with a GIL"
                )),
            ),
        }
        part
    }

    /// Up to 3.12 a sub-interpreter's thread state notes the thread that made it.
    fn notes_creators(&self, interpreters: usize) -> bool {
        self.runtime.minor <= 12 && interpreters > 1
    }

    /// It could not be found out which threads run the sub-interpreters.
    fn creators_ids(&self, key: &Key) -> Gap {
        Gap::new(
            Some(key.clone()),
            GapKind::Unsupported,
            "which threads run the sub-interpreters",
            format!(
                "CPython {} notes the thread that made a sub-interpreter, not the one that runs it, and that is not \
                 told by the threads' stacks",
                self.runtime.version()
            ),
        )
        .remedy("for a diagnosis, run the suite on CPython 3.13 or newer")
    }

    fn empty_part(&self, reader: PythonReader) -> PythonPart {
        PythonPart {
            runtime: PythonRuntime {
                version: self.runtime.version(),
                minor: self.runtime.minor,
                free_threaded: self.runtime.free_threaded,
                reader,
                finalizing: false,
                running_threads_known: false,
                signals: None,
            },
            interpreters: Vec::new(),
            thread_states: Vec::new(),
            waits: Vec::new(),
            process_locks: Vec::new(),
            event_loops: Vec::new(),
            out_of_reach: BTreeMap::new(),
            gaps: Vec::new(),
        }
    }
}

/// Whether the lists, read with nothing cached, are what they were.
fn same_again(
    memory: &dyn Memory,
    offsets: &offsets::Offsets,
    runtime: u64,
    before: &Skeleton,
) -> bool {
    let cached = CachedMemory::new(memory);
    let heap = Heap::new(&cached, offsets);
    before.prefetch(&heap);
    skeleton::skeleton(&heap, runtime).as_ref() == Ok(before)
}

#[cfg(test)]
mod hostile;
#[cfg(test)]
mod pages;
