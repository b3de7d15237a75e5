//! Where what a thread prints goes. libtest catches the output of each test, and the standard library hands that on to the
//! threads that a test starts, whatever they are called, and to those that they start (`OUTPUT_CAPTURE` in `std::io::stdio`,
//! set in `std::thread::Builder::spawn`). So threads of tests that run at the same time can be told apart. Nothing is caught with
//! `--nocapture`. Seen in debug and release builds of Rust 1.95.

use crate::capture::elf::{ElfFile, open_regular};
use crate::capture::memory::{Memory, PAGE, Range};
use crate::model::Pid;

/// Size of the variable: a pointer and whether it was used.
const SIZE: u64 = 16;

/// Where a program keeps it for each thread.
#[derive(Clone, Copy, Debug)]
pub(in crate::capture) struct OutputCapture {
    below_thread_pointer: u64,
}

impl OutputCapture {
    /// That of the program of a process, by its symbols.
    pub(in crate::capture) fn of(pid: Pid) -> Option<Self> {
        // Elsewhere thread-local data lies above the thread pointer, and the C library's own below.
        if !cfg!(target_arch = "x86_64") {
            return None;
        }
        let file = open_regular(&format!("/proc/{pid}/exe"), true).ok()?;
        let file = ElfFile::new(file).ok()?;
        let below_thread_pointer =
            file.below_thread_pointer(&[b"stdio", b"OUTPUT_CAPTURE"], SIZE)?;
        Some(Self {
            below_thread_pointer,
        })
    }

    /// What holds the output of the thread with this thread pointer: the same address for all threads of a test. Absent where
    /// nothing is caught.
    pub(in crate::capture) fn read(self, memory: &dyn Memory, thread_pointer: u64) -> Option<u64> {
        let range = Range {
            address: thread_pointer.checked_sub(self.below_thread_pointer)?,
            length: usize::try_from(SIZE).ok()?,
        };
        let bytes = memory.read_many(&[range]).pop()?.ok()?;
        let words = bytes.as_chunks::<8>().0.iter();
        let mut words = words.map(|word| u64::from_le_bytes(*word));
        words.find(|word| *word >= PAGE && word % 8 == 0)
    }
}
