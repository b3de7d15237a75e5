//! What a system call in progress means: what kind of wait, on what, and until when.

use super::children::Waited;
use super::memory::CachedMemory;
use super::sets::{self, FileSet};
use crate::model::{Syscall, Tid, WaitKind};
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime};

/// `FUTEX_PRIVATE_FLAG` of futex(2).
const FUTEX_PRIVATE: u64 = 128;
/// `FUTEX_CLOCK_REALTIME` of futex(2).
const FUTEX_REALTIME: u64 = 256;
/// `FUTEX_WAIT` of futex(2); its timeout is relative.
const FUTEX_WAIT: u64 = 0;
/// `TIMER_ABSTIME` of clock_nanosleep(2).
const TIMER_ABSTIME: u64 = 1;
/// `F_SETLKW` and `F_OFD_SETLKW` of fcntl(2).
const BLOCKING_LOCK_COMMANDS: [u64; 2] = [7, 38];

const NANOS_PER_MS: i128 = 1_000_000;
const MICROS_PER_MS: i128 = 1000;

/// What a system call says by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Meaning {
    pub(super) kind: WaitKind,
    /// The futex word.
    pub(super) futex: Option<u64>,
    /// The file.
    pub(super) descriptor: Option<i32>,
    /// The files that are polled, by other means than an epoll.
    pub(super) files: Option<FileSet>,
    /// The children that are waited for.
    pub(super) child: Option<Waited>,
    /// The thread whose end is waited for, as the process counts them.
    pub(super) joins: Option<Tid>,
    pub(super) timed: Option<bool>,
    pub(super) remaining_ms: Option<u64>,
    /// A relative time that was asked for.
    pub(super) length_ms: Option<u64>,
}

/// Reads a system call. `wchan` tells a restarted wait's origin: after a stop, timed waits show as
/// `restart_syscall` with the original arguments.
pub(super) fn meaning(
    call: &Syscall,
    wchan: Option<&str>,
    memory: Option<&CachedMemory<'_>>,
) -> Meaning {
    let name = match (call.name.as_deref().unwrap_or(""), wchan.unwrap_or("")) {
        ("restart_syscall", place) if place.contains("futex") => "futex",
        ("restart_syscall", place) if place.contains("nanosleep") => "clock_nanosleep",
        ("restart_syscall", place) if place.contains("poll") || place.contains("select") => "poll",
        // What goes on sleeping is of the scheduler to the kernel, so its caller is told: the entry of system calls.
        ("restart_syscall", place) if place.contains("restart_syscall") => "clock_nanosleep",
        ("restart_syscall", place) if place.starts_with("do_syscall") => "clock_nanosleep",
        (name, _) => name,
    };
    let arg = |index: usize| call.args.get(index).map_or(0, |address| address.0);
    let descriptor = || i32::try_from(arg(0)).ok();
    let mut meaning = Meaning {
        kind: WaitKind::Syscall,
        futex: None,
        descriptor: None,
        files: None,
        child: None,
        joins: None,
        timed: None,
        remaining_ms: None,
        length_ms: None,
    };
    match name {
        "futex" => {
            meaning.kind = if arg(1) & FUTEX_PRIVATE == 0 {
                WaitKind::SharedFutex
            } else {
                WaitKind::Futex
            };
            meaning.futex = Some(arg(0));
            meaning.joins = memory.and_then(|memory| joined(memory, arg(0), arg(1), arg(2)));
            meaning.timed = Some(arg(3) != 0);
            if arg(3) != 0 && arg(1) & 127 != FUTEX_WAIT {
                let clock = if arg(1) & FUTEX_REALTIME != 0 {
                    ClockId::CLOCK_REALTIME
                } else {
                    ClockId::CLOCK_MONOTONIC
                };
                meaning.remaining_ms = until(memory, arg(3), clock);
            }
        }
        "clock_nanosleep" | "nanosleep" => {
            meaning.kind = WaitKind::Sleep;
            meaning.timed = Some(true);
            if name == "clock_nanosleep" && arg(1) & TIMER_ABSTIME != 0 {
                let clock = match arg(0) {
                    0 => ClockId::CLOCK_REALTIME,
                    _ => ClockId::CLOCK_MONOTONIC,
                };
                meaning.remaining_ms = until(memory, arg(2), clock);
            } else {
                let request = if name == "nanosleep" { arg(0) } else { arg(2) };
                meaning.length_ms = length(memory, request, NANOS_PER_MS);
            }
        }
        "read" | "pread64" | "readv" | "preadv" | "preadv2" | "recvfrom" | "recvmsg"
        | "recvmmsg" => {
            meaning.kind = WaitKind::Read;
            meaning.descriptor = descriptor();
        }
        "write" | "pwrite64" | "writev" | "pwritev" | "pwritev2" | "sendto" | "sendmsg"
        | "sendmmsg" | "sendfile" | "splice" => {
            meaning.kind = WaitKind::Write;
            meaning.descriptor = descriptor();
        }
        "poll" => {
            let timeout = (arg(2) as u32).cast_signed();
            poll(&mut meaning, timeout >= 0, u64::try_from(timeout).ok());
            meaning.files = memory.and_then(|memory| sets::polled(memory, arg(0), arg(1)));
        }
        "ppoll" => {
            poll(
                &mut meaning,
                arg(2) != 0,
                length(memory, arg(2), NANOS_PER_MS),
            );
            meaning.files = memory.and_then(|memory| sets::polled(memory, arg(0), arg(1)));
        }
        "select" | "pselect6" => {
            let unit = if name == "select" {
                MICROS_PER_MS
            } else {
                NANOS_PER_MS
            };
            poll(&mut meaning, arg(4) != 0, length(memory, arg(4), unit));
            let sets = [arg(1), arg(2), arg(3)];
            meaning.files = memory.and_then(|memory| sets::selected(memory, arg(0), sets));
        }
        "epoll_wait" | "epoll_pwait" => {
            let timeout = (arg(3) as u32).cast_signed();
            poll(&mut meaning, timeout >= 0, u64::try_from(timeout).ok());
            meaning.descriptor = descriptor();
        }
        "epoll_pwait2" => {
            poll(
                &mut meaning,
                arg(3) != 0,
                length(memory, arg(3), NANOS_PER_MS),
            );
            meaning.descriptor = descriptor();
        }
        "accept" | "accept4" | "connect" => {
            meaning.kind = WaitKind::Connection;
            meaning.descriptor = descriptor();
        }
        "wait4" => {
            meaning.kind = WaitKind::Child;
            meaning.child = Some(Waited::by_wait4(arg(0)));
        }
        "waitid" => {
            meaning.kind = WaitKind::Child;
            meaning.child = Waited::by_waitid(arg(0), arg(1));
        }
        "pause" | "rt_sigsuspend" => meaning.kind = WaitKind::Signal,
        "rt_sigtimedwait" => {
            meaning.kind = WaitKind::Signal;
            meaning.timed = Some(arg(2) != 0);
        }
        "flock" => {
            meaning.kind = WaitKind::FileLock;
            meaning.descriptor = descriptor();
        }
        "fcntl" if BLOCKING_LOCK_COMMANDS.contains(&arg(1)) => {
            meaning.kind = WaitKind::FileLock;
            meaning.descriptor = descriptor();
        }
        _ => {}
    }
    // A poll of no files is how programs sleep: `time.sleep` up to Python 3.10, for one.
    if meaning.files.as_ref().is_some_and(FileSet::is_empty) {
        meaning.files = None;
        meaning.kind = match meaning.timed {
            Some(true) => WaitKind::Sleep,
            _ => WaitKind::Signal,
        };
    }
    meaning
}

