//! The full name of the libtest test that a thread runs. The kernel keeps 15 bytes of it (`comm`).
//!
//! libtest moves the test's `TestDesc` onto the stack of the thread that it starts for it, and in there is the name as
//! a string slice: an address and a length. It lies further out than anything of the test itself. A thread that a test
//! starts without a name inherits the test's `comm`, but has no such slice, so the two can be told apart. Neither
//! symbols nor a run of the binary with `--list` are needed; the latter would run its static constructors, and all of
//! a program that only looks like a libtest binary. Seen in debug and release builds of Rust 1.95.

use crate::capture::maps::Region;
use crate::capture::memory::{Memory, PAGE, Range};
use crate::model::{Pid, Tid};
use std::fs;

/// Bytes that the kernel keeps of a name (`TASK_COMM_LEN`, less the end).
pub(super) const COMM: usize = 15;
/// Longest name of a test.
const MAX_NAME: u64 = 1024;
/// How much of a stack is looked at from its outer end, and from its stack pointer. rustdoc's threads have 30 KiB of
/// thread-local data at the outer end.
const WINDOW: u64 = 128 << 10;
/// Most slices that are looked at in one window.
const MAX_SLICES: usize = 2_000;
/// How much of a stack's outer end is looked at to find whose it is.
const END: u64 = 16 << 10;
/// Most mappings that are looked at to find the stack of a thread that runs.
const MAX_STACKS: usize = 512;

/// What a thread's stack says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// It runs this test.
    Test(String),
    /// There is no name of a test on it.
    Nothing,
    /// Its stack was not found: it runs.
    NoStack,
    /// Its memory cannot be read.
    Denied,
}

/// The test whose name begins with the `comm` of this thread. `thorough`: the thread may be on a stack that is not its
/// own (of a coroutine), so that is looked for, too.
pub(super) fn test_of(
    memory: &dyn Memory,
    (pid, tid): (Pid, Tid),
    comm: &[u8],
    regions: &[Region],
    thorough: bool,
) -> Said {
    if comm.is_empty() {
        return Said::Nothing;
    }
    let present = stack_pointer(pid, tid).and_then(|pointer| {
        let mut all = regions.iter();
        let region = all.find(|region| (region.start..region.end).contains(&pointer))?;
        Some((pointer & !7, region.end))
    });
    let said = present.map(|stack| said_by(memory, stack, comm));
    let own = match said {
        None => stack_by_id(memory, tid, regions),
        Some(Said::Nothing) if thorough => stack_by_id(memory, tid, regions),
        _ => None,
    };
    match (own, said) {
        (Some(own), _) => said_by(memory, own, comm),
        (None, Some(said)) => said,
        (None, None) => Said::NoStack,
    }
}

/// What this part of a stack says, from its stack pointer to its outer end.
fn said_by(memory: &dyn Memory, (from, end): (u64, u64), comm: &[u8]) -> Said {
    let outer = from.max(end.saturating_sub(WINDOW));
    let inner = from.saturating_add(WINDOW).min(outer);
    let found = match slice_in(memory, outer, end, comm) {
        Ok(None) if inner > from => slice_in(memory, from, inner, comm),
        found => found,
    };
    match found {
        Ok(Some(name)) => Said::Test(name),
        Ok(None) => Said::Nothing,
        Err(()) => Said::Denied,
    }
}

/// The stack pointer of a thread that does not run (`proc_pid_syscall(5)`).
fn stack_pointer(pid: Pid, tid: Tid) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{tid}/syscall")).ok()?;
    let hex = text.split_ascii_whitespace().rev().nth(1)?;
    u64::from_str_radix(hex.strip_prefix("0x")?, 16).ok()
}

/// The stack of a thread that runs: the C library keeps the thread's id in `struct pthread`, at the outer end.
fn stack_by_id(memory: &dyn Memory, tid: Tid, regions: &[Region]) -> Option<(u64, u64)> {
    let is_stack = |region: &&Region| {
        let size = region.end.saturating_sub(region.start);
        !region.first_stack && (END..=(256 << 20)).contains(&size)
    };
    let stacks: Vec<Region> = regions
        .iter()
        .filter(is_stack)
        .take(MAX_STACKS)
        .copied()
        .collect();
    let ends: Vec<Range> = stacks
        .iter()
        .map(|region| Range {
            address: region.end - END,
            length: usize::try_from(END).unwrap_or(0),
        })
        .collect();
    let wanted = tid.to_le_bytes();
    let mut found = stacks
        .iter()
        .zip(memory.read_many(&ends))
        .filter(|(_, bytes)| {
            bytes.as_ref().is_ok_and(|bytes| {
                bytes
                    .as_chunks::<8>()
                    .0
                    .iter()
                    .any(|word| word[..4] == wanted || word[4..] == wanted)
            })
        })
        .map(|(region, _)| {
            (
                region.end.saturating_sub(WINDOW).max(region.start),
                region.end,
            )
        });
    let first = found.next();
    // Two that could be it are none.
    first.filter(|_| found.next().is_none())
}

