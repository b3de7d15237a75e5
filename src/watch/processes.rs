//! The processes below a process, as `/proc` lists them: little of each, fast, and without `target`'s bound,
//! since one that is overlooked here is one that is left over.

use crate::model::{Foreign, LeftProcess, Pid};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;

/// A process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Process {
    pub(super) pid: Pid,
    pub(super) parent: Pid,
    pub(super) group: Pid,
    pub(super) state: u8,
    /// Clock ticks from boot to its start; tells it from a later one with its pid.
    pub(super) start: u64,
    pub(super) name: Foreign,
}

impl Process {
    /// Reads `/proc/PID/stat`. `None` when the process is gone.
    pub(super) fn read(pid: Pid) -> Option<Self> {
        Self::parse(&fs::read(format!("/proc/{pid}/stat")).ok()?)
    }

    fn parse(stat: &[u8]) -> Option<Self> {
        // The name may hold anything, parentheses and newlines too; what follows it may not.
        let open = stat.iter().position(|&byte| byte == b'(')?;
        let close = stat.iter().rposition(|&byte| byte == b')')?;
        let pid = std::str::from_utf8(stat.get(..open)?).ok()?;
        let fields: Vec<&str> = std::str::from_utf8(stat.get(close + 1..)?)
            .ok()?
            .split_ascii_whitespace()
            .collect();
        Some(Self {
            pid: pid.trim().parse().ok()?,
            parent: fields.get(1)?.parse().ok()?,
            group: fields.get(2)?.parse().ok()?,
            state: *fields.first()?.as_bytes().first()?,
            start: fields.get(19)?.parse().ok()?,
            name: Foreign::from_bytes(stat.get(open + 1..close)?),
        })
    }

    /// Whether it has ended and only waits to be reaped.
    pub(super) fn is_dead(&self) -> bool {
        matches!(self.state, b'Z' | b'X' | b'x')
    }

    /// What the user is told of it.
    pub(super) fn left(&self) -> LeftProcess {
        LeftProcess {
            pid: self.pid,
            name: self.name.clone(),
        }
    }
}

/// All processes below `root`, dead ones too, parents before children; not `root` itself.
pub(super) fn below(root: Pid) -> Vec<Process> {
    let mut children: BTreeMap<Pid, Vec<Process>> = BTreeMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let pid = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok());
        if let Some(process) = pid.and_then(Process::read) {
            children.entry(process.parent).or_default().push(process);
        }
    }
    let mut found: Vec<Process> = Vec::new();
    let mut seen = BTreeSet::from([root]);
    let mut parents = vec![root];
    while let Some(parent) = parents.pop() {
        for child in children.remove(&parent).into_iter().flatten() {
            if seen.insert(child.pid) {
                parents.push(child.pid);
                found.push(child);
            }
        }
    }
    found
}

/// The processes below `root` that live.
pub(super) fn alive_below(root: Pid) -> Vec<Process> {
    let mut found = below(root);
    found.retain(|process| !process.is_dead());
    found
}

/// Our own process id.
pub(super) fn own_pid() -> Pid {
    rustix::process::getpid().as_raw_nonzero().get()
}

#[cfg(test)]
mod tests {
    use super::{Process, below, own_pid};

    #[test]
    fn hostile_names_do_not_shift_the_fields() {
        let stat = b"42 (a) R 1 2\n) S 7 8 9 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 977 0";
        let process = Process::parse(stat).unwrap_or_else(|| panic!("it parses"));
        assert_eq!((process.pid, process.parent, process.group), (42, 7, 8));
        assert_eq!((process.state, process.start), (b'S', 977));
        assert_eq!(process.name.untrusted(), "a) R 1 2\n");
        assert_eq!(Process::parse(b""), None);
        assert_eq!(Process::parse(b"1 ) ("), None);
    }

    #[test]
    fn a_child_is_below_us() {
        let mut child = std::process::Command::new("sleep")
            .arg("1000")
            .spawn()
            .unwrap_or_else(|e| panic!("{e}"));
        let found = below(own_pid());
        let _ = child.kill();
        let _ = child.wait();
        assert!(
            found
                .iter()
                .any(|process| process.pid.unsigned_abs() == child.id())
        );
    }
}