/// `pthread_join` waits on the thread's id in its descriptor, which the kernel clears at its end (`CLONE_CHILD_CLEARTID` of
/// clone(2)), and so without the flag for private futexes. Whoever uses it looks whether there is such a thread.
fn joined(memory: &CachedMemory<'_>, word: u64, operation: u64, expected: u64) -> Option<Tid> {
    let expected = Tid::try_from(expected).ok()?;
    let waits_for_word = operation & FUTEX_PRIVATE == 0 && memory.i32(word) == Ok(expected);
    (waits_for_word && expected > 0).then_some(expected)
}

fn poll(meaning: &mut Meaning, timed: bool, length_ms: Option<u64>) {
    meaning.kind = WaitKind::Poll;
    meaning.timed = Some(timed);
    meaning.length_ms = length_ms.filter(|_| timed);
}

/// Milliseconds of the relative `struct timespec` or `struct timeval` at `address`, whose second field has this many
/// units to a millisecond.
fn length(memory: Option<&CachedMemory<'_>>, address: u64, unit: i128) -> Option<u64> {
    let memory = memory.filter(|_| address != 0)?;
    let seconds = memory.i64(address).ok()?;
    let rest = memory.i64(address.checked_add(8)?).ok()?;
    u64::try_from(i128::from(seconds) * 1000 + i128::from(rest) / unit).ok()
}

/// Milliseconds until the absolute `struct timespec` at `address` in the target.
fn until(memory: Option<&CachedMemory<'_>>, address: u64, clock: ClockId) -> Option<u64> {
    let deadline = timespec(memory, address)?;
    let now = clock_gettime(clock).ok()?;
    let left_ms = (i128::from(deadline.tv_sec()) - i128::from(now.tv_sec())) * 1000
        + (i128::from(deadline.tv_nsec()) - i128::from(now.tv_nsec())) / 1_000_000;
    u64::try_from(left_ms.max(0)).ok()
}

