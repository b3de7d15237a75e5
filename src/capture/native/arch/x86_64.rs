//! `x86_64`. Numbers of the registers: System V ABI, AMD64 supplement, figure 3.36.

use super::Architecture;

pub(in crate::capture::native) const X86_64: Architecture = Architecture {
    elf_machine: 62,
    stack_pointer: 7,
    frame_pointer: 6,
    return_address: 16,
    // rbx, rbp, r12 to r15.
    preserved: &[3, 6, 12, 13, 14, 15],
    has_link_register: false,
    code_bits: u64::MAX,
    // It does so, but after the stop.
    set_back: 0,
    signal_return: &[
        // mov $15,%rax; syscall: glibc and musl.
        &[0x48, 0xc7, 0xc0, 15, 0, 0, 0, 0x0f, 0x05],
        // mov $15,%eax; syscall.
        &[0xb8, 15, 0, 0, 0, 0x0f, 0x05],
    ],
    // `struct ucontext` is on top of the stack then: flags, link and alternate stack take 40 bytes, then comes
    // `struct sigcontext` (Linux, arch/x86/include/uapi/asm/sigcontext.h).
    signal_registers: &[
        (8, 40),
        (9, 48),
        (10, 56),
        (11, 64),
        (12, 72),
        (13, 80),
        (14, 88),
        (15, 96),
        (5, 104),
        (4, 112),
        (6, 120),
        (3, 128),
        (1, 136),
        (0, 144),
        (2, 152),
        (7, 160),
    ],
    signal_pc: 168,
};

/// The registers in the order of their numbers.
#[cfg(target_arch = "x86_64")]
pub(super) fn registers(user: &nix::libc::user_regs_struct) -> super::Registers {
    let mut registers = super::Registers::blocked(user.rsp, user.rip);
    let numbered = [
        user.rax, user.rdx, user.rcx, user.rbx, user.rsi, user.rdi, user.rbp, user.rsp, user.r8,
        user.r9, user.r10, user.r11, user.r12, user.r13, user.r14, user.r15,
    ];
    registers.general = numbered.into_iter().map(Some).collect();
    registers.thread_pointer = Some(user.fs_base);
    registers
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn a_signal_frame_holds_each_register_once() {
        let numbers: BTreeSet<u16> = X86_64.signal_registers.iter().map(|(n, _)| *n).collect();
        assert_eq!(numbers, (0..16).collect());
        let places: BTreeSet<u64> = X86_64.signal_registers.iter().map(|(_, at)| *at).collect();
        assert_eq!(places, (5..21).map(|word| word * 8).collect());
    }
}
