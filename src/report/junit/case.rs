//! What a JUnit file says of each test of a run.

use super::super::text;
use super::super::whereabouts::{findings_at, longest};
use super::names::{Names, names_of, older_names_of, rust_names_of, visible};
use crate::model::{
    Finding, Foreign, Key, Report, RunRecord, TestOutcome, TestPhase, TestRecord, Trigger, Verdict,
    place,
};
use std::collections::BTreeMap;

/// Longest message attribute, in characters.
const MAX_MESSAGE: usize = 500;
/// Longest text of an element, in bytes.
const MAX_TEXT: usize = 64 << 10;

/// One `testcase`.
#[derive(Debug)]
pub(super) struct Case {
    pub(super) names: Names,
    /// As pytest before 9.2 has them.
    pub(super) older: Names,
    pub(super) file: Option<String>,
    pub(super) line: Option<u32>,
    pub(super) took_ms: u64,
    pub(super) result: CaseResult,
    /// What hangscope adds to the test that hung.
    pub(super) verdict: Option<CaseVerdict>,
}

/// How a test ended.
#[derive(Debug)]
pub(super) enum CaseResult {
    Passed,
    Failure(Said),
    Error(Said),
    Skipped(Said),
}

/// The attributes and the text of a result.
#[derive(Debug, Default)]
pub(super) struct Said {
    pub(super) kind: Option<&'static str>,
    pub(super) message: String,
    pub(super) text: String,
}

