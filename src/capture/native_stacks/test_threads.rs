//! Which threads of a libtest binary a test has started.

use crate::capture::maps::Region;
use crate::capture::memory::Memory;
use crate::capture::rust_tests::{OutputCapture, thread_pointer};
use crate::model::{Key, Process, Thread};
use std::collections::BTreeMap;

/// Most threads that are looked at.
const MAX_THREADS: usize = 1_000;

/// Notes it for those of tests that run.
pub(super) fn mark(process: &mut Process, memory: &dyn Memory, regions: &[Region]) {
    let (pid, leader) = (process.pid, process.key.thread(process.pid));
    let of_tests = || process.threads.iter().filter(|thread| runs_a_test(thread));
    let others = process.threads.len().saturating_sub(of_tests().count());
    // The leader is none of a test's.
    if others == process.threads.len() || others < 2 {
        return;
    }
    let Some(capture) = OutputCapture::of(pid) else {
        return;
    };
    let output = |thread: &Thread| {
        let pointer = thread_pointer(memory, (pid, thread.tid), regions)?;
        capture.read(memory, pointer)
    };
    let tests: BTreeMap<u64, Key> = of_tests()
        .take(MAX_THREADS)
        .filter_map(|thread| Some((output(thread)?, thread.key.clone())))
        .collect();
    let others = process.threads.iter_mut();
    let others = others.filter(|thread| thread.key != leader && !runs_a_test(thread));
    for thread in others.take(MAX_THREADS) {
        thread.test = output(thread).and_then(|output| tests.get(&output).cloned());
    }
}

/// Whether libtest has started a thread for a test.
fn runs_a_test(thread: &Thread) -> bool {
    let mut frames = thread.native.iter().flat_map(|stack| &stack.frames);
    frames.any(|frame| {
        let rest = frame.function_name().strip_prefix("test::run_test");
        // `run_tests` is what the leader does.
        rest.is_some_and(|rest| !rest.starts_with('s'))
    })
}
