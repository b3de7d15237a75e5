//! Stops a process for a test, as the tracer of `--stop` does.

use super::arch::Registers;
use super::stack::StackBytes;
use crate::capture::maps;
use crate::capture::memory::{CachedMemory, PAGE, ProcessMemory};
use crate::model::{Pid, Tid};
use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid as NixPid;

/// A stopped thread.
pub(super) struct StoppedThread {
    pub(super) tid: Tid,
    pub(super) registers: Registers,
    pub(super) stacks: Vec<StackBytes>,
}

/// The registers and stacks of all threads of a process, which goes on after that.
pub(super) fn stop(pid: Pid) -> Vec<StoppedThread> {
    let regions = maps::regions(pid, pid);
    let tids = crate::capture::kernel::thread_ids(pid).expect("its threads");
    for tid in &tids {
        let id = NixPid::from_raw(*tid);
        ptrace::seize(id, ptrace::Options::empty()).expect("seized");
        ptrace::interrupt(id).expect("interrupted");
    }
    let mut threads = Vec::new();
    for tid in &tids {
        let id = NixPid::from_raw(*tid);
        waitpid(id, Some(WaitPidFlag::__WALL)).expect("stopped");
        let registers = ptrace::getregs(id).expect("registers");
        let registers = Registers::stopped(&registers).expect("a known architecture");
        let sp = registers.sp;
        let region = regions
            .iter()
            .find(|region| (region.start..region.end).contains(&sp));
        let stacks = region.map(|region| {
            let inner = ProcessMemory::new(*tid);
            let memory = CachedMemory::new(&inner);
            let start = sp.saturating_sub(128).max(region.start);
            let most = region.end.min(start.saturating_add(1 << 20));
            let mut bytes = Vec::new();
            // The stack of the next thread may be in the same mapping, with a page between them that cannot be read.
            while start + (bytes.len() as u64) < most {
                let at = start + bytes.len() as u64;
                let length = (PAGE - at % PAGE).min(most - at);
                let Ok(page) = memory.bytes(at, usize::try_from(length).expect("a page")) else {
                    break;
                };
                bytes.extend(page);
            }
            StackBytes::new(start, &bytes)
        });
        threads.push(StoppedThread {
            tid: *tid,
            registers,
            stacks: stacks.into_iter().collect(),
        });
    }
    for tid in &tids {
        ptrace::detach(NixPid::from_raw(*tid), None).expect("detached");
    }
    threads
}

/// Unwinds a process that waits.
#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::native::{Architecture, Images, ObjectCache, Unwinder, Walk, WalkEnd};
    use std::process::{Child, Command, Stdio};

    /// `cat`, blocked in read(2).
    fn waiting() -> Child {
        let child = Command::new("cat").stdin(Stdio::piped()).spawn();
        let child = child.expect("cat");
        let line = format!("/proc/{}/syscall", child.id());
        // It is 0 on x86_64, 63 on aarch64; the first argument is the descriptor.
        let waits = |line: &str| line.starts_with("0 0x0 ") || line.starts_with("63 0x0 ");
        while !std::fs::read_to_string(&line).is_ok_and(|line| waits(&line)) {
            std::thread::yield_now();
        }
        child
    }

    fn end(mut child: Child) {
        child.kill().expect("killed");
        child.wait().expect("waited for");
    }

    #[test]
    fn a_blocked_program() {
        let child = waiting();
        let pid = Pid::try_from(child.id()).expect("a pid");
        let (images, _) = Images::read(pid, pid).expect("its map");
        let cache = ObjectCache::default();
        let inner = ProcessMemory::new(pid);
        let memory = CachedMemory::new(&inner);
        let unwinder = Unwinder::new(&images, &cache);
        let told = std::fs::read_to_string(format!("/proc/{pid}/syscall")).expect("told");
        let numbers: Vec<u64> = told
            .split_whitespace()
            .filter_map(|word| u64::from_str_radix(word.strip_prefix("0x")?, 16).ok())
            .collect();
        let [.., sp, pc] = numbers.as_slice() else {
            panic!("{told}");
        };
        let blocked = unwinder.unwind_blocked(*sp, *pc, &[], &memory);
        let threads = stop(pid);
        let [thread] = threads.as_slice() else {
            panic!("one thread");
        };
        assert_eq!(thread.tid, pid);
        let stopped = unwinder.unwind(&thread.registers, &thread.stacks, &memory);
        end(child);
        for (walk, live) in [(&stopped, false), (&blocked, true)] {
            assert_eq!(walk.end, WalkEnd::Outermost, "{walk:?}");
            assert_eq!(walk.read_live, live, "{walk:?}");
            let module = |frame: Option<&crate::capture::native::unwind::NativeFrame>| {
                let module = frame.and_then(|frame| frame.module);
                module.map(|module| images.name(module).to_owned())
            };
            assert!(module(walk.frames.first()).is_some_and(|name| name.starts_with("libc")));
            assert_eq!(
                walk.frames.last().map(|frame| frame.module),
                Some(images.program())
            );
        }
        assert!(stopped.frames.iter().all(|frame| !frame.guessed));
        let pcs = |walk: &Walk| walk.frames.iter().map(|frame| frame.pc).collect::<Vec<_>>();
        let (stopped, blocked) = (pcs(&stopped), pcs(&blocked));
        assert!(Architecture::is_in_call(blocked[0], stopped[0]));
        assert_eq!(stopped[1..], blocked[1..]);
    }
}