/// The `struct timespec` at `address` in the target.
fn timespec(memory: Option<&CachedMemory<'_>>, address: u64) -> Option<TimeSpec> {
    let memory = memory?;
    let seconds = memory.i64(address).ok()?;
    Some(TimeSpec::new(
        seconds,
        memory.i64(address.checked_add(8)?).ok()?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::memory::Piece;
    use crate::model::{Addr, Want};
    use proptest::prelude::*;

    fn call(name: &str, args: [u64; 6]) -> Syscall {
        Syscall {
            number: 0,
            name: Some(name.to_owned()),
            args: args.map(Addr).to_vec(),
            stack_pointer: Addr(0),
            instruction_pointer: Addr(0),
        }
    }

    #[test]
    fn infinite_and_finite_polls() {
        let timed = |name, args| meaning(&call(name, args), None, None).timed;
        assert_eq!(timed("poll", [0, 0, 0xffff_ffff, 0, 0, 0]), Some(false));
        assert_eq!(
            timed("poll", [0, 0, 0xffff_ffff_ffff_ffff, 0, 0, 0]),
            Some(false)
        );
        assert_eq!(timed("epoll_wait", [3, 0, 1, 50, 0, 0]), Some(true));
        assert_eq!(timed("select", [0, 0, 0, 0, 0, 0]), Some(false));
    }

    #[test]
    fn a_restarted_wait_is_what_it_was() {
        let restarted = call("restart_syscall", [0x7000, 128 | 9, 0, 0, 0, 0]);
        let found = meaning(&restarted, Some("futex_do_wait"), None);
        assert_eq!((found.kind, found.futex), (WaitKind::Futex, Some(0x7000)));
        for place in [
            "hrtimer_nanosleep",
            "do_syscall_64",
            "__arm64_sys_restart_syscall",
        ] {
            let found = meaning(&restarted, Some(place), None);
            assert_eq!(found.kind, WaitKind::Sleep);
        }
        assert_eq!(meaning(&restarted, None, None).kind, WaitKind::Syscall);
    }

    #[test]
    fn a_futex_between_processes_is_told_apart() {
        let shared = call("futex", [0x7000, 9, 0, 0, 0, 0]);
        assert_eq!(meaning(&shared, None, None).kind, WaitKind::SharedFutex);
    }

    fn meaning_in(words: &[u64], name: &str, args: [u64; 6]) -> Meaning {
        let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        bytes.resize(4096, 0);
        let page = Piece {
            start: 0x1000,
            bytes,
        };
        let memory = CachedMemory::new(&page);
        meaning(&call(name, args), None, Some(&memory))
    }

    #[test]
    fn polled_files_and_lengths() {
        // fd 5 for POLLIN, fd -1 unused, fd 7 for POLLIN | POLLOUT.
        let fds = [1 << 32 | 5, 1 << 32 | 0xffff_ffff, 5 << 32 | 7];
        let found = meaning_in(&fds, "poll", [0x1000, 3, 2500, 0, 0, 0]);
        let files = found.files.expect("a set");
        let numbers: Vec<i32> = files.files.iter().map(|file| file.number).collect();
        assert_eq!(numbers, [5, 7]);
        assert_eq!(files.files[1].wants, [Want::Read, Want::Write]);
        assert_eq!(found.length_ms, Some(2500));
        // Timeout 3.5 s at the start; sets: 5 and 64 for reading, 5 for writing.
        let words = [3, 500_000, 1 << 5, 1, 1 << 5, 0];
        let found = meaning_in(&words, "select", [65, 0x1010, 0x1020, 0, 0x1000, 0]);
        let files = found.files.expect("a set");
        assert_eq!(files.files[0].wants, [Want::Read, Want::Write]);
        assert_eq!(files.files[1].number, 64);
        assert_eq!(found.length_ms, Some(3500));
        let found = meaning_in(&words, "pselect6", [65, 0x1010, 0, 0, 0x1000, 0]);
        assert_eq!(found.length_ms, Some(3000), "that one has nanoseconds");
    }

    #[test]
    fn a_poll_of_nothing_is_a_sleep() {
        let found = meaning_in(&[9, 0], "select", [0, 0, 0, 0, 0x1000, 0]);
        assert_eq!((found.kind, found.length_ms), (WaitKind::Sleep, Some(9000)));
        let found = meaning_in(&[], "poll", [0, 0, u64::MAX, 0, 0, 0]);
        assert_eq!(found.kind, WaitKind::Signal);
        // Files that cannot be read are not no files.
        let found = meaning_in(&[], "poll", [0x5000, 2, u64::MAX, 0, 0, 0]);
        assert_eq!((found.kind, found.files), (WaitKind::Poll, None));
    }

    proptest! {
        #[test]
        fn any_call(
            name in "(poll|ppoll|select|pselect6|epoll_wait|epoll_pwait2|wait4|waitid|futex|nanosleep|clock_nanosleep)",
            args: [u64; 6],
            near in prop::collection::vec(0x0f00_u64..0x2100, 6),
            words in prop::collection::vec(any::<u64>(), 0..64),
        ) {
            let _ = meaning_in(&words, &name, args);
            let near: [u64; 6] = near.try_into().expect("six");
            let _ = meaning_in(&words, &name, near);
        }
    }
}
