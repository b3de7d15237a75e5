//! The answer: findings, or what was seen instead.

use super::super::whereabouts::{births, test_of_finding, whereabouts};
use super::super::{Style, clean, clean_word};
use super::layout::Page;
use crate::model::{
    Certainty, Finding, Gap, GapKind, Grade, Key, Motion, Process, Report, Snapshot, TestSource,
    ThreadKind, Trigger, Verdict,
};
use std::collections::BTreeMap;

/// Hangs that are alike and still named one by one.
const MAX_ALIKE: usize = 3;

pub(super) fn write(page: &mut Page, style: Style, report: &Report) {
    let Some(last) = report.samples.last() else {
        page.line("nothing was read");
        return;
    };
    let findings: Vec<&Finding> = report.analysis.findings.iter().collect();
    write_all(page, style, report, last, &findings, Told::Cause);
    if report.analysis.findings.is_empty() {
        write_no_finding(page, style, report, last);
    }
    let notices: Vec<&Finding> = report.analysis.notices.iter().collect();
    write_all(page, style, report, last, &notices, Told::Notice);
    let unlooked: Vec<String> = report
        .analysis
        .inconclusive
        .iter()
        .map(|inconclusive| inconclusive.detector.replace('_', "-"))
        .collect();
    if !unlooked.is_empty() {
        page.wrapped(
            "  ",
            "  ",
            &format!(
                "not looked for: {} (what they need could not be read, see below)",
                unlooked.join(", ")
            ),
        );
    }
    write_gaps(page, report);
    write_notes(page, report);
}

/// How the running tests are known, where that is not by the plugin, and what is not known of the run.
fn write_notes(page: &mut Page, report: &Report) {
    let Some(run) = &report.run else { return };
    let source = match run.source {
        TestSource::Environ => Some(
            "tests are named by the live environment of their processes (PYTEST_CURRENT_TEST), looked at twice a second"
                .to_owned(),
        ),
        TestSource::Cargo => Some(
            "tests of Rust are seen from outside, ten times a second: shorter ones may be missed, and how one ended is \
             not known; numbers of threads and files are sampled"
                .to_owned(),
        ),
        TestSource::Plugin | TestSource::None => None,
    };
    let notes = run.notes.iter().map(clean);
    let lines: Vec<String> = source.into_iter().chain(notes).collect();
    if !lines.is_empty() {
        page.gap();
    }
    for line in lines {
        page.wrapped("note: ", "      ", &line);
    }
}

/// What a finding is told as.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Told {
    Cause,
    Notice,
}

/// Those findings, alike ones together.
pub(super) fn write_all(
    page: &mut Page,
    style: Style,
    report: &Report,
    last: &Snapshot,
    findings: &[&Finding],
    told: Told,
) {
    let mut shown: BTreeMap<&str, Vec<&Finding>> = BTreeMap::new();
    for finding in findings {
        shown.entry(&finding.signature).or_default().push(finding);
    }
    for finding in findings {
        if let Some(same) = shown.remove(finding.signature.as_str()) {
            page.gap();
            write_finding(page, style, report, last, &same, told);
        }
    }
}

