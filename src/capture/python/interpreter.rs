//! Interpreters, GILs and thread states, as linked lists in the target.

use super::code::CodeCache;
use super::frame::{self, RawFrame};
use super::heap::Heap;
use super::names::{KnownThread, known_threads};
use super::offsets::fixed;
use super::slots;
use crate::capture::memory::{PAGE, ReadError};
use crate::model::{Addr, Foreign, Gap, GapKind, Gil, Interpreter, Key, ThreadState, Tid};
use std::collections::{BTreeMap, HashSet};

/// Most interpreters of one process.
const MAX_INTERPRETERS: usize = 10_000;
/// Most thread states of one interpreter.
const MAX_THREAD_STATES: usize = 100_000;

/// Thread states of which frames and more are brought in one call: few enough that it is all kept until it has been read.
pub(super) const TOGETHER: usize = 256;
/// Innermost frames of a thread state that are brought so.
const FRAMES_TOGETHER: usize = 256;
/// Most stacks that are read anew because their thread ran on meanwhile: as many run at a time as there are GILs.
const MAX_REREADS: usize = 64;
/// How often each of them is.
const ATTEMPTS: usize = 4;
/// What is brought of an object, with what lies before it.
const OBJECT_BYTES: usize = 128;
/// What is brought of a frame; most are smaller.
const FRAME_BYTES: usize = 256;

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

/// A thread state with what only the reader needs.
#[derive(Debug)]
pub(crate) struct RawThreadState {
    pub(crate) state: ThreadState,
    /// `native_thread_id`, in the target's pid namespace.
    pub(crate) native_id: Tid,
    /// It is the one that runs on its thread now (`bound_gilstate`, 3.12+, or the innermost on the stack); others of that thread are suspended.
    pub(crate) bound: bool,
    /// Where it lies on its thread's stack, lower ones first; 0 where that is not known.
    pub(crate) place: u64,
    /// No thread runs it.
    pub(crate) runs_nowhere: bool,
    /// The `Thread` object of `threading`, if its interpreter knows the thread.
    pub(crate) thread_object: Option<u64>,
    /// Its frames as they lie in memory, innermost first.
    pub(crate) raw_frames: Vec<RawFrame>,
}

impl RawThreadState {
    /// Reads the frames again, and nothing else between them, until they go together.
    fn read_stack_anew(&mut self, heap: &Heap<'_>, codes: &CodeCache, with_locals: bool) {
        for _ in 0..ATTEMPTS {
            let memory = heap.memory.anew();
            let stack = frame::walk(
                &Heap::new(&memory, heap.offsets),
                codes,
                self.state.address.0,
                with_locals,
            );
            if stack.cut.is_none() {
                self.raw_frames = stack.raw;
                self.state.fingerprint = stack.fingerprint.map(fingerprint);
                self.state.frames = stack.frames;
                self.state.cut = None;
                return;
            }
        }
    }

    /// What the first variable of each of its innermost frames refers to: `self`, mostly.
    fn first_variables(&self, heap: &Heap<'_>) -> impl Iterator<Item = u64> {
        let frames = self.raw_frames.iter().take(FRAMES_TOGETHER);
        let mut last = None;
        frames
            .filter_map(|frame| {
                let first = frame.address.wrapping_add(heap.offsets.frame_locals);
                slots::reference(heap, heap.memory.u64(first).ok()?)
            })
            .filter(move |object| last.replace(*object) != Some(*object))
    }

    /// Where its innermost frames lie; of those that follow each other on a page the outermost ones.
    pub(super) fn frame_ranges(&self) -> impl Iterator<Item = (u64, usize)> {
        let frames = self.raw_frames.iter().take(FRAMES_TOGETHER);
        let addresses = frames.map(|frame| frame.address);
        let mut page = None;
        addresses
            .filter(move |address| page.replace(address / PAGE) != Some(address / PAGE))
            .map(|address| (address, FRAME_BYTES))
    }
}

