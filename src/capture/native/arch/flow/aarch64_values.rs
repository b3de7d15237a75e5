//! What instructions of aarch64 do to the values that are known: those exactly that compilers move and test drop flags with; of
//! the others it is only noted what they write. Names of fields are those of the Arm Architecture Reference Manual, C4.1.

use super::super::{PRESERVED, Partial};
use super::aarch64::{bit, field, page_or_address, word_of};
use super::values::{Compared, Decision, REGISTERS, ReadStack, State, Value};

/// Registers that a call may change: all but x19 to x29 and sp (AAPCS64, section 6.1.1).
const CLOBBERED: std::ops::RangeInclusive<usize> = 0..=18;
const LINK: usize = 30;
/// Number 31 is sp, or in most places a register that is always zero.
const SP: usize = 31;

/// At a landing pad: `saved` are x19 to x29, as far as they are known.
pub(super) fn at_pad(sp: u64, saved: &Partial<PRESERVED>) -> State {
    let mut registers = [Value::OUTSIDE; REGISTERS];
    for (register, value) in registers.iter_mut().skip(19).zip(saved.iter()) {
        *register = Value::of_frame(value);
    }
    registers[SP] = Value::known(sp);
    State::new(registers)
}

pub(super) fn arguments(state: &State) -> [Option<u64>; 2] {
    [0, 1].map(|register: usize| state.registers[register].number(8))
}

/// Of a call by a register: where the function's address was read.
pub(super) fn called_slot(bytes: &[u8], state: &State) -> Option<u64> {
    state.registers.get(field(word_of(bytes)?, 5, 5))?.slot
}

/// After a call that has returned.
pub(super) fn returned(state: &mut State) {
    state.returned(CLOBBERED.chain([LINK]));
}

/// Executes one instruction; of a conditional jump it says which way it goes.
pub(super) fn execute(
    bytes: &[u8],
    address: u64,
    state: &mut State,
    read: ReadStack<'_>,
) -> Option<Decision> {
    let word = word_of(bytes)?;
    let mut machine = Machine {
        word,
        address,
        state,
        read,
    };
    // B.cond; CBZ and CBNZ; TBZ and TBNZ.
    match word {
        _ if word >> 24 == 0b0101_0100 => Some(machine.jump_if(field(word, 0, 4))),
        _ if field(word, 25, 6) == 0b01_1010 => Some(machine.jump_if_zero()),
        _ if field(word, 25, 6) == 0b01_1011 => Some(machine.jump_if_bit()),
        _ => {
            machine.run();
            None
        }
    }
}

/// What an instruction names, as far as its registers tell: an address that is not on the stack, put together from a page and
/// the place in it.
pub(super) fn named(bytes: &[u8], state: &State, read: ReadStack<'_>) -> Option<u64> {
    let word = word_of(bytes)?;
    let base = state.registers.get(field(word, 5, 5)).copied()?.number(8)?;
    let of_memory = field(word, 24, 6) == 0b11_1001;
    let distance = match word {
        _ if field(word, 22, 9) == 0b0_0100_0100 => field(word, 10, 12),
        _ if of_memory => field(word, 10, 12) << field(word, 30, 2),
        _ => return None,
    };
    let address = base.wrapping_add(distance as u64);
    read(address, 1).is_none().then_some(address)
}

pub(super) struct Machine<'s, 'r> {
    pub(super) word: u32,
    pub(super) address: u64,
    pub(super) state: &'s mut State,
    pub(super) read: ReadStack<'r>,
}

impl Machine<'_, '_> {
    pub(super) fn field(&self, from: u32, bits: u32) -> usize {
        field(self.word, from, bits)
    }

    pub(super) fn bit(&self, at: u32) -> bool {
        bit(self.word, at)
    }

    /// Bytes of the operands of most instructions.
    fn bytes(&self) -> usize {
        if self.bit(31) { 8 } else { 4 }
    }

    /// The register of a field, the zero one for number 31.
    pub(super) fn register(&self, from: u32, bytes: usize) -> Value {
        match self.field(from, 5) {
            SP => Value::known(0),
            number => self.state.registers[number].low(bytes),
        }
    }

    /// The same, with sp for number 31.
    pub(super) fn register_or_sp(&self, from: u32, bytes: usize) -> Value {
        self.state.registers[self.field(from, 5)].low(bytes)
    }

    pub(super) fn set(&mut self, from: u32, bytes: usize, value: Value) {
        match self.field(from, 5) {
            SP => {}
            number => self.state.registers[number] = value.low(bytes),
        }
    }

