//! aarch64: fixed words (Arm Architecture Reference Manual, C4.1.65, branches).

use super::{Flow, Step};

const WORD: u64 = 4;
/// ADRP, LDR of eight bytes by a register and a distance, and HINT, of which `bti c` is one: each with the fields left out.
const ADRP: (u32, u32) = (0x9f00_0000, 0x9000_0000);
const LOAD: (u32, u32) = (0xffc0_0000, 0xf940_0000);
const HINT: (u32, u32) = (0xffff_f01f, 0xd503_201f);

pub(super) fn step(bytes: &[u8], address: u64) -> Option<Step> {
    let word = word_of(bytes)?;
    Some(Step {
        flow: flow(word, address),
        next: address.wrapping_add(WORD),
        named: None,
    })
}

pub(super) fn word_of(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(..4)?.try_into().ok()?))
}

pub(super) fn bit(word: u32, at: u32) -> bool {
    word >> at & 1 == 1
}

/// A number of at most 31 bits.
pub(super) fn field(word: u32, from: u32, bits: u32) -> usize {
    ((word >> from) & ((1 << bits) - 1)) as usize
}

/// The same, of which the highest bit is the sign.
pub(super) fn signed(word: u32, from: u32, bits: u32) -> u64 {
    let shifted = (word >> from) << (32 - bits);
    i64::from(shifted.cast_signed() >> (32 - bits)).cast_unsigned()
}

/// What ADR and ADRP put into their register.
pub(super) fn page_or_address(word: u32, address: u64) -> u64 {
    let distance = signed(word, 5, 19) << 2 | field(word, 29, 2) as u64;
    match bit(word, 31) {
        true => (address & !0xfff).wrapping_add(distance << 12),
        false => address.wrapping_add(distance),
    }
}

/// `[bti c]; adrp x16, slot; ldr x17, [x16, #…]; …; br x17`.
pub(super) fn stub_slot(bytes: &[u8], address: u64) -> Option<u64> {
    let is = |word: u32, (mask, value): (u32, u32)| word & mask == value;
    let mut words = bytes.chunks_exact(4).zip((address..).step_by(4));
    let mut next = || {
        words
            .next()
            .and_then(|(word, at)| Some((word_of(word)?, at)))
    };
    let mut first = next()?;
    if is(first.0, HINT) {
        first = next()?;
    }
    let (load, _) = next()?;
    let (page, at) = first;
    let fits = is(page, ADRP) && is(load, LOAD) && field(load, 5, 5) == field(page, 0, 5);
    let distance = field(load, 10, 12) as u64 * 8;
    fits.then(|| page_or_address(page, at).wrapping_add(distance))
}

fn flow(word: u32, address: u64) -> Flow {
    let target = |bits: u32, from: u32| address.wrapping_add(signed(word, from, bits) << 2);
    match word {
        _ if word >> 26 == 0b00_0101 => Flow::Jump(target(26, 0)),
        _ if word >> 26 == 0b10_0101 => Flow::Call(target(26, 0)),
        // B.cond, CBZ and CBNZ, TBZ and TBNZ.
        _ if word >> 24 == 0b0101_0100 => Flow::Branch(target(19, 5)),
        _ if field(word, 25, 6) == 0b01_1010 => Flow::Branch(target(19, 5)),
        _ if field(word, 25, 6) == 0b01_1011 => Flow::Branch(target(14, 5)),
        // BLR, with a signature or not; BR and RET; BRK and UDF.
        _ if word >> 25 == 0b110_1011 && field(word, 21, 3) == 1 => Flow::CallUnknown,
        _ if word >> 25 == 0b110_1011 => Flow::End,
        _ if word >> 21 == 0b110_1010_0001 || word >> 16 == 0 => Flow::End,
        _ => Flow::On,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_and_jumps() {
        let at = |word: u32| flow(word, 0x1000);
        assert_eq!(at(0x9400_0040), Flow::Call(0x1100));
        assert_eq!(at(0x17ff_ffff), Flow::Jump(0xffc));
        assert_eq!(at(0x5400_0081), Flow::Branch(0x1010)); // b.ne
        assert_eq!(at(0x3400_0088), Flow::Branch(0x1010)); // cbz w8
        assert_eq!(at(0x3707_ffe8), Flow::Branch(0xffc)); // tbnz w8, #0
        assert_eq!(at(0xd63f_0100), Flow::CallUnknown); // blr x8
        assert_eq!(at(0xd61f_0100), Flow::End); // br x8
        assert_eq!(at(0xd65f_03c0), Flow::End); // ret
        assert_eq!(at(0xd420_0020), Flow::End); // brk #1
        assert_eq!(at(0xd10083ff), Flow::On); // sub sp, sp, #32
    }

    #[test]
    fn the_slot_of_a_stub() {
        // adrp x16, +2 pages; ldr x17, [x16, #0xc00]; add x16, x16, #0xc00; br x17
        let stub = [0xd000_0010_u32, 0xf946_0211, 0x9130_0210, 0xd61f_0220];
        let bytes = |words: &[u32]| words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let plain: Vec<u8> = bytes(&stub);
        assert_eq!(stub_slot(&plain, 0x1_41c0), Some(0x1_6c00));
        let mut guarded: Vec<u8> = bytes(&[0xd503_245f]);
        guarded.extend(&plain);
        assert_eq!(stub_slot(&guarded, 0x1_41c0), Some(0x1_6c00));
        assert_eq!(stub_slot(&plain[4..], 0x1_41c0), None);
    }
}