/// The outermost slice in this window that can be the test's name.
fn slice_in(memory: &dyn Memory, from: u64, to: u64, comm: &[u8]) -> Result<Option<String>, ()> {
    let mut words: Vec<u64> = Vec::new();
    let mut start = from;
    // Page by page: a part that is not mapped must not hide the rest.
    let mut ranges = Vec::new();
    while start < to {
        let next = ((start | (PAGE - 1)) + 1).min(to);
        ranges.push(Range {
            address: start,
            length: usize::try_from(next - start).unwrap_or(0),
        });
        start = next;
    }
    let mut readable = false;
    for (range, page) in ranges.iter().zip(memory.read_many(&ranges)) {
        readable |= page.is_ok();
        let page = page.unwrap_or_else(|_| vec![0; range.length]);
        words.extend(
            page.as_chunks::<8>()
                .0
                .iter()
                .map(|word| u64::from_le_bytes(*word)),
        );
    }
    if !readable {
        return Err(());
    }
    let whole = comm.len() < COMM;
    let length = comm.len() as u64;
    let is_length = |word: u64| {
        if whole {
            word == length
        } else {
            (length..=MAX_NAME).contains(&word)
        }
    };
    let slices: Vec<Range> = words
        .windows(2)
        .rev()
        .filter(|pair| is_length(pair[1]) && (PAGE..1 << 56).contains(&pair[0]))
        .take(MAX_SLICES)
        .filter_map(|pair| {
            Some(Range {
                address: pair[0],
                length: usize::try_from(pair[1]).ok()?,
            })
        })
        .collect();
    let names = memory.read_many(&slices);
    Ok(names.into_iter().flatten().find_map(|name| {
        let name = String::from_utf8(name).ok()?;
        let is_name = name.as_bytes().starts_with(comm) && !name.chars().any(char::is_control);
        is_name.then_some(name)
    }))
}

#[cfg(test)]
mod tests {
    use super::slice_in;
    use crate::capture::memory::{Memory, Range, ReadError};

    /// Memory of a few pages at 0x10000.
    struct Pages(Vec<u8>);

    impl Memory for Pages {
        fn read_many(&self, ranges: &[Range]) -> Vec<Result<Vec<u8>, ReadError>> {
            let one = |range: &Range| {
                let at = usize::try_from(range.address).ok()?.checked_sub(0x10000)?;
                Some(self.0.get(at..at.checked_add(range.length)?)?.to_vec())
            };
            let all = ranges.iter();
            all.map(|range| one(range).ok_or(ReadError::Unmapped(range.address)))
                .collect()
        }
    }

    fn stack(slices: &[(usize, u64, u64)], texts: &[(usize, &str)]) -> Pages {
        let mut bytes = vec![0; 0x4000];
        for (at, address, length) in slices {
            bytes[*at..at + 8].copy_from_slice(&address.to_le_bytes());
            bytes[at + 8..at + 16].copy_from_slice(&length.to_le_bytes());
        }
        for (at, text) in texts {
            bytes[*at..at + text.len()].copy_from_slice(text.as_bytes());
        }
        Pages(bytes)
    }

    fn name(pages: &Pages, comm: &str) -> Option<String> {
        slice_in(pages, 0x10000, 0x12000, comm.as_bytes()).expect("it is readable")
    }

    #[test]
    fn the_outermost_slice_counts() {
        let pages = stack(
            &[(0x100, 0x12000, 18), (0x1800, 0x12100, 17)],
            &[
                (0x2000, "tests::long_name_1"),
                (0x2100, "tests::long_name_"),
            ],
        );
        assert_eq!(
            name(&pages, "tests::long_nam").as_deref(),
            Some("tests::long_name_")
        );
    }

    #[test]
    fn a_short_name_is_whole_and_a_long_one_printable() {
        let pages = stack(
            &[
                (0x100, 0x12000, 5),
                (0x200, 0x12000, 4),
                (0x300, 0x12100, 20),
            ],
            &[(0x2000, "it_xy"), (0x2100, "tests::long_name\n123")],
        );
        assert_eq!(name(&pages, "it_x").as_deref(), Some("it_x"));
        assert_eq!(name(&pages, "tests::long_nam"), None);
        assert_eq!(name(&pages, "other"), None);
    }

    #[test]
    fn addresses_that_lead_nowhere_and_lengths_past_the_end_are_passed_over() {
        let pages = stack(
            &[
                (0x100, 0x12000, 18),
                (0x200, 0x9999_9999_9999, 18),
                (0x300, 0x13ff8, 1000),
            ],
            &[(0x2000, "tests::long_name_1")],
        );
        assert_eq!(
            name(&pages, "tests::long_nam").as_deref(),
            Some("tests::long_name_1")
        );
        assert_eq!(slice_in(&pages, 0x9_0000, 0x9_1000, b"x"), Err(()));
    }
}
