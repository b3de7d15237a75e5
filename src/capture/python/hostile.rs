//! Memory of a target that is garbage, or made to lead us in circles: the reader must end, without a panic, with gaps.

use super::code::CodeCache;
use super::heap::Heap;
use super::offsets::{NEWEST_MINOR, OLDEST_MINOR, for_minor};
use super::runtime::Runtime;
use super::tasks::DebugSection;
use super::{
    BlockedThread, PythonProcess, Stacks, ThreadStack, interpreter, running_thread, skeleton,
    tasks, waits,
};
use crate::capture::maps::Region;
use crate::capture::memory::{PAGE, Piece};
use crate::model::Key;
use proptest::prelude::*;

/// First address of the made-up memory.
const BASE: u64 = 0x10_0000;

/// A few pages whose 8-byte words are mostly pointers back into them: lists and trees turn into circles.
fn arena(words: &[u64], pages: u64) -> Piece {
    let size = pages * PAGE;
    let bytes = (0..size / 8)
        .flat_map(|index| {
            let word = words[index as usize % words.len()].wrapping_mul(index | 1);
            let value = match word % 8 {
                0..=4 => BASE + (word / 8 % size) / 8 * 8,
                5 => word % 64,
                6 => 0,
                _ => word,
            };
            value.to_le_bytes()
        })
        .collect();
    Piece { start: BASE, bytes }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn garbage_ends_in_gaps(
        minor in OLDEST_MINOR..=NEWEST_MINOR,
        words in proptest::collection::vec(any::<u64>(), 1..512),
        pages in 1_u64..64,
        runtime in 0_u64..65_536,
        futex in any::<u64>(),
    ) {
        let arena = arena(&words, pages);
        let process = PythonProcess {
            runtime: Runtime {
                major: 3,
                minor,
                rest: None,
                free_threaded: false,
                address: Some(BASE + runtime % (pages * PAGE)),
                offsets: for_minor(minor),
            },
            static_signals: None,
            environ: Some(BASE),
            asyncio: DebugSection::default(),
        };
        let waiter = BlockedThread { native_id: 1, tid: 1, futex: Some(BASE + futex % (pages * PAGE)) };
        let key = Key::process(1, 1);
        let threads = [ThreadStack { native_id: 1, stack_pointer: Some(BASE), is_first: true }];
        let regions = || vec![Region { start: BASE, end: BASE + pages * PAGE, first_stack: true, of_program: true }];
        let stacks = Stacks { threads: &threads, regions: &regions };
        // Past the check for a main interpreter, which garbage seldom passes.
        let offsets = for_minor(minor).expect("in range");
        let cached = crate::capture::memory::CachedMemory::new(&arena);
        let heap = Heap::new(&cached, &offsets);
        if let Ok(skeleton) = skeleton::skeleton(&heap, BASE) {
            let codes = CodeCache::default();
            let mut census = interpreter::census(&heap, &codes, BASE, &skeleton, &key, true);
            let _ = running_thread::correct(&heap, &mut census, &stacks);
            let _ = waits::attribute(&heap, &census, BASE, &[waiter]);
            let _ = tasks::read(&heap, &codes, &census, &key, &DebugSection::default(), &arena);
            let _ = tasks::read_everywhere(&heap, &codes, &census, &key, (BASE..).step_by(16).take(64));
        }
        for object in (0..64).map(|index| BASE + 16 * index) {
            let _ = heap.string(object);
            let _ = heap.dict(object);
            let _ = heap.attribute(object, "_name");
            let _ = super::frame::walk(&heap, &CodeCache::default(), object, true);
        }
        let part = process.read_own(&key, &arena, process.runtime.address.unwrap_or(0), &[waiter], &stacks, true);
        // Whatever came out must survive the trip through JSON.
        for raw in &part.thread_states {
            prop_assert!(serde_json::to_string(&raw.state).is_ok());
        }
        let _ = process.running_test(&cached, b"");
    }
}
