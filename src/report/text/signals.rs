//! Signals that a process has not served, or will not hear.

use crate::model::{Process, PythonSignals, signal_name};

const SIGINT: i32 = 2;
const SIGQUIT: i32 = 3;

/// A sentence for each thing that there is to say.
pub(super) fn lines(process: &Process) -> Vec<String> {
    let mut lines = Vec::new();
    let signals = process
        .python
        .as_ref()
        .and_then(|python| python.signals.as_ref());
    if let Some(signals) = signals {
        lines.extend(unserved(signals));
        if let (Some(number), Some(true)) = (signals.wakeup_fd, signals.wakeup_full) {
            lines.push(format!(
                "wakeup fd {number} is full: signals that come now do not wake the event loop"
            ));
        }
    }
    for (signals, everywhere) in [
        (blocked(process, true), true),
        (blocked(process, false), false),
    ] {
        if signals.is_empty() {
            continue;
        }
        let why = if everywhere {
            "every thread blocks it"
        } else {
            "no thread has taken it yet"
        };
        lines.push(format!("{} pending: {why}", names(&signals)));
    }
    let ignores = |signal| process.ignored_signals.contains(&signal);
    if process.python.is_some() && ignores(SIGINT) {
        lines.push(if ignores(SIGQUIT) {
            "ignores SIGINT and SIGQUIT, like a command that a shell starts with &".to_owned()
        } else {
            "ignores SIGINT".to_owned()
        });
    }
    lines
}

fn unserved(signals: &PythonSignals) -> Option<String> {
    let why = match signals.unserved?.in_words() {
        Some(does) => format!("the main thread {does}"),
        None => "what the main thread does is not known".to_owned(),
    };
    Some(format!(
        "{} caught, Python's handler has not run: {why}",
        names(&signals.pending)
    ))
}

/// Pending signals that all threads block, or those that not all do or of which that is not known.
fn blocked(process: &Process, everywhere: bool) -> Vec<i32> {
    let pending = process.pending_signals.iter().copied();
    pending
        .filter(|signal| (process.blocks_everywhere(*signal) == Some(true)) == everywhere)
        .collect()
}

fn names(signals: &[i32]) -> String {
    let names: Vec<String> = signals.iter().map(|signal| signal_name(*signal)).collect();
    names.join(", ")
}
