//! Where an instruction leads: as much of a disassembler as it takes to follow a landing pad.

#[cfg(target_arch = "aarch64")]
mod aarch64;
#[cfg(target_arch = "x86_64")]
mod x86_64;

/// What an instruction does to the flow of control.
#[cfg_attr(
    not(target_arch = "x86_64"),
    expect(dead_code, reason = "all of it is told on x86_64 only")
)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::capture::native) enum Flow {
    /// Nothing.
    On,
    Jump(u64),
    /// A jump on a condition.
    Branch(u64),
    Call(u64),
    /// A call of the function whose address is at this one.
    CallThrough(u64),
    /// A jump to the function whose address is at this one: a call as the last thing.
    JumpThrough(u64),
    /// It leads nowhere that can be told: a return, a trap, a jump by a register.
    End,
}

/// One instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::capture::native) struct Step {
    pub(in crate::capture::native) flow: Flow,
    /// Address of the instruction that follows it.
    pub(in crate::capture::native) next: u64,
    /// An address in the file that it names.
    pub(in crate::capture::native) named: Option<u64>,
}

/// Reads the instruction at `address`; `None` if the bytes are none.
pub(in crate::capture::native) fn step(bytes: &[u8], address: u64) -> Option<Step> {
    #[cfg(target_arch = "x86_64")]
    return x86_64::step(bytes, address);
    #[cfg(target_arch = "aarch64")]
    return aarch64::step(bytes, address);
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    {
        let _ = (bytes, address);
        None
    }
}

/// Of a stub that jumps to where a slot says (an entry of the procedure linkage table): the slot.
pub(in crate::capture::native) fn stub_slot(bytes: &[u8], address: u64) -> Option<u64> {
    #[cfg(target_arch = "x86_64")]
    return x86_64::stub_slot(bytes, address);
    #[cfg(not(target_arch = "x86_64"))]
    {
        let _ = (bytes, address);
        None
    }
}
