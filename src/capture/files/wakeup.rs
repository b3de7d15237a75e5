//! Whether a pipe is full.
//!
//! A pipe's fill can be asked for only through a descriptor of it. Opening `/proc/PID/fd/N` would make a further end; a
//! duplicate by `pidfd_getfd(2)` makes none, but as long as it lives it keeps the pipe open: an end of file could come
//! later to the reader by that time. So it is held for two calls, a few microseconds, and nothing is read or written.

use crate::model::{Pid, Tid};
use rustix::process::{PidfdFlags, PidfdGetfdFlags};

/// Whether a pipe of the process takes no further byte; `None` where the kernel refuses.
pub(super) fn pipe_is_full(pid: Pid, alive: Tid, number: i32) -> Option<bool> {
    // A pidfd needs the leader, which cannot give its files any more once it has ended.
    if pid != alive {
        return None;
    }
    let process =
        rustix::process::pidfd_open(rustix::process::Pid::from_raw(pid)?, PidfdFlags::empty())
            .ok()?;
    let duplicate =
        rustix::process::pidfd_getfd(&process, number, PidfdGetfdFlags::empty()).ok()?;
    let waiting = rustix::io::ioctl_fionread(&duplicate);
    let size = rustix::pipe::fcntl_getpipe_size(&duplicate);
    drop(duplicate);
    Some(waiting.ok()? >= u64::try_from(size.ok()?).ok()?)
}
