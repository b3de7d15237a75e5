//! Interpreters, their GILs, and all thread states.

use super::code::CodeCache;
use super::frame;
use super::heap::Heap;
use super::names::known_threads;
use super::offsets::fixed;
use super::skeleton::Skeleton;
use super::thread_state::{self, FRAME_BYTES, RawThreadState};
use crate::capture::memory::ReadError;
use crate::model::{Addr, Gap, GapKind, Gil, Interpreter, Key};

/// Thread states of which frames and more are brought in one call: few enough that it is all kept until it has been read.
pub(super) const TOGETHER: usize = 256;
/// Most stacks that are read anew because their thread ran on meanwhile: as many run at a time as there are GILs.
const MAX_REREADS: usize = 64;
/// What is brought of an object, with what lies before it.
const OBJECT_BYTES: usize = 128;

/// Everything read of one runtime in one pass.
#[derive(Debug, Default)]
pub(crate) struct Census {
    pub(crate) interpreters: Vec<Interpreter>,
    pub(crate) thread_states: Vec<RawThreadState>,
    pub(crate) gaps: Vec<Gap>,
}

impl Census {
    /// The thread states, with the pages of their frames at hand.
    pub(super) fn with_frames<'c>(
        &'c self,
        heap: &'c Heap<'_>,
    ) -> impl Iterator<Item = &'c RawThreadState> {
        self.thread_states.chunks(TOGETHER).flat_map(|some| {
            let frames = some.iter().flat_map(RawThreadState::frame_ranges);
            heap.memory.prefetch(frames);
            let variables = some.iter().flat_map(|raw| raw.first_variables(heap));
            // What comes before an object may lead to its attributes.
            let objects = variables.map(|object| (object.saturating_sub(32), OBJECT_BYTES));
            heap.memory.prefetch(objects);
            some
        })
    }
}

/// Reads all that the skeleton names.
pub(crate) fn census(
    heap: &Heap<'_>,
    codes: &CodeCache,
    runtime: u64,
    skeleton: &Skeleton,
    process: &Key,
    with_locals: bool,
) -> Census {
    let mut census = Census::default();
    for reason in &skeleton.broken {
        census.gaps.push(Gap::new(
            Some(process.clone()),
            GapKind::Implausible,
            "some interpreters or thread states",
            reason.as_str(),
        ));
    }
    let mut rereads = MAX_REREADS;
    // CPython lists the newest first; people expect the main interpreter first.
    for (address, states) in skeleton.interpreters.iter().rev() {
        match interpreter(heap, runtime, *address, states.len(), process) {
            Ok(found) => {
                let known = known_threads(heap, *address);
                for some in states.chunks(TOGETHER) {
                    prefetch_stacks(heap, some);
                    for &state in some {
                        match thread_state::read(heap, codes, state, &found, &known, with_locals) {
                            Ok(mut raw) => {
                                if raw.state.cut.is_some() && rereads > 0 {
                                    rereads -= 1;
                                    raw.read_stack_anew(heap, codes, with_locals);
                                }
                                census.thread_states.push(raw);
                            }
                            Err(error) => census.gaps.push(Gap::new(
                                Some(found.key.clone()),
                                GapKind::Implausible,
                                "a thread state",
                                error.to_string(),
                            )),
                        }
                    }
                }
                census.interpreters.push(found);
            }
            Err(error) => census.gaps.push(Gap::new(
                Some(process.clone()),
                GapKind::Implausible,
                "an interpreter",
                error.to_string(),
            )),
        }
    }
    census
}

/// Brings the pages of thread states and of their innermost frames in a few calls. Frames that follow each other are in one
/// chunk of memory, but for those of calls from C, which are on the C stack.
pub(super) fn prefetch_stacks(heap: &Heap<'_>, states: &[u64]) {
    const WAVES: usize = 4;
    heap.memory
        .prefetch(states.iter().map(|state| (*state, FRAME_BYTES)));
    let frames = states.iter().map(|state| frame::innermost(heap, *state));
    let mut frames: Vec<u64> = frames.filter_map(Result::ok).collect();
    for _ in 0..WAVES {
        frames.retain(|frame| *frame != 0);
        let below = |frame: &u64| (frame.saturating_sub(512), 640);
        heap.memory.prefetch(frames.iter().map(below));
        frames = frames
            .into_iter()
            .filter_map(|frame| frame::next_elsewhere(heap, frame))
            .collect();
    }
}

fn interpreter(
    heap: &Heap<'_>,
    runtime: u64,
    address: u64,
    thread_states: usize,
    process: &Key,
) -> Result<Interpreter, ReadError> {
    let (memory, offsets) = (heap.memory, heap.offsets);
    let at = |offset: u64| address.wrapping_add(offset);
    let id = memory.i64(at(offsets.interpreter_id))?;
    let pointer = |offset: Option<u64>| -> Result<Option<Addr>, ReadError> {
        let Some(offset) = offset else {
            return Ok(None);
        };
        let value = memory.u64(at(offset))?;
        Ok((value != 0).then_some(Addr(value)))
    };
    let gil_address = match (offsets.interpreter_gil, offsets.runtime_gil) {
        (Some(_), _) => pointer(offsets.interpreter_gil)?,
        (None, Some(offset)) => Some(Addr(runtime.wrapping_add(offset))),
        (None, None) => None,
    };
    let whence = match offsets.interpreter_whence {
        Some(offset) => interpreter_whence(memory.i64(at(offset))?),
        None => None,
    };
    let own_gil = match offsets.interpreter_own_gil {
        Some(offset) => memory.i32(at(offset))? != 0,
        None => id == 0,
    };
    Ok(Interpreter {
        key: process.interpreter(id),
        id,
        address: Addr(address),
        whence,
        finalizing: memory.i32(at(offsets.interpreter_finalizing))? != 0,
        torn_down_by: pointer(offsets.interpreter_torn_down_by)?,
        own_gil,
        gil: match gil_address {
            Some(address) => Some(gil(heap, runtime, address, process)?),
            None => None,
        },
        running_main: pointer(offsets.interpreter_threads_main)?,
        thread_states,
    })
}

fn gil(heap: &Heap<'_>, runtime: u64, address: Addr, process: &Key) -> Result<Gil, ReadError> {
    let at = |offset: u64| address.0.wrapping_add(offset);
    // -1: not yet created; 0: free; the holder is dangling unless locked.
    let locked = heap.memory.i32(at(fixed::GIL_LOCKED))? == 1;
    let current = match heap.offsets.runtime_current {
        Some(offset) => heap.memory.u64(runtime.wrapping_add(offset))?,
        None => 0,
    };
    let holder = match current {
        0 => heap.memory.u64(at(fixed::GIL_HOLDER))?,
        current => current,
    };
    Ok(Gil {
        key: process.gil(address),
        locked,
        holder: (locked && holder != 0).then_some(Addr(holder)),
        holder_thread: None,
        switches: heap.memory.u64(at(fixed::GIL_SWITCHES))?,
    })
}

/// `_PyInterpreterState_WHENCE_*` (`pycore_interp.h`).
fn interpreter_whence(value: i64) -> Option<String> {
    let name = match value {
        0 => "unknown",
        1 => "runtime",
        2 => "legacy-c-api",
        3 => "c-api",
        4 => "cross-interpreter",
        5 => "stdlib",
        _ => return None,
    };
    Some(name.to_owned())
}
