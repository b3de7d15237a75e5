//! Where the stacks of threads are, and what the C library keeps at their ends.

use crate::capture::maps::{Region, stack_end, unreadable_pages};
use crate::capture::memory::{Memory, PAGE, Range};
use crate::model::{Pid, Tid};
use std::fs;

/// How much of a stack is looked at from its outer end, and from its stack pointer. rustdoc's threads have 30 KiB of
/// thread-local data at the outer end.
pub(super) const WINDOW: u64 = 128 << 10;
/// How much of a stack's outer end is looked at to find whose it is.
const END: u64 = 16 << 10;
/// How far the id is from the beginning of `struct pthread`, at most: 720 bytes in glibc.
const PTHREAD: usize = 1024;
/// Most stacks that are looked at to find that of a thread that runs.
const MAX_STACKS: usize = 512;
/// Most pages that are looked at for guards between stacks, for that.
const MAX_PAGES: u64 = 1 << 16;

/// The stack of a thread that does not run, from its stack pointer to its outer end.
pub(super) fn stopped_stack(
    memory: &dyn Memory,
    (pid, tid): (Pid, Tid),
    regions: &[Region],
) -> Option<(u64, u64)> {
    let pointer = stack_pointer(pid, tid)?;
    let end = stack_end(memory, pointer, regions)?;
    Some((pointer & !7, end))
}

/// The address of a thread's `struct pthread`, which is its thread pointer where thread-local data lies below that (x86-64).
pub(in crate::capture) fn thread_pointer(
    memory: &dyn Memory,
    (pid, tid): (Pid, Tid),
    regions: &[Region],
) -> Option<u64> {
    let at_end = |(start, end): (u64, u64)| {
        let address = end.saturating_sub(END).max(start & !(PAGE - 1));
        let length = usize::try_from(end.checked_sub(address)?).ok()?;
        let mut read = memory.read_many(&[Range { address, length }]);
        head_of(&read.pop()?.ok()?, address, tid.to_le_bytes())
    };
    let stopped = stopped_stack(memory, (pid, tid), regions).and_then(at_end);
    stopped.or_else(|| {
        let mut stacks = stacks_by_id(memory, tid, regions).into_iter();
        stacks.find_map(at_end)
    })
}

/// The stack pointer of a thread that does not run (`proc_pid_syscall(5)`).
fn stack_pointer(pid: Pid, tid: Tid) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{tid}/syscall")).ok()?;
    let hex = text.split_ascii_whitespace().rev().nth(1)?;
    u64::from_str_radix(hex.strip_prefix("0x")?, 16).ok()
}

/// What may be the stack of a thread that runs: at its outer end is the C library's `struct pthread`, which begins with its
/// own address (glibc on x86-64, musl) and has the thread's id.
pub(super) fn stacks_by_id(memory: &dyn Memory, tid: Tid, regions: &[Region]) -> Vec<(u64, u64)> {
    let is_stack = |region: &&Region| {
        let size = region.end.saturating_sub(region.start);
        !region.first_stack && (END..=(256 << 20)).contains(&size)
    };
    let mappings = || regions.iter().filter(is_stack);
    let whole = mappings().map(|region| (region.start, region.end));
    let found = with_id(memory, tid, whole.collect());
    if !found.is_empty() {
        return found;
    }
    // Several may be in one mapping, with guards between them.
    let mut left = MAX_PAGES;
    let parts = mappings().flat_map(|region| {
        let pages = (region.end - region.start) / PAGE;
        let affordable = pages <= left;
        left = left.saturating_sub(pages);
        let guards = affordable.then(|| unreadable_pages(memory, region.start, region.end));
        let mut start = region.start;
        let guards = guards.into_iter().flatten().take(MAX_STACKS);
        let ends = guards.chain([region.end]);
        let parts = ends.map(|end| (std::mem::replace(&mut start, end + PAGE), end));
        parts.collect::<Vec<_>>()
    });
    with_id(memory, tid, parts.collect())
}

/// Those of these stacks at whose end is the thread's `struct pthread`.
fn with_id(memory: &dyn Memory, tid: Tid, mut stacks: Vec<(u64, u64)>) -> Vec<(u64, u64)> {
    stacks.retain(|(start, end)| *end >= start.saturating_add(END));
    stacks.truncate(MAX_STACKS);
    let ends: Vec<Range> = stacks
        .iter()
        .map(|(_, end)| Range {
            address: end - END,
            length: usize::try_from(END).unwrap_or(0),
        })
        .collect();
    let wanted = tid.to_le_bytes();
    stacks
        .iter()
        .zip(memory.read_many(&ends))
        .filter(|((_, end), bytes)| {
            let bytes = bytes.as_deref().unwrap_or_default();
            head_of(bytes, end - END, wanted).is_some()
        })
        .map(|((start, end), _)| (end.saturating_sub(WINDOW).max(*start), *end))
        .collect()
}

/// Where the `struct pthread` with this id is in these bytes, which are at that address.
fn head_of(bytes: &[u8], address: u64, id: [u8; 4]) -> Option<u64> {
    let (words, _) = bytes.as_chunks::<8>();
    let at = (address..).step_by(8);
    let mut places = words.iter().enumerate().zip(at);
    places.find_map(|((index, word), at)| {
        let is_head = u64::from_le_bytes(*word) == at;
        let near = bytes.get(index * 8..).unwrap_or_default();
        let near = near.get(..PTHREAD).unwrap_or(near);
        (is_head && near.as_chunks::<4>().0.contains(&id)).then_some(at)
    })
}

#[cfg(test)]
mod tests {
    use super::head_of;

    #[test]
    fn a_stack_is_known_by_the_id_behind_a_pointer_to_itself() {
        let mut bytes = vec![0; 0x4000];
        bytes[0x200..0x208].copy_from_slice(&0x10200_u64.to_le_bytes());
        let id = 4242_i32.to_le_bytes();
        bytes[0x4d0..0x4d4].copy_from_slice(&id);
        assert_eq!(head_of(&bytes, 0x10000, id), Some(0x10200));
        assert_eq!(head_of(&bytes, 0x10000, 4243_i32.to_le_bytes()), None);
        assert_eq!(
            head_of(&bytes, 0x20000, id),
            None,
            "the id alone may be anywhere"
        );
        assert_eq!(head_of(&bytes[..0x204], 0x10000, id), None);
        assert_eq!(head_of(&[], 0, id), None);
    }
}
