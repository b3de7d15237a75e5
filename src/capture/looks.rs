//! Two looks at each thread of a process, around the reading of its memory. At thousands of threads they are most of what a
//! capture costs, so several are looked at at a time.

use super::kernel::{Look, Stat, SyscallLine, Task, Tasks};
use super::memory::{CachedMemory, Memory};
use super::merge::RawThread;
use super::namespace::NamespaceIds;
use super::parallel;
use super::syscall::{self, Meaning};
use crate::model::{Foreign, Tid};
use std::collections::BTreeSet;

/// Threads that one worker looks at before it comes for more.
const PIECE: usize = 32;
/// Most threads whose `/proc` files are kept open during a sample.
const MAX_OPEN_TASKS: usize = 8192;
/// Most files that are open at a time on account of that.
pub(super) const MOST_OPEN_FILES: u64 = 2 * MAX_OPEN_TASKS as u64 + 64;

/// What is the same for all threads of a process.
#[derive(Clone, Copy)]
pub(super) struct Looker<'m> {
    pub(super) tasks: &'m Tasks,
    pub(super) memory: &'m dyn Memory,
    /// A 32-bit process counts its system calls differently; their numbers mean nothing to us.
    pub(super) bits_32: bool,
    /// The process is stopped between the looks.
    pub(super) stops: bool,
}

/// A thread between the looks, and after them.
pub(super) struct SeenThread<'m> {
    task: Task<'m>,
    pub(super) first: Look,
    last: Look,
    pub(super) meaning: Option<Meaning>,
    wchan: Option<Foreign>,
    /// Read before the last look: if a stop is to follow, which changes it, or while memory is read.
    stat: Option<Stat>,
}

/// How a stop between the looks went.
pub(super) struct Stopped {
    /// Threads that stood still.
    pub(super) threads: BTreeSet<Tid>,
    /// Until after the last look.
    pub(super) whole: bool,
}

impl SeenThread<'_> {
    pub(super) fn tid(&self) -> Tid {
        self.task.tid
    }
}

impl<'m> Looker<'m> {
    /// The first look at each of the threads.
    pub(super) fn first(&self, tids: &[Tid]) -> Vec<SeenThread<'m>> {
        let keep_open = tids.len() <= MAX_OPEN_TASKS;
        let seen = parallel::by_workers(tids.chunks(PIECE), |pieces| {
            let memory = CachedMemory::small(self.memory);
            let look = |tid: &Tid| self.first_of(*tid, keep_open, &memory);
            pieces
                .map(|piece| piece.iter().map(look).collect::<Vec<_>>())
                .collect()
        });
        seen.into_iter().flatten().collect()
    }

    fn first_of(&self, tid: Tid, keep_open: bool, memory: &CachedMemory<'_>) -> SeenThread<'m> {
        let mut seen = self.begun(tid, keep_open);
        if let SyscallLine::In(call) = &seen.first.syscall
            && !self.bits_32
        {
            if !seen.first.syscall.is_futex() {
                seen.wchan = seen.task.wchan();
            }
            let place = seen.wchan.as_ref().map(Foreign::untrusted);
            seen.meaning = Some(syscall::meaning(call, place, Some(memory)));
        }
        if self.stops {
            seen.stat = seen.task.stat();
        }
        seen
    }

    /// The first look at a thread that began after the others had been looked at.
    pub(super) fn begun(&self, tid: Tid, keep_open: bool) -> SeenThread<'m> {
        let mut task = Task::new(self.tasks, tid);
        SeenThread {
            first: task.first_look(keep_open),
            last: Look::default(),
            task,
            meaning: None,
            wchan: None,
            stat: None,
        }
    }

    /// Does something, and meanwhile reads each thread's `stat`, if there are so many that it is worth a thread.
    pub(super) fn meanwhile<T>(
        &self,
        seen: &mut [SeenThread<'_>],
        something: impl FnOnce() -> T,
    ) -> T {
        if self.stops || seen.len() < 2 * PIECE {
            return something();
        }
        let stats = || seen.iter().map(|seen| seen.task.stat()).collect();
        let (done, stats): (T, Vec<Option<Stat>>) = parallel::beside(something, stats);
        for (seen, stat) in seen.iter_mut().zip(stats) {
            seen.stat = stat;
        }
        done
    }

    /// The last look at each.
    pub(super) fn last(&self, seen: &mut [SeenThread<'_>]) {
        parallel::map(seen.chunks_mut(PIECE), |piece| {
            for seen in piece {
                seen.last = seen.task.last_look();
            }
        });
    }

    /// What both looks tell of the threads that are still there.
    pub(super) fn join(
        &self,
        mut seen: Vec<SeenThread<'_>>,
        namespace: &NamespaceIds,
        stopped: &Stopped,
    ) -> Vec<RawThread> {
        let threads = parallel::map(seen.chunks_mut(PIECE), |piece| {
            let join = |seen: &mut SeenThread<'_>| self.join_one(seen, namespace, stopped);
            piece.iter_mut().filter_map(join).collect::<Vec<_>>()
        });
        threads.into_iter().flatten().collect()
    }

    fn join_one(
        &self,
        seen: &mut SeenThread<'_>,
        namespace: &NamespaceIds,
        stopped: &Stopped,
    ) -> Option<RawThread> {
        let (task, mut last) = (&seen.task, std::mem::take(&mut seen.last));
        let stood_still = stopped.threads.contains(&task.tid);
        if self.stops && !stood_still {
            // It ended before it could be stopped.
            let ends = || task.stat().is_none_or(|stat| stat.is_ending());
            if last.schedstat.is_none() || ends() {
                return None;
            }
        }
        let same_call = seen.first.syscall == last.syscall;
        // A thread that got out of its call just before it was stopped is at rest, but waits for nothing.
        let settled = seen.first.settled_until(&last) || (stopped.whole && stood_still);
        if let SyscallLine::In(call) = &mut last.syscall
            && self.bits_32
        {
            call.name = None;
        }
        Some(RawThread {
            tid: task.tid,
            native_id: namespace.inner(task.tid),
            settled,
            same_call,
            meaning: seen.meaning.take().filter(|_| same_call || !settled),
            wchan: match last.syscall.is_futex() {
                true => None,
                false => seen.wchan.take().or_else(|| task.wchan()),
            },
            // Of one that has moved since it is not true any more.
            stat: match seen.stat.take().filter(|_| self.stops || settled) {
                Some(stat) => stat,
                None if stood_still => Stat {
                    state: 'R', // it ran until it was stopped
                    ..task.stat()?
                },
                None => task.stat()?,
            },
            look: last,
        })
    }
}
