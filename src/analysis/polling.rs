//! Threads that ask again and again whether others have ended. Each of their waits is short, but they get no further as long as those
//! do not end.

use super::case::{Case, Standing};
use super::wording;
use crate::model::{Foreign, Key, Process, Thread, Wait, WaitKind};

/// What a thread asks after, all of it still there.
pub(super) struct Asked<'a> {
    pub(super) threads: Vec<&'a Key>,
    pub(super) processes: Vec<&'a Key>,
}

/// What a thread of the last sample asks after again and again; `None` if it does something else, too, as far as can be seen.
pub(super) fn asked<'a>(
    case: &Case<'a>,
    process: &'a Process,
    thread: &Thread,
) -> Option<Asked<'a>> {
    let asks = |wait: &&Wait| {
        let any = !wait.asks_after.is_empty() || !wait.asks_after_children.is_empty();
        any && is_short(wait)
    };
    // It may be looked at in between, when it asks.
    let waits = case
        .views(&thread.key)
        .filter_map(|view| view.wait.as_ref());
    let wait = waits.filter(asks).last()?;
    if !goes_round(case, thread) {
        return None;
    }
    let threads = wait.asks_after.iter();
    let threads = threads.map(|key| Some(&process.thread(key)?.key));
    let child = |pid: &i32| {
        let mut all = case.last.processes.iter();
        all.find(|other| {
            other.ppid == process.pid && (other.pid == *pid || other.namespace_pid == Some(*pid))
        })
    };
    let processes = wait.asks_after_children.iter();
    let processes = processes.map(|pid| Some(&child(pid)?.key));
    Some(Asked {
        threads: threads.collect::<Option<_>>()?,
        processes: processes.collect::<Option<_>>()?,
    })
}

/// Whether a wait is one of those between two questions: a sleep, or a join with a deadline.
fn is_short(wait: &Wait) -> bool {
    match wait.kind {
        WaitKind::Sleep => true,
        WaitKind::ThreadExit | WaitKind::Poll | WaitKind::Child | WaitKind::Futex => {
            wait.timed == Some(true)
        }
        _ => false,
    }
}

/// Whether the thread woke between the samples and is in the same functions again.
fn goes_round(case: &Case<'_>, thread: &Thread) -> bool {
    let first = case.views(&thread.key).next();
    let woke = first.is_some_and(|first| first.kernel.runs < thread.kernel.runs);
    let mut views = case.views(&thread.key);
    case.has_motion() && woke && views.all(|view| own_functions(view).eq(own_functions(thread)))
}

fn own_functions(thread: &Thread) -> impl Iterator<Item = (&Foreign, &Foreign)> {
    let own = thread.frames().filter(|frame| !frame.is_library());
    own.map(|frame| (&frame.function, &frame.file))
}

/// That threads which wait for each other have not moved, as a sentence. One that asks again and again has, and gets no further.
pub(super) fn stillness(case: &Case<'_>, threads: &[&Thread]) -> Option<String> {
    let first = threads.first()?;
    if !case.has_motion() {
        return None;
    }
    let (asking, still): (Vec<&Thread>, Vec<&Thread>) = threads
        .iter()
        .copied()
        .partition(|thread| case.standing(thread) == Standing::Active);
    let looks = format!(
        "in {} samples over {}",
        case.views(&first.key).count(),
        wording::duration(case.span_ms())
    );
    let names: Vec<String> = still.iter().map(|thread| wording::who(thread)).collect();
    let unmoved = match names.as_slice() {
        [] => return None,
        _ if asking.is_empty() && names.len() > 1 => format!("none of them has moved {looks}"),
        [one] => format!("{one} has not moved {looks}"),
        several => format!("{} have not moved {looks}", several.join(" and ")),
    };
    Some(match asking.first() {
        Some(asks) => format!(
            "{unmoved}; {} woke, asked and waited again",
            wording::who(asks)
        ),
        None => unmoved,
    })
}
