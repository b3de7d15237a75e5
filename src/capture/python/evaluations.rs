//! Which Python frames one call of CPython's evaluation function runs, and where on the C stack that call is: what native
//! and Python frames of a thread are interleaved by. By address, since a stripped Python has no names.

use super::PythonProcess;
use super::code::CodeCache;
use super::frame;
use super::heap::Heap;
use super::interpreter;
use crate::capture::memory::{CachedMemory, ReadError};
use crate::model::Foreign;
use std::collections::HashSet;

/// Most frames that are walked.
const MAX_FRAMES: usize = 100_000;
/// `_PyCFrame.previous` (3.11, `cpython/pystate.h`), `CFrame.previous` (3.10).
const CFRAME_PREVIOUS_311: u64 = 16;
const CFRAME_PREVIOUS_310: u64 = 8;
/// `_PyInterpreterFrame.is_entry` (3.11, `pycore_frame.h`): the call of the evaluation function began with this frame.
const IS_ENTRY_311: u64 = 68;

/// Some Python frames, innermost first, and an address within the native frame that runs them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Evaluation {
    pub(crate) frames: usize,
    /// Of a structure that the evaluation function keeps on its stack.
    pub(crate) address: u64,
}

impl PythonProcess {
    /// The calls of the evaluation function below a thread state, innermost first.
    ///
    /// # Errors
    /// Why they are not known, in words.
    pub(crate) fn evaluations(
        &self,
        memory: &CachedMemory<'_>,
        thread_state: u64,
    ) -> Result<Vec<Evaluation>, String> {
        let Some(offsets) = &self.runtime.offsets else {
            return Err("the layout of this version is not known".to_owned());
        };
        let heap = Heap::new(memory, offsets);
        let found = match offsets.minor {
            ..=9 => return Err("before 3.10 Python does not note it".to_owned()),
            10 => each_its_own(&heap, thread_state),
            11 => by_entry_flags(&heap, thread_state),
            _ => by_entry_frames(&heap, thread_state),
        };
        found.map_err(|error| error.to_string())
    }

    /// Brings what [`Self::evaluations`] reads of many thread states, in few calls.
    pub(crate) fn prefetch_stacks(&self, memory: &CachedMemory<'_>, thread_states: &[u64]) {
        if let Some(offsets) = &self.runtime.offsets {
            interpreter::prefetch_stacks(&Heap::new(memory, offsets), thread_states);
        }
    }

    /// Where no address tells which Python frames a call of the evaluation function runs, but each call runs one: its name.
    /// 3.9 (`Python/ceval.c`), unless another function is set by PEP 523.
    pub(crate) fn evaluation_function(&self) -> Option<&'static str> {
        let offsets = self.runtime.offsets.as_ref()?;
        (offsets.minor == 9).then_some("_PyEval_EvalFrameDefault")
    }

    /// The functions of a thread state's frames, innermost first.
    pub(crate) fn functions(
        &self,
        memory: &CachedMemory<'_>,
        thread_state: u64,
    ) -> Option<Vec<Foreign>> {
        let heap = Heap::new(memory, self.runtime.offsets.as_ref()?);
        let stack = frame::walk(&heap, &CodeCache::default(), thread_state, false);
        let frames = stack.frames.into_iter().map(|frame| frame.function);
        stack.cut.is_none().then(|| frames.collect())
    }
}

/// 3.10: each Python frame has a call of its own, which keeps a `CFrame`.
fn each_its_own(heap: &Heap<'_>, thread_state: u64) -> Result<Vec<Evaluation>, ReadError> {
    let Some(root) = heap.offsets.thread_cframe else {
        return Ok(Vec::new());
    };
    let mut cframe = heap.memory.u64(thread_state.wrapping_add(root))?;
    let mut found = Vec::new();
    for next in Frames::of(heap, thread_state)? {
        next?;
        found.push(Evaluation {
            frames: 1,
            address: cframe,
        });
        cframe = heap.memory.u64(cframe.wrapping_add(CFRAME_PREVIOUS_310))?;
    }
    Ok(found)
}

/// 3.11: a call runs frames up to the one that it was entered by; its `_PyCFrame` is on its stack.
fn by_entry_flags(heap: &Heap<'_>, thread_state: u64) -> Result<Vec<Evaluation>, ReadError> {
    let Some(root) = heap.offsets.thread_cframe else {
        return Ok(Vec::new());
    };
    let mut cframe = heap.memory.u64(thread_state.wrapping_add(root))?;
    let mut found = Vec::new();
    let mut frames = 0;
    for next in Frames::of(heap, thread_state)? {
        let frame = next?;
        frames += 1;
        if heap.memory.u8(frame.wrapping_add(IS_ENTRY_311))? != 0 {
            found.push(Evaluation {
                frames,
                address: cframe,
            });
            frames = 0;
            cframe = heap.memory.u64(cframe.wrapping_add(CFRAME_PREVIOUS_311))?;
        }
    }
    Ok(found)
}

/// 3.12 and later: a call puts a frame that is not Python's below those that it runs, and keeps it on its stack.
fn by_entry_frames(heap: &Heap<'_>, thread_state: u64) -> Result<Vec<Evaluation>, ReadError> {
    let mut found = Vec::new();
    let mut frames = 0;
    for next in Frames::of(heap, thread_state)? {
        let frame = next?;
        let owner = match heap.offsets.frame_owner {
            Some(offset) => heap.memory.u8(frame.wrapping_add(offset))?,
            None => 0,
        };
        if owner < heap.offsets.frame_first_foreign_owner {
            frames += 1;
        } else if frames > 0 {
            found.push(Evaluation {
                frames,
                address: frame,
            });
            frames = 0;
        }
    }
    Ok(found)
}

/// Addresses of frames, innermost first.
struct Frames<'h> {
    heap: &'h Heap<'h>,
    next: u64,
    seen: HashSet<u64>,
}

impl<'h> Frames<'h> {
    fn of(heap: &'h Heap<'h>, thread_state: u64) -> Result<Self, ReadError> {
        Ok(Self {
            heap,
            next: frame::innermost(heap, thread_state)?,
            seen: HashSet::new(),
        })
    }
}

impl Iterator for Frames<'_> {
    type Item = Result<u64, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        let frame = self.next;
        if frame == 0 {
            return None;
        }
        if !self.seen.insert(frame) || self.seen.len() > MAX_FRAMES {
            self.next = 0;
            return Some(Err(ReadError::Exhausted));
        }
        let previous = frame.wrapping_add(self.heap.offsets.frame_previous);
        match self.heap.memory.u64(previous) {
            Ok(previous) => self.next = previous,
            Err(error) => {
                self.next = 0;
                return Some(Err(error));
            }
        }
        Some(Ok(frame))
    }
}
