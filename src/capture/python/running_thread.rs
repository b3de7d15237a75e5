//! Which thread really runs a thread state, before 3.13: the one of a sub-interpreter is made with it, notes the thread that
//! made it, and is used by whichever thread runs the interpreter.
//!
//! From 3.10 on a thread state points to a structure on the C stack of the thread that runs it (`cframe`), or within itself
//! when none does. In 3.9 the addresses of its frames lie on that stack, the innermost at the lowest address.

use super::heap::Heap;
use super::interpreter::Census;
use super::thread_state::RawThreadState;
use crate::capture::maps::Region;
use crate::model::{Addr, Tid};
use std::collections::BTreeMap;

/// The root structure that `cframe` points to when no thread runs the thread state lies in its first bytes.
const THREAD_STATE_SIZE: u64 = 1024;
/// How much of a stack is looked through (3.9).
const MAX_WINDOW: u64 = 256 << 10;
/// How much of all stacks is.
const MAX_WINDOWS: u64 = 64 << 20;
/// Frames of a deep stack that must be found, at least (3.9).
const ENOUGH_FRAMES: usize = 64;

/// A thread of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ThreadStack {
    /// In the target's pid namespace.
    pub(crate) native_id: Tid,
    /// Unknown while the thread runs.
    pub(crate) stack_pointer: Option<u64>,
    /// The process's first thread, whose stack is the kernel's `[stack]`.
    pub(crate) is_first: bool,
}

/// All threads, and what is mapped; that is asked for only if there is something to find out.
pub(crate) struct Stacks<'a> {
    pub(crate) threads: &'a [ThreadStack],
    pub(crate) regions: &'a dyn Fn() -> Vec<Region>,
}

/// Part of the memory that is one thread's stack, above its stack pointer where that is known.
#[derive(Clone, Copy, Debug)]
struct Stack {
    native_id: Tid,
    start: u64,
    end: u64,
    /// `start` is the stack pointer.
    exact: bool,
}

/// Who runs a thread state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Runner {
    /// This thread; the second number grows outwards where a thread runs several.
    Thread(Tid, u64),
    Nobody,
    Unknown,
}

/// Puts the thread states of sub-interpreters on the threads that run them. Returns whether all of them could be placed.
pub(super) fn correct(heap: &Heap<'_>, census: &mut Census, stacks: &Stacks<'_>) -> bool {
    let idents = idents(census);
    let stacks = ranges(stacks, &idents);
    let runners: Vec<Runner> = match heap.offsets.thread_cframe {
        Some(offset) => census
            .thread_states
            .iter()
            .map(|raw| by_cframe(heap, raw, offset, &stacks))
            .collect(),
        None => by_frames(heap, &census.thread_states, &stacks),
    };
    let mut all_known = true;
    for (raw, runner) in census.thread_states.iter_mut().zip(runners) {
        match runner {
            // Those of the main interpreter are made by the threads that use them.
            Runner::Thread(thread, place)
                if raw.state.interpreter_id == 0 && thread == raw.native_id =>
            {
                raw.place = place;
            }
            _ if raw.state.interpreter_id == 0 => {}
            Runner::Thread(thread, place) => {
                move_to(raw, thread, &idents);
                raw.place = place;
            }
            // Who holds a GIL runs, or is in C code without a frame.
            Runner::Nobody if !raw.state.holds_gil => raw.runs_nowhere = true,
            Runner::Nobody | Runner::Unknown => all_known = false,
        }
    }
    mark_innermost(&mut census.thread_states);
    all_known
}

/// `pthread_t` of the threads that the main interpreter knows.
fn idents(census: &Census) -> BTreeMap<Tid, u64> {
    let main = census
        .thread_states
        .iter()
        .filter(|raw| raw.state.interpreter_id == 0);
    main.map(|raw| (raw.native_id, raw.state.ident.0)).collect()
}

