//! `/proc/PID/fdinfo/N` (`proc_pid_fdinfo(5)`): how a file was opened, and what special files are about.

use crate::capture::facts::read_bounded;
use crate::model::{Access, Pid, Want};

/// Most watched files of one epoll that are parsed.
const MAX_WATCHED: usize = 4096;

/// What it says, as far as we use it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct FdInfo {
    pub(super) access: Option<Access>,
    /// `Pid:` of a pidfd: 0 for a process outside of hangscope's pid namespace, -1 for one that has been reaped.
    pub(super) pid: Option<Pid>,
    /// `eventfd-id:`.
    pub(super) eventfd: Option<u64>,
    /// `it_value:` of a timerfd, in milliseconds; 0 when it is not armed or has expired.
    pub(super) timer_ms: Option<u64>,
    /// `tfd:` lines of an epoll.
    pub(super) watched: Vec<Watched>,
}

/// A file that an epoll watches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::capture) struct Watched {
    pub(in crate::capture) number: i32,
    /// `EPOLLIN` and so on; `poll(2)` has the same bits.
    pub(in crate::capture) events: u32,
}

/// Reads it; empty if it is not readable.
pub(super) fn read(pid: Pid, tid: Pid, number: i32) -> FdInfo {
    parse(&read_bounded(&format!(
        "/proc/{pid}/task/{tid}/fdinfo/{number}"
    )))
}

/// Parses it. Unknown lines are skipped, and so are malformed ones.
pub(super) fn parse(bytes: &[u8]) -> FdInfo {
    let text = String::from_utf8_lossy(bytes);
    let mut info = FdInfo::default();
    for line in text.lines() {
        let Some((label, value)) = line.split_once(':') else {
            continue;
        };
        let value = value.trim();
        match label.trim() {
            // O_ACCMODE of open(2) is the last octal digit's lower half.
            "flags" => {
                info.access =
                    u64::from_str_radix(value, 8)
                        .ok()
                        .and_then(|flags| match flags & 3 {
                            0 => Some(Access::Read),
                            1 => Some(Access::Write),
                            2 => Some(Access::ReadWrite),
                            _ => None,
                        });
            }
            "Pid" => info.pid = value.parse().ok(),
            "eventfd-id" => info.eventfd = value.parse().ok(),
            "it_value" => info.timer_ms = seconds_and_nanos(value),
            "tfd" if info.watched.len() < MAX_WATCHED => info.watched.extend(watched(value)),
            _ => {}
        }
    }
    info
}

/// `(99, 999971392)`, in milliseconds.
fn seconds_and_nanos(value: &str) -> Option<u64> {
    let inner = value.strip_prefix('(')?.strip_suffix(')')?;
    let (seconds, nanos) = inner.split_once(',')?;
    let seconds: u64 = seconds.trim().parse().ok()?;
    let nanos: u64 = nanos.trim().parse().ok()?;
    // A remaining half millisecond is not the same as none.
    seconds
        .checked_mul(1000)?
        .checked_add(nanos.div_ceil(1_000_000))
}

/// `4 events:       19 data: …`.
fn watched(value: &str) -> Option<Watched> {
    let mut words = value.split_ascii_whitespace();
    let number = words.next()?.parse().ok()?;
    let events = words
        .skip_while(|word| *word != "events:")
        .nth(1)
        .and_then(|hex| u32::from_str_radix(hex, 16).ok())?;
    Some(Watched { number, events })
}

/// What an event mask of `poll(2)` or `epoll_ctl(2)` asks for. Errors and hang-ups always wake.
pub(in crate::capture) fn wants(events: u32) -> Vec<Want> {
    /// `POLLIN`, `POLLRDNORM`, `POLLRDBAND`, `POLLRDHUP`.
    const READ: u32 = 0x1 | 0x40 | 0x80 | 0x2000;
    /// `POLLOUT`, `POLLWRNORM`, `POLLWRBAND`.
    const WRITE: u32 = 0x4 | 0x100 | 0x200;
    /// `POLLPRI`.
    const PRIORITY: u32 = 0x2;
    [
        (READ, Want::Read),
        (WRITE, Want::Write),
        (PRIORITY, Want::Exception),
    ]
    .into_iter()
    .filter(|(bits, _)| events & bits != 0)
    .map(|(_, want)| want)
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn real_ones() {
        let pipe = parse(b"pos:\t0\nflags:\t02000001\nmnt_id:\t16\nino:\t13176\n");
        assert_eq!(pipe.access, Some(Access::Write));
        let epoll = parse(
            b"flags:\t02000002\ntfd:        4 events:       1d data:                4  pos:0 ino:336e sdev:9\n\
              tfd:        3 events:       19 data:                3  pos:0 ino:336d sdev:9\n",
        );
        let numbers: Vec<_> = epoll.watched.iter().map(|file| file.number).collect();
        assert_eq!(numbers, [4, 3]);
        assert_eq!(wants(epoll.watched[0].events), [Want::Read, Want::Write]);
        let timer =
            parse(b"clockid: 1\nticks: 0\nit_value: (99, 999971392)\nit_interval: (0, 0)\n");
        assert_eq!(timer.timer_ms, Some(100_000));
        assert_eq!(parse(b"it_value: (0, 1)\n").timer_ms, Some(1));
        assert_eq!(parse(b"Pid:\t4048\nNSpid:\t4048\n").pid, Some(4048));
        assert_eq!(
            parse(b"eventfd-count:                0\neventfd-id: 1\n").eventfd,
            Some(1)
        );
    }

    #[test]
    fn an_epoll_with_very_many_files() {
        let line = "tfd: 4 events: 1 data: 4\n";
        assert_eq!(
            parse(line.repeat(9000).as_bytes()).watched.len(),
            MAX_WATCHED
        );
    }

    proptest! {
        #[test]
        fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn any_lines(
            label in "(flags|Pid|eventfd-id|it_value|tfd)",
            value in "[(]?[-0-9a-z, ]{0,30}[)]?( events: [0-9a-z]{0,12})?"
        ) {
            let _ = parse(format!("{label}:\t{value}\n").as_bytes());
        }
    }
}
