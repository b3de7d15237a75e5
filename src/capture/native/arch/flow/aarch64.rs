//! aarch64: fixed words (Arm Architecture Reference Manual, C4.1.65, branches).

use super::{Decision, Flow, Step};

const WORD: u64 = 4;

pub(super) fn step(bytes: &[u8], address: u64) -> Option<Step> {
    let word = u32::from_le_bytes(bytes.get(..4)?.try_into().ok()?);
    Some(Step {
        flow: flow(word, address),
        next: address.wrapping_add(WORD),
        named: None,
    })
}

fn flow(word: u32, address: u64) -> Flow {
    let target = |bits: u32, from: u32| {
        let field = (word >> from) & ((1 << bits) - 1);
        let signed = i64::from((field << (32 - bits)).cast_signed() >> (32 - bits));
        address.wrapping_add_signed(signed * 4)
    };
    match word {
        _ if word >> 26 == 0b00_0101 => Flow::Jump(target(26, 0)),
        _ if word >> 26 == 0b10_0101 => Flow::Call(target(26, 0)),
        // B.cond, CBZ and CBNZ, TBZ and TBNZ.
        _ if word >> 24 == 0b0101_0100 => Flow::Branch(target(19, 5)),
        _ if (word >> 25) & 0x3f == 0b01_1010 => Flow::Branch(target(19, 5)),
        _ if (word >> 25) & 0x3f == 0b01_1011 => Flow::Branch(target(14, 5)),
        // BR, BLR, RET; BRK and UDF.
        _ if word >> 25 == 0b110_1011 => Flow::End,
        _ if word >> 21 == 0b110_1010_0001 || word >> 16 == 0 => Flow::End,
        _ => Flow::On,
    }
}

/// Values are not followed here: the test of one bit may be that of a drop flag.
pub(super) fn decision(bytes: &[u8]) -> Option<Decision> {
    let word = u32::from_le_bytes(bytes.get(..4)?.try_into().ok()?);
    match word {
        _ if (word >> 25) & 0x3f == 0b01_1011 => Some(Decision::Untold),
        _ if word >> 24 == 0b0101_0100 => Some(Decision::Either),
        _ if (word >> 25) & 0x3f == 0b01_1010 => Some(Decision::Either),
        _ => None,
    }
}