/// The addresses that make up the lists: cheap to read again, to see whether they changed meanwhile.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Skeleton {
    /// Interpreters, newest first as CPython keeps them, each with its thread states.
    interpreters: Vec<(u64, Vec<u64>)>,
    broken: Vec<String>,
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
                        match thread_state(heap, codes, state, &found, &known, with_locals) {
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

/// As it is shown.
fn fingerprint(hash: u64) -> String {
    format!("{hash:016x}")
}

fn thread_state(
    heap: &Heap<'_>,
    codes: &CodeCache,
    address: u64,
    interpreter: &Interpreter,
    known: &BTreeMap<u64, KnownThread>,
    with_locals: bool,
) -> Result<RawThreadState, ReadError> {
    let (memory, offsets) = (heap.memory, heap.offsets);
    let at = |offset: u64| address.wrapping_add(offset);
    let ident = memory.u64(at(offsets.thread_ident))?;
    let status = match offsets.thread_status {
        Some(offset) => status_names(memory.u32(at(offset))?, offsets.minor),
        None => Vec::new(),
    };
    let number = |offset: Option<u64>| -> Result<Option<i32>, ReadError> {
        offset.map(|offset| memory.i32(at(offset))).transpose()
    };
    let holds_gil = match number(offsets.thread_holds_gil)? {
        Some(flag) => flag != 0,
        None => interpreter
            .gil
            .as_ref()
            .is_some_and(|gil| gil.holder == Some(Addr(address))),
    };
    let thread = known.get(&ident);
    let stack = frame::walk(heap, codes, address, with_locals);
    Ok(RawThreadState {
        native_id: native_id(heap, address, ident)?,
        bound: status.iter().any(|name| name == "bound-gilstate"),
        place: 0,
        runs_nowhere: false,
        thread_object: thread.map(|thread| thread.object),
        raw_frames: stack.raw,
        state: ThreadState {
            address: Addr(address),
            id: memory.u64(at(offsets.thread_id))?,
            interpreter: interpreter.key.clone(),
            interpreter_id: interpreter.id,
            ident: Addr(ident),
            tid: None,
            whence: number(offsets.thread_whence)?.and_then(thread_whence),
            state: number(offsets.thread_state)?.and_then(attachment),
            status,
            holds_gil,
            name: thread
                .and_then(|thread| thread.name.clone())
                .map(Foreign::from),
            daemon: thread.and_then(|thread| thread.daemon),
            fingerprint: stack.fingerprint.map(fingerprint),
            frames: stack.frames,
            cut: stack.cut,
        },
    })
}

/// `struct pthread.tid` of glibc, in bytes from the `pthread_t` (nptl/descr.h: `x86_64` alone has more before it than the 24
/// pointers that are always left free).
const PTHREAD_TID: u64 = if cfg!(target_arch = "x86_64") {
    0x2d0
} else {
    0xd0
};

/// The kernel's id of a thread state's thread: CPython's own note, or before 3.11 glibc's. Whoever uses it looks whether
/// there is such a thread.
fn native_id(heap: &Heap<'_>, thread_state: u64, ident: u64) -> Result<Tid, ReadError> {
    match heap.offsets.thread_native_id {
        Some(offset) => {
            let id = heap.memory.u64(thread_state.wrapping_add(offset))?;
            Ok(Tid::try_from(id).unwrap_or(0))
        }
        None => Ok(heap
            .memory
            .i32(ident.wrapping_add(PTHREAD_TID))
            .unwrap_or(0)),
    }
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

/// `_PyThreadState_WHENCE_*` (`cpython/pystate.h`).
fn thread_whence(value: i32) -> Option<String> {
    let name = match value {
        0 => "unknown",
        1 => "init",
        2 => "fini",
        3 => "threading",
        4 => "c-api",
        5 => "exec",
        6 => "threading-daemon",
        _ => return None,
    };
    Some(name.to_owned())
}

/// `_Py_THREAD_*` (`pycore_pystate.h`).
fn attachment(value: i32) -> Option<String> {
    let name = match value {
        0 => "detached",
        1 => "attached",
        2 => "suspended",
        3 => "shutting-down",
        _ => return None,
    };
    Some(name.to_owned())
}

/// The bit field `PyThreadState._status` (`cpython/pystate.h`); 3.13 has one bit more.
fn status_names(bits: u32, minor: u8) -> Vec<String> {
    let with_gil: &[&str] = &["holds-gil"];
    let middle = if minor == 13 { with_gil } else { &[] };
    [
        "initialized",
        "bound",
        "unbound",
        "bound-gilstate",
        "active",
    ]
    .iter()
    .chain(middle)
    .chain(&["finalizing", "cleared", "finalized"])
    .enumerate()
    .filter(|(bit, _)| bits >> bit & 1 == 1)
    .map(|(_, name)| (*name).to_owned())
    .collect()
}

#[cfg(test)]
mod tests {
    use super::status_names;

    #[test]
    fn status_bits_by_version() {
        assert_eq!(
            status_names(0b1_1011, 14),
            ["initialized", "bound", "bound-gilstate", "active"]
        );
        assert_eq!(status_names(1 << 5, 13), ["holds-gil"]);
        assert_eq!(status_names(1 << 5, 14), ["finalizing"]);
        assert_eq!(status_names(1 << 7, 15), ["finalized"]);
    }
}
