//! At what of the test run a process is: from the watched run where that is known, else from the process itself.

use super::{clean, clean_word};
use crate::model::{
    Birth, Counted, Finding, Foreign, Key, LeftKind, Process, Report, Role, Run, TestPhase,
    TestProcess, Trigger, place,
};

/// Most tests of one process that are named.
const MAX_TOGETHER: usize = 8;

/// What the run knows of a process.
#[derive(Clone, Copy)]
pub(super) struct Known<'r> {
    /// The process, or the nearest ancestor of it that runs tests.
    pub(super) tests: &'r TestProcess,
    /// Whether it is that ancestor.
    pub(super) is_ancestor: bool,
}

/// Who of the run a process is, or is below of.
pub(super) fn known<'r>(report: &'r Report, process: &Process) -> Option<Known<'r>> {
    let run = report.run.as_ref()?;
    let last = report.samples.last()?;
    let mut at = process;
    // A saved report may have parents in a circle.
    for steps in 0..=last.processes.len() {
        if let Some(tests) = run.process(&at.key) {
            return Some(Known {
                tests,
                is_ancestor: steps > 0,
            });
        }
        at = last
            .processes
            .iter()
            .find(|parent| parent.pid == at.ppid && parent.pid != at.pid)?;
    }
    None
}

/// Who of the run a finding is about. Of several tests in one process it is the one on whose thread somebody waits, or
/// is waited for.
pub(super) fn known_of<'r>(report: &'r Report, finding: &Finding) -> Option<Known<'r>> {
    let last = report.samples.last()?;
    let run = report.run.as_ref()?;
    let own = std::iter::once(&finding.waiter)
        .chain(&finding.blockers)
        .find_map(|key| run.test_of_thread(key));
    match own {
        Some(tests) => Some(Known {
            tests,
            is_ancestor: false,
        }),
        None => known(report, last.process(&finding.waiter.of_process())?),
    }
}

/// "demo tests::a (thread 4243) for 61 s": the tests that run in one process at the same time, oldest first.
fn tests_together(report: &Report, process: &TestProcess) -> Vec<String> {
    let run = report.run.as_ref();
    let same = run.map_or(&[][..], |run| &run.processes).iter();
    let mut tests: Vec<&TestProcess> = same
        .filter(|other| other.key == process.key && other.thread.is_some())
        .collect();
    tests.sort_by_key(|test| std::cmp::Reverse(test.test_ms));
    let more = tests.len().saturating_sub(MAX_TOGETHER);
    let mut words: Vec<String> = tests
        .iter()
        .take(MAX_TOGETHER)
        .map(|test| {
            let (place, tid) = (clean(&test.place()), test.thread.unwrap_or_default());
            format!("{place} (thread {tid}) for {} s", test.test_ms / 1000)
        })
        .collect();
    if more > 0 {
        words.push(format!("and {more} more tests"));
    }
    words
}

/// "tests/test_x.py::test_y (call)", for a finding; empty if nothing is known.
pub(super) fn test_of_finding(report: &Report, finding: &Finding) -> String {
    let itself = || {
        let process = report
            .samples
            .last()?
            .process(&finding.waiter.of_process())?;
        Some(told_by_itself(process))
    };
    known_of(report, finding)
        .map(|known| place_of(known.tests))
        .or_else(itself)
        .unwrap_or_default()
}

/// "[gw1] tests/test_x.py::test_y (call)": where a process of the run is.
pub(super) fn place_of(process: &TestProcess) -> String {
    let worker = process
        .worker
        .as_ref()
        .map_or_else(String::new, |worker| format!("[{}] ", clean(worker)));
    // Its workers run the tests; of its own it has only what comes before and after.
    let idle = !matches!(
        process.phase,
        TestPhase::SessionFinish | TestPhase::InterpreterExit
    );
    if process.role == Role::Controller && idle {
        return "pytest-xdist controller".to_owned();
    }
    format!("{worker}{}", clean(&process.place()))
}

/// "pytest, in tests/test_x.py::test_y (call) for 61 s, 21 tests finished": what a process is to the run.
pub(super) fn role_of(report: &Report, known: Known<'_>) -> String {
    let process = known.tests;
    let together = tests_together(report, process);
    if !known.is_ancestor && together.len() > 1 {
        return format!("Rust test binary, in {}", together.join(", "));
    }
    let place = clean(&process.place());
    if known.is_ancestor {
        let worker = process
            .worker
            .as_ref()
            .map_or_else(String::new, |worker| format!(" (worker {})", clean(worker)));
        return format!("below process {}{worker}, in {place}", process.pid);
    }
    let role = match (process.role, &process.worker) {
        (Role::Session, _) => "pytest".to_owned(),
        (Role::Controller, _) => "pytest-xdist controller".to_owned(),
        (Role::Worker, Some(worker)) => format!("worker {}", clean(worker)),
        (Role::Worker, None) => "worker".to_owned(),
        (Role::Forked, _) => "forked for one test".to_owned(),
        (Role::Libtest, _) => "Rust test binary".to_owned(),
        (Role::Nextest, _) => "test of nextest".to_owned(),
        (Role::Doctest, _) => "doctest".to_owned(),
    };
    let finished = match process.finished {
        0 => String::new(),
        1 => ", 1 test finished".to_owned(),
        count => format!(", {count} tests finished"),
    };
    let seconds = process.test_ms / 1000;
    format!("{role}, in {place} for {seconds} s{finished}")
}

