//! Whether a thread got anywhere between the samples, judged by content. Counters prove that a thread ran, never that
//! it got further: a waiter on a GIL that is never released wakes 200 times a second.

use crate::model::{Key, Motion, Snapshot, Thread, ThreadProgress, WaitKind};
use std::collections::{BTreeMap, BTreeSet};

/// At most so many stacks over the samples count as going round in circles.
const MAX_LOOP_POSITIONS: usize = 8;
/// A thread that runs or is ready to run this much of the time computes rather than waits.
const COMPUTING_PERCENT: u64 = 50;
/// Less CPU than this, and the machine is too busy to say what a thread would do.
const STARVED_PERCENT: u64 = 10;
/// CPU use up to this may be the price of being looked at.
const IDLE_PERCENT: u64 = 1;

type Position<'a> = Vec<(&'a str, &'a str, i64, Option<u32>)>;

/// The progress of each thread of the last sample.
pub(super) fn of(samples: &[Snapshot]) -> BTreeMap<Key, ThreadProgress> {
    let Some(last) = samples.last() else {
        return BTreeMap::new();
    };
    last.processes
        .iter()
        .flat_map(|process| &process.threads)
        .map(|thread| (thread.key.clone(), progress(samples, &thread.key)))
        .collect()
}

fn progress(samples: &[Snapshot], key: &Key) -> ThreadProgress {
    let views: Vec<(u64, &Thread)> = samples
        .iter()
        .filter_map(|sample| Some((sample.at_ms, sample.thread(key)?)))
        .collect();
    let (Some((start, first)), Some((end, last))) = (views.first(), views.last()) else {
        return unknown(key);
    };
    if views.len() < 2 || start == end {
        return unknown(key);
    }
    let window_ns = end.saturating_sub(*start).saturating_mul(1_000_000);
    let percent =
        |from: u64, to: u64| to.saturating_sub(from).saturating_mul(100) / window_ns.max(1);
    let cpu = percent(first.kernel.cpu_ns, last.kernel.cpu_ns);
    let delay = percent(first.kernel.run_delay_ns, last.kernel.run_delay_ns);
    let threads: Vec<&Thread> = views.iter().map(|(_, thread)| *thread).collect();
    // Our own stop makes each thread run once, and so tells nothing of whether it was woken.
    let process = key.of_process();
    let was_stopped = samples
        .iter()
        .flat_map(|sample| &sample.pauses)
        .any(|pause| pause.process == process && !pause.native);
    ThreadProgress {
        thread: key.clone(),
        motion: motion(&threads, cpu, delay, was_stopped),
        cpu_percent: u32::try_from(cpu).ok(),
    }
}

fn unknown(key: &Key) -> ThreadProgress {
    ThreadProgress {
        thread: key.clone(),
        motion: Motion::Unknown,
        cpu_percent: None,
    }
}

fn motion(views: &[&Thread], cpu_percent: u64, delay_percent: u64, was_stopped: bool) -> Motion {
    let positions: BTreeSet<Position<'_>> = views.iter().map(|thread| position(thread)).collect();
    let computes = cpu_percent >= STARVED_PERCENT
        && cpu_percent.saturating_add(delay_percent) >= COMPUTING_PERCENT;
    // Runnable at every look and hardly ever on a CPU: the machine is busy, the thread is not stuck.
    let runnable = views.iter().all(|thread| thread.kernel.state == "R");
    if runnable && delay_percent >= COMPUTING_PERCENT && cpu_percent < STARVED_PERCENT {
        return Motion::Starved;
    }
    // Where a thread was is not known if its stack changed while it was read: no sign that it stands.
    if computes && (views.iter().any(|thread| is_unread(thread)) || got_further(views)) {
        return Motion::Moving;
    }
    if positions.len() == 1 {
        return match (
            computes,
            (ran(views) && !was_stopped) || cpu_percent > IDLE_PERCENT,
        ) {
            (true, _) => Motion::Busy,
            (false, true) => Motion::Stirring,
            (false, false) => Motion::Still,
        };
    }
    let functions = |position: &Position<'_>| -> Vec<(String, String)> {
        position
            .iter()
            .map(|(function, file, _, _)| ((*function).to_owned(), (*file).to_owned()))
            .collect()
    };
    let chains: BTreeSet<_> = positions.iter().map(functions).collect();
    if chains.len() == 1 && computes && positions.len() <= MAX_LOOP_POSITIONS {
        Motion::Looping
    } else {
        Motion::Moving
    }
}

/// Whether a thread state's frames could not be read at all.
fn is_unread(thread: &Thread) -> bool {
    let mut states = thread.python.iter();
    states.any(|state| state.cut.is_some() && state.frames.is_empty())
}

fn position(thread: &Thread) -> Position<'_> {
    thread
        .frames()
        .map(|frame| {
            (
                frame.function.untrusted(),
                frame.file.untrusted(),
                frame.instruction,
                frame.line,
            )
        })
        .collect()
}

/// Whether the variables of the innermost frame changed: a loop that computes something has the same few positions as one
/// that goes round for ever, but not the same variables.
fn got_further(views: &[&Thread]) -> bool {
    let fingerprints: BTreeSet<Option<&str>> = views
        .iter()
        .map(|thread| thread.python.first()?.fingerprint.as_deref())
        .collect();
    fingerprints.len() > 1
}

/// Whether a thread was put on a CPU between the samples. One that waits for a GIL wakes every few milliseconds only
/// to ask for it again; that does not count.
fn ran(views: &[&Thread]) -> bool {
    let asks_for_gil = views
        .iter()
        .filter_map(|thread| thread.wait.as_ref())
        .any(|wait| wait.kind == WaitKind::Gil);
    let runs: BTreeSet<u64> = views.iter().map(|thread| thread.kernel.runs).collect();
    runs.len() > 1 && !asks_for_gil
}
