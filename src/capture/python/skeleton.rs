//! The linked lists of interpreters and thread states, without what is in them: the addresses.

use super::heap::Heap;
use crate::capture::memory::ReadError;
use std::collections::HashSet;

/// Most interpreters of one process.
const MAX_INTERPRETERS: usize = 10_000;
/// Most thread states of one interpreter.
const MAX_THREAD_STATES: usize = 100_000;

/// The addresses that make up the lists: cheap to read again, to see whether they changed meanwhile.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Skeleton {
    /// Interpreters, newest first as CPython keeps them, each with its thread states.
    pub(super) interpreters: Vec<(u64, Vec<u64>)>,
    pub(super) broken: Vec<String>,
}

/// Walks the lists only.
pub(crate) fn skeleton(heap: &Heap<'_>, runtime: u64) -> Result<Skeleton, ReadError> {
    let (memory, offsets) = (heap.memory, heap.offsets);
    let mut out = Skeleton::default();
    let mut seen = HashSet::new();
    let mut next = memory.u64(runtime.wrapping_add(offsets.runtime_interpreters_head))?;
    while next != 0 {
        if !seen.insert(next) || seen.len() > MAX_INTERPRETERS {
            out.broken
                .push("the list of interpreters runs in a circle".into());
            break;
        }
        let interpreter = next;
        let mut states = Vec::new();
        let mut state = memory.u64(interpreter.wrapping_add(offsets.interpreter_threads_head))?;
        while state != 0 {
            if !seen.insert(state) || states.len() > MAX_THREAD_STATES {
                out.broken
                    .push("a list of thread states runs in a circle".into());
                break;
            }
            let (owner, following) = match (
                memory.u64(state.wrapping_add(offsets.thread_interpreter)),
                memory.u64(state.wrapping_add(offsets.thread_next)),
            ) {
                (Ok(owner), Ok(following)) => (owner, following),
                _ => {
                    out.broken
                        .push("a list of thread states leads to unreadable memory".into());
                    break;
                }
            };
            if owner != interpreter {
                out.broken
                    .push("a thread state does not point back to its interpreter".into());
                break;
            }
            states.push(state);
            state = following;
        }
        out.interpreters.push((interpreter, states));
        next = match memory.u64(interpreter.wrapping_add(offsets.interpreter_next)) {
            Ok(following) => following,
            Err(_) => {
                out.broken
                    .push("the list of interpreters leads to unreadable memory".into());
                0
            }
        };
    }
    Ok(out)
}

impl Skeleton {
    /// Brings what the walk reads of the lists in a few calls, as far as they are as they were.
    pub(crate) fn prefetch(&self, heap: &Heap<'_>) {
        let states = self.interpreters.iter().flat_map(|(_, states)| states);
        let fields = [heap.offsets.thread_next, heap.offsets.thread_interpreter];
        heap.memory
            .prefetch(states.flat_map(|state| fields.map(|field| (state.wrapping_add(field), 8))));
    }

    /// Whether the lists look like CPython's at all: there is a main interpreter, with id 0.
    pub(crate) fn plausible(&self, heap: &Heap<'_>) -> bool {
        self.interpreters.iter().any(|(interpreter, _)| {
            heap.memory
                .i64(interpreter.wrapping_add(heap.offsets.interpreter_id))
                == Ok(0)
        })
    }
}
