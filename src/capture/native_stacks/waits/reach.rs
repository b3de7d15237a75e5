//! Which threads cannot come to what another waits for: nothing on their stacks leads there, through whatever memory, nor does
//! what their code names.

use super::super::Unwound;
use super::super::has_own_code;
use super::pieces::Pieces;
use super::{Waited, scan};
use crate::capture::maps::{Region, region_at};
use crate::capture::memory::CachedMemory;
use crate::capture::native::{Images, StackBytes, Symbolizer, named_ahead};
use crate::model::{Grade, Process, Thread, ThreadKind, Tid};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// Most threads that are followed, of those that go on.
const MAX_THREADS: usize = 8;
/// Most objects that are followed from one thread; with more, nothing is known of it.
const MAX_OBJECTS: usize = 20_000;
/// Bytes of an object that are read where its allocation does not tell, and most of one.
const UNTOLD: u64 = 256;
const MOST: u64 = 1 << 16;
/// Bytes that are read of a static that code names.
const OF_STATIC: usize = 64;
/// An address that is less than this before what is waited for, or a little behind, may be of the structure that it is in.
const BEFORE: u64 = 4096;
const BEHIND: u64 = 64;
/// The head of an allocation of glibc's `malloc`: its size, the lowest bits of which are flags.
const HEAD: u64 = 8;
const FLAGS: u64 = 7;
/// Sizes of which it keeps freed pieces for each thread.
const SIZES: usize = 64;
/// The smallest that it gives out, with its head.
const LEAST: u64 = 32;

/// A process's memory.
#[derive(Clone, Copy)]
pub(super) struct Space<'s> {
    pub(super) regions: &'s [Region],
    pub(super) images: &'s Images,
    pub(super) memory: &'s CachedMemory<'s>,
}

/// Where the threads' stacks are.
pub(super) type Stacks = BTreeMap<Tid, Range<u64>>;

/// The stacks of the threads: each a whole mapping; or, where several are in one, from the end of the one to that of the next.
pub(super) fn stacks(unwound: &BTreeMap<Tid, Unwound>, regions: &[Region]) -> Stacks {
    let mut in_order: Vec<(&Tid, &StackBytes)> = unwound
        .iter()
        .map(|(tid, thread)| (tid, &thread.stack))
        .collect();
    in_order.sort_by_key(|(_, stack)| stack.address());
    let mut stacks = Stacks::new();
    let mut before: Option<(Tid, u64)> = None;
    for (tid, stack) in in_order {
        let Some(mapping) = region_at(regions, stack.address()) else {
            continue;
        };
        let mut start = mapping.start;
        if let Some((below, end)) = before.filter(|(_, end)| *end > mapping.start) {
            start = end;
            stacks.entry(below).and_modify(|stack| stack.end = end);
        }
        stacks.insert(*tid, start..mapping.end);
        before = Some((*tid, stack.end()));
    }
    stacks
}

/// For each wait the threads that do not come to what is waited for.
pub(super) fn out_of_reach(
    process: &Process,
    waits: &[Waited],
    (unwound, stacks): (&BTreeMap<Tid, Unwound>, &Stacks),
    space: &Space<'_>,
    symbols: &mut Symbolizer<'_>,
) -> BTreeMap<Tid, Vec<Tid>> {
    let mut found: BTreeMap<Tid, Vec<Tid>> = BTreeMap::new();
    // On other machines it is not known what code names.
    if waits.is_empty() || !cfg!(target_arch = "x86_64") {
        return found;
    }
    let Space {
        regions,
        images,
        memory,
    } = *space;
    let pieces = Pieces::new(memory);
    let mut going_on = process.threads.iter().filter(|thread| goes_on(thread));
    for thread in going_on.by_ref().take(MAX_THREADS) {
        // Without a stop not all registers are known, and what is in one of those leads somewhere, too.
        let stack = unwound.get(&thread.tid);
        let Some(stack) = stack.filter(|stack| stack.grade == Grade::Read) else {
            continue;
        };
        let is_own = |module: usize| has_own_code(images, module);
        let Some(named) = named_ahead(&stack.walk, memory, symbols, is_own) else {
            continue;
        };
        let follow = Follow {
            regions,
            stacks,
            memory,
            pieces: &pieces,
        };
        let Some(words) = follow.all(stack, &named) else {
            continue;
        };
        for wait in waits.iter().filter(|wait| wait.tid != thread.tid) {
            let leads_to = |at: u64, before: u64| {
                let range = at.saturating_sub(before)..=at.saturating_add(BEHIND);
                words.range(range).any(|word| follow.covers(*word, at))
            };
            let near_stack = stacks.values().any(|stack| stack.contains(&wait.address));
            let before = if near_stack { BEHIND } else { BEFORE };
            let reaches = leads_to(wait.address, before)
                || wait.shared.iter().any(|shared| leads_to(*shared, BEHIND));
            if !reaches {
                found.entry(wait.tid).or_default().push(thread.tid);
            }
        }
    }
    found
}

/// Whether a thread may do something of itself: it runs, or waits for a time or for something outside.
pub(super) fn goes_on(thread: &Thread) -> bool {
    let rests = thread
        .wait
        .as_ref()
        .is_some_and(|wait| wait.kind.is_internal() && wait.timed != Some(true));
    thread.kind != ThreadKind::Exited && !rests
}

