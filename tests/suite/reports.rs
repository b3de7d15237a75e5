//! The reports of a watched run: a saved dump with a run put to it, in every format.

use crate::capture::assert_harmless;
use crate::support::detector_fixture;
use hangscope::inspect::reanalyze;
use hangscope::model::{
    Birth, Counted, Counts, Inventory, Key, LeftKind, Report, Role, Run, RunRecord, TestInventory,
    TestOutcome, TestPhase, TestProcess, TestRecord, TestSource, Trend, Trigger,
};
use hangscope::report::{self, Format, Style};
use std::fs;
use std::path::Path;

const HUNG: &str = "tests/test_pool.py::test_close";
const WARM: &str = "tests/test_pool.py::TestPool::test_warm[py3-a/b]";
/// A name that tries to break out of every format.
const EVIL: &str =
    "tests/test_x.py::test_e[\"'`|<b>&]]>\u{1b}[31m\u{202e}\n::error::x\r%0A${{ y }}\u{7}\u{ffff}]";

fn dump() -> Report {
    let path = detector_fixture("destroy-blocked-by-idle-thread").join("hang.dump.json");
    let mut report: Report =
        serde_json::from_slice(&fs::read(path).expect("a dump")).expect("a report");
    report.options.width = 80;
    report
}

fn counts(threads: u32, interpreters: u32) -> Counts {
    Counts {
        threads: Some(threads),
        os_threads: Some(threads + 1),
        interpreters: Some(interpreters),
        children: Some(0),
        fds: Some(7),
    }
}

fn birth(kind: LeftKind, id: i64, name: Option<&str>) -> Birth {
    Birth {
        kind,
        id,
        name: name.map(Into::into),
        test: Some(WARM.into()),
        phase: TestPhase::Call,
        tests_ago: 3,
        how: Counted::Inside,
    }
}

fn changed(test: &str, before: Counts, after: Option<Counts>, left: Vec<Birth>) -> TestInventory {
    TestInventory {
        test: test.into(),
        process: Key::default(),
        worker: None,
        before,
        after,
        left,
    }
}

fn trend(kind: LeftKind, per_1000_tests: i64, uncertainty: i64, accumulates: bool) -> Trend {
    Trend {
        kind,
        tests: 200,
        per_1000_tests,
        uncertainty,
        rises: match (accumulates, per_1000_tests) {
            (true, _) => 190,
            (false, 0) => 0,
            _ if uncertainty > 500 => 3,
            _ => 1,
        },
        tests_since_rise: if accumulates { 0 } else { 150 },
        accumulates,
    }
}

fn inventory() -> Inventory {
    let idle = birth(LeftKind::Thread, 22996, Some("idle-nd"));
    let interpreter = birth(LeftKind::Interpreter, 1, None);
    Inventory {
        how: Counted::Inside,
        tests: 200,
        changed: vec![
            changed(
                WARM,
                counts(1, 1),
                Some(counts(2, 2)),
                vec![idle.clone(), interpreter.clone()],
            ),
            changed(HUNG, counts(2, 2), None, Vec::new()),
        ],
        left: vec![idle, interpreter],
        trends: vec![
            trend(LeftKind::Thread, 5, 10, false),
            trend(LeftKind::Interpreter, 5, 10, false),
        ],
    }
}

/// The saved hang, as the watcher of a test run would have seen it.
fn watched() -> Report {
    let mut report = dump();
    let process = &report.samples[0].processes[0];
    report.run = Some(Run {
        source: TestSource::Plugin,
        processes: vec![TestProcess {
            binary: None,
            thread: None,
            key: process.key.clone(),
            pid: process.pid,
            role: Role::Worker,
            worker: Some("gw1".into()),
            phase: TestPhase::Call,
            test: Some(HUNG.into()),
            file: Some("tests/test_pool.py".into()),
            line: Some(31),
            root: Some("/srv/suite".into()),
            phase_ms: 60_400,
            test_ms: 60_900,
            finished: 199,
            alive: true,
            signal: None,
            births: vec![birth(LeftKind::Thread, 22996, Some("idle-nd"))],
        }],
        finished: 199,
        collected: Some(202),
        slowest: None,
        inventory: Some(inventory()),
        notes: Vec::new(),
    });
    report.trigger = Trigger::TestTimeout {
        limit_ms: 60_000,
        test: HUNG.into(),
        whose: "--test-timeout".to_owned(),
    };
    reanalyze(report)
}

