//! Which thread does the work that a task has given to one.

use super::Reader;
use crate::capture::python::slots;
use crate::model::{Addr, Foreign};
use std::collections::HashMap;

/// Threads of pools that work, by what they work on: the functions of a trio job, the future of an executor's or anyio's.
pub(super) struct Workers {
    by_work: HashMap<u64, Addr>,
}

impl Workers {
    /// Looks through the frames of all threads.
    pub(super) fn of(reader: &Reader<'_>) -> Self {
        let mut by_work = HashMap::new();
        for state in &reader.census.thread_states {
            for frame in &state.raw_frames {
                let variable = |name| slots::variable(reader.heap, frame, name);
                let work = match &*frame.code.name {
                    "_handle_job" if ends_in(&frame.code.file, "trio/_core/_thread_cache.py") => {
                        [variable("fn"), variable("deliver")]
                    }
                    "run" if ends_in(&frame.code.file, "concurrent/futures/thread.py") => {
                        let item = variable("self");
                        let future = item
                            .and_then(|item| reader.heap.attribute(item, "future").ok().flatten());
                        [future, None]
                    }
                    "run" if ends_in(&frame.code.file, "anyio/_backends/_asyncio.py") => {
                        [variable("future"), None]
                    }
                    _ => continue,
                };
                by_work.extend(
                    work.into_iter()
                        .flatten()
                        .map(|work| (work, state.state.address)),
                );
            }
        }
        Self { by_work }
    }

    /// The thread state of the thread that works on this.
    pub(super) fn on(&self, work: u64) -> Option<Addr> {
        self.by_work.get(&work).copied()
    }

    /// Whether no pool works on anything.
    pub(super) fn is_empty(&self) -> bool {
        self.by_work.is_empty()
    }
}

/// Whether a file's path ends in `suffix`.
pub(super) fn ends_in(file: &Foreign, suffix: &str) -> bool {
    file.untrusted()
        .strip_suffix(suffix)
        .is_some_and(|head| head.is_empty() || head.ends_with('/'))
}