fn move_to(raw: &mut RawThreadState, thread: Tid, idents: &BTreeMap<Tid, u64>) {
    if raw.native_id == thread {
        return;
    }
    raw.native_id = thread;
    raw.state.ident = Addr(idents.get(&thread).copied().unwrap_or(0));
    // What its interpreter knows by the noted ident is another thread.
    raw.state.name = None;
    raw.state.daemon = None;
    raw.thread_object = None;
}

/// Of several thread states on a thread, the one that runs now is innermost on its stack.
fn mark_innermost(states: &mut [RawThreadState]) {
    let mut innermost: BTreeMap<Tid, (usize, u64)> = BTreeMap::new();
    let mut placed: BTreeMap<Tid, usize> = BTreeMap::new();
    for raw in states.iter().filter(|raw| raw.place != 0) {
        let (count, lowest) = innermost.entry(raw.native_id).or_insert((0, u64::MAX));
        *count += 1;
        *lowest = raw.place.min(*lowest);
    }
    for raw in states.iter().filter(|raw| !raw.runs_nowhere) {
        *placed.entry(raw.native_id).or_default() += 1;
    }
    for raw in states {
        if let Some((count, lowest)) = innermost.get(&raw.native_id)
            && placed.get(&raw.native_id) == Some(count)
        {
            raw.bound = raw.place == *lowest;
        }
    }
}

/// The stacks of the threads. A `pthread_t` lies at the upper end of the stack of a thread that glibc made, so a stack ends
/// there even if the next one adjoins.
fn ranges(stacks: &Stacks<'_>, idents: &BTreeMap<Tid, u64>) -> Vec<Stack> {
    let regions = (stacks.regions)();
    let region_of = |address: u64| {
        let found = regions
            .iter()
            .find(|region| (region.start..region.end).contains(&address));
        found.copied()
    };
    let mut ends: Vec<u64> = idents.values().copied().collect();
    ends.sort_unstable();
    let end_within = |start: u64, region: Region| {
        let next = ends.partition_point(|end| *end <= start);
        ends.get(next)
            .map_or(region.end, |end| region.end.min(*end))
    };
    let mut out = Vec::new();
    for thread in stacks.threads {
        let native_id = thread.native_id;
        if let Some(pointer) = thread.stack_pointer {
            let Some(region) = region_of(pointer) else {
                continue;
            };
            out.push(Stack {
                native_id,
                start: pointer,
                end: end_within(pointer, region),
                exact: true,
            });
            continue;
        }
        let region = if thread.is_first {
            regions.iter().find(|region| region.first_stack).copied()
        } else {
            idents.get(&native_id).and_then(|ident| region_of(*ident))
        };
        if let Some(region) = region {
            let end = match idents.get(&native_id) {
                Some(ident) if !thread.is_first => *ident,
                _ => region.end,
            };
            out.push(Stack {
                native_id,
                start: region.start,
                end,
                exact: false,
            });
        }
    }
    out
}

fn by_cframe(heap: &Heap<'_>, raw: &RawThreadState, offset: u64, stacks: &[Stack]) -> Runner {
    let state = raw.state.address.0;
    let Ok(cframe) = heap.memory.u64(state.wrapping_add(offset)) else {
        return Runner::Unknown;
    };
    if cframe == 0 || cframe.wrapping_sub(state) < THREAD_STATE_SIZE {
        return Runner::Nobody;
    }
    let mut on = stacks
        .iter()
        .filter(|stack| (stack.start..stack.end).contains(&cframe));
    match (on.next(), on.next()) {
        (Some(stack), None) => Runner::Thread(stack.native_id, cframe),
        _ => Runner::Unknown,
    }
}