fn record(report: &Report) -> RunRecord {
    let run = report.run.clone().expect("a run");
    let process = run.processes[0].key.clone();
    let test = |id: &str, outcome, message: Option<&str>| TestRecord {
        binary: None,
        test: id.into(),
        file: id.split_once("::").map(|(file, _)| file.into()),
        line: Some(12),
        process: process.clone(),
        worker: None,
        started_ms: 10,
        took_ms: 1234,
        phase: TestPhase::Teardown,
        outcome,
        message: message.map(Into::into),
        before: counts(1, 1),
        after: Some(counts(1, 1)),
    };
    RunRecord {
        tests: vec![
            test(WARM, TestOutcome::Passed, None),
            test(
                "tests/test_a.py::test_f",
                TestOutcome::Failed,
                Some("assert 1 == 2\n +  where 1 = f()"),
            ),
            test(
                "tests/test_a.py::test_s",
                TestOutcome::Skipped,
                Some("no network"),
            ),
            test(
                "tests/test_a.py::test_e",
                TestOutcome::Error,
                Some("fixture 'x' not found"),
            ),
            test("tests/test_a.py::test_c", TestOutcome::Crashed, None),
            test(EVIL, TestOutcome::Failed, Some(EVIL)),
            test(HUNG, TestOutcome::Hung, None),
        ],
        not_run: vec!["tests/test_z.py::test_last".into()],
        began: "2026-04-18T04:25:26Z".to_owned(),
        took_ms: 61_000,
        junit: None,
        run,
    }
}

fn text(format: Format, report: &Report) -> String {
    let mut out = Vec::new();
    report::render(format, report, Style::plain(), &mut out).expect("rendered");
    String::from_utf8(out).expect("UTF-8")
}

#[test]
fn a_watched_run_as_text() {
    let text = text(Format::Text, &watched());
    assert!(
        text.lines().all(|line| line.chars().count() <= 80),
        "{text}"
    );
    insta::assert_snapshot!(text);
}

#[test]
fn a_watched_run_as_markdown() {
    let text = text(Format::Markdown, &watched());
    insta::assert_snapshot!(text);
    let short = report::markdown(&watched(), 2500);
    assert!(
        short.len() <= 2500 && short.contains("see report.txt"),
        "{short}"
    );
    assert_eq!(
        short.matches("<details>").count(),
        short.matches("</details>").count()
    );
}

#[test]
fn a_watched_run_as_annotations() {
    let text = report::github(&watched(), Path::new("/srv/suite"));
    insta::assert_snapshot!(text);
    assert!(!report::github(&watched(), Path::new("/elsewhere")).contains("file="));
    assert_eq!(
        report::github(&dump_without_hang(), Path::new("/srv/suite")),
        ""
    );
}

fn dump_without_hang() -> Report {
    let mut report = dump();
    report.samples.clear();
    reanalyze(report)
}

#[test]
fn a_watched_run_as_junit() {
    let report = watched();
    let bytes = report::junit(&record(&report), Some(&report), Some(".hangscope/latest"));
    insta::assert_snapshot!(lines_of(&bytes));
}

/// One element a line, for reading.
fn lines_of(xml: &[u8]) -> String {
    String::from_utf8(xml.to_vec())
        .expect("UTF-8")
        .replace("><", ">\n<")
}