    pub(super) fn set_or_sp(&mut self, from: u32, bytes: usize, value: Value) {
        let number = self.field(from, 5);
        self.state.registers[number] = value.low(bytes);
    }

    fn jump_if(&self, condition: usize) -> Decision {
        decision(
            self.state.compared.holds(condition),
            self.state.compared.outside,
        )
    }

    fn jump_if_zero(&self) -> Decision {
        let value = self.register(0, self.bytes());
        let zero = Compared::of(value, Value::known(0), self.bytes()).equal;
        decision(zero.map(|zero| zero != self.bit(24)), value.outside)
    }

    fn jump_if_bit(&self) -> Decision {
        let value = self.register(0, 8);
        let tested = 1_u64 << (self.field(19, 5) | self.field(31, 1) << 5);
        let set = (value.known & tested != 0).then_some(value.bits & tested != 0);
        decision(set.map(|set| set == self.bit(24)), value.outside)
    }

    fn run(&mut self) {
        match self.field(25, 4) {
            0b1000 | 0b1001 => self.immediate(),
            0b0101 | 0b1101 => self.of_registers(),
            0b0100 | 0b0110 | 0b1100 | 0b1110 => self.memory(),
            0b0111 | 0b1111 => self.of_vectors(),
            // MRS: of what is the thread's, or the machine's.
            0b1010 if self.field(20, 12) == 0xd53 => self.set(0, 8, Value::OUTSIDE),
            _ => {}
        }
    }

    fn immediate(&mut self) {
        let bytes = self.bytes();
        match self.field(23, 3) {
            0b000 | 0b001 => {
                let named = page_or_address(self.word, self.address);
                self.set(0, 8, Value::known(named));
            }
            0b010 => {
                let number = self.field(10, 12) << if self.bit(22) { 12 } else { 0 };
                let from = self.register_or_sp(5, bytes);
                self.add_or_subtract(from, Value::known(number as u64));
            }
            0b100 => {
                let other = match bit_mask(self.word, bytes) {
                    Some(mask) => Value::known(mask),
                    None => Value::default(),
                };
                let from = self.register(5, bytes);
                self.logical(from, other, true);
            }
            0b101 => {
                let shift = self.field(21, 2) as u64 * 16;
                let number = (self.field(5, 16) as u64) << shift;
                let value = match self.field(29, 2) {
                    0b00 => Value::known(!number),
                    0b10 => Value::known(number),
                    _ => {
                        let mut value = self.register(0, bytes);
                        value.bits = (value.bits & !(0xffff << shift)) | number;
                        value.known |= 0xffff << shift;
                        value.slot = None;
                        value
                    }
                };
                self.set(0, bytes, value);
            }
            0b110 => self.bit_field(),
            _ => self.unknown(bytes),
        }
    }

    /// UBFM, of which shifts and `uxtb` are made; SBFM as `sxtw` and such.
    fn bit_field(&mut self) {
        let bytes = self.bytes();
        let (from, last) = (self.field(16, 6) as u32, self.field(10, 6) as u32);
        let value = self.register(5, bytes);
        let kept = |count: u32| Value::known(u64::MAX >> (64 - count.clamp(1, 64)));
        let value = match self.field(29, 2) {
            0b10 if last >= from => value.right(from).and(kept(last - from + 1)),
            0b10 => value
                .and(kept(last + 1))
                .left((bytes as u32 * 8).saturating_sub(from)),
            0b00 if from == 0 && last % 8 == 7 => value.sign_extended((last as usize + 1) / 8),
            _ => Value::unknown(value.outside || self.register(0, bytes).outside),
        };
        self.set(0, bytes, value);
    }

    fn of_registers(&mut self) {
        let bytes = self.bytes();
        match self.field(24, 5) {
            0b01010 => {
                let other = self.shifted();
                let other = if self.bit(21) { other.not() } else { other };
                let from = self.register(5, bytes);
                self.logical(from, other.low(bytes), false);
            }
            0b01011 if self.bit(21) => {
                let from = self.register_or_sp(5, bytes);
                let other = self.extended();
                self.add_or_subtract(from, other);
            }
            0b01011 => {
                let from = self.register(5, bytes);
                let other = self.shifted();
                self.add_or_subtract_to(from, other, false);
            }
            0b11010 if self.field(21, 3) == 0b010 => self.compare_if(),
            0b11010 if self.field(21, 3) == 0b100 => self.select(),
            0b11010 if self.field(21, 3) == 0b000 => {
                self.unknown(bytes);
                self.state.compared.outside = self.register(5, bytes).outside;
                self.state.compared.forget();
            }
            _ => self.unknown(bytes),
        }
    }