fn write_finding(
    page: &mut Page,
    style: Style,
    report: &Report,
    last: &Snapshot,
    same: &[&Finding],
    told: Told,
) {
    let Some(finding) = same.first() else { return };
    let word = match (told, finding.certainty) {
        (Told::Notice, _) => "notice",
        (Told::Cause, Certainty::Certain | Certainty::Probable) => "hang",
        (Told::Cause, Certainty::Possible) => "slow or stuck",
    };
    let left = format!("{word}: {}", finding.id);
    let painted = if word == "hang" {
        style.alarm(&left)
    } else {
        style.caution(&left)
    };
    page.left_right(&left, &painted, &test_of_finding(report, finding));
    page.wrapped("  ", "  ", &clean(&finding.title));
    for evidence in &finding.evidence {
        let mark = match evidence.grade {
            Grade::Read => "",
            Grade::Derived => " (derived)",
            Grade::Guessed => " (guessed)",
        };
        page.wrapped(
            "    - ",
            "      ",
            &format!("{}{mark}", clean(&evidence.text)),
        );
    }
    for birth in births(report, finding) {
        page.wrapped("    - ", "      ", &clean(&birth));
    }
    if !finding.affected.is_empty() {
        let names: Vec<String> = finding
            .affected
            .iter()
            .take(5)
            .map(|key| name_of(last, key))
            .collect();
        let rest = finding.affected.len().saturating_sub(5);
        let more = if rest > 0 {
            format!(" and {rest} more")
        } else {
            String::new()
        };
        page.wrapped(
            "  ",
            "    ",
            &format!("also waiting for it: {}{more}", names.join(", ")),
        );
    }
    page.wrapped("  ", "       ", &format!("fix: {}", clean(&finding.remedy)));
    let sure = match finding.certainty {
        Certainty::Certain => "certain",
        Certainty::Probable => "probable",
        Certainty::Possible => "possible",
    };
    page.wrapped(
        "  ",
        "    ",
        &format!("certainty: {sure}, unless {}", clean(&finding.refuted_if)),
    );
    for other in same.iter().skip(1).take(MAX_ALIKE) {
        page.wrapped("  ", "    ", &format!("the same: {}", clean(&other.title)));
    }
    if let Some(more) = same
        .len()
        .checked_sub(MAX_ALIKE + 1)
        .filter(|more| *more > 0)
    {
        page.line(&format!(
            "  × {more} more with the same signature ({})",
            finding.signature
        ));
    }
    page.wrapped(
        "  ",
        "    ",
        &format!("more: hangscope explain {}", finding.id),
    );
}

fn name_of(last: &Snapshot, key: &Key) -> String {
    last.thread(key).map_or_else(
        || clean_word(key.as_str()),
        |thread| format!("{} (tid {})", clean(thread.display_name()), thread.tid),
    )
}

fn write_no_finding(page: &mut Page, style: Style, report: &Report, last: &Snapshot) {
    let samples = report.samples.len();
    let span = report
        .samples
        .first()
        .map_or(0, |first| last.at_ms.saturating_sub(first.at_ms));
    let looked = if samples == 1 {
        "1 sample".to_owned()
    } else {
        format!("{samples} samples over {:.1} s", span as f64 / 1000.0)
    };
    if report.analysis.verdict == Verdict::Unknown {
        let headline = "cannot tell: no stack could be read";
        page.left_right(
            headline,
            &style.caution(headline),
            &whereabouts(report).unwrap_or_default(),
        );
        write_stopped(page, last);
        return;
    }
    let mut counts: BTreeMap<Motion, usize> = BTreeMap::new();
    for progress in &report.analysis.progress {
        *counts.entry(progress.motion).or_default() += 1;
    }
    let count = |motions: &[Motion]| -> usize {
        motions.iter().filter_map(|motion| counts.get(motion)).sum()
    };
    let total = report.analysis.progress.len();
    let moved = count(&[
        Motion::Moving,
        Motion::Looping,
        Motion::Busy,
        Motion::Stirring,
    ]);
    let still = count(&[Motion::Still]);
    let summary = if samples == 1 {
        let waiting = last
            .processes
            .iter()
            .flat_map(|process| &process.threads)
            .filter(|thread| thread.wait.is_some())
            .count();
        format!("{looked}; {waiting} of {} wait", threads(total))
    } else if moved == 0 && still == total {
        format!(
            "{looked}; nothing moved ({} in all), and no known cause of a hang fits",
            threads(total)
        )
    } else {
        format!(
            "{looked}; {moved} of {} ran, {still} stood still",
            threads(total)
        )
    };
    if report.analysis.verdict == Verdict::PossibleHang {
        write_standstill(page, style, report, &looked);
        return;
    }
    let stopped = last.processes.iter().any(is_stopped);
    let headline = match (stopped, &report.trigger) {
        (true, _) => "stopped",
        (false, trigger) if trigger.is_overdue() => "cause not recognised",
        // Someone ends the run, and there was time for one look: that is no acquittal.
        (false, Trigger::Signal { .. }) if report.samples.len() == 1 => "no verdict from one look",
        (false, _) => "no hang seen",
    };
    page.left_right(
        headline,
        &if headline == "no hang seen" {
            style.good(headline)
        } else {
            style.caution(headline)
        },
        &whereabouts(report).unwrap_or_default(),
    );
    page.wrapped("  ", "  ", &summary);
    write_stopped(page, last);
    let starved = count(&[Motion::Starved]);
    if starved > 0 {
        page.wrapped(
            "  ",
            "  ",
            &format!("{starved} threads are ready to run but get no CPU: the machine is busy"),
        );
    }
}

