//! The walk over the frames of a thread, from its registers outwards.

use super::arch::{Architecture, PRESERVED, Partial, Registers};
use super::images::{Images, Located, NotLocated};
use super::object_file::ObjectCache;
use super::stack::{Reader, StackBytes};
use super::step::{NoCaller, Stepper};
use crate::capture::memory::CachedMemory;

/// Most frames of one thread: a stack of 8 MiB has room for some 100,000 of the smallest, and nobody reads so many.
pub(super) const MAX_FRAMES: usize = 10_000;
/// Largest frame that is believed, and so the farthest that a frame can be from the next: no stack is larger by default.
const MAX_FRAME: u64 = 1 << 30;
/// Most that a frame pointer may be above the stack pointer where nothing but the frame pointer tells.
const MAX_CHAINED_FRAME: u64 = 1 << 20;

/// A frame of compiled code. Inlined functions have none of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NativeFrame {
    /// Address of the instruction that the function is at: in all but the innermost frame and an interrupted one, that after
    /// a call.
    pub(crate) pc: u64,
    /// Its stack pointer there.
    pub(crate) sp: u64,
    /// Its frame's address (DWARF's CFA): the frame is `sp..cfa`. `None` if the walk ended in this frame.
    pub(crate) cfa: Option<u64>,
    /// The kernel made this frame to run a signal handler; the next one outwards was interrupted.
    pub(crate) signal: bool,
    /// It follows from a guess: it may be wrong, and frames may be missing before it.
    pub(crate) guessed: bool,
    /// Number of the file its code is in, see [`Images::name`].
    pub(crate) module: Option<usize>,
    /// `pc` is after a call, and may be that of the next function.
    pub(super) after_call: bool,
    /// The first registers that calls preserve, as far as they are known: in the order of [`Architecture::preserved`].
    pub(super) preserved: Partial<PRESERVED>,
}

impl NativeFrame {
    /// An address within the instruction that the function executes: what to look up.
    pub(crate) fn lookup(&self) -> u64 {
        // The kernel puts a handler's return address at the start of what ends it: nothing has called.
        let after_call = self.after_call && !self.signal;
        self.pc.wrapping_sub(u64::from(after_call))
    }
}

/// How a walk ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WalkEnd {
    /// At the frame that has no caller.
    #[error("the outermost frame")]
    Outermost,
    /// At a return address of zero, which is put under the outermost frame where nothing is said by rule.
    #[error("a return address of zero")]
    Zero,
    /// No code is mapped at a frame's address.
    #[error("no code is mapped at {0:#x}")]
    NoCode(u64),
    /// A file has no rules for a frame's address, and nothing else tells who called it.
    #[error("no unwind rules for {0:#x}: {1}")]
    NoRules(u64, String),
    /// Memory could not be read.
    #[error("the stack cannot be read at {0:#x}")]
    Unreadable(u64),
    /// The rules need a register that is not known.
    #[error("the unwind rules for {0:#x} need a register that is not known")]
    UnknownRegister(u64),
    /// The rules make no sense.
    #[error("the unwind rules for {0:#x} cannot be followed")]
    Unusable(u64),
    /// A frame is not above the one before: the stack is damaged, or the rules do not fit.
    #[error("the frame after {0:#x} is not above it on the stack")]
    NotAbove(u64),
    /// There are more frames than are looked at.
    #[error("more than {MAX_FRAMES} frames")]
    TooMany,
}

/// The frames of a thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Walk {
    /// The frames, innermost first.
    pub(crate) frames: Vec<NativeFrame>,
    /// How it ended.
    pub(crate) end: WalkEnd,
    /// Something was read from the process itself since the copy lacked it: true of the time of the copy only if the thread has
    /// not run since.
    pub(crate) read_live: bool,
}

/// Walks over the stacks of one process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unwinder<'i> {
    images: &'i Images,
    cache: &'i ObjectCache,
}

/// Where a walk stands.
#[derive(Clone, Debug)]
pub(super) struct Position {
    pub(super) registers: Registers,
    /// The last frame has called, and was not interrupted.
    pub(super) after_call: bool,
    pub(super) guessed: bool,
}

/// What comes after a frame.
type Next = Result<Position, WalkEnd>;

impl<'i> Unwinder<'i> {
    /// For the process whose code is in `images`; files are taken from `cache`.
    pub(crate) fn new(images: &'i Images, cache: &'i ObjectCache) -> Self {
        Self { images, cache }
    }

