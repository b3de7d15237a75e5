//! `aarch64`. Numbers of the registers: DWARF for the Arm 64-bit Architecture (AADWARF64), section 4.1.

use super::Architecture;

pub(in crate::capture::native) const AARCH64: Architecture = Architecture {
    elf_machine: 183,
    stack_pointer: 31,
    frame_pointer: 29,
    return_address: 30,
    // x19 to x29 (AAPCS64, section 6.1.1).
    preserved: &[19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29],
    has_link_register: true,
    // Programs have 48 bits unless they ask for more; with pointer authentication the kernel and the processor put the
    // signature of a return address above.
    code_bits: (1 << 48) - 1,
    // To the `svc` (Linux, arch/arm64/kernel/signal.c, do_signal: "so that a debugger will see the already changed PC").
    set_back: 4,
    // mov x8,#139; svc #0: in the vdso, and in musl.
    signal_return: &[&[0x68, 0x11, 0x80, 0xd2, 0x01, 0x00, 0x00, 0xd4]],
    signal_registers: &SIGNAL_REGISTERS,
    signal_pc: SIGCONTEXT + 264,
};

/// `struct rt_sigframe`: `siginfo` has 128 bytes; in the `ucontext` after it, flags, link, alternate stack and signal mask take
/// 168, aligned to 16 (Linux, arch/arm64/include/uapi/asm/{ucontext,sigcontext}.h).
const SIGCONTEXT: u64 = 128 + 176;

/// `struct sigcontext`: the fault address, x0 to x30, sp.
const SIGNAL_REGISTERS: [(u16, u64); 32] = {
    let mut table = [(0, 0); 32];
    let mut number = 0;
    while number < table.len() {
        table[number] = (number as u16, SIGCONTEXT + 8 + 8 * number as u64);
        number += 1;
    }
    table
};

/// The registers in the order of their numbers.
#[cfg(target_arch = "aarch64")]
pub(super) fn registers(user: &nix::libc::user_regs_struct) -> super::Registers {
    let mut registers = super::Registers::blocked(user.sp, user.pc);
    registers.general = user.regs.into_iter().map(Some).collect();
    registers
}
