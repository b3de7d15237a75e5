//! What instructions of `x86_64` do to the values that are known: those exactly that compilers move and test drop flags with;
//! of the others it is only noted what they write.

use super::super::{PRESERVED, Partial};
use super::values::{Compared, Decision, REGISTERS, ReadStack, State, Value};
use iced_x86::{
    ConditionCode, Decoder, DecoderOptions, Instruction, InstructionInfoFactory, MemorySize,
    Mnemonic, OpAccess, OpKind, Register,
};

/// Registers that a call may change: all but rbx, rsp, rbp and r12 to r15.
const CLOBBERED: [usize; 9] = [0, 1, 2, 6, 7, 8, 9, 10, 11];
const RDI: usize = 7;
const RSI: usize = 6;
const RSP: usize = 4;

/// At a landing pad: `saved` are rbx, rbp and r12 to r15, as far as they are known.
pub(super) fn at_pad(sp: u64, saved: &Partial<PRESERVED>) -> State {
    let mut registers = [Value::OUTSIDE; REGISTERS];
    for (number, value) in [3, 5, 12, 13, 14, 15].into_iter().zip(saved.iter()) {
        registers[number] = Value::of_frame(value);
    }
    registers[RSP] = Value::known(sp);
    State::new(registers)
}

pub(super) fn arguments(state: &State) -> [Option<u64>; 2] {
    [RDI, RSI].map(|register| state.registers[register].number(8))
}

/// Of a call by a register: where the function's address was read.
pub(super) fn called_slot(bytes: &[u8], address: u64, state: &State) -> Option<u64> {
    let mut decoder = Decoder::with_ip(64, bytes, address, DecoderOptions::NONE);
    let register = decoder.decode().op0_register();
    let number = register.is_gpr64().then(|| register.number())?;
    state.registers.get(number)?.slot
}

/// After a call that has returned.
pub(super) fn returned(state: &mut State) {
    state.returned(CLOBBERED);
}

/// At the first instruction of the function that is called there.
pub(super) fn entered(state: &State) -> State {
    let mut state = state.clone();
    let sp = state.registers[RSP].number(8);
    state.registers[RSP] = Value::of_frame(sp.map(|sp| sp.wrapping_sub(8)));
    state
}

/// Executes one instruction; of a conditional jump it says which way it goes.
pub(super) fn execute(
    bytes: &[u8],
    address: u64,
    state: &mut State,
    read: ReadStack<'_>,
) -> Option<Decision> {
    let mut decoder = Decoder::with_ip(64, bytes, address, DecoderOptions::NONE);
    let instruction = decoder.decode();
    let mut machine = Machine { state, read };
    if instruction.condition_code() != ConditionCode::None && instruction.is_jcc_short_or_near() {
        return Some(machine.decide(instruction.condition_code()));
    }
    machine.run(&instruction);
    None
}

struct Machine<'s, 'r> {
    state: &'s mut State,
    read: ReadStack<'r>,
}

impl Machine<'_, '_> {
    fn run(&mut self, instruction: &Instruction) {
        match instruction.mnemonic() {
            Mnemonic::Mov | Mnemonic::Movzx if self.operand(instruction, 1).is_some() => {
                let value = self.operand(instruction, 1).unwrap_or_default();
                self.assign(instruction, value);
            }
            Mnemonic::Lea => {
                let address = self.address(instruction);
                self.assign(instruction, address);
            }
            Mnemonic::Xor | Mnemonic::Sub
                if instruction.op0_kind() == OpKind::Register
                    && instruction.op1_kind() == OpKind::Register
                    && instruction.op0_register() == instruction.op1_register() =>
            {
                self.assign(instruction, Value::known(0));
                self.state.compared = Compared {
                    equal: Some(true),
                    ..Compared::default()
                };
            }
            Mnemonic::And => {
                let value = self.both(instruction).map(|(one, other)| one.and(other));
                self.assign(instruction, value.unwrap_or(Value::OUTSIDE));
                self.compare(value.map(|value| (value, Value::known(0))), instruction);
            }
            Mnemonic::Test => {
                let value = self.both(instruction).map(|(one, other)| one.and(other));
                self.compare(value.map(|value| (value, Value::known(0))), instruction);
            }
            Mnemonic::Cmp => {
                let both = self.both(instruction);
                self.compare(both, instruction);
            }
            Mnemonic::Push | Mnemonic::Pop => self.push_or_pop(instruction),
            _ => self.note_writes(instruction),
        }
    }

    fn both(&self, instruction: &Instruction) -> Option<(Value, Value)> {
        Some((self.operand(instruction, 0)?, self.operand(instruction, 1)?))
    }

