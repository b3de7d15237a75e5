//! Landing pads: the code that runs in a frame when a panic or exception passes it, which drops what the frame owns then
//! (Itanium C++ ABI: Exception Handling, level II; the call-site table of a function is its language-specific data area).
//! It tells of compiled code what it holds: a frame that would drop a `MutexGuard` has one.

use super::arch::flow::{self, Flow};
use super::symbols::Symbolizer;
use super::unwind::NativeFrame;
use crate::capture::memory::CachedMemory;
use crate::model::Foreign;
use std::collections::BTreeSet;

/// Most bytes of a call-site table.
const MAX_TABLE: u64 = 1 << 16;
/// Most instructions of a landing pad that are looked at, and most paths through it.
const MAX_INSTRUCTIONS: usize = 600;
const MAX_PATHS: usize = 64;
/// Most functions that it calls to drop something and that are looked into.
const MAX_DROPS: usize = 16;
/// Most bytes of one instruction (Intel SDM 2.3.11), and of a stub that jumps to another file.
const LONGEST_INSTRUCTION: usize = 15;
const STUB: usize = 2 * LONGEST_INSTRUCTION;
/// Functions that do not return: what comes after a call of one belongs to something else.
const LAST_CALLS: [&str; 6] = [
    "_Unwind_Resume",
    "__cxa_end_catch",
    "panic_in_cleanup",
    "panic_cannot_unwind",
    "terminate",
    "abort",
];

/// What a landing pad does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cleanup {
    /// Functions that it calls.
    pub(crate) calls: Vec<Foreign>,
    /// Functions that those call which drop something: linkers and compilers fold functions that are alike, so that the
    /// guard of one type may be dropped by a function that is named after another.
    pub(crate) in_drops: Vec<Foreign>,
    /// Addresses that its instructions name: of statics.
    pub(crate) addresses: Vec<u64>,
}

/// The cleanup of a frame at the call that it is in; `None` where it has none, or that cannot be read.
pub(crate) fn cleanup(
    frame: &NativeFrame,
    memory: &CachedMemory<'_>,
    symbols: &mut Symbolizer<'_>,
) -> Option<Cleanup> {
    let address = frame.lookup();
    let (start, table) = symbols.landing_table(address)?;
    let pad = landing_pad(memory, start, table, address)?;
    let mut drops = Vec::new();
    let mut cleanup = follow(pad, memory, symbols, &mut drops);
    for function in drops.into_iter().take(MAX_DROPS) {
        let inner = follow(function, memory, symbols, &mut Vec::new());
        cleanup.in_drops.extend(inner.calls);
    }
    Some(cleanup)
}

/// The landing pad for the call at `address` in a function that begins at `start`.
fn landing_pad(memory: &CachedMemory<'_>, start: u64, table: u64, address: u64) -> Option<u64> {
    let mut reader = Table {
        memory,
        at: table,
        end: table.checked_add(MAX_TABLE)?,
    };
    let base = match reader.byte()? {
        OMITTED => start,
        encoding => reader.encoded(encoding)?,
    };
    if reader.byte()? != OMITTED {
        reader.uleb128()?;
    }
    let encoding = reader.byte()?;
    let length = reader.uleb128()?.min(MAX_TABLE);
    reader.end = reader.at.checked_add(length)?;
    while reader.at < reader.end {
        let first = start.wrapping_add(reader.encoded(encoding)?);
        let length = reader.encoded(encoding)?;
        let pad = reader.encoded(encoding)?;
        reader.uleb128()?; // which exceptions it is for
        if (first..first.saturating_add(length)).contains(&address) {
            return (pad != 0).then(|| base.wrapping_add(pad));
        }
        if first > address {
            return None;
        }
    }
    None
}

/// `DW_EH_PE_omit`.
const OMITTED: u8 = 0xff;

/// A call-site table under way.
struct Table<'m> {
    memory: &'m CachedMemory<'m>,
    at: u64,
    end: u64,
}

