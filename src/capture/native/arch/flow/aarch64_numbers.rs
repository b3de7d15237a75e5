//! Arithmetic of values of which some bits may be known, and of what was compared, as aarch64's instructions need it.

use super::values::{Compared, Value};

impl Value {
    pub(super) fn unknown(outside: bool) -> Self {
        Self {
            outside,
            ..Self::default()
        }
    }

    /// What was read at an address outside of the stack.
    pub(super) fn of_slot(slot: u64) -> Self {
        Self {
            slot: Some(slot),
            ..Self::OUTSIDE
        }
    }

    pub(super) fn not(self) -> Self {
        Self {
            bits: !self.bits & self.known,
            slot: None,
            ..self
        }
    }

    pub(super) fn left(self, by: u32) -> Self {
        let zeros = !u64::MAX.checked_shl(by).unwrap_or(0);
        Self {
            bits: self.bits.checked_shl(by).unwrap_or(0),
            known: self.known.checked_shl(by).unwrap_or(0) | zeros,
            outside: self.outside,
            slot: self.slot.filter(|_| by == 0),
        }
    }

    pub(super) fn right(self, by: u32) -> Self {
        let zeros = !u64::MAX.checked_shr(by).unwrap_or(0);
        Self {
            bits: (self.bits & self.known).checked_shr(by).unwrap_or(0),
            known: self.known.checked_shr(by).unwrap_or(0) | zeros,
            outside: self.outside,
            slot: self.slot.filter(|_| by == 0),
        }
    }

    pub(super) fn sign_extended(self, bytes: usize) -> Self {
        let unused = 64_usize.saturating_sub(bytes * 8);
        self.map(bytes, |number| {
            ((number << unused).cast_signed() >> unused).cast_unsigned()
        })
    }

    /// A number that follows from its lowest bytes; unknown if they are.
    pub(super) fn map(self, bytes: usize, made: impl FnOnce(u64) -> u64) -> Self {
        match self.number(bytes) {
            Some(number) => Self {
                outside: self.outside,
                ..Self::known(made(number))
            },
            None => Self::unknown(self.outside),
        }
    }

    /// Either it or another.
    pub(super) fn or_else(self, other: Self, outside: bool) -> Self {
        let known = self.known & other.known & !(self.bits ^ other.bits);
        Self {
            bits: self.bits & known,
            known,
            outside: outside || self.outside || other.outside,
            slot: None,
        }
    }
}

impl Compared {
    /// Nothing is known of it any more.
    pub(super) fn forget(&mut self) {
        self.equal = None;
        self.numbers = None;
    }

    /// Whether a condition holds, by its number in instructions (C1.2.4).
    pub(super) fn holds(&self, condition: usize) -> Option<bool> {
        let signed = |number: u64, bytes: usize| {
            let unused = 64_usize.saturating_sub(bytes * 8);
            (number << unused).cast_signed() >> unused
        };
        let holds = match condition >> 1 {
            0 => self.equal,
            1 => self.numbers.map(|(one, other, _)| one >= other),
            4 => self.numbers.map(|(one, other, _)| one > other),
            5 => self
                .numbers
                .map(|(one, other, bytes)| signed(one, bytes) >= signed(other, bytes)),
            6 => self
                .numbers
                .map(|(one, other, bytes)| signed(one, bytes) > signed(other, bytes)),
            7 => return Some(true),
            _ => None,
        };
        holds.map(|holds| holds != (condition & 1 == 1))
    }
}
