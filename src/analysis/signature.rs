//! Naming a hang so that two runs that hang alike get the same name.

use crate::model::{Frame, Thread};
use fnv::FnvHasher;
use std::hash::Hasher;

/// Most frames of a thread that take part.
const FRAMES: usize = 5;

/// `v1:` and a hash over the detector's id and the innermost functions of the threads involved: the project's own
/// functions where a thread has any. Lines, addresses and ids change from run to run and take no part.
pub(super) fn signature(id: &str, threads: &[&Thread]) -> String {
    let mut hasher = FnvHasher::default();
    hasher.write(id.as_bytes());
    for thread in threads {
        let own: Vec<&Frame> = thread
            .frames()
            .filter(|frame| !frame.is_library())
            .take(FRAMES)
            .collect();
        let frames: Vec<&Frame> = if own.is_empty() {
            thread.frames().take(FRAMES).collect()
        } else {
            own
        };
        for frame in frames {
            hasher.write(b"\0");
            hasher.write(frame.file_name().as_bytes());
            hasher.write(b":");
            hasher.write(frame.function.untrusted().as_bytes());
        }
        hasher.write(b"\x01");
    }
    format!("v1:{:016x}", hasher.finish())
}
