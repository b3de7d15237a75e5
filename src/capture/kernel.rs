//! Hot files of `/proc/PID/task/TID`. Own small parsers: at thousands of threads the general ones cost
//! more than all else together (`docs/performance.md`).

use crate::model::{Addr, Foreign, KernelThread, Pid, Syscall, Tid};
use rustix::fs::{Mode, OFlags};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

/// What `schedstat` says: CPU time (ns), time runnable but not running (ns), times put on a CPU.
pub(super) type SchedStat = [u64; 3];

/// What `syscall` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum SyscallLine {
    /// The thread runs, or is about to.
    Running,
    /// Blocked outside a system call (a page fault, a stop).
    Outside,
    /// In this system call.
    In(Box<Syscall>),
    /// Not readable: no permission, no such file, or the thread has gone.
    #[default]
    Unreadable,
}

impl SyscallLine {
    /// A wait for a futex: where in the kernel it is says nothing more.
    pub(super) fn is_futex(&self) -> bool {
        matches!(self, Self::In(call) if call.name.as_deref() == Some("futex"))
    }
}

/// The fields of `stat` that we use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Stat {
    pub(super) comm: Foreign,
    pub(super) state: char,
    pub(super) ppid: Pid,
    /// Process group.
    pub(super) group: Pid,
    pub(super) flags: u64,
    /// Processor time that it has used.
    pub(super) cpu_ticks: u64,
    pub(super) start_ticks: u64,
}

/// `PF_KTHREAD` of the kernel's `sched.h`.
pub(super) const KERNEL_THREAD_FLAG: u64 = 0x0020_0000;
/// `PF_EXITING` of it: the thread is on its way out, and stops for nobody any more.
const EXITING_FLAG: u64 = 0x4;

impl Stat {
    /// Whether the thread has ended or is about to.
    pub(super) fn is_ending(&self) -> bool {
        self.flags & EXITING_FLAG != 0 || matches!(self.state, 'Z' | 'X')
    }
}

/// Parses a line of `/proc/PID/stat`. The name may hold anything, `)` and newlines too, so fields are counted
/// from the last `)`.
pub(super) fn parse_stat(line: &[u8]) -> Option<Stat> {
    let open = line.iter().position(|byte| *byte == b'(')?;
    let close = line.iter().rposition(|byte| *byte == b')')?;
    let comm = Foreign::from_bytes(line.get(open + 1..close)?);
    let rest = std::str::from_utf8(line.get(close + 1..)?).ok()?;
    let mut fields = rest.split_ascii_whitespace();
    Some(Stat {
        comm,
        state: fields.next()?.chars().next()?,
        ppid: fields.next()?.parse().ok()?,
        group: fields.next()?.parse().ok()?,
        // Each `nth` counts from after the one before.
        flags: fields.nth(3)?.parse().ok()?,
        cpu_ticks: {
            let in_user: u64 = fields.nth(4)?.parse().ok()?;
            in_user.saturating_add(fields.next()?.parse().ok()?)
        },
        start_ticks: fields.nth(6)?.parse().ok()?,
    })
}

/// Parses `/proc/PID/task/TID/schedstat`.
pub(super) fn parse_schedstat(text: &str) -> Option<SchedStat> {
    let mut numbers = text.split_ascii_whitespace().map(str::parse);
    let mut next = || numbers.next()?.ok();
    Some([next()?, next()?, next()?])
}

/// Parses `/proc/PID/task/TID/syscall`.
pub(super) fn parse_syscall(text: &str) -> SyscallLine {
    let mut words = text.split_ascii_whitespace();
    let Some(first) = words.next() else {
        return SyscallLine::Unreadable;
    };
    if first == "running" {
        return SyscallLine::Running;
    }
    let Ok(number) = first.parse::<i64>() else {
        return SyscallLine::Unreadable;
    };
    if number < 0 {
        return SyscallLine::Outside;
    }
    let values: Vec<Addr> = words
        .filter_map(|word| u64::from_str_radix(word.trim_start_matches("0x"), 16).ok())
        .map(Addr)
        .collect();
    let &[ref args @ .., stack_pointer, instruction_pointer] = values.as_slice() else {
        return SyscallLine::Unreadable;
    };
    SyscallLine::In(Box::new(Syscall {
        number,
        name: syscall_name(number),
        args: args.to_vec(),
        stack_pointer,
        instruction_pointer,
    }))
}

