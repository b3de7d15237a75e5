//! `events.jsonl` and `inventory.json`: the tests of a run as data, a line a test.

use crate::model::{Foreign, Inventory, RunRecord, TestRecord, TestSource, Tool};
use serde::Serialize;

/// Name of the schema of `events.jsonl`. Fields and kinds of lines are only ever added to it.
pub const EVENTS_SCHEMA: &str = "hangscope-events/1";
/// Name of the schema of `inventory.json`. Fields are only ever added to it.
pub const INVENTORY_SCHEMA: &str = "hangscope-inventory/1";

/// The first line.
#[derive(Serialize)]
struct Head<'r> {
    schema: &'static str,
    tool: Tool,
    began: &'r str,
    took_ms: u64,
    source: TestSource,
    /// Lines of tests that follow.
    tests: usize,
    /// Lines of tests that did not run.
    not_run: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    collected: Option<usize>,
    #[serde(skip_serializing_if = "<[Foreign]>::is_empty")]
    notes: &'r [Foreign],
}

/// A line of a test that was collected and not begun.
#[derive(Serialize)]
struct NotRun<'r> {
    not_run: &'r Foreign,
}

/// JSON lines: the run, then each test in the order that they began, then those that did not run.
#[must_use]
pub fn events(record: &RunRecord) -> Vec<u8> {
    let mut out = Vec::new();
    line(
        &mut out,
        &Head {
            schema: EVENTS_SCHEMA,
            tool: Tool::current(),
            began: &record.began,
            took_ms: record.took_ms,
            source: record.run.source,
            tests: record.tests.len(),
            not_run: record.not_run.len(),
            collected: record.run.collected,
            notes: &record.run.notes,
        },
    );
    for test in &record.tests {
        line::<TestRecord>(&mut out, test);
    }
    for not_run in &record.not_run {
        line(&mut out, &NotRun { not_run });
    }
    out
}

fn line<T: Serialize>(out: &mut Vec<u8>, value: &T) {
    let before = out.len();
    // Only a map with keys that are no text can fail, and there is none.
    if serde_json::to_writer(&mut *out, value).is_err() {
        out.truncate(before);
        return;
    }
    out.push(b'\n');
}

/// `inventory.json`: what the tests left behind, all of it.
#[must_use]
pub fn inventory_json(inventory: &Inventory) -> Vec<u8> {
    #[derive(Serialize)]
    struct File<'i> {
        schema: &'static str,
        tool: Tool,
        #[serde(flatten)]
        inventory: &'i Inventory,
    }
    let file = File {
        schema: INVENTORY_SCHEMA,
        tool: Tool::current(),
        inventory,
    };
    let mut out = serde_json::to_vec_pretty(&file).unwrap_or_default();
    out.push(b'\n');
    out
}

#[cfg(test)]
mod tests {
    use super::events;
    use crate::model::{
        Counts, Key, Run, RunRecord, TestOutcome, TestPhase, TestRecord, TestSource,
    };

    #[test]
    fn one_line_a_test_whatever_its_name_holds() {
        let test = TestRecord {
            binary: None,
            test: "a.py::b[\n\u{2028}\"\u{0}]".into(),
            file: None,
            line: None,
            process: Key::process(1, 2),
            worker: None,
            started_ms: 3,
            took_ms: 4,
            phase: TestPhase::Teardown,
            outcome: TestOutcome::Passed,
            message: Some("x\r\ny".into()),
            before: Counts::default(),
            after: None,
        };
        let record = RunRecord {
            run: Run {
                source: TestSource::Plugin,
                ..Run::default()
            },
            tests: vec![test.clone(), test.clone()],
            not_run: vec!["a.py::c\n".into()],
            began: "2026-04-18T04:25:26Z".to_owned(),
            ..RunRecord::default()
        };
        let text = String::from_utf8(events(&record)).expect("UTF-8");
        let lines: Vec<serde_json::Value> = text
            .split_terminator('\n')
            .map(|line| serde_json::from_str(line).expect("JSON"))
            .collect();
        assert_eq!(lines.len(), 4);
        assert_eq!(lines[0]["schema"], "hangscope-events/1");
        assert_eq!(lines[0]["tests"], 2);
        let read: TestRecord = serde_json::from_value(lines[2].clone()).expect("a test");
        assert_eq!(read, test);
        assert_eq!(lines[3]["not_run"], "a.py::c\n");
    }
}
