//! What loads and stores of aarch64 do to the values that are known.

use super::aarch64::signed;
use super::aarch64_values::Machine;
use super::values::Value;

impl Machine<'_, '_> {
    pub(super) fn memory(&mut self) {
        match self.field(28, 2) {
            0b00 if self.bit(26) => {
                // Of several vectors; the address may go on.
                if self.bit(23) {
                    self.set_or_sp(5, 8, Value::OUTSIDE);
                }
            }
            0b00 => self.exclusive(),
            0b01 if !self.bit(24) => {
                if !self.bit(26) {
                    let slot = self.address.wrapping_add(signed(self.word, 5, 19) << 2);
                    let value = Value::of_slot(slot);
                    self.set(0, if self.bit(30) { 8 } else { 4 }, value);
                }
            }
            0b10 => self.pair(),
            0b11 => self.single(),
            _ => self.set(0, 8, Value::OUTSIDE),
        }
    }

    /// Atomic in some way: what they read may change at any time.
    fn exclusive(&mut self) {
        let bytes = 1 << self.field(30, 2);
        let (ordered, loads, compares) = (self.bit(23), self.bit(22), self.bit(21));
        let address = self.register_or_sp(5, 8);
        if ordered && !compares && !loads {
            let value = self.register(0, bytes);
            return self.state.store(address, bytes, value);
        }
        if loads {
            self.set(0, 8, Value::OUTSIDE);
        }
        if compares {
            // Of a pair, or of one that compares and swaps.
            self.set(10, 8, Value::OUTSIDE);
        }
        if !ordered || compares {
            self.set(16, 8, Value::OUTSIDE);
        }
        let stores = !loads || compares;
        if stores {
            self.state.store(address, 8, Value::OUTSIDE);
            let next = address.map(8, |address| address.wrapping_add(8));
            self.state.store(next, 8, Value::OUTSIDE);
        }
    }

    fn pair(&mut self) {
        let vectors = self.bit(26);
        let bytes = match (vectors, self.field(30, 2)) {
            (false, 0b10) => 8,
            // LDPSW.
            (false, 0b01) => {
                self.set(0, 8, Value::OUTSIDE);
                return self.set(10, 8, Value::OUTSIDE);
            }
            (false, _) => 4,
            (true, size) => 4 << size,
        };
        let distance = signed(self.word, 15, 7).wrapping_mul(bytes as u64);
        let address = self.indexed(self.field(23, 2) == 0b01, self.bit(23), distance);
        let second = address.map(8, |address| address.wrapping_add(bytes as u64));
        for (register, address) in [(0, address), (10, second)] {
            self.transfer(register, address, bytes, (vectors, self.bit(22), false));
        }
    }

    fn single(&mut self) {
        let vectors = self.bit(26);
        let bytes = match (vectors, self.field(30, 2), self.bit(23)) {
            (true, 0, true) => 16,
            (_, size, _) => 1 << size,
        };
        let address = match (self.bit(24), self.bit(21), self.field(10, 2)) {
            (true, ..) => {
                let distance = (self.field(10, 12) * bytes) as u64;
                self.indexed(false, false, distance)
            }
            (false, false, mode) => {
                let distance = signed(self.word, 12, 9);
                self.indexed(mode == 0b01, mode & 1 == 1, distance)
            }
            (false, true, 0b10) => {
                let by = if self.bit(12) {
                    bytes.trailing_zeros()
                } else {
                    0
                };
                let index = match self.field(13, 3) {
                    0b010 => self.register(16, 4),
                    0b110 => self.register(16, 4).sign_extended(4),
                    _ => self.register(16, 8),
                };
                let base = self.register_or_sp(5, 8);
                match base.number(8).zip(index.left(by).number(8)) {
                    Some((base, index)) => Value::known(base.wrapping_add(index)),
                    None => Value::unknown(base.outside || index.outside),
                }
            }
            // Atomic operations on memory; of pointers with a signature.
            _ => {
                let address = self.register_or_sp(5, 8);
                self.state.store(address, bytes, Value::OUTSIDE);
                return self.set(0, 8, Value::OUTSIDE);
            }
        };
        let (stores, sign) = (self.field(22, 2) == 0, self.bit(23));
        // PRFM.
        if !vectors && bytes == 8 && sign {
            return;
        }
        let loads = if vectors { self.bit(22) } else { !stores };
        self.transfer(0, address, bytes, (vectors, loads, sign && !vectors));
    }

    /// The address from a base and a distance, which may be added to the base for good: before the access, or after it.
    fn indexed(&mut self, after: bool, writes_back: bool, distance: u64) -> Value {
        let base = self.register_or_sp(5, 8);
        let moved = base.map(8, |base| base.wrapping_add(distance));
        if writes_back {
            self.set_or_sp(5, 8, moved);
        }
        if after { base } else { moved }
    }

    fn transfer(
        &mut self,
        register: u32,
        address: Value,
        bytes: usize,
        (vectors, loads, sign): (bool, bool, bool),
    ) {
        if vectors {
            for at in (0..bytes as u64).step_by(8).filter(|_| !loads) {
                let address = address.map(8, |address| address.wrapping_add(at));
                self.state.store(address, bytes.min(8), Value::OUTSIDE);
            }
        } else if loads {
            let mut value = self.state.load(address, bytes, self.read);
            if bytes == 8 && value == Value::OUTSIDE {
                value.slot = address.number(8);
            }
            // LDRS* to 32 bits make those above zero.
            let to = if sign && self.bit(22) { 4 } else { 8 };
            let value = if sign {
                value.sign_extended(bytes)
            } else {
                value
            };
            self.set(register, to, value);
        } else {
            let value = self.register(register, bytes);
            self.state.store(address, bytes, value);
        }
    }
}
