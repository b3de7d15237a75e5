//! What the code that a thread has before it may name: the addresses in the instructions that its functions can still come
//! to, and those of the functions that these call.

use super::arch::flow::{self, Flow};
use super::symbols::Symbolizer;
use super::unwind::Walk;
use crate::capture::memory::CachedMemory;
use crate::model::Foreign;
use std::collections::BTreeSet;

/// Most instructions that are looked at for one thread; with more before it, nothing is known.
const MAX_INSTRUCTIONS: usize = 40_000;
/// Bytes of the longest instruction.
const LONGEST_INSTRUCTION: usize = 15;
/// Functions that deal with the failure of others, and what they call with that: a great deal, and none of it waited for.
const ASIDE: [&str; 5] = [
    "core::fmt",
    "core::panicking",
    "std::panicking",
    "std::backtrace",
    "handle_alloc_error",
];

/// The addresses that are named; `None` if that is too much to tell. Code of other files than the thread's own functions
/// are in, as of the C library, gets what it works on from those.
pub(crate) fn named(
    walk: &Walk,
    memory: &CachedMemory<'_>,
    symbols: &mut Symbolizer<'_>,
    is_own: impl Fn(usize) -> bool,
) -> Option<BTreeSet<u64>> {
    let mut named = BTreeSet::new();
    let mut seen = BTreeSet::new();
    let own = |frame: &&super::unwind::NativeFrame| frame.module.is_some_and(&is_own);
    let mut open: Vec<u64> = walk
        .frames
        .iter()
        .filter(own)
        .map(|frame| frame.pc)
        .collect();
    while let Some(mut at) = open.pop() {
        while seen.insert(at) {
            if seen.len() > MAX_INSTRUCTIONS {
                return None;
            }
            let bytes = (1..=LONGEST_INSTRUCTION)
                .rev()
                .find_map(|length| memory.bytes(at, length).ok())?;
            let Some(step) = flow::step(&bytes, at) else {
                break;
            };
            // A slot that a call goes through is a function's.
            if !matches!(step.flow, Flow::CallThrough(_) | Flow::JumpThrough(_)) {
                named.extend(step.named);
            }
            let (within, goes_on) = match step.flow {
                Flow::On | Flow::CallThrough(_) | Flow::CallUnknown => (None, true),
                Flow::Branch(target) => (Some(target), true),
                Flow::Jump(target) => (Some(target), false),
                Flow::Call(target) => {
                    open.extend(followed(target, symbols, &is_own));
                    (None, true)
                }
                Flow::JumpThrough(_) | Flow::End => (None, false),
            };
            // A function whose address is taken, from a table or at once, may be called.
            let taken = step.named.into_iter();
            let taken = taken.flat_map(|named| [Some(named), memory.u64(named).ok()]);
            for target in taken.flatten() {
                open.extend(followed(target, symbols, &is_own));
            }
            open.extend(within);
            if !goes_on {
                break;
            }
            at = step.next;
        }
    }
    Some(named)
}

/// A function that is to be followed: one of a file of the thread's own.
fn followed(
    target: u64,
    symbols: &mut Symbolizer<'_>,
    is_own: &impl Fn(usize) -> bool,
) -> Option<u64> {
    let module = symbols.code_module(target)?;
    let aside = |name: Foreign| ASIDE.iter().any(|aside| name.untrusted().contains(aside));
    (is_own(module) && !symbols.function_at(target).is_some_and(aside)).then_some(target)
}