fn is_stopped(process: &Process) -> bool {
    matches!(process.state.as_str(), "T" | "t")
}

fn write_stopped(page: &mut Page, last: &Snapshot) {
    for process in last.processes.iter().filter(|it| is_stopped(it)) {
        let pid = process.pid;
        page.wrapped(
            "  ",
            "  ",
            &format!(
                "process {pid} is stopped (SIGSTOP, Ctrl-Z or a debugger): nothing in it can move until it is continued \
                 (kill -CONT {pid})"
            ),
        );
    }
}

fn threads(count: usize) -> String {
    let s = if count == 1 { "" } else { "s" };
    format!("{count} thread{s}")
}

/// No known cause fits, and yet nothing can go on.
fn write_standstill(page: &mut Page, style: Style, report: &Report, looked: &str) {
    let headline = "stuck, cause unknown";
    page.left_right(
        headline,
        &style.caution(headline),
        &whereabouts(report).unwrap_or_default(),
    );
    page.wrapped(
        "  ",
        "  ",
        &format!(
            "{looked}; at least one process cannot go on: all its threads wait, without a deadline, for things of the \
             same process, and it catches no signal that might wake one. Look at what its threads wait for, below."
        ),
    );
}

/// What is missing. Gaps that say the same of several processes are told once.
fn write_gaps(page: &mut Page, report: &Report) {
    let mut told: Vec<(&Gap, usize)> = Vec::new();
    for gap in report.samples.iter().rev().flat_map(|sample| &sample.gaps) {
        match told
            .iter_mut()
            .find(|(known, _)| known.missing == gap.missing && known.cause == gap.cause)
        {
            Some((known, count)) => {
                if known.subject != gap.subject {
                    *count += 1;
                }
            }
            None => told.push((gap, 0)),
        }
    }
    told.retain(|(gap, _)| {
        gap.kind != GapKind::NotApplicable || report.samples.len() == 1 || told_is_root(report, gap)
    });
    if told.is_empty() {
        return;
    }
    page.gap();
    for (gap, more) in told {
        let subject = gap
            .subject
            .as_ref()
            .map_or_else(String::new, |key| format!(" of {}", subject(key)));
        let others = if more > 0 {
            " and others".to_owned()
        } else {
            String::new()
        };
        let remedy = gap
            .remedy
            .as_ref()
            .map_or_else(String::new, |remedy| format!("; {}", clean(remedy)));
        page.wrapped(
            "not read: ",
            "          ",
            &format!(
                "{}{subject}{others}: {}{remedy}",
                clean(&gap.missing),
                clean(&gap.cause)
            ),
        );
    }
}

/// Of processes that are simply not Python, only the one asked for is worth a line.
fn told_is_root(report: &Report, gap: &Gap) -> bool {
    gap.subject
        .as_ref()
        .and_then(|key| report.samples.last()?.process(&key.of_process()))
        .is_some_and(|process| process.pid == report.options.pid || process.python.is_some())
}

/// "process 42", "interpreter 1 of process 42".
fn subject(key: &Key) -> String {
    let text = clean_word(key.as_str());
    let (process, part) = text.split_once('/').unwrap_or((&text, ""));
    let pid = process
        .trim_start_matches('p')
        .split('.')
        .next()
        .unwrap_or("?");
    match part.strip_prefix('i') {
        Some(id) => format!("interpreter {id} of process {pid}"),
        None => match part.strip_prefix('t') {
            Some(tid) => format!("thread {tid} of process {pid}"),
            None => format!("process {pid}"),
        },
    }
}

/// Whether a thread belongs in the list of threads unless all are asked for.
pub(super) fn is_worth_a_line(kind: ThreadKind) -> bool {
    kind != ThreadKind::Exited
}
