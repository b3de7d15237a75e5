//! A live process, read by `process_vm_readv(2)`: no stop, no write.

use super::{Memory, Range, ReadError};
use crate::model::Tid;
use nix::errno::Errno;
use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::Pid as NixPid;
use std::io::IoSliceMut;

/// Most ranges in one call: the kernel's `UIO_MAXIOV` is 1,024.
const MAX_RANGES: usize = 1000;

/// The memory of the process that thread `tid` belongs to.
#[derive(Clone, Copy, Debug)]
pub struct ProcessMemory {
    tid: Tid,
}

impl ProcessMemory {
    /// Reads through any live thread of the process (a leader that has exited has no memory any more).
    #[must_use]
    pub fn new(tid: Tid) -> Self {
        Self { tid }
    }
}

impl Memory for ProcessMemory {
    fn read_many(&self, ranges: &[Range]) -> Vec<Result<Vec<u8>, ReadError>> {
        let mut out = Vec::with_capacity(ranges.len());
        while out.len() < ranges.len() {
            let rest = &ranges[out.len()..];
            read_run(self.tid, &rest[..rest.len().min(MAX_RANGES)], &mut out);
        }
        out
    }
}

/// Reads as many leading ranges as one call gives, and judges the first that it does not: at least one
/// result is pushed, so a caller that loops over the rest comes to an end.
fn read_run(tid: Tid, ranges: &[Range], out: &mut Vec<Result<Vec<u8>, ReadError>>) {
    let mut buffers: Vec<Vec<u8>> = ranges.iter().map(|range| vec![0; range.length]).collect();
    let remote: Vec<RemoteIoVec> = ranges
        .iter()
        .map(|range| RemoteIoVec {
            base: usize::try_from(range.address).unwrap_or(0),
            len: range.length,
        })
        .collect();
    let mut local: Vec<IoSliceMut<'_>> = buffers.iter_mut().map(|b| IoSliceMut::new(b)).collect();
    let outcome = process_vm_readv(NixPid::from_raw(tid), &mut local, &remote);
    drop(local);
    let mut got = match outcome {
        Ok(bytes) => bytes,
        Err(Errno::EFAULT) => 0,
        Err(errno) => {
            let error = match errno {
                Errno::ESRCH => ReadError::Gone,
                Errno::EPERM => ReadError::Denied,
                _ => ReadError::Unmapped(ranges[0].address),
            };
            out.extend(ranges.iter().map(|_| Err(error)));
            return;
        }
    };
    for (range, buffer) in ranges.iter().zip(buffers) {
        if got < range.length {
            out.push(Err(ReadError::Unmapped(range.address)));
            return;
        }
        got -= range.length;
        out.push(Ok(buffer));
    }
}
