//! Which names a frame's code may still use: those of the instructions from here on, and of the loops around them. No more of
//! CPython's bytecode is understood than that takes.
//!
//! `opcodes.txt` has a line a version, two hexadecimal digits an opcode: what it is ([`Kind`]), and how many cache entries follow it.
//! `tests/opcodes.py` prints it; a test compares it with each Python that is there.

use super::code::Code;
use super::frame::RawFrame;
use super::heap::Heap;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

/// Most bytes of code that are looked at.
const MAX_CODE: u64 = 1 << 18;
/// Most loops within loops.
const MAX_NESTED: usize = 64;
/// The first version whose instructions lie in the code object, with jumps relative to the next one.
const FIRST_IN_OBJECT: u8 = 11;
/// `PyVarObject.ob_size`: the number of code units in a code object of 3.11+.
const SIZE: u64 = 16;

/// The tables as text.
const OPCODES: &str = include_str!("opcodes.txt");

/// What an instruction is to us: the upper half of a table's entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Other,
    /// Its argument, shifted by this, is the number of a name.
    Name(u8),
    /// The upper bits of the next one's argument.
    Extended,
    /// A jump backwards.
    Backward,
    /// A jump to an instruction by its number (3.10) or offset (3.9).
    Absolute,
    /// None that compilers make: the code was changed, say for monitoring.
    Unknown,
}

/// An instruction with its place and where it may jump back to, in bytes.
struct Instruction {
    at: u64,
    name: Option<usize>,
    back_to: Option<u64>,
}

/// The names that a frame's code may still use.
#[derive(Debug, Default)]
pub(crate) struct Ahead {
    /// In the loops that it is in.
    pub(crate) in_loops: BTreeSet<String>,
    /// From the beginning of these on, or from the present instruction.
    pub(crate) all: BTreeSet<String>,
}

/// What names a frame's code may still use; `None` where the code cannot be read.
pub(crate) fn names_ahead(heap: &Heap<'_>, frame: &RawFrame) -> Option<Ahead> {
    let bytes = instructions(heap, &frame.code)?;
    let all = decode(&bytes, TABLES.get(&heap.offsets.minor)?, heap.offsets.minor)?;
    let here = u64::try_from(frame.offset).ok()?;
    let begin = outermost_loop(&all, here);
    let backwards = |instruction: &&Instruction| {
        instruction.at >= here && instruction.back_to.is_some_and(|target| target <= here)
    };
    let end = all
        .iter()
        .rfind(backwards)
        .map(|instruction| instruction.at);
    let names = frame.code.names(heap);
    let mut ahead = Ahead::default();
    for instruction in all.iter().filter(|instruction| instruction.at >= begin) {
        let Some(number) = instruction.name else {
            continue;
        };
        let name = names.get(number)?;
        if end.is_some_and(|end| instruction.at <= end) {
            ahead.in_loops.insert(name.clone());
        }
        ahead.all.insert(name.clone());
    }
    Some(ahead)
}

fn instructions(heap: &Heap<'_>, code: &Code) -> Option<Vec<u8>> {
    let start = code.address.wrapping_add(heap.offsets.code_instructions);
    if heap.offsets.minor < FIRST_IN_OBJECT {
        let object = heap.memory.u64(start).ok()?;
        return heap.byte_string(object, MAX_CODE).ok();
    }
    let units = heap.memory.u64(code.address.wrapping_add(SIZE)).ok()?;
    let length = units.checked_mul(2).filter(|length| *length <= MAX_CODE)?;
    heap.memory.bytes(start, usize::try_from(length).ok()?).ok()
}

/// An entry an opcode, by version.
static TABLES: LazyLock<BTreeMap<u8, Vec<u8>>> = LazyLock::new(|| {
    let table = |line: &str| {
        let (version, digits) = line.split_once(' ')?;
        let entry = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
        let entries = digits.trim().as_bytes().chunks_exact(2).map(entry);
        let minor = version.strip_prefix("3.")?.parse().ok()?;
        Some((minor, entries.collect::<Option<_>>()?))
    };
    OPCODES.lines().filter_map(table).collect()
});

fn kind(entry: u8) -> Kind {
    match entry >> 4 {
        0 => Kind::Other,
        1 => Kind::Name(0),
        2 => Kind::Name(1),
        3 => Kind::Name(2),
        4 => Kind::Extended,
        5 => Kind::Backward,
        6 => Kind::Absolute,
        _ => Kind::Unknown,
    }
}

fn decode(bytes: &[u8], table: &[u8], minor: u8) -> Option<Vec<Instruction>> {
    let unit = match minor {
        0..=9 => 1,
        _ => 2,
    };
    let mut out = Vec::new();
    let mut extended = 0_u64;
    let mut at = 0;
    while let Some(&[opcode, low]) = bytes.get(at..at + 2) {
        let entry = *table.get(usize::from(opcode))?;
        let argument = (extended << 8 | u64::from(low)) & u64::from(u32::MAX);
        let next = at + 2 + 2 * usize::from(entry & 0x0f);
        let kind = kind(entry);
        extended = match kind {
            Kind::Extended => argument,
            _ => 0,
        };
        let back_to = match kind {
            Kind::Unknown => return None,
            Kind::Backward => Some((next as u64).saturating_sub(2 * argument)),
            Kind::Absolute => Some(argument * unit).filter(|target| *target <= at as u64),
            _ => None,
        };
        let name = match kind {
            Kind::Name(shift) => Some(usize::try_from(argument >> shift).ok()?),
            _ => None,
        };
        out.push(Instruction {
            at: at as u64,
            name,
            back_to,
        });
        at = next;
    }
    Some(out)
}

/// Where the outermost loop around a place begins; the place itself if there is none.
fn outermost_loop(all: &[Instruction], here: u64) -> u64 {
    let mut begin = here;
    for _ in 0..MAX_NESTED {
        let later = all.iter().filter(|instruction| instruction.at >= begin);
        let earliest = later.filter_map(|instruction| instruction.back_to).min();
        match earliest {
            Some(target) if target < begin => begin = target,
            _ => break,
        }
    }
    begin
}