/// The verdict on a test that hung.
#[derive(Debug)]
pub(super) struct CaseVerdict {
    pub(super) message: String,
    pub(super) text: String,
    pub(super) properties: Vec<(&'static str, String)>,
    /// A line that CI servers take as a file to keep with the test.
    pub(super) attachment: Option<String>,
}

/// The cases of a run: those that began, in that order, then those that did not.
pub(super) fn cases(
    record: &RunRecord,
    report: Option<&Report>,
    bundle: Option<&str>,
) -> Vec<Case> {
    let mut cases = Vec::new();
    for test in last_of_each(record) {
        cases.push(case(test, record, report, bundle));
    }
    let hung = cases.iter().any(|case| case.verdict.is_some());
    if !hung && let Some(report) = report.filter(|report| is_end(report)) {
        cases.extend(outside_of_tests(record, report, bundle));
    }
    let hung = cases.iter().any(|case| case.verdict.is_some());
    let why = if hung {
        "not run: run hung"
    } else {
        "not run: the run ended before"
    };
    cases.extend(record.not_run.iter().map(|id| Case {
        names: names_of(id.untrusted()),
        older: older_names_of(id.untrusted()),
        file: None,
        line: None,
        took_ms: 0,
        result: CaseResult::Skipped(said(None, why)),
        verdict: None,
    }));
    cases
}

/// A test that ran again (a plugin's re-run) counts as it ended last, as in pytest's own file.
fn last_of_each(record: &RunRecord) -> Vec<&TestRecord> {
    let mut at: BTreeMap<(&Foreign, &Key), usize> = BTreeMap::new();
    let mut tests: Vec<&TestRecord> = Vec::new();
    for test in &record.tests {
        match at.get(&(&test.test, &test.process)) {
            Some(&known) => tests[known] = test,
            None => {
                at.insert((&test.test, &test.process), tests.len());
                tests.push(test);
            }
        }
    }
    tests
}

fn case(
    test: &TestRecord,
    record: &RunRecord,
    report: Option<&Report>,
    bundle: Option<&str>,
) -> Case {
    let id = test.test.untrusted();
    let message = test.message.as_ref().map(Foreign::untrusted);
    let message = message.filter(|message| !message.trim().is_empty());
    let hung = test.outcome == TestOutcome::Hung || report.is_some_and(|r| was_ended(test, r));
    let verdict =
        hung.then(|| verdict(&test.process, report, bundle, || why_unknown(test, record)));
    // What pytest made of a test that was made to fail stands as it is; the verdict is beside it.
    let result = match (&verdict, test.outcome) {
        (Some(_), TestOutcome::Failed) => {
            CaseResult::Failure(said(None, message.unwrap_or("failed")))
        }
        (Some(_), TestOutcome::Error) => {
            CaseResult::Error(said(None, message.unwrap_or("setup or teardown failed")))
        }
        (Some(verdict), _) => CaseResult::Error(Said {
            kind: Some("hangscope.hang"),
            message: verdict.message.clone(),
            text: verdict.text.clone(),
        }),
        (None, TestOutcome::Failed) => CaseResult::Failure(said(None, message.unwrap_or("failed"))),
        (None, TestOutcome::Error) => {
            CaseResult::Error(said(None, message.unwrap_or("setup or teardown failed")))
        }
        (None, TestOutcome::Skipped) => {
            CaseResult::Skipped(said(None, message.unwrap_or("skipped")))
        }
        (None, TestOutcome::Crashed) => CaseResult::Error(said(
            Some("hangscope.crash"),
            message.unwrap_or("its process ended while it ran"),
        )),
        (None, TestOutcome::Running) => {
            CaseResult::Skipped(said(None, "still running when this file was written"))
        }
        (None, TestOutcome::Passed | TestOutcome::Hung) => CaseResult::Passed,
    };
    let binary = test.binary.as_ref().map(Foreign::untrusted);
    let rust = binary.map(|binary| rust_names_of(binary, id));
    Case {
        names: rust.clone().unwrap_or_else(|| names_of(id)),
        older: rust.unwrap_or_else(|| older_names_of(id)),
        file: test.file.as_ref().map(|file| visible(file.untrusted())),
        line: test.line,
        took_ms: test.took_ms,
        result,
        verdict,
    }
}

/// Whether this test is the one that the report is about, and was made to fail for it.
fn was_ended(test: &TestRecord, report: &Report) -> bool {
    let Trigger::TestTimeout { test: named, .. } = &report.trigger else {
        return false;
    };
    let is_it = *named == test.test
        || [TestPhase::Setup, TestPhase::Call, TestPhase::Teardown]
            .iter()
            .any(|phase| place(*phase, Some(&test.test)) == *named);
    let ended_badly = matches!(
        test.outcome,
        TestOutcome::Failed | TestOutcome::Error | TestOutcome::Crashed
    );
    is_it && ended_badly
}

/// Whether the run was ended for what the report tells.
fn is_end(report: &Report) -> bool {
    match &report.trigger {
        Trigger::RunTimeout { .. } => true,
        Trigger::IdleTimeout { ends, .. } => *ends,
        // That is a test of the record, and ended as it says there.
        Trigger::TestTimeout { .. } => false,
        Trigger::Signal { name } => {
            matches!(name.as_str(), "SIGTERM" | "SIGINT" | "SIGHUP")
                && report.analysis.verdict == Verdict::Hang
        }
        Trigger::Dump => false,
    }
}

/// A hang before, between or after tests: pytest has a case of its own for a module that fails at collection,
/// and none for the others.
fn outside_of_tests(record: &RunRecord, report: &Report, bundle: Option<&str>) -> Option<Case> {
    let run = report.run.as_ref().unwrap_or(&record.run);
    let process = run
        .processes
        .iter()
        .find(|process| !findings_at(report, &process.key).is_empty())
        .or_else(|| longest(run))?;
    let names = match (process.phase, &process.test) {
        (TestPhase::Collection, Some(module)) => names_of(module.untrusted()),
        _ => Names {
            class: "hangscope".to_owned(),
            name: visible(process.place().untrusted()),
        },
    };
    let verdict = verdict(&process.key, Some(report), bundle, || {
        format!("{} did not end", process.place().untrusted())
    });
    Some(Case {
        older: names.clone(),
        names,
        file: process.file.as_ref().map(|file| visible(file.untrusted())),
        line: None,
        took_ms: process.phase_ms,
        result: CaseResult::Error(Said {
            kind: Some("hangscope.hang"),
            message: verdict.message.clone(),
            text: verdict.text.clone(),
        }),
        verdict: Some(verdict),
    })
}

fn why_unknown(test: &TestRecord, record: &RunRecord) -> String {
    if record.run.process(&test.process).is_some_and(|p| p.alive) {
        "it had not ended when the run was ended".to_owned()
    } else {
        "it had not ended when its process was ended".to_owned()
    }
}

fn verdict(
    process: &Key,
    report: Option<&Report>,
    bundle: Option<&str>,
    unknown: impl Fn() -> String,
) -> CaseVerdict {
    let findings: Vec<&Finding> = report.map_or_else(Vec::new, |r| findings_at(r, process));
    let mut properties = Vec::new();
    let (message, content) = match (report, findings.first()) {
        (Some(report), Some(finding)) => {
            properties.push(("hangscope.signature", visible(&finding.signature)));
            properties.push(("hangscope.pattern", visible(&finding.id)));
            let title = finding.title.untrusted();
            (
                format!("{}: {title}", finding.id),
                text::these(report, &findings),
            )
        }
        _ => (unknown(), String::new()),
    };
    if let Some(bundle) = bundle {
        properties.push(("hangscope.archive", one_line(bundle)));
    }
    CaseVerdict {
        message: cut(&one_line(&message), MAX_MESSAGE),
        text: bounded(&visible(&content)),
        properties,
        attachment: bundle.map(|bundle| format!("[[ATTACHMENT|{}/report.txt]]", one_line(bundle))),
    }
}

/// A message as an attribute, and in full as text.
fn said(kind: Option<&'static str>, message: &str) -> Said {
    let message = visible(message);
    let short = cut(message.trim_end(), MAX_MESSAGE);
    let text = if short == message {
        String::new()
    } else {
        bounded(&message)
    };
    Said {
        kind,
        message: short,
        text,
    }
}

/// Text for a line of its own.
fn one_line(text: &str) -> String {
    visible(text).replace('\n', "#x0A").replace('\r', "#x0D")
}

fn cut(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

fn bounded(text: &str) -> String {
    if text.len() <= MAX_TEXT {
        return text.to_owned();
    }
    let at = text.floor_char_boundary(MAX_TEXT);
    format!("{}…\n(cut here)\n", &text[..at])
}
