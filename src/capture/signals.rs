//! Signals on their way: which wait in the kernel or in CPython, and who does not serve them.

use super::facts::{read_bounded, signal_mask};
use super::files::Files;
use crate::model::{Pid, Process, Thread, ThreadKind, ThreadSignals, Tid, Unserved, WaitKind};

/// Up to so many threads the masks of all are read in any case.
const FEW_THREADS: usize = 64;
/// Newest CPython minor version whose sub-interpreters' thread states may name the wrong thread.
const LAST_MINOR_WITH_CREATORS_IDS: u8 = 12;

/// Adds signal masks, and what has become of signals that CPython has noted.
pub(super) fn complete(process: &mut Process, files: &Files<'_>) {
    add_masks(process);
    let main = process
        .threads
        .iter()
        .find(|thread| process.is_led_by(thread));
    let served_by = main
        .filter(|main| main.python.iter().any(|state| state.interpreter_id == 0))
        .map(|main| main.key.clone());
    let unserved = unserved(process, main);
    let main_waits = main.is_some_and(|main| main.wait.is_some());
    let Some(signals) = process
        .python
        .as_mut()
        .and_then(|python| python.signals.as_mut())
    else {
        return;
    };
    signals.served_by = served_by;
    let pending = !signals.pending.is_empty();
    signals.unserved = pending.then_some(unserved);
    signals.wakeup_full = signals
        .wakeup_fd
        .filter(|_| pending || main_waits)
        .and_then(|number| files.is_full(number));
}

/// `status` costs as much as all else that is read of a thread together, so with many threads it is read only if a signal
/// is on its way.
fn add_masks(process: &mut Process) {
    let noted = process
        .python
        .as_ref()
        .and_then(|python| python.signals.as_ref())
        .is_some_and(|signals| !signals.pending.is_empty());
    let all = noted || !process.pending_signals.is_empty() || process.threads.len() <= FEW_THREADS;
    let pid = process.pid;
    for thread in &mut process.threads {
        if all || thread.tid == pid {
            thread.kernel.signals = masks(pid, thread.tid);
        }
    }
}

fn masks(pid: Pid, tid: Tid) -> Option<ThreadSignals> {
    let status = read_bounded(&format!("/proc/{pid}/task/{tid}/status"));
    if status.is_empty() {
        return None;
    }
    let status = String::from_utf8_lossy(&status);
    Some(ThreadSignals {
        blocked: signal_mask(&status, "SigBlk:"),
        pending: signal_mask(&status, "SigPnd:"),
    })
}

/// What the thread does that alone runs Python's signal handlers (`_Py_ThreadCanHandleSignals`: the main thread, in the main
/// interpreter). In a program that embeds Python it need not be the leader; then nothing is said.
fn unserved(process: &Process, main: Option<&Thread>) -> Unserved {
    let Some(main) = main else {
        return Unserved::Unknown;
    };
    if main.kind == ThreadKind::Exited {
        return Unserved::Ended;
    }
    if matches!(main.kernel.state.as_str(), "T" | "t") {
        return Unserved::Stopped;
    }
    let Some(top) = main.python.first() else {
        return Unserved::Unknown;
    };
    let told_apart = process.interpreters.len() <= 1
        || process
            .python
            .as_ref()
            .is_some_and(|python| python.minor > LAST_MINOR_WITH_CREATORS_IDS);
    if let Some(wait) = &main.wait
        && wait.kind == WaitKind::Gil
    {
        return Unserved::WaitsForGil;
    }
    if told_apart && top.interpreter_id != 0 {
        return Unserved::OtherInterpreter;
    }
    match (&main.wait, main.kernel.state.as_str()) {
        (Some(_), _) => Unserved::Waits,
        (None, "R") => Unserved::Running,
        (None, _) => Unserved::Unknown,
    }
}