#[test]
fn the_inventory_as_a_table() {
    insta::assert_snapshot!("inventory_80", report::inventory(&inventory(), 80));
    let mut many = inventory();
    many.how = Counted::Sampled;
    many.tests = 300;
    many.trends = vec![
        trend(LeftKind::Thread, 980, 50, true),
        trend(LeftKind::Child, 300, 600, false),
        trend(LeftKind::Fd, 0, 0, false),
    ];
    many.changed = (0..40)
        .map(|number| {
            let after = Counts {
                fds: Some(7 + number % 3),
                children: Some(number % 2),
                ..counts(1 + number, 1)
            };
            let left = (0..number.min(4))
                .map(|at| {
                    birth(
                        LeftKind::Thread,
                        1000 + i64::from(at),
                        Some("Thread-1 (serve)"),
                    )
                })
                .collect();
            let name = format!("tests/integration/test_server.py::TestServer::test_{number}");
            changed(&name, counts(1, 1), Some(after), left)
        })
        .collect();
    many.changed[3].test = EVIL.into();
    many.changed
        .push(changed(HUNG, counts(5, 1), None, Vec::new()));
    for width in [80, 120] {
        let text = report::inventory(&many, width);
        assert_harmless(&text);
        assert!(
            text.lines().all(|line| line.chars().count() <= width),
            "{text}"
        );
        insta::assert_snapshot!(format!("inventory_many_{width}"), text);
    }
    let none = report::inventory(
        &Inventory {
            changed: Vec::new(),
            ..inventory()
        },
        80,
    );
    insta::assert_snapshot!("inventory_none", none);
    assert_eq!(
        report::inventory(&Inventory::default(), 80),
        "no test was counted before and after\n"
    );
}

