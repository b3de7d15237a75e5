//! What is copied of a process while it is stopped: registers and the used part of each stack.

use crate::capture::maps::{Region, region_at};
use crate::capture::memory::{Memory, PAGE, Range, pages};
use crate::capture::native::{Registers, StackBytes, WORD, Walk};
use crate::capture::parallel;
use crate::capture::stop::Stop;
use crate::model::{Pid, Tid};
use std::collections::{BTreeMap, BTreeSet};

/// Bytes below the stack pointer that a function may use without moving it (System V ABI for x86_64, §3.2.2).
const RED_ZONE: u64 = 128;
/// Most bytes of one stack.
const MOST_OF_ONE: u64 = 1 << 20;
/// Most bytes of all stacks of a process; when there are more, each thread gets an equal share, and the rest of its stack
/// is read when the process runs again.
const MOST_OF_ALL: u64 = 96 << 20;

/// A thread as it stood.
#[derive(Debug)]
pub(super) struct StoppedThread {
    pub(super) registers: Registers,
    /// The copied part of its stack: no bytes where the stack pointer leads nowhere.
    pub(super) stack: StackBytes,
}

/// Stacks that one worker copies before it comes for more.
const PIECE: usize = 64;

/// A process as it stood.
#[derive(Debug)]
pub(super) struct Copied<T> {
    pub(super) threads: BTreeMap<Tid, StoppedThread>,
    /// What else was read meanwhile.
    pub(super) more: T,
    /// It is being let go: to be awaited when there is nothing else to do.
    pub(super) stop: Stop,
}

/// Stops a process, those of its threads that are `at_rest` for longer than the others, copies, and has it let go. `regions` are
/// its mapped ranges in order, read beforehand. `meanwhile` reads what moves when the process runs; it is given the registers.
///
/// # Errors
/// In words, when no thread can be stopped.
pub(super) fn copy<T>(
    (pid, at_rest): (Pid, BTreeSet<Tid>),
    memory: &dyn Memory,
    regions: &[Region],
    meanwhile: impl FnOnce(&BTreeMap<Tid, Registers>) -> T,
) -> Result<Copied<T>, String> {
    let mut stop = Stop::begin_with_registers(pid, at_rest)?;
    let registers = std::mem::take(&mut stop.registers);
    let used: Vec<(u64, u64)> = registers
        .values()
        .map(|registers| used_stack(registers, regions))
        .collect();
    let share = share_of_each(&used);
    let ranges: Vec<Range> = used
        .iter()
        .map(|(start, length)| Range {
            address: *start,
            length: usize::try_from((*length).min(share)).unwrap_or(0),
        })
        .collect();
    let stacks = read(memory, &ranges);
    let more = meanwhile(&registers);
    stop.release();
    let threads = registers
        .into_iter()
        .zip(stacks)
        .map(|((tid, registers), stack)| (tid, StoppedThread { registers, stack }))
        .collect();
    Ok(Copied {
        threads,
        more,
        stop,
    })
}

/// Reads ranges, or of those that have a page in them that cannot be read (a guard within a stack's mapping) what comes
/// before it.
fn read(memory: &dyn Memory, ranges: &[Range]) -> Vec<StackBytes> {
    let stacks = parallel::map(ranges.chunks(PIECE), |ranges| {
        let whole = memory.read_many(ranges).into_iter().zip(ranges);
        whole
            .map(|(bytes, range)| {
                let bytes = bytes.unwrap_or_else(|_| readable_start(memory, *range));
                StackBytes::new(range.address, &bytes)
            })
            .collect::<Vec<_>>()
    });
    stacks.into_iter().flatten().collect()
}

fn readable_start(memory: &dyn Memory, range: Range) -> Vec<u8> {
    let end = range
        .address
        .saturating_add(u64::try_from(range.length).unwrap_or(0));
    let read = memory.read_many(&pages(range.address, end));
    read.into_iter().map_while(Result::ok).flatten().collect()
}

