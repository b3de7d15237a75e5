//! A lock through which threads come, one after the other, to the same wait: workers that share the receiving end of a
//! channel, or take turns at a queue. That one of them waits with the lock in hand is meant so, and the others would not get
//! further without it.

use crate::model::{Frame, NativeFrame, Process, Thread};

/// Whether all that wait for the same lock as `waiter` are on the holder's way: called by the same calls, in the function in
/// which it has gone on to its own wait.
pub(super) fn is_passed_by_all(process: &Process, waiter: &Thread, holder: &Thread) -> bool {
    let lock = waiter.wait.as_ref().and_then(|wait| wait.target.as_ref());
    let waits_too = |thread: &&Thread| {
        let target = thread.wait.as_ref().and_then(|wait| wait.target.as_ref());
        thread.key == waiter.key || (target.is_some() && target == lock)
    };
    let mut waiting = process.threads.iter().filter(waits_too);
    waiting.all(|waiting| is_on_one_way(waiting, holder))
}

fn is_on_one_way(one: &Thread, other: &Thread) -> bool {
    let runs_python = |thread: &Thread| thread.frames().next().is_some();
    match (runs_python(one), runs_python(other)) {
        (true, true) => forks_in_one_function(&python_frames(one), &python_frames(other)),
        (false, false) => forks_in_one_function(&native_frames(one), &native_frames(other)),
        _ => false,
    }
}

fn python_frames(thread: &Thread) -> Vec<&Frame> {
    thread.frames().collect()
}

fn native_frames(thread: &Thread) -> Vec<&NativeFrame> {
    let stack = thread.native.as_ref();
    stack.map_or_else(Vec::new, |stack| stack.frames.iter().collect())
}

/// A frame as far as the way of a thread goes.
trait Step {
    /// In the same function.
    fn is_in_function_of(&self, other: &Self) -> bool;
    /// At the same call in it.
    fn is_same_call(&self, other: &Self) -> bool;
    fn is_of_library(&self) -> bool;
}

impl Step for Frame {
    fn is_in_function_of(&self, other: &Self) -> bool {
        (&self.function, &self.file) == (&other.function, &other.file)
    }

    fn is_same_call(&self, other: &Self) -> bool {
        self.is_in_function_of(other) && self.line.is_some() && self.line == other.line
    }

    fn is_of_library(&self) -> bool {
        self.is_library()
    }
}

impl Step for NativeFrame {
    fn is_in_function_of(&self, other: &Self) -> bool {
        self.function.is_some()
            && (&self.function, &self.module) == (&other.function, &other.module)
    }

    fn is_same_call(&self, other: &Self) -> bool {
        self.is_in_function_of(other)
            && (self.address, self.inlined) == (other.address, other.inlined)
    }

    fn is_of_library(&self) -> bool {
        self.is_library()
    }
}

/// Whether two stacks, innermost frame first, are the same up to one function, in which they have gone on to different calls of
/// the library. By the project's own frames; where none is left (it was all inlined) by all.
fn forks_in_one_function<S: Step>(one: &[&S], other: &[&S]) -> bool {
    match (own_frames(one).as_slice(), own_frames(other).as_slice()) {
        ([], []) => forks_in_library(one, other),
        ([innermost, callers @ ..], [other_innermost, other_callers @ ..]) => {
            let mut pairs = callers.iter().zip(other_callers);
            innermost.is_in_function_of(other_innermost)
                && callers.len() == other_callers.len()
                && pairs.all(|(a, b)| a.is_same_call(b))
        }
        _ => false,
    }
}

fn own_frames<'s, S: Step>(frames: &[&'s S]) -> Vec<&'s S> {
    let own = frames.iter().filter(|frame| !frame.is_of_library());
    own.copied().collect()
}

/// The same for stacks on which nothing but the library is seen.
fn forks_in_library<S: Step>(one: &[&S], other: &[&S]) -> bool {
    let outwards_in = one.iter().rev().zip(other.iter().rev());
    let mut steps = outwards_in.skip_while(|(a, b)| a.is_same_call(b));
    // Of what calls a thread's function nothing says that it is the same one.
    let begins_alike = one
        .last()
        .zip(other.last())
        .is_some_and(|(a, b)| a.is_same_call(b));
    begins_alike && steps.next().is_some_and(|(a, b)| a.is_in_function_of(b))
}