/// The test in the environment of a process.
pub(super) fn told_by_itself(process: &Process) -> String {
    process.test.as_ref().map_or_else(String::new, |test| {
        let phase = test
            .phase
            .as_ref()
            .map_or_else(String::new, |phase| format!(" ({})", clean_word(phase)));
        let started = if test.inherited { "started by " } else { "" };
        format!("{started}{}{phase}", clean(&test.id))
    })
}

/// Where the report's hang is, for a headline: `[gw1] tests/test_x.py::test_y (call)`, escaped for a terminal.
/// Without a finding it is the test whose limit was exceeded, else the one that runs longest.
#[must_use]
pub fn whereabouts(report: &Report) -> Option<String> {
    if let Trigger::TestTimeout { test, .. } = &report.trigger {
        let process = report.run.iter().flat_map(|run| &run.processes);
        let running = process
            .filter(|process| process.test.as_ref() == Some(test) || process.place() == *test)
            .max_by_key(|process| process.phase_ms);
        return Some(running.map_or_else(|| clean(test), place_of));
    }
    let last = report.samples.last()?;
    let of_finding = || {
        let finding = report.analysis.findings.first()?;
        Some(test_of_finding(report, finding))
    };
    of_finding()
        .filter(|place| !place.is_empty())
        .or_else(|| report.run.as_ref().and_then(longest).map(place_of))
        .or_else(|| {
            // One that a process runs counts before one that it only inherited.
            let mut tests: Vec<&Process> = last
                .processes
                .iter()
                .filter(|process| process.test.is_some())
                .collect();
            tests.sort_by_key(|process| process.test.as_ref().is_some_and(|test| test.inherited));
            tests.first().map(|process| told_by_itself(process))
        })
}

/// The findings that keep a process of the run waiting: its own, and those of processes below it.
pub(super) fn findings_at<'r>(report: &'r Report, key: &Key) -> Vec<&'r Finding> {
    let Some(last) = report.samples.last() else {
        return Vec::new();
    };
    let is_there = |finding: &&Finding| {
        let process = finding.waiter.of_process();
        process == *key
            || last
                .process(&process)
                .and_then(|process| known(report, process))
                .is_some_and(|known| known.tests.key == *key)
    };
    report.analysis.findings.iter().filter(is_there).collect()
}

/// The process that has been at the same thing for longest, workers before their controller, tests before the binary
/// that they are in.
pub(super) fn longest(run: &Run) -> Option<&TestProcess> {
    run.processes
        .iter()
        .filter(|process| process.alive)
        .max_by_key(|process| {
            let waits = process.role == Role::Controller
                || (process.role == Role::Libtest && process.test.is_none());
            (!waits, process.test_ms)
        })
}

/// In which test the objects that a finding names were born, where that is another than the present one; sentences,
/// not yet escaped.
pub(super) fn births(report: &Report, finding: &Finding) -> Vec<Foreign> {
    let mut told = Vec::new();
    let Some(last) = report.samples.last() else {
        return told;
    };
    for key in std::iter::once(&finding.waiter).chain(&finding.blockers) {
        let Some(process) = last.process(&key.of_process()) else {
            continue;
        };
        let Some(known) = known(report, process) else {
            continue;
        };
        let (what, kind, id) = if known.is_ancestor {
            (
                format!("process {}", process.pid),
                LeftKind::Child,
                process.pid,
            )
        } else if let Some(thread) = process
            .thread(key)
            .filter(|thread| !process.is_led_by(thread))
        {
            (
                format!("`{}`", thread.display_name().untrusted()),
                LeftKind::OsThread,
                thread.tid,
            )
        } else {
            continue;
        };
        let is_rust = known.tests.role.is_rust();
        let run = report.run.as_ref().filter(|_| is_rust);
        let holder = run.and_then(|run| run.binary(&known.tests.key));
        let Some(birth) = holder.unwrap_or(known.tests).birth(kind, i64::from(id)) else {
            continue;
        };
        let in_present_test = birth.test == known.tests.test
            && (birth.test.is_some() || birth.phase == known.tests.phase)
            || run.is_some_and(|run| run.runs(&known.tests.key, birth.test.as_ref()));
        // What was there from the start says nothing about tests.
        if in_present_test || birth.phase == TestPhase::Start {
            continue;
        }
        let line = Foreign::from(format!("{what} was born in {}", words_of(birth, is_rust)));
        if !told.contains(&line) {
            told.push(line);
        }
    }
    told
}

/// "tests/test_x.py::test_y (call), 3 tests earlier".
fn words_of(birth: &Birth, is_rust: bool) -> String {
    let place = match &birth.test {
        // It has no phases.
        Some(test) if is_rust => test.clone(),
        test => place(birth.phase, test.as_ref()),
    };
    let ago = match (birth.phase, birth.tests_ago) {
        // Tests of one process may run at the same time.
        _ if is_rust => ", which has ended".to_owned(),
        (TestPhase::Collection, _) => String::new(),
        (_, 0) => ", the last test".to_owned(),
        (_, 1) => ", 1 test earlier".to_owned(),
        (_, count) => format!(", {count} tests earlier"),
    };
    let how = match birth.how {
        Counted::Inside => "",
        Counted::Sampled => " (sampled: first seen there)",
    };
    format!("{}{ago}{how}", place.untrusted())
}
