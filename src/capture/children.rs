//! The children that a process waits for.

use super::facts::{last_number, read_bounded};
use super::kernel::{self, Stat};
use crate::model::{Child, ChildSet, ChildState, ChildWait, Key, Pid, Tid};

/// Most children that are told one by one.
const MAX_CHILDREN: usize = 64;
/// Most threads whose children are listed.
const MAX_PARENTS: usize = 512;

/// Which children a wait is for, in the words of its system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waited {
    /// One, by its pid in the target's namespace.
    One(Pid),
    /// One, by a pidfd of the target.
    Pidfd(i32),
    /// Those of this process group, in the target's namespace; 0 is the waiting process's own.
    Group(Pid),
    All,
}

impl Waited {
    /// From the first argument of `wait4(2)`.
    pub(super) fn by_wait4(argument: u64) -> Self {
        match (argument as u32).cast_signed() {
            -1 => Self::All,
            pid if pid > 0 => Self::One(pid),
            group => Self::Group(group.saturating_neg()),
        }
    }

    /// From the first two arguments of `waitid(2)`; `None` for an unknown kind of id.
    pub(super) fn by_waitid(kind: u64, id: u64) -> Option<Self> {
        let id = (id as u32).cast_signed();
        match kind {
            0 => Some(Self::All),
            1 => Some(Self::One(id)),
            2 => Some(Self::Group(id)),
            3 => Some(Self::Pidfd(id)),
            _ => None,
        }
    }
}

/// Finds the children. `same_namespace`: the target counts pids as we do; `pidfd` gives the process that one refers to.
pub(super) fn find(
    parent: Pid,
    tids: &[Tid],
    waited: Waited,
    same_namespace: bool,
    pidfd: impl Fn(i32) -> Option<Child>,
) -> ChildWait {
    let one = |child| ChildWait {
        any_of: ChildSet::One,
        children: vec![child],
    };
    match waited {
        Waited::One(pid) if same_namespace => {
            one(child_of(parent, pid).unwrap_or_else(|| gone(Some(pid))))
        }
        Waited::One(inner) => {
            let found = list(parent, tids).find(|pid| inner_pid(*pid) == Some(inner));
            one(found
                .and_then(|pid| child_of(parent, pid))
                .unwrap_or_else(|| gone(None)))
        }
        Waited::Pidfd(number) => one(pidfd(number).unwrap_or_else(|| gone(None))),
        Waited::All => ChildWait {
            any_of: ChildSet::All,
            children: list(parent, tids)
                .filter_map(|pid| child_of(parent, pid))
                .take(MAX_CHILDREN)
                .collect(),
        },
        Waited::Group(group) => {
            let group = match group {
                0 => stat(parent).map(|stat| stat.group),
                _ => Some(group).filter(|_| same_namespace),
            };
            let children = list(parent, tids)
                .filter_map(|pid| Some((pid, stat(pid)?)))
                .filter(|(_, stat)| stat.ppid == parent && Some(stat.group) == group)
                .map(|(pid, stat)| child(pid, stat))
                .take(MAX_CHILDREN)
                .collect();
            ChildWait {
                any_of: ChildSet::Group,
                children,
            }
        }
    }
}

/// The process that a pidfd refers to, by the `Pid:` of its `fdinfo`.
pub(super) fn referred(pid: Pid) -> Child {
    if pid <= 0 {
        return gone(None);
    }
    stat(pid).map_or_else(|| gone(Some(pid)), |stat| child(pid, stat))
}

/// `pid`, if it is a child of `parent`: a pid may have been given to another process meanwhile.
fn child_of(parent: Pid, pid: Pid) -> Option<Child> {
    let stat = stat(pid).filter(|stat| stat.ppid == parent)?;
    Some(child(pid, stat))
}

fn child(pid: Pid, stat: Stat) -> Child {
    Child {
        pid: Some(pid),
        process: Some(Key::process(pid, stat.start_ticks)),
        state: match stat.state {
            'Z' | 'X' => ChildState::Zombie,
            'T' | 't' => ChildState::Stopped,
            _ => ChildState::Alive,
        },
        cpu_ticks: Some(stat.cpu_ticks),
        name: Some(stat.comm),
    }
}

fn gone(pid: Option<Pid>) -> Child {
    Child {
        pid,
        process: None,
        name: None,
        state: ChildState::Gone,
        cpu_ticks: None,
    }
}

fn stat(pid: Pid) -> Option<Stat> {
    kernel::read_stat(&format!("/proc/{pid}/"))
}

/// Pids of the children, whichever thread made them (`proc_tid_children(5)`).
pub(super) fn list(parent: Pid, tids: &[Tid]) -> impl Iterator<Item = Pid> {
    tids.iter().take(MAX_PARENTS).flat_map(move |tid| {
        let text = read_bounded(&format!("/proc/{parent}/task/{tid}/children"));
        let pids: Vec<Pid> = String::from_utf8_lossy(&text)
            .split_ascii_whitespace()
            .filter_map(|pid| pid.parse().ok())
            .collect();
        pids
    })
}

/// A process's pid in its own namespace.
fn inner_pid(pid: Pid) -> Option<Pid> {
    let status = read_bounded(&format!("/proc/{pid}/status"));
    last_number(&String::from_utf8_lossy(&status), "NSpid:")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn which_children() {
        assert_eq!(Waited::by_wait4(0xffff_ffff), Waited::All);
        assert_eq!(Waited::by_wait4(u64::MAX), Waited::All);
        assert_eq!(Waited::by_wait4(1234), Waited::One(1234));
        assert_eq!(Waited::by_wait4(0), Waited::Group(0));
        assert_eq!(
            Waited::by_wait4((-77_i64).cast_unsigned()),
            Waited::Group(77)
        );
        assert_eq!(Waited::by_waitid(0, 0), Some(Waited::All));
        assert_eq!(Waited::by_waitid(3, 5), Some(Waited::Pidfd(5)));
        assert_eq!(Waited::by_waitid(9, 5), None);
    }

    #[test]
    fn a_process_that_is_no_child() {
        // init is not ours.
        let wait = find(
            std::process::id().cast_signed(),
            &[],
            Waited::One(1),
            true,
            |_| None,
        );
        assert_eq!(wait.children[0].state, ChildState::Gone);
    }

    proptest! {
        #[test]
        fn any_arguments(kind: u64, id: u64) {
            let _ = Waited::by_wait4(id);
            let _ = Waited::by_waitid(kind, id);
        }
    }
}
