//! Versions without an offset table, by py-spy's library: frames and names of each interpreter, nothing else.

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod library;

use crate::model::{Interpreter, Key, Pid, ThreadState, Tid};

/// What py-spy read.
pub(crate) struct Fallback {
    pub(crate) version: String,
    pub(crate) interpreters: Vec<Interpreter>,
    /// Thread states with their thread ids in the target's pid namespace, where those are known.
    pub(crate) thread_states: Vec<(ThreadState, Option<Tid>)>,
}

/// Reads all interpreters of a process without stopping it.
pub(crate) fn read(pid: Pid, minor: u8, key: &Key) -> Result<Fallback, String> {
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    return library::read(pid, minor, key);
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    {
        let _ = (pid, minor, key);
        Err(format!("it does not run on {}", std::env::consts::ARCH))
    }
}
