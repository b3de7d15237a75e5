//! A walk without a stop: of a blocked thread the kernel tells stack pointer and program counter only.
//!
//! That is enough as long as each frame is found by the stack pointer. Where one is found by the frame pointer, its place on
//! the stack is guessed: the lowest from which the walk goes on to a clean end. Frames after that are marked.

use super::arch::Registers;
use super::stack::{Reader, StackBytes};
use super::unwind::{NativeFrame, Position, Unwinder, Walk, WalkEnd};
use crate::capture::memory::CachedMemory;

/// How many words above the stack pointer the frame may be: the largest frames of `rustc` and CPython have some KiB.
const MAX_WORDS: u64 = 4096;
/// Most places that are tried in one walk.
const MAX_TRIES: usize = 256;
/// Most frames that are walked over in trying.
const MAX_TRIED_FRAMES: usize = 20_000;

impl Unwinder<'_> {
    /// The frames of a thread that is blocked in a system call, by what `/proc/PID/task/TID/syscall` tells of it. The stack is
    /// read from the process if it was not copied.
    pub(crate) fn unwind_blocked(
        &self,
        sp: u64,
        pc: u64,
        stacks: &[StackBytes],
        memory: &CachedMemory<'_>,
    ) -> Walk {
        let reader = Reader::new(stacks, memory);
        let start = Position {
            registers: Registers::blocked(sp, pc),
            after_call: false,
            guessed: false,
        };
        let mut frames = Vec::new();
        let (mut end, position) = self.walk(start, &reader, &mut frames);
        if matches!(end, WalkEnd::UnknownRegister(_) | WalkEnd::NoRules(..))
            && let Some(guessed) = self.try_frame_pointers(&position, &reader)
        {
            // The frame that the walk stopped at is among them, with what was guessed of it.
            frames.pop();
            frames.extend(guessed);
            end = WalkEnd::Outermost;
        }
        Walk {
            frames,
            end,
            read_live: reader.read_live.get(),
        }
    }

    /// The frames from a position on, with the lowest frame pointer that leads to a clean end.
    fn try_frame_pointers(
        &self,
        position: &Position,
        reader: &Reader<'_>,
    ) -> Option<Vec<NativeFrame>> {
        let arch = self.arch();
        // Zero is found on any stack: it ends a guess only where none leads to an end by rule.
        let mut ended_by_zero = None;
        let mut tries = 0;
        let mut walked = 0;
        for number in 0..MAX_WORDS {
            let place = position.registers.sp.checked_add(number * 8)?;
            let Some(above) = reader.word(place.checked_add(8)?) else {
                break;
            };
            // Above the caller's frame pointer is the return address.
            if !self.is_return_address(above) {
                continue;
            }
            let mut from = position.clone();
            from.registers.set(arch, arch.frame_pointer, Some(place));
            let mut frames = Vec::new();
            let (end, _) = self.walk(from, reader, &mut frames);
            tries += 1;
            walked += frames.len();
            // That the thread is in the first of them needs no guess.
            for frame in frames.iter_mut().skip(1) {
                frame.guessed = true;
            }
            match end {
                WalkEnd::Outermost => return Some(frames),
                WalkEnd::Zero => {
                    ended_by_zero.get_or_insert(frames);
                }
                _ => {}
            }
            if tries >= MAX_TRIES || walked >= MAX_TRIED_FRAMES {
                break;
            }
        }
        ended_by_zero
    }
}