    /// The second operand, shifted by a number.
    fn shifted(&self) -> Value {
        let value = self.register(16, self.bytes());
        match (self.field(22, 2), self.field(10, 6) as u32) {
            (_, 0) => value,
            (0b00, by) => value.left(by).low(self.bytes()),
            (0b01, by) => value.right(by),
            _ => Value::unknown(value.outside),
        }
    }

    /// The second operand, extended from its lowest bytes and shifted.
    fn extended(&self) -> Value {
        let (option, by) = (self.field(13, 3), self.field(10, 3) as u32);
        let value = self.register(16, 8).low(1 << (option & 3));
        let value = match option {
            0..=3 => value,
            _ => value.sign_extended(1 << (option & 3)),
        };
        value.left(by).low(self.bytes())
    }

    fn logical(&mut self, from: Value, other: Value, to_sp: bool) {
        let bytes = self.bytes();
        let operation = self.field(29, 2);
        let value = match operation {
            0b00 | 0b11 => from.and(other),
            0b01 => from.not().and(other.not()).not(),
            _ => {
                let both = from.known & other.known;
                Value {
                    bits: (from.bits ^ other.bits) & both,
                    known: both,
                    ..Value::unknown(from.outside || other.outside)
                }
            }
        };
        // MOV is an OR with zero: what it moves is what it was.
        let moves = operation == 0b01 && from.number(8) == Some(0);
        let value = if moves { other } else { value }.low(bytes);
        let flags = operation == 0b11;
        if flags {
            self.state.compared = Compared::of(value, Value::known(0), bytes);
            // The carry is clear, as it is not after a comparison.
            self.state.compared.numbers = None;
        }
        self.set_result(bytes, value, to_sp && !flags);
    }

    fn add_or_subtract(&mut self, from: Value, other: Value) {
        self.add_or_subtract_to(from, other, true);
    }

    fn add_or_subtract_to(&mut self, from: Value, other: Value, to_sp: bool) {
        let bytes = self.bytes();
        let subtracts = self.bit(30);
        let value = match from.number(bytes).zip(other.number(bytes)) {
            Some((one, other)) if subtracts => Value::known(one.wrapping_sub(other)),
            Some((one, other)) => Value::known(one.wrapping_add(other)),
            None => Value::unknown(from.outside || other.outside),
        };
        let flags = self.bit(29);
        if flags && subtracts {
            self.state.compared = Compared::of(from, other, bytes);
        } else if flags {
            self.state.compared = Compared::of(value.low(bytes), Value::known(0), bytes);
            self.state.compared.numbers = None;
        }
        self.set_result(bytes, value, to_sp && !flags);
    }

    /// Number 31 as a result is sp only of instructions that set no flags.
    fn set_result(&mut self, bytes: usize, value: Value, to_sp: bool) {
        match to_sp {
            true => self.set_or_sp(0, bytes, value),
            false => self.set(0, bytes, value),
        }
    }

    /// CCMP and CCMN: a comparison on a condition.
    fn compare_if(&mut self) {
        let bytes = self.bytes();
        let one = self.register(5, bytes);
        let other = match self.bit(11) {
            true => Value::known(self.field(16, 5) as u64),
            false => self.register(16, bytes),
        };
        let before = self.state.compared;
        let compared = &mut self.state.compared;
        match before.holds(field(self.word, 12, 4)) {
            Some(true) if bit(self.word, 30) => *compared = Compared::of(one, other, bytes),
            Some(false) => {
                compared.forget();
                compared.equal = Some(bit(self.word, 2));
            }
            _ => {
                compared.forget();
                compared.outside = before.outside || one.outside || other.outside;
            }
        }
    }

    /// CSEL, CSINC, CSINV, CSNEG.
    fn select(&mut self) {
        let bytes = self.bytes();
        let one = self.register(5, bytes);
        let other = self.register(16, bytes);
        let other = match (self.bit(30), self.field(10, 2)) {
            (false, 0b00) => other,
            (false, 0b01) => other.map(bytes, |number| number.wrapping_add(1)),
            (true, 0b00) => other.not(),
            (true, 0b01) => other.map(bytes, u64::wrapping_neg),
            _ => Value::unknown(other.outside),
        };
        let compared = self.state.compared;
        let value = match compared.holds(self.field(12, 4)) {
            Some(true) => one,
            Some(false) => other.low(bytes),
            None => one.or_else(other.low(bytes), compared.outside),
        };
        self.set(0, bytes, value);
    }