/// Addresses of the program's memory on the part of a stack that the waiting itself uses: what is waited for is known to others
/// by one of them.
pub(super) fn shared(
    thread: &Unwound,
    own: Option<&Range<u64>>,
    physical: usize,
    regions: &[Region],
) -> Vec<u64> {
    let end = thread.walk.frames.get(physical).map_or(0, |frame| frame.sp);
    let mut shared: Vec<u64> = scan::words(thread)
        .take_while(|(address, ..)| *address < end)
        .map(|(_, word, _)| word)
        .chain(thread.registers.iter().copied())
        .filter(|word| {
            let region = region_at(regions, *word);
            region.is_some_and(|region| region.of_program)
                && !own.is_some_and(|own| own.contains(word))
        })
        .collect();
    shared.sort_unstable();
    shared.dedup();
    shared
}

/// Whether this is what `malloc` keeps of a thread's freed memory (`tcache_perthread_struct`): numbers of pieces by size, then
/// the pieces, whose former content leads anywhere.
fn is_cache(bytes: &[u8]) -> bool {
    let counts = bytes.get(..2 * SIZES).unwrap_or_default();
    let few = |count: &[u8]| matches!(count, [0..=7, 0]);
    bytes.len() == 2 * SIZES + 8 * SIZES + 8 && counts.chunks_exact(2).all(few)
}

struct Follow<'f> {
    regions: &'f [Region],
    stacks: &'f Stacks,
    memory: &'f CachedMemory<'f>,
    pieces: &'f Pieces<'f>,
}

impl Follow<'_> {
    /// All words that a thread's stack and registers and the addresses that its code names lead to.
    fn all(&self, thread: &Unwound, named: &BTreeSet<u64>) -> Option<BTreeSet<u64>> {
        let mut words: BTreeSet<u64> = named.clone();
        let mut open = Vec::new();
        let of_static = named.iter().flat_map(|address| {
            let region = region_at(self.regions, *address);
            let length = match region.is_some_and(|region| region.of_program) {
                true => OF_STATIC,
                // One entry of a table.
                false => 8,
            };
            let bytes = self.memory.bytes(*address, length).unwrap_or_default();
            let words = bytes
                .chunks_exact(8)
                .map(|word| word.try_into().map_or(0, u64::from_le_bytes));
            words.collect::<Vec<u64>>()
        });
        for word in of_static {
            if words.insert(word) {
                open.push(word);
            }
        }
        let on_stack = scan::words(thread).map(|(_, word, _)| word);
        for word in on_stack.chain(thread.registers.iter().copied()) {
            if words.insert(word) {
                open.push(word);
            }
        }
        let mut objects = BTreeSet::new();
        while let Some(word) = open.pop() {
            let object = word & !FLAGS;
            let Some(region) = region_at(self.regions, object) else {
                continue;
            };
            // Its own stack is read; threads find each other's by lists of the C library.
            let is_stack = self.stacks.values().any(|stack| stack.contains(&object));
            if !region.of_program || is_stack {
                continue;
            }
            if self.pieces.is_bookkeeping(region, object) {
                continue;
            }
            let (object, length) = match self.pieces.around(region, object) {
                Some((start, length)) => (start, length.min(MOST)),
                None => (object, self.length(object).min(region.end - object)),
            };
            // Several words may lead into one piece.
            if !objects.insert(object) {
                continue;
            }
            if objects.len() > MAX_OBJECTS {
                return None;
            }
            let length = usize::try_from(length).ok()?;
            let Ok(bytes) = self.memory.bytes(object, length) else {
                continue;
            };
            if is_cache(&bytes) {
                continue;
            }
            for chunk in bytes.chunks_exact(8) {
                let word = chunk.try_into().map_or(0, u64::from_le_bytes);
                if words.insert(word) {
                    open.push(word);
                }
            }
        }
        Some(words)
    }

    /// Whether what a word points to may be what is at an address.
    fn covers(&self, word: u64, at: u64) -> bool {
        let region = region_at(self.regions, word).filter(|region| region.of_program);
        region.is_some_and(|region| match self.pieces.around(region, word) {
            Some((start, length)) => (start..start.saturating_add(length)).contains(&at),
            None => self
                .allocation(word)
                .is_none_or(|length| at < word.saturating_add(length)),
        })
    }

    fn length(&self, object: u64) -> u64 {
        self.allocation(object).unwrap_or(UNTOLD).min(MOST)
    }

    /// Bytes of what `malloc` has given out there: its own head and that of the next one say so.
    fn allocation(&self, object: u64) -> Option<u64> {
        let head = |object: u64| self.memory.u64(object.checked_sub(HEAD)?).ok();
        let in_use = |head: u64| head & 1 == 1 && head & !FLAGS >= LEAST && head & 8 == 0;
        let own = head(object).filter(|own| object.is_multiple_of(16) && in_use(*own))?;
        let size = own & !FLAGS;
        head(object.checked_add(size)?).filter(|next| in_use(*next))?;
        Some(size - HEAD)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::native::{Walk, WalkEnd};

    #[test]
    fn stacks_in_one_mapping_end_where_they_were_copied_to() {
        let thread = |address: u64, length: usize| Unwound {
            walk: Walk {
                frames: Vec::new(),
                end: WalkEnd::Outermost,
                read_live: false,
            },
            stack: StackBytes::new(address, &vec![1; length]),
            registers: Vec::new(),
            moved: false,
            grade: Grade::Read,
        };
        let region = |start: u64, end: u64| Region {
            start,
            end,
            first_stack: false,
            of_program: true,
        };
        let unwound = BTreeMap::from([
            (1, thread(0x9800, 0x800)),
            (2, thread(0x3000, 0x1000)),
            (3, thread(0x5c00, 0x400)),
            (4, thread(0x20, 0)),
        ]);
        let regions = [region(0x1000, 0x8000), region(0x9000, 0xa000)];
        let expected = [
            (1, 0x9000..0xa000),
            (2, 0x1000..0x4000),
            (3, 0x4000..0x8000),
        ];
        assert_eq!(stacks(&unwound, &regions), Stacks::from(expected));
    }
}
