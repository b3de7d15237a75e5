//! What names a hang across runs: saved dumps, changed as another run, another machine or an edit elsewhere would have it.

use crate::lock_rules::each_thread;
use crate::offline;
use hangscope::analysis::analyze;
use hangscope::analysis::detectors::Cause;
use hangscope::model::{Finding, Foreign, Frame, Report, Snapshot};
use proptest::prelude::*;
use std::fs;

/// Saved dumps by their cause.
fn saved() -> Vec<(&'static str, Report)> {
    let read = |cause: &Cause| {
        let bytes = fs::read(offline::saved(cause.id)).expect("a dump");
        (cause.id, serde_json::from_slice(&bytes).expect("a report"))
    };
    offline::with_dumps().map(read).collect()
}

/// Both levels of the first finding.
fn names(report: &Report) -> (String, String) {
    let analysis = analyze(&report.samples, &report.trigger, report.run.as_ref());
    let first: &Finding = analysis.findings.first().expect("a finding");
    assert!(first.signature.starts_with("v1:") && first.site.starts_with("v1:"));
    (first.signature.clone(), first.site.clone())
}

/// The same report with other ids: of processes and their start, and of threads.
fn renumbered(report: &Report, by: i32) -> Report {
    let mut text = serde_json::to_string(report).expect("JSON");
    let last = report.samples.last().expect("a sample");
    // Each number occurs in keys, and as a number of its own.
    let mut ids: Vec<i32> = last
        .processes
        .iter()
        .flat_map(|process| {
            [process.pid, process.ppid]
                .into_iter()
                .chain(process.threads.iter().map(|thread| thread.tid))
        })
        .collect();
    // From the last on, so that none is changed twice.
    ids.sort_unstable();
    ids.dedup();
    for id in ids.into_iter().rev() {
        let new = id + by;
        for (before, after) in [("p", "."), ("/t", "\""), ("id\":", ","), ("id\":", "}")] {
            text = text.replace(
                &format!("{before}{id}{after}"),
                &format!("{before}{new}{after}"),
            );
        }
    }
    let new: Report = serde_json::from_str(&text).expect("a report");
    let changed = new.samples.last().expect("a sample");
    for (before, after) in last.processes.iter().zip(&changed.processes) {
        assert_eq!(after.pid, before.pid + by);
        let leader = after.thread_by_tid(after.pid).expect("its main thread");
        assert_eq!(leader.key.of_process(), after.key);
    }
    new
}

fn each_frame(samples: &mut [Snapshot], mut change: impl FnMut(&mut Frame)) {
    each_thread(samples, &mut |_, thread| {
        let states = thread.python.iter_mut();
        states
            .flat_map(|state| &mut state.frames)
            .for_each(&mut change);
    });
}

/// Threads in another order; who is looked up by name or key is found all the same.
fn turned(report: &Report, by: usize) -> Report {
    let mut report = report.clone();
    for process in report
        .samples
        .iter_mut()
        .flat_map(|sample| &mut sample.processes)
    {
        let count = process.threads.len().max(1);
        process.threads.rotate_left(by % count);
    }
    report
}

/// Code was added above each function.
fn shifted(report: &Report, by: u32) -> Report {
    let mut report = report.clone();
    each_frame(&mut report.samples, |frame| {
        frame.line = frame.line.map(|line| line + by);
    });
    report
}

/// Run by xdist: its frames are below those of the main thread.
fn in_a_worker(report: &Report) -> Report {
    let mut report = report.clone();
    each_thread(&mut report.samples, &mut |_, thread| {
        if thread.key.is_leader()
            && let Some(state) = thread.python.first_mut()
            && let Some(outermost) = state.frames.last().cloned()
        {
            for (function, file) in [
                (
                    "remote_exec",
                    "/venv/lib/python3.12/site-packages/xdist/remote.py",
                ),
                (
                    "serve",
                    "/venv/lib/python3.12/site-packages/execnet/gateway_base.py",
                ),
            ] {
                state.frames.push(Frame {
                    function: Foreign::from(function),
                    file: Foreign::from(file),
                    ..outermost.clone()
                });
            }
        }
    });
    report
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    #[test]
    fn the_names_of_a_hang_do_not_depend_on_the_run(pids in 1_000_000..2_000_000, turn in 0_usize..7, lines in 1_u32..500) {
        for (id, report) in saved() {
            let names_before = names(&report);
            prop_assert_eq!(&names(&renumbered(&report, pids)), &names_before, "{}: other ids", id);
            prop_assert_eq!(&names(&shifted(&report, lines)), &names_before, "{}: other lines", id);
            prop_assert_eq!(&names(&in_a_worker(&report)), &names_before, "{}: in a worker", id);
            let again = names(&turned(&report, turn));
            prop_assert_eq!(&again, &names_before, "{}: another order", id);
        }
    }
}

/// What has another cause, or is elsewhere, has another name.
#[test]
fn different_hangs_have_different_names() {
    let all: Vec<(&str, (String, String))> = saved()
        .iter()
        .map(|(id, report)| (*id, names(report)))
        .collect();
    for (at, (one, names_of_one)) in all.iter().enumerate() {
        for (other, names_of_other) in &all[at + 1..] {
            assert_ne!(names_of_one.0, names_of_other.0, "{one}, {other}");
            assert_ne!(names_of_one.1, names_of_other.1, "{one}, {other}");
        }
    }
    for (id, report) in saved() {
        let mut moved = report.clone();
        each_frame(&mut moved.samples, |frame| {
            if !frame.is_library() {
                frame.function = format!("other_{}", frame.function.untrusted()).into();
            }
        });
        let (before, after) = (names(&report), names(&moved));
        assert!(before.0 != after.0, "{id}");
    }
}
