//! What a system call in progress means: what kind of wait, on what, and until when.

use super::memory::CachedMemory;
use crate::model::{Syscall, WaitKind};
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

/// What a system call says by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Meaning {
    pub(super) kind: WaitKind,
    /// The futex word.
    pub(super) futex: Option<u64>,
    /// The file.
    pub(super) descriptor: Option<i32>,
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
        (name, _) => name,
    };
    let arg = |index: usize| call.args.get(index).map_or(0, |address| address.0);
    let descriptor = || i32::try_from(arg(0)).ok();
    let mut meaning = Meaning {
        kind: WaitKind::Syscall,
        futex: None,
        descriptor: None,
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
                meaning.length_ms = timespec(memory, request).and_then(|length| {
                    let ms = i128::from(length.tv_sec()) * 1000
                        + i128::from(length.tv_nsec()) / 1_000_000;
                    u64::try_from(ms).ok()
                });
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
            meaning.kind = WaitKind::Poll;
            meaning.timed = Some((arg(2) as u32).cast_signed() >= 0);
        }
        "ppoll" => {
            meaning.kind = WaitKind::Poll;
            meaning.timed = Some(arg(2) != 0);
        }
        "select" | "pselect6" => {
            meaning.kind = WaitKind::Poll;
            meaning.timed = Some(arg(4) != 0);
        }
        "epoll_wait" | "epoll_pwait" => {
            meaning.kind = WaitKind::Poll;
            meaning.descriptor = descriptor();
            meaning.timed = Some((arg(3) as u32).cast_signed() >= 0);
        }
        "epoll_pwait2" => {
            meaning.kind = WaitKind::Poll;
            meaning.descriptor = descriptor();
            meaning.timed = Some(arg(3) != 0);
        }
        "accept" | "accept4" | "connect" => {
            meaning.kind = WaitKind::Connection;
            meaning.descriptor = descriptor();
        }
        "wait4" | "waitid" => meaning.kind = WaitKind::Child,
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
    meaning
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
    use crate::model::Addr;

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
        let found = meaning(&restarted, Some("hrtimer_nanosleep"), None);
        assert_eq!(found.kind, WaitKind::Sleep);
        assert_eq!(meaning(&restarted, None, None).kind, WaitKind::Syscall);
    }

    #[test]
    fn a_futex_between_processes_is_told_apart() {
        let shared = call("futex", [0x7000, 9, 0, 0, 0, 0]);
        assert_eq!(meaning(&shared, None, None).kind, WaitKind::SharedFutex);
    }
}
