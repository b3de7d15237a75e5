//! A thread state, with its frames.

use super::code::CodeCache;
use super::frame::{self, RawFrame};
use super::heap::Heap;
use super::names::KnownThread;
use super::slots;
use crate::capture::memory::{PAGE, ReadError};
use crate::model::{Addr, Foreign, Interpreter, ThreadState, Tid};
use std::collections::BTreeMap;

/// Innermost frames of a thread state that are brought in one call.
const FRAMES_TOGETHER: usize = 256;
/// How often a stack is read anew.
const ATTEMPTS: usize = 4;
/// What is brought of a frame; most are smaller.
pub(super) const FRAME_BYTES: usize = 256;

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
    pub(super) fn read_stack_anew(
        &mut self,
        heap: &Heap<'_>,
        codes: &CodeCache,
        with_locals: bool,
    ) {
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
    pub(super) fn first_variables(&self, heap: &Heap<'_>) -> impl Iterator<Item = u64> {
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

/// As it is shown.
fn fingerprint(hash: u64) -> String {
    format!("{hash:016x}")
}

/// Reads one.
pub(super) fn read(
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