    fn operand(&self, instruction: &Instruction, at: u32) -> Option<Value> {
        match instruction.op_kind(at) {
            OpKind::Register => self.register(instruction.op_register(at)),
            // Thread-local memory is not the frame's.
            OpKind::Memory if instruction.segment_prefix() != Register::None => {
                Some(Value::OUTSIDE)
            }
            OpKind::Memory if instruction.is_ip_rel_memory_operand() => Some(Value {
                slot: Some(instruction.ip_rel_memory_address()),
                ..Value::OUTSIDE
            }),
            OpKind::Memory => {
                let address = self.address(instruction);
                Some(self.state.load(address, size(instruction), self.read))
            }
            OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64 => None,
            _ => instruction.try_immediate(at).ok().map(Value::known),
        }
    }

    fn register(&self, register: Register) -> Option<Value> {
        let high = [Register::AH, Register::BH, Register::CH, Register::DH];
        if !register.is_gpr() || high.contains(&register) {
            return None;
        }
        let value = self
            .state
            .registers
            .get(register.full_register().number())?;
        Some(value.low(register.size()))
    }

    fn address(&self, instruction: &Instruction) -> Value {
        if instruction.is_ip_rel_memory_operand() {
            return Value::known(instruction.ip_rel_memory_address());
        }
        let part = |register: Register| match register {
            Register::None => Value::known(0),
            register => self.register(register).unwrap_or(Value::OUTSIDE),
        };
        let (base, index) = (
            part(instruction.memory_base()),
            part(instruction.memory_index()),
        );
        match (base.number(8), index.number(8)) {
            (Some(base), Some(index)) => {
                let scaled = index.wrapping_mul(u64::from(instruction.memory_index_scale()));
                let sum = base.wrapping_add(scaled);
                Value::known(sum.wrapping_add(instruction.memory_displacement64()))
            }
            _ => Value {
                outside: base.outside || index.outside,
                ..Value::default()
            },
        }
    }

    /// Writes the first operand.
    fn assign(&mut self, instruction: &Instruction, value: Value) {
        match instruction.op0_kind() {
            OpKind::Register => self.set(instruction.op0_register(), value),
            OpKind::Memory if instruction.segment_prefix() == Register::None => {
                let address = self.address(instruction);
                self.state.store(address, size(instruction), value);
            }
            _ => {}
        }
    }

    fn set(&mut self, register: Register, value: Value) {
        if !register.is_gpr() {
            return;
        }
        let number = register.full_register().number();
        let Some(slot) = self.state.registers.get_mut(number) else {
            return;
        };
        *slot = match register.size() {
            // The upper half becomes zero.
            bytes @ (4 | 8) => value.low(bytes),
            bytes => {
                let low = value.low(bytes);
                let mask = (1_u64 << (bytes * 8)) - 1;
                Value {
                    bits: (slot.bits & !mask) | low.bits,
                    known: (slot.known & !mask) | (low.known & mask),
                    outside: low.outside,
                    slot: None,
                }
            }
        };
    }

    fn compare(&mut self, both: Option<(Value, Value)>, instruction: &Instruction) {
        let bytes = match instruction.op0_kind() {
            OpKind::Register => instruction.op0_register().size(),
            _ => size(instruction),
        };
        self.state.compared = both.map_or(Compared::OUTSIDE, |(one, other)| {
            Compared::of(one, other, bytes)
        });
    }

    fn decide(&self, condition: ConditionCode) -> Decision {
        let compared = self.state.compared;
        let signed = |number: u64, bytes: usize| {
            let unused = 64_usize.saturating_sub(bytes * 8);
            (number << unused).cast_signed() >> unused
        };
        let with = |holds: fn(u64, u64) -> bool| compared.numbers.map(|(a, b, _)| holds(a, b));
        let with_sign = |holds: fn(i64, i64) -> bool| {
            compared
                .numbers
                .map(|(a, b, bytes)| holds(signed(a, bytes), signed(b, bytes)))
        };
        let jumps = match condition {
            ConditionCode::e => compared.equal,
            ConditionCode::ne => compared.equal.map(|equal| !equal),
            ConditionCode::b => with(|a, b| a < b),
            ConditionCode::ae => with(|a, b| a >= b),
            ConditionCode::be => with(|a, b| a <= b),
            ConditionCode::a => with(|a, b| a > b),
            ConditionCode::l => with_sign(|a, b| a < b),
            ConditionCode::ge => with_sign(|a, b| a >= b),
            ConditionCode::le => with_sign(|a, b| a <= b),
            ConditionCode::g => with_sign(|a, b| a > b),
            _ => None,
        };
        match jumps {
            Some(true) => Decision::Jumps,
            Some(false) => Decision::GoesOn,
            None if compared.outside => Decision::Either,
            None => Decision::Untold,
        }
    }

