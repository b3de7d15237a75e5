//! The registers of a thread, by their DWARF numbers, and what each architecture does with them.
//!
//! All general registers are kept, not only those that calls preserve: the frame of an interrupted function may be found by
//! any of them.

pub(super) mod aarch64;
pub(super) mod flow;
pub(super) mod x86_64;

use nix::libc::user_regs_struct;

/// Columns of a DWARF unwind table that are kept: enough for each architecture here.
pub(super) const COLUMNS: usize = 33;

/// How many of the registers that calls preserve are kept with each frame, to follow its code: all, here.
pub(super) const PRESERVED: usize = if cfg!(target_arch = "aarch64") { 11 } else { 6 };

/// What unwinding has to know of an architecture.
#[derive(Debug)]
pub(crate) struct Architecture {
    /// `e_machine` of its ELF files (elf(5)).
    pub(super) elf_machine: u16,
    /// DWARF number of the stack pointer.
    pub(super) stack_pointer: u16,
    /// DWARF number of the frame pointer.
    pub(super) frame_pointer: u16,
    /// DWARF number of what a call leaves the return address in; a column of its own on `x86_64`, where it is on the stack.
    pub(super) return_address: u16,
    /// DWARF numbers of the registers that are the same after a call as before, by the architecture's ABI.
    pub(super) preserved: &'static [u16],
    /// Whether `return_address` is a register, which a function that calls none may leave the address in.
    pub(super) has_link_register: bool,
    /// Bits of a code address; those above may hold a signature of it.
    pub(super) code_bits: u64,
    /// How far the kernel sets the program counter back for a system call that is to be made again, before a tracer sees it.
    pub(super) set_back: u64,
    /// The instructions that a signal handler returns to, which end it (`rt_sigreturn`).
    pub(super) signal_return: &'static [&'static [u8]],
    /// Where, from the stack pointer at those instructions on, the kernel keeps the registers: DWARF number and distance.
    pub(super) signal_registers: &'static [(u16, u64)],
    /// The same for the program counter.
    pub(super) signal_pc: u64,
}

/// The registers of one frame of a thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Registers {
    /// Address of the next instruction.
    pub(crate) pc: u64,
    /// Stack pointer.
    pub(crate) sp: u64,
    /// The general registers by DWARF number, where they are known. That of the stack pointer is unused.
    pub(super) general: Partial<COLUMNS>,
    /// Of a stopped thread what its thread pointer is, where that is among the registers that ptrace(2) tells.
    pub(crate) thread_pointer: Option<u64>,
}

/// Registers of which some may not be known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Partial<const N: usize> {
    /// Zero where they are not known.
    values: [u64; N],
    /// Which are, the first in the lowest bit: a mark for each is half of what as many `Option`s take.
    known: u64,
}

impl<const N: usize> Partial<N> {
    /// Nothing is known.
    pub(super) const UNKNOWN: Self = {
        assert!(N <= u64::BITS as usize);
        Self {
            values: [0; N],
            known: 0,
        }
    };

    pub(super) fn get(&self, at: usize) -> Option<u64> {
        let value = self.values.get(at)?;
        (self.known >> at & 1 == 1).then_some(*value)
    }

    /// Nothing happens beyond the last.
    pub(super) fn set(&mut self, at: usize, value: Option<u64>) {
        if let Some(place) = self.values.get_mut(at) {
            *place = value.unwrap_or(0);
            self.known = self.known & !(1 << at) | u64::from(value.is_some()) << at;
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Option<u64>> {
        (0..N).map(|at| self.get(at))
    }
}

impl<const N: usize> FromIterator<Option<u64>> for Partial<N> {
    /// The first ones; what is missing is not known.
    fn from_iter<I: IntoIterator<Item = Option<u64>>>(values: I) -> Self {
        let mut all = Self::UNKNOWN;
        for (at, value) in values.into_iter().take(N).enumerate() {
            all.set(at, value);
        }
        all
    }
}

impl Registers {
    /// Registers of which only two are known: what `/proc/PID/task/TID/syscall` tells of a thread (proc(5)).
    pub(crate) fn blocked(sp: u64, pc: u64) -> Self {
        Self {
            pc,
            sp,
            general: Partial::UNKNOWN,
            thread_pointer: None,
        }
    }

    /// What ptrace(2) tells of a stopped thread; `None` on an architecture that is not known here.
    pub(crate) fn stopped(registers: &user_regs_struct) -> Option<Self> {
        #[cfg(target_arch = "x86_64")]
        return Some(x86_64::registers(registers));
        #[cfg(target_arch = "aarch64")]
        return Some(aarch64::registers(registers));
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        {
            let _ = registers;
            None
        }
    }

    /// Values of the general registers that are known.
    pub(crate) fn known(&self) -> impl Iterator<Item = u64> {
        self.general.iter().flatten()
    }

    /// The first ones of those that calls preserve.
    pub(super) fn preserved(&self, arch: &Architecture) -> Partial<PRESERVED> {
        let columns = arch.preserved.iter();
        columns.map(|column| self.get(arch, *column)).collect()
    }

    /// A general register by its DWARF number, the stack pointer too.
    pub(super) fn get(&self, arch: &Architecture, column: u16) -> Option<u64> {
        if column == arch.stack_pointer {
            return Some(self.sp);
        }
        if column == arch.return_address && !arch.has_link_register {
            return Some(self.pc);
        }
        self.general.get(usize::from(column))
    }

    /// Sets a general register by its DWARF number.
    pub(super) fn set(&mut self, arch: &Architecture, column: u16, value: Option<u64>) {
        if column == arch.stack_pointer {
            if let Some(value) = value {
                self.sp = value;
            }
        } else {
            self.general.set(usize::from(column), value);
        }
    }
}

impl Architecture {
    /// That of this machine; `None` if its stacks cannot be unwound.
    pub(crate) fn host() -> Option<&'static Self> {
        match std::env::consts::ARCH {
            "x86_64" => Some(&x86_64::X86_64),
            "aarch64" => Some(&aarch64::AARCH64),
            _ => None,
        }
    }

    /// Whether a program counter is where a thread is in the system call of which the kernel has told `told`.
    pub(crate) fn is_in_call(told: u64, pc: u64) -> bool {
        let set_back = Self::host().map_or(0, |arch| arch.set_back);
        pc == told || pc == told.wrapping_sub(set_back)
    }
}