impl Table<'_> {
    fn byte(&mut self) -> Option<u8> {
        if self.at >= self.end {
            return None;
        }
        let byte = self.memory.u8(self.at).ok()?;
        self.at += 1;
        Some(byte)
    }

    fn uleb128(&mut self) -> Option<u64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f).checked_shl(shift)?;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    /// A value in one of the encodings that compilers use here: `DW_EH_PE_uleb128`, `udata4`, `sdata4`, `udata8`, `absptr`,
    /// relative to their place or not.
    fn encoded(&mut self, encoding: u8) -> Option<u64> {
        let place = self.at;
        let value = match encoding & 0x0f {
            0x01 => self.uleb128()?,
            0x03 => u64::from(self.memory.u32(self.skip(4)?).ok()?),
            0x0b => i64::from(self.memory.i32(self.skip(4)?).ok()?).cast_unsigned(),
            0x00 | 0x04 => self.memory.u64(self.skip(8)?).ok()?,
            _ => return None,
        };
        match encoding & 0xf0 {
            0x00 => Some(value),
            0x10 => Some(place.wrapping_add(value)),
            _ => None,
        }
    }

    fn skip(&mut self, bytes: u64) -> Option<u64> {
        let place = self.at;
        self.at = self.at.checked_add(bytes)?;
        (self.at <= self.end).then_some(place)
    }
}

/// Walks over all paths of code. `drops` gets the addresses of functions that it calls to drop something.
fn follow(
    pad: u64,
    memory: &CachedMemory<'_>,
    symbols: &mut Symbolizer<'_>,
    drops: &mut Vec<u64>,
) -> Cleanup {
    let mut cleanup = Cleanup::default();
    let mut seen = BTreeSet::new();
    let mut paths = vec![pad];
    while let Some(mut at) = paths.pop() {
        while seen.len() < MAX_INSTRUCTIONS && seen.insert(at) {
            let Some(step) = instruction(memory, at) else {
                break;
            };
            cleanup.addresses.extend(step.named);
            let target = match step.flow {
                Flow::On => {
                    at = step.next;
                    continue;
                }
                // To another function it is a call, as the last thing of this one.
                Flow::Jump(target) if symbols.function_at(target) != symbols.function_at(at) => {
                    cleanup.calls.extend(symbols.function_at(target));
                    break;
                }
                Flow::Jump(target) => {
                    at = target;
                    continue;
                }
                Flow::JumpThrough(slot) => {
                    let target = memory.u64(slot).ok();
                    cleanup
                        .calls
                        .extend(target.and_then(|target| called(target, memory, symbols)));
                    break;
                }
                Flow::Branch(target) => {
                    if paths.len() < MAX_PATHS {
                        paths.push(target);
                    }
                    at = step.next;
                    continue;
                }
                Flow::Call(target) => Some(target),
                Flow::CallThrough(slot) => memory.u64(slot).ok(),
                Flow::End => break,
            };
            let name = target.and_then(|target| called(target, memory, symbols));
            let Some(name) = name else {
                break; // it may be one that does not return
            };
            let last = LAST_CALLS
                .iter()
                .any(|last| name.untrusted().contains(last));
            if name.untrusted().contains("drop_in_place") {
                drops.extend(target);
            }
            cleanup.calls.push(name);
            if last {
                break;
            }
            at = step.next;
        }
    }
    cleanup
}

fn instruction(memory: &CachedMemory<'_>, at: u64) -> Option<flow::Step> {
    // Near the end of a mapping fewer bytes can be read.
    let bytes = (1..=LONGEST_INSTRUCTION)
        .rev()
        .find_map(|length| memory.bytes(at, length).ok())?;
    flow::step(&bytes, at)
}

/// The name of what is called, through the stub of a dynamic call if need be.
fn called(target: u64, memory: &CachedMemory<'_>, symbols: &mut Symbolizer<'_>) -> Option<Foreign> {
    if let Some(name) = symbols.function_at(target) {
        return Some(name);
    }
    let bytes = memory.bytes(target, STUB).ok()?;
    let slot = flow::stub_slot(&bytes, target)?;
    symbols.function_at(memory.u64(slot).ok()?)
}
