//! Naming a hang so that two runs that hang alike get the same name.

use super::case::Case;
use crate::model::{Finding, Frame, Key, NativeStack, Thread};
use fnv::FnvHasher;
use std::cmp::Ordering;
use std::hash::Hasher;

/// Most frames of a thread that take part.
const FRAMES: usize = 5;

/// `v1:` and a hash over the detector's id and the innermost functions of the threads involved: the project's own
/// functions where a thread has any. Lines, addresses and ids change from run to run and take no part.
pub(super) fn signature(id: &str, threads: &[&Thread]) -> String {
    let parts: Vec<Vec<u8>> = threads.iter().map(|thread| part(thread)).collect();
    of_parts(id, &parts)
}

/// The same for what waits, be it threads or tasks: a thread, or a task's frames.
pub(super) fn of_nodes<'f>(
    id: &str,
    nodes: impl Iterator<Item = Result<&'f Thread, Vec<&'f Frame>>>,
) -> String {
    let parts: Vec<Vec<u8>> = nodes
        .map(|node| match node {
            Ok(thread) => part(thread),
            Err(frames) => part_of(&frames),
        })
        .collect();
    of_parts(id, &parts)
}

/// The coarser level: the cause, and the innermost function of the project that the root is in. Of a circle all are roots, so the
/// first in order counts.
pub(super) fn site(case: &Case<'_>, finding: &Finding) -> String {
    let own_function = |key: &Key| -> Option<Vec<u8>> {
        let process = case.last.process(&key.of_process())?;
        if let Some(thread) = process.thread(key) {
            return Some(part_of_first(thread));
        }
        let mut loops = process.event_loops.iter();
        let task = loops.find_map(|event_loop| event_loop.task(key))?;
        Some(first(&task.frames.iter().collect::<Vec<_>>()))
    };
    let is_circle = finding.id.ends_with("-cycle");
    let all = finding.blockers.iter().chain([&finding.waiter]);
    let function = match is_circle {
        true => all.filter_map(own_function).min(),
        false => own_function(finding.root()),
    };
    of_parts(&finding.id, &[function.unwrap_or_default()])
}

/// The innermost function of the project, without what a build changes in its name.
fn part_of_first(thread: &Thread) -> Vec<u8> {
    let python: Vec<&Frame> = thread.frames().collect();
    match thread.native.as_ref().and_then(NativeStack::own_frame) {
        Some(frame) if python.is_empty() => frame.function_name().as_bytes().to_vec(),
        _ => first(&python),
    }
}

fn first(all: &[&Frame]) -> Vec<u8> {
    let own = all.iter().find(|frame| !frame.is_library());
    own.or(all.first()).map_or_else(Vec::new, |frame| {
        format!("{}:{}", frame.file_name(), frame.function.untrusted()).into_bytes()
    })
}

/// The same for threads in a circle: which of them comes first makes no difference.
pub(super) fn of_circle(id: &str, threads: &[&Thread]) -> String {
    let mut parts: Vec<Vec<u8>> = threads.iter().map(|thread| part(thread)).collect();
    let start = least_rotation(&parts);
    parts.rotate_left(start);
    of_parts(id, &parts)
}

fn of_parts(id: &str, parts: &[Vec<u8>]) -> String {
    let mut hasher = FnvHasher::default();
    hasher.write(id.as_bytes());
    for part in parts {
        hasher.write(part);
    }
    format!("v1:{:016x}", hasher.finish())
}

fn part(thread: &Thread) -> Vec<u8> {
    let python: Vec<&Frame> = thread.frames().collect();
    match &thread.native {
        Some(stack) if python.is_empty() => native_part(stack),
        _ => part_of(&python),
    }
}

/// The project's own functions of a native stack, without what a build changes in their names.
fn native_part(stack: &NativeStack) -> Vec<u8> {
    let mut bytes = Vec::new();
    let own = stack
        .frames
        .iter()
        .filter(|frame| !frame.is_library() && !frame.inlined);
    for frame in own.take(FRAMES) {
        bytes.push(b'\0');
        bytes.extend(frame.function_name().as_bytes());
    }
    bytes.push(b'\x01');
    bytes
}

fn part_of(all: &[&Frame]) -> Vec<u8> {
    let own: Vec<&Frame> = all
        .iter()
        .copied()
        .filter(|frame| !frame.is_library())
        .take(FRAMES)
        .collect();
    let frames: Vec<&Frame> = if own.is_empty() {
        all.iter().copied().take(FRAMES).collect()
    } else {
        own
    };
    let mut bytes = Vec::new();
    for frame in frames {
        bytes.push(b'\0');
        bytes.extend(frame.file_name().as_bytes());
        bytes.push(b':');
        bytes.extend(frame.function.untrusted().as_bytes());
    }
    bytes.push(b'\x01');
    bytes
}

/// Where to start a circle so that what is read from there comes first of all in order: two candidates are compared until
/// one of them is out, with all starts that it has been compared over.
fn least_rotation<T: Ord>(circle: &[T]) -> usize {
    let count = circle.len();
    let (mut best, mut other, mut same) = (0, 1, 0);
    while best < count && other < count && same < count {
        match circle[(best + same) % count].cmp(&circle[(other + same) % count]) {
            Ordering::Equal => {
                same += 1;
                continue;
            }
            Ordering::Greater => best += same + 1,
            Ordering::Less => other += same + 1,
        }
        if best == other {
            other += 1;
        }
        same = 0;
    }
    best.min(other)
}

#[cfg(test)]
mod tests {
    use super::least_rotation;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_circle_is_read_alike_from_anywhere(circle in prop::collection::vec(0_u8..3, 0..12), by: usize) {
            let mut turned = circle.clone();
            turned.rotate_left(by.checked_rem(circle.len()).unwrap_or(0));
            let from_least = |mut circle: Vec<u8>| {
                let start = least_rotation(&circle);
                circle.rotate_left(start);
                circle
            };
            let least = from_least(circle.clone());
            prop_assert_eq!(from_least(turned), least.clone());
            let first = (0..circle.len())
                .map(|at| [&circle[at..], &circle[..at]].concat())
                .min()
                .unwrap_or_default();
            prop_assert_eq!(least, first);
        }
    }
}