#[test]
fn a_subprocess_of_a_test_is_placed_in_the_test() {
    let mut report = watched();
    let run = report.run.as_mut().expect("a run");
    let parent = &mut run.processes[0];
    parent.key = Key::process(1, 1);
    parent.pid = 1;
    parent.births = vec![Birth {
        kind: LeftKind::Child,
        id: 22994,
        ..birth(LeftKind::Child, 22994, None)
    }];
    for sample in &mut report.samples {
        let mut above = sample.processes[0].clone();
        let text = serde_json::to_string(&above).expect("JSON");
        let own_key = above.key.as_str().to_owned();
        above = serde_json::from_str(&text.replace(&own_key, "p1.1")).expect("a process");
        above.pid = 1;
        above.ppid = 0;
        above.threads.truncate(0);
        sample.processes[0].ppid = 1;
        sample.processes.insert(0, above);
    }
    let report = reanalyze(report);
    let text = text(Format::Text, &report);
    assert_eq!(
        report::whereabouts(&report).as_deref(),
        Some("[gw1] tests/test_pool.py::test_close (call)")
    );
    for part in [
        "[gw1] tests/test_pool.py::test_close (call)\n",
        "- process 22994 was born in",
        "below process 1 (worker gw1), in",
    ] {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
    // The test's own case has the verdict on its subprocess.
    let mut record = record(&report);
    for test in &mut record.tests {
        test.process = Key::process(1, 1);
    }
    let xml = lines_of(&report::junit(&record, Some(&report), None));
    assert!(xml.contains("hangscope.pattern"), "{xml}");
}

#[test]
fn births_in_the_present_test_are_not_told() {
    let mut report = watched();
    let run = report.run.as_mut().expect("a run");
    run.processes[0].births[0].test = Some(HUNG.into());
    assert!(!text(Format::Text, &report).contains("was born"));
    run_of(&mut report).births[0].test = Some("tests/test_pool.py".into());
    run_of(&mut report).births[0].phase = TestPhase::Collection;
    assert!(text(Format::Text, &report).contains("was born in collection of tests/test_pool.py\n"));
    run_of(&mut report).births[0].how = Counted::Sampled;
    assert!(text(Format::Text, &report).contains("sampled"));
    run_of(&mut report).births.clear();
    assert!(!text(Format::Text, &report).contains("was born"));
}

fn run_of(report: &mut Report) -> &mut TestProcess {
    &mut report.run.as_mut().expect("a run").processes[0]
}

#[test]
fn hostile_names_stay_names() {
    let mut report = watched();
    let process = run_of(&mut report);
    process.test = Some(EVIL.into());
    process.worker = Some(EVIL.into());
    process.file = Some(EVIL.into());
    process.births[0].test = Some(format!("{EVIL}2").as_str().into());
    let inventory = report.run.as_mut().and_then(|run| run.inventory.as_mut());
    let inventory = inventory.expect("an inventory");
    inventory.changed[0].test = EVIL.into();
    inventory.changed[0].left[0].name = Some(EVIL.into());
    report.trigger = Trigger::TestTimeout {
        limit_ms: 1,
        test: EVIL.into(),
        whose: EVIL.to_owned(),
    };
    let report = reanalyze(report);
    for format in [Format::Text, Format::Markdown] {
        assert_harmless(&text(format, &report));
    }
    let markdown = text(Format::Markdown, &report);
    // In the fences of the stacks nothing is markup.
    let outside = markdown.split("```").step_by(2).collect::<String>();
    assert!(!outside.contains("<b>"), "{outside}");
    insta::assert_snapshot!("hostile_markdown", markdown);
    let github = report::github(&report, Path::new("/srv/suite"));
    assert_harmless(&github);
    assert!(
        github.lines().all(|line| line.starts_with("::error ")),
        "{github}"
    );
    assert_eq!(github.lines().count(), 2);
    insta::assert_snapshot!("hostile_github", github);
}

#[test]
fn a_hang_outside_of_tests_has_a_case_of_its_own() {
    let mut report = watched();
    report.trigger = Trigger::RunTimeout { limit_ms: 1 };
    for (phase, test, names) in [
        (
            TestPhase::Collection,
            Some("tests/test_slow.py"),
            r#"classname="" name="tests.test_slow""#,
        ),
        (
            TestPhase::SessionFinish,
            None,
            r#"classname="hangscope" name="session finish""#,
        ),
        (
            TestPhase::InterpreterExit,
            None,
            r#"classname="hangscope" name="end of the worker""#,
        ),
    ] {
        let process = run_of(&mut report);
        process.phase = phase;
        process.test = test.map(Into::into);
        let mut record = record(&report);
        record
            .tests
            .retain(|test| test.outcome == TestOutcome::Passed);
        let xml = lines_of(&report::junit(&record, Some(&report), None));
        assert!(xml.contains(names), "{xml}");
        assert_eq!(xml.matches(r#"<error type="hangscope.hang""#).count(), 1);
        // A look on request ends nothing.
        let mut asked = report.clone();
        asked.trigger = Trigger::Signal {
            name: "SIGUSR1".to_owned(),
        };
        let xml = lines_of(&report::junit(&record, Some(&asked), None));
        assert!(!xml.contains("hangscope.hang"), "{xml}");
        assert!(xml.contains("not run: the run ended before"), "{xml}");
    }
}

#[test]
fn a_test_that_was_made_to_fail_has_the_verdict() {
    let report = watched();
    let mut record = record(&report);
    for test in &mut record.tests {
        if test.test.untrusted() == HUNG {
            test.outcome = TestOutcome::Failed;
        }
    }
    let xml = lines_of(&report::junit(&record, Some(&report), None));
    // As pytest has it, with the verdict beside it.
    assert!(!xml.contains("hangscope.hang"), "{xml}");
    assert_eq!(xml.matches("<failure").count(), 3, "{xml}");
    assert!(xml.contains(r#"value="destroy-blocked-by-idle-thread""#));
    assert!(xml.contains("hangscope.pattern"), "{xml}");
}

#[test]
fn a_run_without_a_known_cause_names_what_ran_longest() {
    let mut report = watched();
    report.samples.truncate(1);
    report.samples[0].processes[0].threads.clear();
    report.trigger = Trigger::RunTimeout { limit_ms: 1 };
    let report = reanalyze(report);
    assert!(report.analysis.findings.is_empty());
    let place = "[gw1] tests/test_pool.py::test_close (call)";
    assert!(text(Format::Text, &report).contains(place));
    let markdown = text(Format::Markdown, &report);
    assert!(
        markdown.starts_with("### hangscope\n\n**in** <code>"),
        "{markdown}"
    );
    let github = report::github(&report, Path::new("/srv/suite"));
    assert!(
        github.starts_with("::error file=tests/test_pool.py,line=31,title="),
        "{github}"
    );
    assert!(
        github.contains(&format!("::{place} did not end;")),
        "{github}"
    );
}
