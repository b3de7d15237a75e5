//! Values as far as they are known while a frame's cleanup is followed: registers that the unwinder found, the frame's memory,
//! and what the code itself puts there. Enough to tell which way the test of a drop flag goes.

use std::collections::BTreeMap;

/// General registers that are followed, sp among them.
pub(super) const REGISTERS: usize = if cfg!(target_arch = "aarch64") {
    32
} else {
    16
};

/// A number of which some bits may be known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(in crate::capture::native) struct Value {
    pub(super) bits: u64,
    /// Which bits those are.
    pub(super) known: u64,
    /// It comes from elsewhere than the frame: an object's memory, what a call returned, an atomic operation.
    pub(super) outside: bool,
    /// Where in a file's data it was read: of a function's address in a table.
    pub(super) slot: Option<u64>,
}

impl Value {
    pub(super) const OUTSIDE: Self = Self {
        bits: 0,
        known: 0,
        outside: true,
        slot: None,
    };

    pub(super) fn known(bits: u64) -> Self {
        Self {
            bits,
            known: u64::MAX,
            outside: false,
            slot: None,
        }
    }

    pub(super) fn of_frame(bits: Option<u64>) -> Self {
        bits.map_or_else(Self::default, Self::known)
    }

    /// Its lowest bytes, the others zero.
    pub(super) fn low(self, bytes: usize) -> Self {
        let mask = mask(bytes);
        Self {
            bits: self.bits & mask,
            known: self.known | !mask,
            outside: self.outside,
            slot: self.slot.filter(|_| bytes >= 8),
        }
    }

    pub(super) fn and(self, other: Self) -> Self {
        let zero = |value: Self| value.known & !value.bits;
        let known = (self.known & other.known) | zero(self) | zero(other);
        Self {
            bits: self.bits & other.bits & known,
            known,
            outside: self.outside || other.outside,
            slot: None,
        }
    }

    /// The number, if all of its lowest bytes are known.
    pub(super) fn number(self, bytes: usize) -> Option<u64> {
        let mask = mask(bytes);
        (self.known & mask == mask).then_some(self.bits & mask)
    }
}

fn mask(bytes: usize) -> u64 {
    match bytes {
        0..=7 => (1 << (bytes * 8)) - 1,
        _ => u64::MAX,
    }
}

/// What was compared last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Compared {
    /// Whether the two were equal.
    pub(super) equal: Option<bool>,
    /// The two, and their size in bytes.
    pub(super) numbers: Option<(u64, u64, usize)>,
    pub(super) outside: bool,
}

impl Compared {
    pub(super) const OUTSIDE: Self = Self {
        equal: None,
        numbers: None,
        outside: true,
    };

    /// Of the lowest bytes of two values.
    pub(super) fn of(one: Value, other: Value, bytes: usize) -> Self {
        let numbers = one.number(bytes).zip(other.number(bytes));
        // One known bit that differs is enough.
        let differs = (one.bits ^ other.bits) & one.known & other.known & mask(bytes);
        let differs = (differs != 0).then_some(false);
        Self {
            equal: numbers.map(|(one, other)| one == other).or(differs),
            numbers: numbers.map(|(one, other)| (one, other, bytes)),
            outside: one.outside || other.outside,
        }
    }
}

/// Which way a jump on a condition goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::capture::native) enum Decision {
    Jumps,
    GoesOn,
    /// Either: it depends on more than the frame.
    Either,
    /// It depends on what the frame has noted, which cannot be told.
    Untold,
}

/// Reads up to eight bytes of the thread's stack; nothing of what lies elsewhere.
pub(crate) type ReadStack<'r> = &'r dyn Fn(u64, usize) -> Option<u64>;

/// Registers and memory at one place of the code.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::capture::native) struct State {
    /// In the order of the instruction set's own numbers.
    pub(super) registers: [Value; REGISTERS],
    /// Bytes that the code has written, none where it is not known what.
    written: BTreeMap<u64, Option<u8>>,
    pub(super) compared: Compared,
}

/// Most bytes that are kept of what the code writes.
const MAX_WRITTEN: usize = 1024;

impl State {
    /// After a call that has returned: what is in these registers is its own.
    pub(super) fn returned(&mut self, clobbered: impl IntoIterator<Item = usize>) {
        for number in clobbered {
            self.registers[number] = Value::OUTSIDE;
        }
        self.compared = Compared::OUTSIDE;
    }

    pub(super) fn new(registers: [Value; REGISTERS]) -> Self {
        Self {
            registers,
            written: BTreeMap::new(),
            compared: Compared::OUTSIDE,
        }
    }

    pub(super) fn load(&self, address: Value, bytes: usize, read: ReadStack<'_>) -> Value {
        let Some(address) = address.number(8) else {
            return Value {
                outside: address.outside,
                ..Value::default()
            };
        };
        let mut value = match read(address, bytes) {
            Some(number) => Value::known(number),
            None => Value::OUTSIDE,
        };
        for at in 0..bytes.min(8) {
            let Some(byte) = self.written.get(&address.wrapping_add(at as u64)) else {
                continue;
            };
            let (shift, of_byte) = (at * 8, 0xff_u64 << (at * 8));
            value.bits &= !of_byte;
            match byte {
                Some(byte) => {
                    value.bits |= u64::from(*byte) << shift;
                    value.known |= of_byte;
                }
                None => {
                    value.known &= !of_byte;
                    value.outside = true;
                }
            }
        }
        value.low(bytes)
    }

    pub(super) fn store(&mut self, address: Value, bytes: usize, value: Value) {
        let Some(address) = address.number(8) else {
            return;
        };
        for at in 0..bytes.min(8) {
            if self.written.len() >= MAX_WRITTEN {
                return;
            }
            let known = (value.known >> (at * 8)) & 0xff == 0xff;
            let [byte, ..] = (value.bits >> (at * 8)).to_le_bytes();
            self.written
                .insert(address.wrapping_add(at as u64), known.then_some(byte));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_that_are_known() {
        let unknown = Value::default();
        assert_eq!(unknown.and(Value::known(0)).number(8), Some(0));
        assert_eq!(unknown.and(Value::known(1)).number(8), None);
        assert_eq!(unknown.low(0).number(8), Some(0));
        assert_eq!(Value::known(0x1ff).low(1).number(8), Some(0xff));
    }

    #[test]
    fn what_is_written_goes_before_what_was_there() {
        let mut state = State::new([Value::default(); REGISTERS]);
        let read = |_: u64, _: usize| Some(0x1111_u64);
        state.store(Value::known(0x1001), 1, Value::known(0x22));
        let loaded = state.load(Value::known(0x1000), 2, &read);
        assert_eq!(loaded.number(8), Some(0x2211));
        state.store(Value::known(0x1000), 1, Value::OUTSIDE);
        let loaded = state.load(Value::known(0x1000), 2, &read);
        assert_eq!((loaded.number(2), loaded.outside), (None, true));
    }
}
