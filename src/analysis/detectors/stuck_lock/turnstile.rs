//! A lock through which threads come, one after the other, to the same wait: workers that share the receiving end of a
//! channel, as those of the Rust book's thread pool. That one of them waits with the lock in hand is meant so, and the others
//! would not get further without it.

use crate::model::{NativeFrame, Process, Thread};

/// Whether the holder waits for what the lock guards, and all that wait for the lock are on its way there: called by the same
/// calls, in the function in which it has gone on.
pub(super) fn is_passed_by_all(process: &Process, waiter: &Thread, holder: &Thread) -> bool {
    let Some(lock) = waiter.wait.as_ref().and_then(|wait| wait.address) else {
        return false;
    };
    let object = holder.wait.as_ref().and_then(|wait| wait.object.as_ref());
    let waits_too = |thread: &&Thread| {
        let address = thread.wait.as_ref().and_then(|wait| wait.address);
        address == Some(lock)
    };
    let mut waiting = process.threads.iter().filter(waits_too);
    object.is_some_and(|object| object.kept_in == Some(lock))
        && waiting.all(|waiting| forks_in_one_function(frames(waiting), frames(holder)))
}

fn frames(thread: &Thread) -> &[NativeFrame] {
    let stack = thread.native.as_ref();
    stack.map_or(&[], |stack| &stack.frames)
}

fn is_in_one_function(one: &NativeFrame, other: &NativeFrame) -> bool {
    one.function.is_some() && (&one.function, &one.module) == (&other.function, &other.module)
}

fn is_one_call(one: &NativeFrame, other: &NativeFrame) -> bool {
    is_in_one_function(one, other) && (one.address, one.inlined) == (other.address, other.inlined)
}

/// Whether two stacks, innermost frame first, are the same up to one function, in which they have gone on to different calls of
/// the library. By the project's own frames; where none is left (it was all inlined) by all.
fn forks_in_one_function(one: &[NativeFrame], other: &[NativeFrame]) -> bool {
    let own = |frames: &[NativeFrame]| frames.iter().position(|frame| !frame.is_library());
    match (own(one), own(other)) {
        (None, None) => forks_in_library(one, other),
        (Some(at), Some(other_at)) => {
            let (outer, other_outer) = (&one[at + 1..], &other[other_at + 1..]);
            // Closures of one function have one name, but not one caller.
            let mut callers = outer.iter().zip(other_outer);
            let mut own_callers = own_frames(outer).zip(own_frames(other_outer));
            is_in_one_function(&one[at], &other[other_at])
                && callers.next().is_some_and(|(a, b)| is_one_call(a, b))
                && own_frames(outer).count() == own_frames(other_outer).count()
                && own_callers.all(|(a, b)| is_one_call(a, b))
        }
        _ => false,
    }
}

fn own_frames(frames: &[NativeFrame]) -> impl Iterator<Item = &NativeFrame> {
    frames.iter().filter(|frame| !frame.is_library())
}

/// The same for stacks on which nothing but the library is seen.
fn forks_in_library(one: &[NativeFrame], other: &[NativeFrame]) -> bool {
    let outwards_in = one.iter().rev().zip(other.iter().rev());
    let mut steps = outwards_in.skip_while(|(a, b)| is_one_call(a, b));
    let fork = steps.next();
    // All functions that threads begin with are called in one place, and those of closures have one name.
    fork.is_some_and(|(a, b)| {
        is_in_one_function(a, b) && !a.function_name().contains("vtable.shim")
    })
}
