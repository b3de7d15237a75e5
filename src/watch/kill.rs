//! Signals to the processes of a run.

use super::processes::{Process, alive_below};
use crate::model::Pid;
use rustix::process::{self, PidfdFlags, Signal, WaitOptions};
use rustix_libc_wrappers::process::SignalExt as _;
use std::time::{Duration, Instant};

/// How long we try to get rid of processes that do not die. Only state D and other users' processes live on.
pub(super) const KILL_FOR: Duration = Duration::from_secs(10);

/// Sends a signal to a process group; to none is no error.
pub(super) fn signal_group(group: Pid, signal: i32) {
    if let (Some(group), Some(signal)) = (
        process::Pid::from_raw(group),
        Signal::from_named_raw(signal),
    ) {
        let _ = process::kill_process_group(group, signal);
    }
}

/// Sends a signal to each live process below `root` that `which` picks. Returns how many there were.
pub(super) fn signal_below(root: Pid, signal: i32, which: impl Fn(&Process) -> bool) -> usize {
    let Some(signal) = Signal::from_named_raw(signal) else {
        return 0;
    };
    let processes = alive_below(root);
    let picked: Vec<&Process> = processes.iter().filter(|process| which(process)).collect();
    for target in &picked {
        signal_one(target, signal);
    }
    picked.len()
}

/// Through a pidfd, and only if it is still the same process: its pid may have gone to a stranger meanwhile.
fn signal_one(target: &Process, signal: Signal) {
    let Some(pid) = process::Pid::from_raw(target.pid) else {
        return;
    };
    let Ok(pidfd) = process::pidfd_open(pid, PidfdFlags::empty()) else {
        return;
    };
    if Process::read(target.pid).is_some_and(|now| now.start == target.start) {
        let _ = process::pidfd_send_signal(&pidfd, signal);
    }
}

/// Sends a signal, a real-time one too, to one process; to none is no error.
pub(super) fn signal_process(pid: Pid, start_ticks: u64, signal: i32) -> bool {
    let target = Process::read(pid).filter(|now| now.start == start_ticks && !now.is_dead());
    match (target, Signal::from_raw(signal)) {
        (Some(target), Some(signal)) => {
            signal_one(&target, signal);
            true
        }
        _ => false,
    }
}

/// Kills one process and all below it.
pub(super) fn kill_subtree(pid: Pid, start_ticks: u64) {
    let Some(top) = Process::read(pid).filter(|now| now.start == start_ticks) else {
        return;
    };
    // Listed before the top is gone: what it leaves behind moves up in the tree.
    let below = alive_below(pid);
    signal_one(&top, Signal::KILL);
    for process in &below {
        signal_one(process, Signal::KILL);
    }
}

/// TERM to a tree: at once to the command's group, one by one to what has left the group. Stopped ones are
/// continued, else they would not see it.
pub(super) fn terminate_tree(root: Pid, group: Option<Pid>) {
    for signal in [Signal::TERM, Signal::CONT] {
        if let Some(group) = group {
            signal_group(group, signal.as_raw());
        }
        signal_below(root, signal.as_raw(), |process| {
            Some(process.group) != group
        });
    }
}

/// Kills everything below this process and reaps its own children, for when the guardian is lost. Returns
/// what lives on after [`KILL_FOR`]. No capture may run any more.
pub(super) fn kill_own_tree() -> Vec<Process> {
    let us = super::processes::own_pid();
    let began = Instant::now();
    loop {
        signal_below(us, Signal::KILL.as_raw(), |_| true);
        for child in super::processes::below(us) {
            if child.parent == us && child.is_dead() {
                let _ = process::waitpid(process::Pid::from_raw(child.pid), WaitOptions::NOHANG);
            }
        }
        let left = super::processes::below(us);
        if left.is_empty() || began.elapsed() > KILL_FOR {
            return left;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
