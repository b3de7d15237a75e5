//! Signals that have arrived and are not served, and the descriptor that should wake the event loop for them. See
//! `docs/detectors/signal-not-served.md` and `wakeup-fd-full.md`.

use super::Notice;
use crate::analysis::case::Case;
use crate::analysis::detectors::Cause;
use crate::analysis::{signature, wording};
use crate::model::{
    Certainty, Evidence, Finding, Grade, Process, PythonSignals, Thread, Unserved, signal_name,
};

pub(super) const NOTICE: Notice = Notice {
    causes: &[
        Cause {
            id: "signal-not-served",
            summary: "A signal has been caught, and its Python handler does not get to run.",
            page: include_str!("../../../docs/detectors/signal-not-served.md"),
        },
        Cause {
            id: "wakeup-fd-full",
            summary: "The descriptor that wakes the event loop at a signal is full.",
            page: include_str!("../../../docs/detectors/wakeup-fd-full.md"),
        },
    ],
    look,
};

fn look(case: &Case<'_>) -> Vec<Finding> {
    let mut found = Vec::new();
    if case.has_motion() {
        for process in case.judgeable() {
            found.extend(not_served(case, process));
            found.extend(wakeup_full(case, process));
        }
    }
    found
}

/// The signal state of a process in each sample.
fn states<'c>(
    case: &'c Case<'_>,
    process: &'c Process,
) -> impl Iterator<Item = Option<&'c PythonSignals>> {
    case.samples.iter().map(|sample| {
        let python = sample.process(&process.key)?.python.as_ref()?;
        python.signals.as_ref()
    })
}

fn not_served(case: &Case<'_>, process: &Process) -> Option<Finding> {
    let signals = process.python.as_ref()?.signals.as_ref()?;
    // Between the catching and the serving is a moment, and longer while the main thread computes in C.
    let mut lasting = signals.pending.clone();
    for then in states(case, process) {
        lasting.retain(|signal| then.is_some_and(|then| then.pending.contains(signal)));
    }
    let unserved = signals.unserved?;
    if lasting.is_empty() || unserved == Unserved::Stopped {
        return None;
    }
    let why = unserved.in_words()?;
    let names: Vec<String> = lasting.iter().map(|signal| signal_name(*signal)).collect();
    let names = names.join(", ");
    let server = signals.served_by.as_ref();
    let thread = server.and_then(|key| process.thread(key));
    let mut evidence = vec![case.fact(
        Grade::Read,
        format!(
            "{names}: caught and not served in {} samples over {} (`_PyRuntime.signals`)",
            case.samples.len(),
            wording::duration(case.span_ms())
        ),
        &[(&process.key, "python.signals.pending")],
    )];
    evidence.extend(thread.map(|thread| serves(case, thread)));
    let threads: Vec<&Thread> = thread.into_iter().collect();
    Some(Finding {
        id: "signal-not-served".to_owned(),
        title: format!(
            "{names} has been caught by process {}, and its handler does not run: the main thread, which serves signals, {why}.",
            process.pid
        )
        .into(),
        certainty: Certainty::Certain,
        waiter: server.unwrap_or(&process.key).clone(),
        blockers: Vec::new(),
        affected: Vec::new(),
        evidence,
        refuted_if: "the main thread comes back to the code of the main interpreter soon".into(),
        remedy: "keep the main thread out of calls without a limit (join, destroy, C code): let it wait with a timeout in a loop, \
                 or for an event that another thread sets; Ctrl-C and time limits by SIGALRM are served there only"
            .into(),
        site: String::new(),
        signature: signature::signature("signal-not-served", &threads),
    })
}

/// What the thread that serves signals does instead.
fn serves(case: &Case<'_>, thread: &Thread) -> Evidence {
    let place = wording::at(thread);
    let does = thread
        .wait
        .as_ref()
        .map_or_else(|| "runs".to_owned(), wording::waits);
    case.fact(
        Grade::Read,
        format!("{} {does}{place}", wording::who(thread)),
        &[(&thread.key, "wait")],
    )
}

fn wakeup_full(case: &Case<'_>, process: &Process) -> Option<Finding> {
    let signals = process.python.as_ref()?.signals.as_ref()?;
    let number = signals.wakeup_fd?;
    let always =
        states(case, process).all(|then| then.is_some_and(|then| then.wakeup_full == Some(true)));
    if !always {
        return None;
    }
    let thread = signals.served_by.as_ref();
    let thread = thread.and_then(|key| process.thread(key));
    let mut evidence = vec![case.fact(
        Grade::Read,
        format!("fd {number}, of signal.set_wakeup_fd, takes no byte more"),
        &[(&process.key, "python.signals.wakeup_full")],
    )];
    evidence.extend(thread.map(|thread| serves(case, thread)));
    let threads: Vec<&Thread> = thread.into_iter().collect();
    Some(Finding {
        id: "wakeup-fd-full".to_owned(),
        title: format!(
            "The wakeup descriptor of process {} (fd {number}) is full: signals that come now do not wake its event loop.",
            process.pid
        )
        .into(),
        certainty: Certainty::Certain,
        waiter: thread.map_or(&process.key, |thread| &thread.key).clone(),
        blockers: Vec::new(),
        affected: Vec::new(),
        evidence,
        refuted_if: "the loop is about to read it".into(),
        remedy: "see what keeps the event loop's thread from its turn, as nobody reads the descriptor: a call that blocks in a \
                 coroutine or callback, or a loop that was never closed and left its descriptor set"
            .into(),
        site: String::new(),
        signature: signature::signature("wakeup-fd-full", &threads),
    })
}
