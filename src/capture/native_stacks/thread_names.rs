//! Full names of Rust's threads, whose stacks have been found.

use super::Unwound;
use crate::capture::maps::{Region, stack_end};
use crate::capture::memory::Memory;
use crate::capture::rust_names::{self, COMM, MAX_NAME};
use crate::model::{Foreign, Thread, Tid};
use std::collections::BTreeMap;

/// How much of a stack's outer end may hold the thread's own data.
const OWN_DATA: u64 = 16 << 10;
/// Most threads whose names are looked for.
const MAX_THREADS: usize = 512;

/// Adds the full names of threads whose names the kernel has cut.
pub(super) fn complete(
    threads: &mut [Thread],
    unwound: &BTreeMap<Tid, Unwound>,
    memory: &dyn Memory,
    regions: &[Region],
) {
    let cut = threads
        .iter_mut()
        .filter(|thread| thread.name.untrusted().len() == COMM && thread.python.is_empty());
    for thread in cut.take(MAX_THREADS) {
        let pointer = unwound
            .get(&thread.tid)
            .and_then(|unwound| unwound.walk.frames.first())
            .map(|frame| frame.sp);
        let stack =
            pointer.and_then(|pointer| Some((pointer, stack_end(memory, pointer, regions)?)));
        thread.full_name = stack
            .and_then(|stack| name(memory, stack, thread.name.untrusted(), regions))
            .map(Foreign::from);
    }
}

/// The name that begins with `comm`, of what the outer end of a stack leads to: from its stack pointer to its end.
fn name(
    memory: &dyn Memory,
    (from, end): (u64, u64),
    comm: &str,
    regions: &[Region],
) -> Option<String> {
    let own_data = (from.max(end.saturating_sub(OWN_DATA)), end);
    let is_length = |length: u64| (COMM as u64 + 1..=MAX_NAME).contains(&length);
    let kept = rust_names::kept(memory, own_data, regions, is_length);
    kept.into_iter().find_map(|text| {
        let text = String::from_utf8(text).ok()?;
        let whole = text.len() > COMM && text.starts_with(comm) && !text.contains('\0');
        whole.then_some(text)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::memory::Piece;

    #[test]
    fn a_name_is_found_through_what_the_thread_points_to() {
        let (mut stack, mut heap) = (vec![0; 0x1000], vec![0; 0x1000]);
        stack[0xff0..0xff8].copy_from_slice(&0x2100_u64.to_le_bytes());
        let text = b"tests::a_long_name_of_a_test\0";
        heap[0x110..0x118].copy_from_slice(&0x2800_u64.to_le_bytes());
        heap[0x118..0x120].copy_from_slice(&(text.len() as u64).to_le_bytes());
        heap[0x800..0x800 + text.len()].copy_from_slice(text);
        let region = |start: u64| Region {
            start,
            end: start + 0x1000,
            first_stack: false,
            of_program: true,
        };
        let regions = [region(0x1000), region(0x2000)];
        let memory = Piece {
            start: 0x1000,
            bytes: [stack, heap].concat(),
        };
        let found = name(&memory, (0x1000, 0x2000), "tests::a_long_n", &regions);
        assert_eq!(found.as_deref(), Some("tests::a_long_name_of_a_test"));
        assert_eq!(
            name(&memory, (0x1000, 0x2000), "tests::b_long_n", &regions),
            None
        );
    }
}