    /// The frames of a stopped thread, by its registers and a copy of its stack. What the copy lacks, as the stack below a signal
    /// handler that has its own, is read from the process.
    pub(crate) fn unwind(
        &self,
        registers: &Registers,
        stacks: &[StackBytes],
        memory: &CachedMemory<'_>,
    ) -> Walk {
        let reader = Reader::new(stacks, memory);
        let start = Position {
            registers: registers.clone(),
            after_call: false,
            guessed: false,
        };
        let mut frames = Vec::new();
        let (end, _) = self.walk(start, &reader, &mut frames);
        Walk {
            frames,
            end,
            read_live: reader.read_live.get(),
        }
    }

    pub(super) fn arch(&self) -> &'static Architecture {
        self.images.arch
    }

    /// Whether a word may be the address that a call returns to.
    pub(super) fn is_return_address(&self, word: u64) -> bool {
        let address = self.images.code_address(word);
        self.images.is_code(address.wrapping_sub(1))
    }

    /// Walks on from a position. Returns how it ended, and where.
    pub(super) fn walk(
        &self,
        start: Position,
        reader: &Reader<'_>,
        frames: &mut Vec<NativeFrame>,
    ) -> (WalkEnd, Position) {
        let mut position = start;
        loop {
            if frames.len() >= MAX_FRAMES {
                return (WalkEnd::TooMany, position);
            }
            let (frame, next) = self.frame(&position, reader);
            frames.push(frame);
            match next {
                Ok(caller) => position = caller,
                Err(end) => return (end, position),
            }
        }
    }

    /// The frame at a position, and what comes after it.
    fn frame(&self, position: &Position, reader: &Reader<'_>) -> (NativeFrame, Next) {
        let registers = &position.registers;
        let mut frame = NativeFrame {
            pc: registers.pc,
            sp: registers.sp,
            cfa: None,
            signal: false,
            guessed: position.guessed,
            module: None,
            after_call: position.after_call,
            preserved: registers.preserved(self.images.arch),
        };
        let located = self
            .images
            .locate(frame.lookup(), reader.memory, self.cache);
        let next = match located {
            Ok(Located {
                module,
                object,
                address,
            }) => {
                frame.module = Some(module);
                // The rules that the kernel gives for this code on aarch64 lead to the caller of what was interrupted.
                if self.images.is_vdso(module)
                    && self.images.arch.has_link_register
                    && let Some(interrupted) = self.interrupted(&mut frame, registers, reader)
                {
                    return (frame, Ok(interrupted));
                }
                match object.unwind_table() {
                    Ok(table) => match table.row(address) {
                        Some(row) => {
                            frame.signal = row.signal;
                            let stepper = Stepper {
                                arch: self.images.arch,
                                code_bits: self.images.code_bits,
                                table,
                                row: &row,
                                registers,
                                reader,
                            };
                            Self::judge(&mut frame, stepper.step())
                        }
                        None => self.without_rules(&mut frame, registers, reader, "none there"),
                    },
                    Err(reason) => self.without_rules(&mut frame, registers, reader, reason),
                }
            }
            Err(NotLocated::Unusable(module, reason)) => {
                frame.module = Some(module);
                self.without_rules(&mut frame, registers, reader, reason)
            }
            Err(NotLocated::NoFile) => {
                self.without_rules(&mut frame, registers, reader, "code made at run time")
            }
            // A call through a bad pointer leads there; who called is known all the same.
            Err(NotLocated::NoCode) if !frame.after_call => match self.leaf(registers, reader) {
                Some(caller) => Self::guessed(&mut frame, caller),
                None => Err(WalkEnd::NoCode(registers.pc)),
            },
            Err(NotLocated::NoCode) => Err(WalkEnd::NoCode(registers.pc)),
        };
        (frame, next)
    }

    /// Whether a caller makes sense.
    fn judge(frame: &mut NativeFrame, step: Result<(Registers, u64), NoCaller>) -> Next {
        let (registers, cfa) = step.map_err(|no_caller| match no_caller {
            NoCaller::Outermost(cfa) => {
                frame.cfa = Some(cfa);
                WalkEnd::Outermost
            }
            NoCaller::Unknown => WalkEnd::UnknownRegister(frame.pc),
            NoCaller::Unreadable(address) => WalkEnd::Unreadable(address),
            NoCaller::Unusable => WalkEnd::Unusable(frame.pc),
        })?;
        // The innermost function may need no stack, where a call leaves the return address in a register.
        let lowest = frame.sp.saturating_add(u64::from(frame.after_call));
        let above = cfa >= lowest && cfa - frame.sp <= MAX_FRAME;
        // A handler may have a stack of its own.
        if !above && !frame.signal {
            return Err(WalkEnd::NotAbove(frame.sp));
        }
        frame.cfa = Some(cfa);
        if registers.pc == 0 && !frame.signal {
            return Err(WalkEnd::Zero);
        }
        Ok(Position {
            registers,
            after_call: !frame.signal,
            guessed: frame.guessed,
        })
    }

    fn guessed(frame: &mut NativeFrame, caller: Registers) -> Next {
        frame.cfa = Some(caller.sp);
        Ok(Position {
            registers: caller,
            after_call: true,
            guessed: true,
        })
    }

    /// Code that no rules tell of.
    fn without_rules(
        &self,
        frame: &mut NativeFrame,
        registers: &Registers,
        reader: &Reader<'_>,
        reason: &str,
    ) -> Next {
        if let Some(interrupted) = self.interrupted(frame, registers, reader) {
            return Ok(interrupted);
        }
        let caller = self.chained(registers, reader).or_else(|| {
            let leaf = (!frame.after_call).then(|| self.leaf(registers, reader));
            leaf.flatten()
        });
        match caller {
            Some(caller) => Self::guessed(frame, caller),
            None => Err(WalkEnd::NoRules(registers.pc, reason.to_owned())),
        }
    }

    /// What a signal handler returns to, if that is what this code does.
    fn interrupted(
        &self,
        frame: &mut NativeFrame,
        registers: &Registers,
        reader: &Reader<'_>,
    ) -> Option<Position> {
        let arch = self.images.arch;
        let found = arch.signal_return.iter().any(|code| {
            let mut there = vec![0; code.len()];
            reader.memory.read(registers.pc, &mut there).is_ok() && there == *code
        });
        if !found {
            return None;
        }
        let read = |distance: u64| reader.word(registers.sp.wrapping_add(distance));
        let mut interrupted = Registers::blocked(registers.sp, read(arch.signal_pc)?);
        for (column, distance) in arch.signal_registers {
            interrupted.set(arch, *column, Some(read(*distance)?));
        }
        frame.signal = true;
        frame.cfa = Some(interrupted.sp);
        Some(Position {
            registers: interrupted,
            after_call: false,
            guessed: frame.guessed,
        })
    }

    /// The caller by the chain of frame pointers: below each is the caller's, and the return address.
    fn chained(&self, registers: &Registers, reader: &Reader<'_>) -> Option<Registers> {
        let arch = self.images.arch;
        let pointer = registers.get(arch, arch.frame_pointer)?;
        let plausible = pointer % 8 == 0
            && pointer >= registers.sp
            && pointer - registers.sp <= MAX_CHAINED_FRAME;
        if !plausible {
            return None;
        }
        let saved = reader.word(pointer)?;
        let pc = self
            .images
            .code_address(reader.word(pointer.checked_add(8)?)?);
        self.caller(registers, pc, pointer.checked_add(16)?, Some(saved))
    }

    /// The caller of a function that has not touched its stack.
    fn leaf(&self, registers: &Registers, reader: &Reader<'_>) -> Option<Registers> {
        let arch = self.images.arch;
        let pointer = registers.get(arch, arch.frame_pointer);
        if arch.has_link_register {
            let pc = self
                .images
                .code_address(registers.get(arch, arch.return_address)?);
            return self.caller(registers, pc, registers.sp, pointer);
        }
        let pc = reader.word(registers.sp)?;
        self.caller(registers, pc, registers.sp.checked_add(8)?, pointer)
    }

    fn caller(
        &self,
        registers: &Registers,
        pc: u64,
        sp: u64,
        frame_pointer: Option<u64>,
    ) -> Option<Registers> {
        let arch: &Architecture = self.images.arch;
        if !self.images.is_code(pc.wrapping_sub(1)) {
            return None;
        }
        let mut caller = Registers::blocked(sp, pc);
        for column in arch.preserved {
            caller.set(arch, *column, registers.get(arch, *column));
        }
        caller.set(arch, arch.frame_pointer, frame_pointer);
        Some(caller)
    }
}
