//! Where an instruction leads: as much of a disassembler as it takes to follow a landing pad.

#[cfg(target_arch = "aarch64")]
mod aarch64;
#[cfg(target_arch = "aarch64")]
mod aarch64_memory;
#[cfg(target_arch = "aarch64")]
mod aarch64_numbers;
#[cfg(target_arch = "aarch64")]
mod aarch64_values;
mod values;
#[cfg(target_arch = "x86_64")]
mod x86_64;
#[cfg(target_arch = "x86_64")]
mod x86_64_values;

use super::{PRESERVED, Partial};
pub(crate) use values::ReadStack;
pub(in crate::capture::native) use values::{Decision, State};

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
    /// A call by a register.
    CallUnknown,
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
    #[cfg(target_arch = "aarch64")]
    return aarch64::stub_slot(bytes, address);
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    {
        let _ = (bytes, address);
        None
    }
}

/// The values at a landing pad of a frame: its stack pointer, and the registers that calls preserve, as far as they are known.
pub(in crate::capture::native) fn at_pad(sp: u64, saved: &Partial<PRESERVED>) -> State {
    #[cfg(target_arch = "x86_64")]
    return x86_64_values::at_pad(sp, saved);
    #[cfg(target_arch = "aarch64")]
    return aarch64_values::at_pad(sp, saved);
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    {
        let _ = (sp, saved);
        State::new([values::Value::default(); values::REGISTERS])
    }
}

/// Executes an instruction; of a jump on a condition it says which way it goes.
pub(in crate::capture::native) fn execute(
    bytes: &[u8],
    address: u64,
    state: &mut State,
    read: ReadStack<'_>,
) -> Option<Decision> {
    #[cfg(target_arch = "x86_64")]
    return x86_64_values::execute(bytes, address, state, read);
    #[cfg(target_arch = "aarch64")]
    return aarch64_values::execute(bytes, address, state, read);
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    {
        let _ = (bytes, address, state, read);
        None
    }
}

/// An address in a file that an instruction names together with those before it, as where instructions have no room for one.
pub(in crate::capture::native) fn named(
    bytes: &[u8],
    state: &State,
    read: ReadStack<'_>,
) -> Option<u64> {
    #[cfg(target_arch = "aarch64")]
    return aarch64_values::named(bytes, state, read);
    #[cfg(not(target_arch = "aarch64"))]
    {
        let _ = (bytes, state, read);
        None
    }
}

/// The first two arguments of a call, as far as they are known.
pub(in crate::capture::native) fn arguments(state: &State) -> [Option<u64>; 2] {
    #[cfg(target_arch = "x86_64")]
    return x86_64_values::arguments(state);
    #[cfg(target_arch = "aarch64")]
    return aarch64_values::arguments(state);
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    {
        let _ = state;
        [None; 2]
    }
}

/// Of a call by a register: where the function's address was read.
pub(in crate::capture::native) fn called_slot(
    bytes: &[u8],
    address: u64,
    state: &State,
) -> Option<u64> {
    #[cfg(target_arch = "x86_64")]
    return x86_64_values::called_slot(bytes, address, state);
    #[cfg(target_arch = "aarch64")]
    {
        let _ = address;
        return aarch64_values::called_slot(bytes, state);
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    {
        let _ = (bytes, address, state);
        None
    }
}

/// The values at the beginning of a function that is called.
pub(in crate::capture::native) fn entered(state: &State) -> State {
    #[cfg(target_arch = "x86_64")]
    return x86_64_values::entered(state);
    #[cfg(not(target_arch = "x86_64"))]
    state.clone()
}

/// Forgets what a call may have changed.
pub(in crate::capture::native) fn returned(state: &mut State) {
    #[cfg(target_arch = "x86_64")]
    x86_64_values::returned(state);
    #[cfg(target_arch = "aarch64")]
    aarch64_values::returned(state);
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = state;
}