    /// Of an instruction that is not followed, with two sources: what it writes is not known any more.
    fn unknown(&mut self, bytes: usize) {
        let outside = self.register(5, bytes).outside || self.register(16, bytes).outside;
        self.set(0, bytes, Value::unknown(outside));
    }

    /// What of floating point and vectors writes a general register: FMOV, FCVT and such, UMOV and SMOV. Comparisons and all that
    /// looks like one leave the flags untold.
    fn of_vectors(&mut self) {
        let scalar = self.field(24, 7) == 0b001_1110 && self.bit(21);
        let copies = self.field(21, 8) == 0b0111_0000 && self.bit(10) && self.field(13, 2) == 1;
        if (scalar && self.field(10, 6) == 0) || copies {
            self.set(0, 8, Value::OUTSIDE);
        } else if scalar {
            self.state.compared = Compared::OUTSIDE;
        }
    }
}

fn decision(jumps: Option<bool>, outside: bool) -> Decision {
    match jumps {
        Some(true) => Decision::Jumps,
        Some(false) => Decision::GoesOn,
        None if outside => Decision::Either,
        None => Decision::Untold,
    }
}

/// The immediate of a logical instruction (`DecodeBitMasks`).
fn bit_mask(word: u32, bytes: usize) -> Option<u64> {
    let (n, rotation, ones) = (
        field(word, 22, 1) as u32,
        field(word, 16, 6) as u32,
        field(word, 10, 6) as u32,
    );
    let length = 31_u32.checked_sub((n << 6 | (!ones & 0x3f)).leading_zeros())?;
    let size = 1_u32.checked_shl(length)?;
    let (rotation, ones) = (rotation & (size - 1), (ones & (size - 1)) + 1);
    if size > bytes as u32 * 8 || ones == size || size < 2 {
        return None;
    }
    let element = u64::MAX >> (64 - ones);
    let rotated = match rotation {
        0 => element,
        by => (element >> by | element << (size - by)) & (u64::MAX >> (64 - size)),
    };
    Some((0..64 / size).fold(0, |mask, at| mask | rotated << (at * size)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SP_AT_PAD: u64 = 0x7000;
    const FRAME: u64 = 0x7080;
    const AT: u64 = 0x1000;

    fn run(code: &[u32], read: ReadStack<'_>) -> (State, Option<Decision>) {
        let mut saved = Partial::UNKNOWN;
        saved.set(10, Some(FRAME));
        let mut state = at_pad(SP_AT_PAD, &saved);
        let mut decision = None;
        for word in code {
            assert_eq!(decision, None, "a jump before the last instruction");
            decision = execute(&word.to_le_bytes(), AT, &mut state, read);
        }
        (state, decision)
    }

    fn decided(code: &[u32], read: ReadStack<'_>) -> Decision {
        run(code, read).1.expect("a conditional jump")
    }

    /// What x8 is after code that reads nothing.
    fn x8(code: &[u32]) -> Option<u64> {
        run(code, &|_, _| None).0.registers[8].number(8)
    }

    #[test]
    fn a_drop_flag_on_the_stack() {
        let flag = |place: u64, set: u64| move |at: u64, _: usize| (at == place).then_some(set);
        // ldrb w8, [sp, #103]; tbnz w8, #0
        let code = [0x3941_9fe8, 0x3700_0088];
        assert_eq!(decided(&code, &flag(SP_AT_PAD + 103, 1)), Decision::Jumps);
        assert_eq!(decided(&code, &flag(SP_AT_PAD + 103, 0)), Decision::GoesOn);
        // ldurb w8, [x29, #-1]; tbz w8, #0
        let code = [0x385f_f3a8, 0x3600_0088];
        assert_eq!(decided(&code, &flag(FRAME - 1, 1)), Decision::GoesOn);
        assert_eq!(decided(&code, &flag(FRAME - 1, 0)), Decision::Jumps);
        // strb wzr, [sp, #103] before, then stp xzr, xzr, [sp, #96]
        for clear in [0x3901_9fff, 0xa906_7fff] {
            let code = [clear, 0x3941_9fe8, 0x3700_0088];
            assert_eq!(decided(&code, &flag(SP_AT_PAD + 103, 1)), Decision::GoesOn);
        }
    }

    #[test]
    fn a_drop_flag_in_a_register() {
        let nothing = |_: u64, _: usize| None;
        // cbz w20
        assert_eq!(decided(&[0x3400_0094], &nothing), Decision::Untold);
        // mov w20, #1
        assert_eq!(
            decided(&[0x5280_0034, 0x3400_0094], &nothing),
            Decision::GoesOn
        );
        // mov w20, wzr
        assert_eq!(
            decided(&[0x2a1f_03f4, 0x3400_0094], &nothing),
            Decision::Jumps
        );
        // tst w20, #0xff; b.ne
        assert_eq!(
            decided(&[0x7200_1e9f, 0x5400_0081], &nothing),
            Decision::Untold
        );
        let set = [0x5280_0034, 0x7200_1e9f, 0x5400_0081];
        assert_eq!(decided(&set, &nothing), Decision::Jumps);
    }

    #[test]
    fn an_unlocked_mutex_says_nothing_of_the_frame() {
        let nothing = |_: u64, _: usize| None;
        // swpal w9, w8, [x19]; cmp w9, #2; b.eq
        let code = [0xb8e9_8268, 0x7100_091f, 0x5400_0080];
        assert_eq!(decided(&code, &nothing), Decision::Either);
        // ldaxr w9, [x19]; stlxr w10, w8, [x19]; cbnz w10
        let code = [0x885f_fe69, 0x880a_fe68, 0x35ff_ffca];
        assert_eq!(decided(&code, &nothing), Decision::Either);
    }

    #[test]
    fn numbers() {
        assert_eq!(x8(&[0x9280_0008]), Some(u64::MAX)); // mov x8, #-1
        assert_eq!(x8(&[0x9280_0008, 0xf2a0_0248]), Some(0xffff_ffff_0012_ffff)); // movk
        assert_eq!(x8(&[0xb200_e7e8]), Some(0x3333_3333_3333_3333)); // mov x8, #0x33…
        assert_eq!(x8(&[0x9280_0008, 0x5304_1d08]), Some(0xf)); // ubfx w8, w8, #4, #4
        assert_eq!(x8(&[0x9280_0008, 0xd37d_f108]), Some(u64::MAX << 3)); // lsl x8, x8, #3
        assert_eq!(x8(&[0x9280_0008, 0x9260_7d08]), Some(u64::MAX << 32)); // and
        assert_eq!(x8(&[0x9280_0008, 0x5200_0108]), Some(0xffff_fffe)); // eor w8, w8, #1
        assert_eq!(x8(&[0xb200_e7e8, 0x9340_7d08]), Some(0x3333_3333)); // sxtw x8, w8
        // mov w20, #1; tst w20, #0xff; cset w8, eq
        assert_eq!(x8(&[0x5280_0034, 0x7200_1e9f, 0x1a9f_17e8]), Some(0));
    }

    #[test]
    fn what_is_named_and_called() {
        let nothing = |_: u64, _: usize| None;
        // adrp x8, .; add x8, x8, #0x10; ldr x9, [x8, #0x18]; blr x9
        let code = [0x9000_0008, 0x9100_4108, 0xf940_0d09];
        let (state, _) = run(&code[..1], &nothing);
        assert_eq!(
            named(&code[1].to_le_bytes(), &state, &nothing),
            Some(AT + 0x10)
        );
        let on_stack = |_: u64, _: usize| Some(0);
        assert_eq!(named(&code[1].to_le_bytes(), &state, &on_stack), None);
        let (state, _) = run(&code, &nothing);
        let slot = called_slot(&0xd63f_0120_u32.to_le_bytes(), &state);
        assert_eq!(slot, Some(AT + 0x28));
    }

    #[test]
    fn arguments_are_addresses_of_the_frame() {
        // add x0, sp, #0x30
        let (state, _) = run(&[0x9100_c3e0], &|_, _| None);
        assert_eq!(arguments(&state), [Some(SP_AT_PAD + 0x30), None]);
        // ldp x0, x1, [sp, #16]
        let (state, _) = run(&[0xa941_07e0], &|at, _| Some(at));
        assert_eq!(
            arguments(&state),
            [Some(SP_AT_PAD + 16), Some(SP_AT_PAD + 24)]
        );
        // ldr x0, [sp], #16; str x0, [sp, #-16]!
        let (state, _) = run(&[0xf841_07e0, 0xf81f_0fe0], &|at, _| Some(at));
        assert_eq!(state.registers[SP].number(8), Some(SP_AT_PAD));
    }
}
