//! The full name of the libtest test that a thread runs. The kernel keeps 15 bytes of it (`comm`).
//!
//! libtest moves the test's `TestDesc` onto the stack of the thread that it starts for it, and in there is the name as
//! a string slice: an address and a length. It lies further out than anything of the test itself. A thread that a test
//! starts without a name inherits the test's `comm`, but has no such slice, or an old one: the C library uses the stacks of
//! threads that have ended again. So the name must also be the one that the standard library keeps for the thread. Neither
//! symbols nor a run of the binary with `--list` are needed; the latter would run its static constructors, and all of
//! a program that only looks like a libtest binary. Seen in debug and release builds of Rust 1.95.

use super::stacks::{WINDOW, stacks_by_id, stopped_stack};
use crate::capture::maps::Region;
use crate::capture::memory::{Memory, PAGE, Range};
use crate::capture::rust_names::{self, COMM, MAX_NAME, words_of};
use crate::model::{Pid, Tid};

/// Most slices that are looked at in one window.
const MAX_SLICES: usize = 2_000;
/// Most names that may be a thread's.
const MAX_NAMES: usize = 16;
/// How much of a stack's outer end may hold the thread's own data.
const OWN_DATA: u64 = 64 << 10;

/// What a thread's stack says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// It runs this test.
    Test(String),
    /// The name of this test is on its stack, but is not the thread's own.
    Unsure(String),
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
    let said = stopped_stack(memory, (pid, tid), regions)
        .map(|stack| said_by(memory, stack, comm, regions));
    let elsewhere = match said {
        None => stacks_by_id(memory, tid, regions),
        Some(Said::Nothing | Said::Unsure(_)) if thorough => stacks_by_id(memory, tid, regions),
        _ => Vec::new(),
    };
    let sure = elsewhere
        .into_iter()
        .map(|stack| said_by(memory, stack, comm, regions))
        .find(|said| matches!(said, Said::Test(_)));
    sure.or(said).unwrap_or(Said::NoStack)
}

/// What this part of a stack says, from its stack pointer to its outer end.
fn said_by(memory: &dyn Memory, (from, end): (u64, u64), comm: &[u8], regions: &[Region]) -> Said {
    let outer = from.max(end.saturating_sub(WINDOW));
    let inner = from.saturating_add(WINDOW).min(outer);
    let found = match slices_in(memory, outer, end, comm) {
        Ok(names) if names.is_empty() && inner > from => slices_in(memory, from, inner, comm),
        found => found,
    };
    let Ok(names) = found else {
        return Said::Denied;
    };
    let mut names = names.into_iter();
    let Some(first) = names.next() else {
        return Said::Nothing;
    };
    let candidates: Vec<String> = std::iter::once(first.clone()).chain(names).collect();
    own_name(memory, (outer, end), &candidates, regions).map_or(Said::Unsure(first), Said::Test)
}

/// Which of these names is the one that the standard library keeps for the thread.
fn own_name(
    memory: &dyn Memory,
    (from, end): (u64, u64),
    names: &[String],
    regions: &[Region],
) -> Option<String> {
    let own_data = (from.max(end.saturating_sub(OWN_DATA)), end);
    let is_length = |length: u64| names.iter().any(|name| name.len() as u64 + 1 == length);
    let kept = rust_names::kept(memory, own_data, regions, is_length);
    kept.into_iter()
        .find_map(|text| names.iter().find(|name| name.as_bytes() == text).cloned())
}

/// What slices in this window can be the test's name, the outermost first.
fn slices_in(memory: &dyn Memory, from: u64, to: u64, comm: &[u8]) -> Result<Vec<String>, ()> {
    let words = words_of(memory, from, to).ok_or(())?;
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
    let mut names: Vec<String> = Vec::new();
    for name in memory.read_many(&slices).into_iter().flatten() {
        let Ok(name) = String::from_utf8(name) else {
            continue;
        };
        let is_name = name.as_bytes().starts_with(comm) && !name.chars().any(char::is_control);
        if is_name && names.len() < MAX_NAMES && !names.contains(&name) {
            names.push(name);
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::{own_name, slices_in};
    use crate::capture::maps::Region;
    use crate::capture::memory::Piece;

    fn stack(slices: &[(usize, u64, u64)], texts: &[(usize, &str)]) -> Piece {
        let mut bytes = vec![0; 0x4000];
        for (at, address, length) in slices {
            bytes[*at..at + 8].copy_from_slice(&address.to_le_bytes());
            bytes[at + 8..at + 16].copy_from_slice(&length.to_le_bytes());
        }
        for (at, text) in texts {
            bytes[*at..at + text.len()].copy_from_slice(text.as_bytes());
        }
        Piece {
            start: 0x10000,
            bytes,
        }
    }

    fn name(pages: &Piece, comm: &str) -> Option<String> {
        let names = slices_in(pages, 0x10000, 0x12000, comm.as_bytes()).expect("it is readable");
        names.into_iter().next()
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
    fn a_name_that_another_test_left_on_the_stack_is_not_the_threads_own() {
        let names = [
            "tests::long_name_1".to_owned(),
            "tests::long_name_2".to_owned(),
        ];
        let region = Region {
            start: 0x10000,
            end: 0x14000,
            first_stack: false,
            of_program: true,
        };
        let own = |pages: &Piece| own_name(pages, (0x10000, 0x11000), &names, &[region]);
        // The word at 0xf00 points to a reference count, and after that an address and a length with its zero.
        let texts = [(0x2000, "tests::long_name_2\0")];
        let pages = stack(&[(0xf00, 0x13000, 0), (0x3008, 0x12000, 19)], &texts);
        assert_eq!(own(&pages), Some(names[1].clone()));
        let unnamed = stack(&[(0xf00, 0x13000, 0), (0x3008, 0, 0)], &texts);
        assert_eq!(own(&unnamed), None);
        let cut = stack(&[(0xf00, 0x13000, 0), (0x3008, 0x12000, 18)], &texts);
        assert_eq!(own(&cut), None, "a slice, as on the stack, does not count");
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
        assert_eq!(slices_in(&pages, 0x9_0000, 0x9_1000, b"x"), Err(()));
    }
}