/// The name that this machine's architecture gives to a number.
fn syscall_name(number: i64) -> Option<String> {
    let number = usize::try_from(number).ok()?;
    syscalls::Sysno::new(number).map(|name| name.name().to_owned())
}

/// `/proc/PID/task`, kept open where it can be: a file of a thread is found from there in a fifth less time than from the root.
pub(super) struct Tasks {
    pid: Pid,
    folder: Option<File>,
}

impl Tasks {
    pub(super) fn of(pid: Pid) -> Self {
        Self {
            pid,
            folder: File::open(format!("/proc/{pid}/task")).ok(),
        }
    }

    fn open(&self, tid: Tid, name: &str) -> io::Result<File> {
        let Some(folder) = &self.folder else {
            return File::open(format!("/proc/{}/task/{tid}/{name}", self.pid));
        };
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let opened = rustix::fs::openat(folder, format!("{tid}/{name}"), flags, Mode::empty());
        Ok(File::from(opened?))
    }
}

/// One thread's files, kept open between the two looks of a sample.
pub(super) struct Task<'t> {
    pub(super) tid: Tid,
    tasks: &'t Tasks,
    schedstat: Option<File>,
    syscall: Option<File>,
}

/// One look at a thread.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Look {
    pub(super) schedstat: Option<SchedStat>,
    pub(super) syscall: SyscallLine,
}

impl Look {
    /// Whether a thread seen so before and after cannot have run between: it was in the same system call both
    /// times and was put on a CPU no further time.
    pub(super) fn settled_until(&self, later: &Self) -> bool {
        let runs = |look: &Self| look.schedstat.map(|[_, _, runs]| runs);
        matches!(self.syscall, SyscallLine::In(_) | SyscallLine::Outside)
            && self.syscall == later.syscall
            && runs(self).is_some()
            && runs(self) == runs(later)
    }
}

impl<'t> Task<'t> {
    pub(super) fn new(tasks: &'t Tasks, tid: Tid) -> Self {
        Self {
            tid,
            tasks,
            schedstat: None,
            syscall: None,
        }
    }

    /// The look that opens a sample: first the count of runs, then the system call. Keeps the files open if asked.
    pub(super) fn first_look(&mut self, keep_open: bool) -> Look {
        let schedstat = self.open("schedstat");
        let counters = schedstat.as_ref().and_then(read_schedstat);
        let syscall = self.open("syscall");
        let line = syscall
            .as_ref()
            .map_or(SyscallLine::Unreadable, read_syscall);
        if keep_open {
            self.schedstat = schedstat;
            self.syscall = syscall;
        }
        Look {
            schedstat: counters,
            syscall: line,
        }
    }

    /// The look that closes a sample, in the opposite order: a thread that ran in between is then always noticed.
    pub(super) fn last_look(&mut self) -> Look {
        let syscall = self.syscall.take().or_else(|| self.open("syscall"));
        let line = syscall
            .as_ref()
            .map_or(SyscallLine::Unreadable, read_syscall);
        let schedstat = self.schedstat.take().or_else(|| self.open("schedstat"));
        Look {
            schedstat: schedstat.as_ref().and_then(read_schedstat),
            syscall: line,
        }
    }

    /// `stat`.
    pub(super) fn stat(&self) -> Option<Stat> {
        parse_stat(&read_small(self.open("stat")?).ok()?)
    }

    /// `wchan`; absent while the thread runs or where the kernel hides it.
    pub(super) fn wchan(&self) -> Option<Foreign> {
        let text = read_small(self.open("wchan")?).ok()?;
        (!text.is_empty() && text != b"0").then(|| Foreign::from_bytes(&text))
    }

    fn open(&self, name: &str) -> Option<File> {
        self.tasks.open(self.tid, name).ok()
    }
}

