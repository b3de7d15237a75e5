//! The stacks of all threads of a process, by several workers: unwound, and put into the threads with the names of their frames.

use super::copy::{self, StoppedThread};
use super::describe::Describer;
use super::{Evaluations, Unwound, evaluations_of, is_where_it_was};
use crate::capture::kernel;
use crate::capture::memory::{CachedMemory, ProcessMemory};
use crate::capture::native::{Images, ObjectCache, Symbolizer, Unwinder};
use crate::capture::parallel;
use crate::capture::python::PythonProcess;
use crate::model::{Grade, Pid, Thread, Tid};
use std::collections::BTreeMap;
use std::time::Instant;

/// Stacks that one worker unwinds before it comes for more.
const PIECE: usize = 16;

/// Reads the stacks of the threads of one process.
#[derive(Clone, Copy)]
pub(super) struct StackReader<'r> {
    pub(super) pid: Pid,
    pub(super) images: &'r Images,
    pub(super) cache: &'r ObjectCache,
    pub(super) memory: &'r ProcessMemory,
    pub(super) python: Option<&'r PythonProcess>,
    /// Of threads that ran when they were stopped.
    pub(super) running: &'r Evaluations,
    /// The modules, by number, in which lines are looked for, and until when.
    pub(super) with_lines: &'r (dyn Fn(usize) -> bool + Sync),
    pub(super) until: Instant,
}

/// Stacks by thread, and the modules of which lines were wanted and not found, with the reason.
type Stacks = (BTreeMap<Tid, Unwound>, BTreeMap<usize, &'static str>);

impl StackReader<'_> {
    /// Unwinds the stacks of the stopped threads, or without a stop those of all that wait, and puts them into the threads with names.
    pub(super) fn read(
        &self,
        threads: &mut [Thread],
        mut stopped: Option<BTreeMap<Tid, StoppedThread>>,
    ) -> Stacks {
        let was_held = stopped.is_some();
        let mut threads: Vec<(&mut Thread, Option<StoppedThread>)> = threads
            .iter_mut()
            .map(|thread| {
                let stopped = stopped.as_mut();
                let stopped = stopped.and_then(|stopped| stopped.remove(&thread.tid));
                (thread, stopped)
            })
            .filter(|(_, stopped)| stopped.is_some() || !was_held)
            .collect();
        let read = parallel::by_workers(threads.chunks_mut(PIECE), |pieces| {
            // What one thread needs the next does not.
            let live = CachedMemory::small(self.memory);
            let counted = self.python.and_then(PythonProcess::evaluation_function);
            let mut describer = Describer::new(self.symbolizer(&live), counted);
            pieces
                .map(|piece| {
                    self.prefetch_python(piece.iter().map(|(thread, _)| &**thread), &live);
                    let read = |(thread, stopped): &mut (&mut Thread, Option<StoppedThread>)| {
                        let unwound =
                            self.read_one(thread, stopped.take(), &mut describer, &live)?;
                        Some((thread.tid, unwound))
                    };
                    let stacks: Vec<_> = piece.iter_mut().filter_map(read).collect();
                    (stacks, describer.symbols().without_lines().clone())
                })
                .collect()
        });
        let mut all = Stacks::default();
        for (stacks, without_lines) in read {
            all.0.extend(stacks);
            all.1.extend(without_lines);
        }
        all
    }

    fn prefetch_python<'t>(
        &self,
        threads: impl Iterator<Item = &'t Thread>,
        live: &CachedMemory<'_>,
    ) {
        if let Some(python) = self.python {
            let states = threads.flat_map(|thread| &thread.python);
            let addresses: Vec<u64> = states.map(|state| state.address.0).collect();
            python.prefetch_stacks(live, &addresses);
        }
    }

    pub(super) fn symbolizer<'s>(&'s self, live: &'s CachedMemory<'s>) -> Symbolizer<'s> {
        Symbolizer::new(self.images, self.cache, live, self.with_lines, self.until)
    }

    fn unwinder(&self) -> Unwinder<'_> {
        Unwinder::new(self.images, self.cache)
    }

    /// Nothing if it cannot be read.
    fn read_one(
        &self,
        thread: &mut Thread,
        stopped: Option<StoppedThread>,
        describer: &mut Describer<'_>,
        live: &CachedMemory<'_>,
    ) -> Option<Unwound> {
        let unwound = match stopped {
            Some(stopped) => self.after_stop(thread, stopped, live),
            None => self.without_stop(thread, live)?,
        };
        let calls = match self.running.get(&thread.tid) {
            Some(known) => known.clone(),
            None => evaluations_of(self.python, live, thread),
        };
        thread.native = Some(describer.describe(thread, &unwound, calls));
        Some(unwound)
    }

    fn after_stop(
        &self,
        thread: &Thread,
        stopped: StoppedThread,
        live: &CachedMemory<'_>,
    ) -> Unwound {
        let StoppedThread { registers, stack } = stopped;
        let walk = self
            .unwinder()
            .unwind(&registers, std::slice::from_ref(&stack), live);
        let at_rest = is_where_it_was(thread, registers.sp, registers.pc);
        // One that ran has moved only if something is known that it has moved from.
        let moved = !at_rest
            && match self.running.get(&thread.tid) {
                Some(known) => known.is_err(),
                None => thread.wait.is_some() || !thread.python.is_empty(),
            };
        Unwound {
            walk,
            stack,
            registers: registers.known().collect(),
            moved,
            grade: Grade::Read,
        }
    }

    /// By stack pointer and program counter, if the thread waits.
    fn without_stop(&self, thread: &Thread, live: &CachedMemory<'_>) -> Option<Unwound> {
        let tasks = kernel::Tasks::of(self.pid);
        let mut task = kernel::Task::new(&tasks, thread.tid);
        let kernel::SyscallLine::In(before) = task.first_look(true).syscall else {
            return None;
        };
        let (sp, pc) = (before.stack_pointer.0, before.instruction_pointer.0);
        let walk = self.unwinder().unwind_blocked(sp, pc, &[], live);
        let stack = copy::used(&walk, self.memory);
        // What was read while it moved is worth nothing.
        if task.last_look().syscall != kernel::SyscallLine::In(before) {
            return None;
        }
        Some(Unwound {
            walk,
            stack,
            registers: Vec::new(),
            moved: !is_where_it_was(thread, sp, pc),
            grade: Grade::Guessed,
        })
    }
}