/// The part of a waiting thread's stack that frames have been found on. Copied without a stop: it must be asked afterwards whether
/// the thread has moved.
pub(super) fn used(walk: &Walk, memory: &dyn Memory) -> StackBytes {
    let start = walk.frames.first().map_or(0, |frame| frame.sp);
    let end = walk.frames.iter().filter_map(|frame| frame.cfa).max();
    let length = end.unwrap_or(start).saturating_sub(start).min(MOST_OF_ONE);
    let range = Range {
        address: start,
        length: usize::try_from(length).unwrap_or(0),
    };
    StackBytes::new(start, &readable_start(memory, range))
}

/// Start and length of the part of a stack that is in use.
fn used_stack(registers: &Registers, regions: &[Region]) -> (u64, u64) {
    let Some(region) = region_at(regions, registers.sp) else {
        return (registers.sp, 0);
    };
    let start = registers.sp.saturating_sub(RED_ZONE) / WORD * WORD;
    let start = start.max(region.start);
    // The C library keeps a thread's control block on the outermost page of its stack. Another thread's may follow at once: glibc
    // 2.42 makes guards that are no mappings of their own (`MADV_GUARD_INSTALL`).
    let own_end = registers
        .thread_pointer
        .filter(|pointer| (registers.sp..region.end).contains(pointer))
        .map(|pointer| (pointer | (PAGE - 1)).saturating_add(1));
    let end = own_end.map_or(region.end, |end| end.min(region.end));
    (start, end.saturating_sub(start).min(MOST_OF_ONE))
}

/// How much of each stack may be copied so that all fit.
fn share_of_each(used: &[(u64, u64)]) -> u64 {
    let all: u64 = used.iter().map(|(_, length)| length).sum();
    if all <= MOST_OF_ALL {
        return MOST_OF_ONE;
    }
    let threads = u64::try_from(used.len()).unwrap_or(u64::MAX).max(1);
    (MOST_OF_ALL / threads).max(RED_ZONE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(start: u64, end: u64) -> Region {
        Region {
            start,
            end,
            first_stack: false,
            of_program: true,
        }
    }

    #[test]
    fn the_used_part_ends_with_the_mapping() {
        let used = |sp: u64, regions: &[Region]| used_stack(&Registers::blocked(sp, 0), regions);
        let regions = [region(0x1000, 0x2000), region(0x8000, 0x9000)];
        assert_eq!(used(0x8f00, &regions), (0x8e80, 0x180));
        assert_eq!(used(0x8f04, &regions), (0x8e80, 0x180));
        assert_eq!(used(0x8010, &regions), (0x8000, 0x1000));
        assert_eq!(used(0x3000, &regions).1, 0);
        assert_eq!(used(0x10, &regions).1, 0);
        assert_eq!(used(0x9000, &regions).1, 0);
        let huge = [region(0, u64::MAX)];
        assert_eq!(used(0x1000, &huge).1, MOST_OF_ONE);
    }

    #[test]
    fn the_used_part_ends_with_the_page_of_the_thread_pointer() {
        let regions = [region(0x10000, 0x40000)];
        let used = |pointer: u64| {
            let mut registers = Registers::blocked(0x11000, 0);
            registers.thread_pointer = Some(pointer);
            used_stack(&registers, &regions)
        };
        assert_eq!(used(0x136c0), (0x10f80, 0x3080));
        assert_eq!(used(0x3f6c0), (0x10f80, 0x2f080));
        // The first thread's, and others that are elsewhere.
        assert_eq!(used(0x10800), used(0x3f6c0));
        assert_eq!(used(0x7f000), used(0x3f6c0));
    }

    #[test]
    fn many_deep_stacks_share_what_may_be_copied() {
        assert_eq!(share_of_each(&[(0, MOST_OF_ONE); 3]), MOST_OF_ONE);
        assert_eq!(share_of_each(&[(0, MOST_OF_ONE); 960]), MOST_OF_ALL / 960);
        assert_eq!(share_of_each(&[]), MOST_OF_ONE);
    }
}