/// The `stat` of the task or process whose folder (with trailing slash) is given.
pub(super) fn read_stat(folder: &str) -> Option<Stat> {
    let file = File::open(format!("{folder}stat")).ok()?;
    parse_stat(&read_small(file).ok()?)
}

fn read_schedstat(file: &File) -> Option<SchedStat> {
    let mut buffer = [0; 128];
    let length = file.read_at(&mut buffer, 0).ok()?;
    parse_schedstat(std::str::from_utf8(buffer.get(..length)?).ok()?)
}

fn read_syscall(file: &File) -> SyscallLine {
    let mut buffer = [0; 512];
    match file.read_at(&mut buffer, 0) {
        Ok(length) => {
            std::str::from_utf8(&buffer[..length]).map_or(SyscallLine::Unreadable, parse_syscall)
        }
        Err(_) => SyscallLine::Unreadable,
    }
}

/// Reads a `/proc` file of at most 4 KiB.
fn read_small(mut file: File) -> io::Result<Vec<u8>> {
    let mut buffer = [0; 4096];
    let length = file.read(&mut buffer)?;
    Ok(buffer[..length].to_vec())
}

/// Thread ids of a process, ascending.
pub(super) fn thread_ids(pid: Pid) -> io::Result<Vec<Tid>> {
    let mut tids: Vec<Tid> = fs::read_dir(format!("/proc/{pid}/task"))?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    tids.sort_unstable();
    Ok(tids)
}

/// The model's view of a thread.
pub(super) fn kernel_thread(stat: &Stat, look: &Look, wchan: Option<Foreign>) -> KernelThread {
    let [cpu_ns, run_delay_ns, runs] = look.schedstat.unwrap_or_default();
    KernelThread {
        state: stat.state.to_string(),
        syscall: match &look.syscall {
            SyscallLine::In(call) => Some((**call).clone()),
            _ => None,
        },
        wchan,
        start_ticks: stat.start_ticks,
        cpu_ns,
        run_delay_ns,
        runs,
        signals: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_fields_are_counted_from_the_last_parenthesis() {
        let line =
            b"77 (a) R (\n\x1b[31m) S 1 77 77 0 -1 4194560 1 0 0 0 5 6 0 0 20 0 3 0 98765 1 2";
        let stat = parse_stat(line).expect("parses");
        assert_eq!(stat.comm.untrusted(), "a) R (\n\x1b[31m");
        assert_eq!((stat.state, stat.ppid, stat.start_ticks), ('S', 1, 98765));
        assert_eq!((stat.flags, stat.cpu_ticks), (4_194_560, 11));
    }

    #[test]
    fn syscall_lines() {
        assert_eq!(parse_syscall("running\n"), SyscallLine::Running);
        assert_eq!(parse_syscall("-1 0x7ff 0x401\n"), SyscallLine::Outside);
        assert_eq!(parse_syscall(""), SyscallLine::Unreadable);
        assert_eq!(parse_syscall("garbage"), SyscallLine::Unreadable);
        let SyscallLine::In(call) = parse_syscall("0 0x3 0x7f00 0x1 0x0 0x0 0x0 0x7ffc 0x7f33\n")
        else {
            panic!("a system call");
        };
        assert_eq!(call.args.len(), 6);
        assert_eq!(call.stack_pointer, Addr(0x7ffc));
        assert_eq!(call.instruction_pointer, Addr(0x7f33));
    }

    #[test]
    fn settled_needs_equal_calls_and_equal_runs() {
        let look = |runs, line: &str| Look {
            schedstat: Some([1, 1, runs]),
            syscall: parse_syscall(line),
        };
        let wait = "202 0x1 0x2 0x3 0x4 0x5 0x6 0x7 0x8";
        assert!(look(5, wait).settled_until(&look(5, wait)));
        assert!(!look(5, wait).settled_until(&look(6, wait)));
        assert!(!look(5, "running").settled_until(&look(5, "running")));
        let blind = Look {
            schedstat: None,
            syscall: parse_syscall(wait),
        };
        assert!(!blind.settled_until(&blind.clone()));
    }
}