    fn push_or_pop(&mut self, instruction: &Instruction) {
        let sp = self.state.registers[RSP].number(8);
        let moved = |by: i64| Value::of_frame(sp.map(|sp| sp.wrapping_add_signed(by)));
        match instruction.mnemonic() {
            Mnemonic::Push => {
                let value = self.operand(instruction, 0).unwrap_or_default();
                self.state.registers[RSP] = moved(-8);
                self.state.store(moved(-8), 8, value);
            }
            _ => {
                let value = self.state.load(moved(0), 8, self.read);
                self.state.registers[RSP] = moved(8);
                self.assign(instruction, value);
            }
        }
    }

    /// Of an instruction that is not followed: what it writes is not known any more.
    fn note_writes(&mut self, instruction: &Instruction) {
        let mut factory = InstructionInfoFactory::new();
        let info = factory.info(instruction);
        let reads = |access: OpAccess| {
            matches!(
                access,
                OpAccess::Read | OpAccess::CondRead | OpAccess::ReadWrite | OpAccess::ReadCondWrite
            )
        };
        let of_register = info
            .used_registers()
            .iter()
            .filter(|used| reads(used.access()))
            .any(|used| {
                self.register(used.register())
                    .is_none_or(|value| value.outside)
            });
        let of_memory = !info.used_memory().is_empty();
        let written = Value {
            outside: of_register || of_memory,
            ..Value::default()
        };
        let writes = |access: OpAccess| {
            !matches!(access, OpAccess::None | OpAccess::Read | OpAccess::CondRead)
        };
        for used in info.used_registers() {
            if writes(used.access()) && used.register().full_register().number() != RSP {
                self.set(used.register().full_register(), written);
            }
        }
        if instruction.op0_kind() == OpKind::Memory && writes(info.op0_access()) {
            self.assign(instruction, written);
        }
        if instruction.rflags_modified() != 0 {
            self.state.compared = Compared {
                outside: written.outside,
                ..Compared::default()
            };
        }
    }
}

/// Bytes of the memory that an instruction uses.
fn size(instruction: &Instruction) -> usize {
    match instruction.memory_size() {
        MemorySize::Unknown => 8,
        size => size.size(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SP: u64 = 0x7000;

    fn after(code: &[&[u8]], read: ReadStack<'_>) -> Decision {
        let mut state = at_pad(SP, &Partial::UNKNOWN);
        let (last, before) = code.split_last().expect("instructions");
        for bytes in before {
            assert_eq!(execute(bytes, 0x1000, &mut state, read), None);
        }
        execute(last, 0x1000, &mut state, read).expect("a conditional jump")
    }

    #[test]
    fn a_drop_flag_on_the_stack() {
        // test byte ptr [rsp+0x67], 1; jne
        let code: [&[u8]; 2] = [&[0xf6, 0x44, 0x24, 0x67, 0x01], &[0x75, 0x10]];
        let flag = |set: u64| move |at: u64, _: usize| (at == SP + 0x67).then_some(set);
        assert_eq!(after(&code, &flag(1)), Decision::Jumps);
        assert_eq!(after(&code, &flag(0)), Decision::GoesOn);
    }

    #[test]
    fn a_drop_flag_in_a_register() {
        let nothing = |_: u64, _: usize| None;
        // test bpl, bpl; je
        let test: [&[u8]; 2] = [&[0x40, 0x84, 0xed], &[0x74, 0x10]];
        assert_eq!(after(&test, &nothing), Decision::Untold);
        // mov bpl, 1
        let set: [&[u8]; 3] = [&[0x40, 0xb5, 0x01], test[0], test[1]];
        assert_eq!(after(&set, &nothing), Decision::GoesOn);
        // xor ebp, ebp
        let cleared: [&[u8]; 3] = [&[0x31, 0xed], test[0], test[1]];
        assert_eq!(after(&cleared, &nothing), Decision::Jumps);
    }

    #[test]
    fn an_unlocked_mutex_says_nothing_of_the_frame() {
        let nothing = |_: u64, _: usize| None;
        // xor eax, eax; xchg [rbx], eax; cmp eax, 2; je
        let code: [&[u8]; 4] = [
            &[0x31, 0xc0],
            &[0x87, 0x03],
            &[0x83, 0xf8, 0x02],
            &[0x74, 0x10],
        ];
        assert_eq!(after(&code, &nothing), Decision::Either);
        // lock cmpxchg [rbx], cl; jne
        let code: [&[u8]; 2] = [&[0xf0, 0x0f, 0xb0, 0x0b], &[0x75, 0x10]];
        assert_eq!(after(&code, &nothing), Decision::Either);
    }
}