/// 3.9: a thread state is run by the thread on whose stack it lies and, above, its frames in their order. A thread whose stack
/// pointer is not known might be the one, and then nothing is known of those that have frames.
fn by_frames(heap: &Heap<'_>, states: &[RawThreadState], stacks: &[Stack]) -> Vec<Runner> {
    let mut left = MAX_WINDOWS;
    let mut blind = false;
    let mut windows: Vec<(Stack, Vec<u64>)> = Vec::new();
    for stack in stacks {
        let length = (stack.end - stack.start).min(MAX_WINDOW);
        if !stack.exact || length > left {
            blind = true;
            continue;
        }
        left -= length;
        match words(heap, stack.start, length) {
            Some(words) => windows.push((*stack, words)),
            None => blind = true,
        }
    }
    states
        .iter()
        .map(|raw| {
            if raw.raw_frames.is_empty() && raw.state.cut.is_none() {
                return Runner::Nobody;
            }
            if blind {
                return Runner::Unknown;
            }
            let mut on = windows
                .iter()
                .filter_map(|(stack, words)| Some((stack, found_in_order(raw, words)?)));
            match (on.next(), on.next()) {
                (Some((stack, index)), None) => {
                    Runner::Thread(stack.native_id, stack.start.wrapping_add(8 * index as u64))
                }
                _ => Runner::Unknown,
            }
        })
        .collect()
}

fn words(heap: &Heap<'_>, start: u64, length: u64) -> Option<Vec<u64>> {
    let start = start & !7;
    let bytes = heap
        .memory
        .bytes(start, usize::try_from(length & !7).ok()?)
        .ok()?;
    let (words, _) = bytes.as_chunks::<8>();
    Some(words.iter().map(|word| u64::from_le_bytes(*word)).collect())
}

/// Where a thread state's innermost frame lies among the words of a stack, if the thread state itself lies below, and its other
/// frames above in their order.
fn found_in_order(raw: &RawThreadState, words: &[u64]) -> Option<usize> {
    let state = words.iter().position(|word| *word == raw.state.address.0)?;
    let mut first = None;
    let mut at = state;
    for (count, frame) in raw.raw_frames.iter().enumerate() {
        let Some(further) = words[at..].iter().position(|word| *word == frame.address) else {
            // A deep stack goes on beyond the window.
            let beyond = words.len() as u64 * 8 >= MAX_WINDOW - 8;
            return first.filter(|_| beyond && count >= ENOUGH_FRAMES);
        };
        at += further;
        first.get_or_insert(at);
        at += 1;
    }
    first
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: u64 = 4096;

    fn region(first: u64, last: u64) -> Region {
        Region {
            start: first * PAGE,
            end: last * PAGE,
            first_stack: false,
            of_program: true,
        }
    }

    fn thread(native_id: Tid, stack_pointer: Option<u64>) -> ThreadStack {
        ThreadStack {
            native_id,
            stack_pointer,
            is_first: false,
        }
    }

    fn of(
        threads: &[ThreadStack],
        regions: &[Region],
        idents: &[(Tid, u64)],
    ) -> Vec<(Tid, u64, u64)> {
        let stacks = Stacks {
            threads,
            regions: &|| regions.to_vec(),
        };
        let idents = idents.iter().copied().collect();
        let ranges = ranges(&stacks, &idents);
        ranges
            .iter()
            .map(|stack| (stack.native_id, stack.start, stack.end))
            .collect()
    }

    #[test]
    fn stacks_that_adjoin_end_at_their_pthreads() {
        let threads = [thread(1, Some(0x1800)), thread(2, Some(0x2800))];
        let found = of(&threads, &[region(1, 3)], &[(1, 0x1f00), (2, 0x2f00)]);
        assert_eq!(found, [(1, 0x1800, 0x1f00), (2, 0x2800, 0x2f00)]);
    }

    #[test]
    fn a_running_thread_has_the_range_below_its_pthread() {
        let found = of(
            &[thread(1, None), thread(2, None)],
            &[region(1, 3)],
            &[(1, 0x2f00)],
        );
        assert_eq!(found, [(1, 0x1000, 0x2f00)], "and an unknown one has none");
    }

    #[test]
    fn a_stack_pointer_outside_of_all_ranges_is_left_out() {
        assert_eq!(of(&[thread(1, Some(0x9000))], &[region(1, 3)], &[]), []);
    }
}
