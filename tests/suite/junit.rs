//! JUnit files: named as pytest names tests, whole after a hang, and XML whatever the names hold.

use crate::support::pythons::python_with_packages;
use hangscope::model::{
    Counts, Key, Role, Run, RunRecord, TestOutcome, TestPhase, TestProcess, TestRecord, TestSource,
};
use hangscope::report::{JunitError, junit, repair_junit};
use proptest::prelude::*;
use quick_xml::Reader;
use quick_xml::XmlVersion;
use quick_xml::events::{BytesStart, Event};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const CONFTEST: &str = r#"
import json, os
def pytest_collection_modifyitems(items):
    with open(os.environ["IDS"], "w") as file:
        json.dump([item.nodeid for item in items], file)
"#;

const SUITE: &str = r#"
"""
>>> 1 + 1
2
"""
import os, unittest, pytest

def test_plain():
    pass

@pytest.mark.parametrize("x", ["a/b.py", "c::d", "e[f]", "<&>\"'", "\x07\x1b", "ü", "", "a b", "\\n"])
def test_param(x):
    pass

class TestClass:
    class TestInner:
        def test_deep(self):
            pass
    def test_method(self):
        assert 1 == 2

class Unit(unittest.TestCase):
    def test_unit(self):
        self.assertEqual(1, 1)

@pytest.mark.skip(reason="no <network>")
def test_skip():
    pass

@pytest.mark.xfail(reason="known")
def test_xfail():
    assert False

@pytest.fixture
def broken():
    raise RuntimeError("setup \x07")

@pytest.fixture
def broken_after():
    yield
    raise RuntimeError("teardown")

def test_setup(broken):
    pass

def test_teardown(broken_after):
    pass

def test_both(broken_after):
    assert False

def test_print(record_property):
    record_property("mine", "<1>")
    print("said")

def test_crash():
    if os.environ.get("PYTEST_XDIST_WORKER"):
        os._exit(3)
"#;

/// pytest's own file of a real run, and the ids of its tests.
struct Written {
    _folder: tempfile::TempDir,
    xml: PathBuf,
    ids: Vec<String>,
}

fn write(python: &Path, options: &[&str]) -> Written {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    fs::create_dir(at("tests")).expect("a folder");
    for (name, text) in [
        ("conftest.py", CONFTEST),
        ("pytest.ini", "[pytest]\n"),
        ("tests/test_suite.py", SUITE),
        ("test[1].py", "def test_bracket():\n    pass\n"),
        ("manual.txt", ">>> 2\n2\n"),
    ] {
        fs::write(at(name), text).expect("a file");
    }
    let output = Command::new(python)
        .args(["-m", "pytest", "-q", "-p", "no:cacheprovider"])
        .args(["--doctest-modules", "--doctest-glob=*.txt"])
        .arg("--junitxml=out.xml")
        .args(options)
        .current_dir(folder.path())
        .env("IDS", at("ids.json"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()
        .expect("pytest");
    let said = String::from_utf8_lossy(&output.stdout);
    let ids = fs::read(at("ids.json")).unwrap_or_else(|_| panic!("no ids: {said}"));
    let ids: Vec<String> = serde_json::from_slice(&ids).expect("JSON");
    assert!(ids.len() > 20, "{said}");
    Written {
        xml: at("out.xml"),
        _folder: folder,
        ids,
    }
}

fn test(id: &str, outcome: TestOutcome) -> TestRecord {
    TestRecord {
        binary: None,
        test: id.into(),
        file: id.split_once("::").map(|(file, _)| file.into()),
        line: Some(7),
        process: Key::process(1, 1),
        worker: None,
        started_ms: 0,
        took_ms: 5,
        phase: TestPhase::Call,
        outcome,
        message: None,
        before: Counts::default(),
        after: None,
    }
}

fn record(tests: Vec<TestRecord>, not_run: &[&str]) -> RunRecord {
    RunRecord {
        run: Run {
            source: TestSource::Plugin,
            processes: vec![TestProcess {
                binary: None,
                thread: None,
                key: Key::process(1, 1),
                pid: 1,
                role: Role::Session,
                worker: None,
                phase: TestPhase::Call,
                test: None,
                file: None,
                line: None,
                root: None,
                phase_ms: 0,
                test_ms: 0,
                finished: 0,
                alive: true,
                signal: None,
                births: Vec::new(),
            }],
            ..Run::default()
        },
        tests,
        not_run: not_run.iter().map(|id| (*id).into()).collect(),
        began: "2020-01-01T00:00:00Z".to_owned(),
        took_ms: 9,
        junit: None,
    }
}

fn of_all(ids: &[String]) -> RunRecord {
    let all = ids.iter().map(|id| test(id, TestOutcome::Passed));
    record(all.collect(), &[])
}

/// A `testcase` as a reader sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Case {
    class: String,
    name: String,
    /// Names of the elements in it, and their messages.
    inside: Vec<(String, String)>,
    text: String,
}

fn attribute(tag: &BytesStart<'_>, name: &str) -> String {
    tag.try_get_attribute(name)
        .expect("attributes")
        .map_or_else(String::new, |attribute| {
            let value = attribute.normalized_value(XmlVersion::Explicit1_0);
            value.expect("a value").into_owned()
        })
}

/// The numbers of the testsuite and its cases.
fn read(xml: &[u8]) -> ([u64; 4], Vec<Case>) {
    let mut reader = Reader::from_str(std::str::from_utf8(xml).expect("UTF-8"));
    let mut counts = [0; 4];
    let mut cases: Vec<Case> = Vec::new();
    let mut depth = 0;
    loop {
        let event = reader.read_event().expect("XML");
        match &event {
            Event::Start(tag) | Event::Empty(tag) => match tag.name().0 {
                "testsuites" => {}
                "testsuite" => {
                    counts = ["tests", "errors", "failures", "skipped"]
                        .map(|name| attribute(tag, name).parse().expect("a number"));
                }
                "testcase" => cases.push(Case {
                    class: attribute(tag, "classname"),
                    name: attribute(tag, "name"),
                    ..Case::default()
                }),
                inside => {
                    let message = match inside {
                        "property" => attribute(tag, "name"),
                        _ => attribute(tag, "message"),
                    };
                    if let Some(case) = cases.last_mut() {
                        case.inside.push((inside.to_owned(), message));
                    }
                }
            },
            Event::Text(text) => {
                if let Some(case) = cases.last_mut() {
                    case.text.push_str(text);
                }
            }
            Event::Eof => break,
            _ => {}
        }
        match event {
            Event::Start(_) => depth += 1,
            Event::End(_) => depth -= 1,
            _ => {}
        }
    }
    assert_eq!(depth, 0, "all elements end");
    (counts, cases)
}

fn names(cases: &[Case]) -> BTreeSet<(String, String)> {
    cases
        .iter()
        .map(|case| (case.class.clone(), case.name.clone()))
        .collect()
}

/// Python's own parser reads it; what it finds as `classname::name` of each case.
fn python_reads(xml: &[u8]) -> Vec<String> {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("junit.xml");
    fs::write(&path, xml).expect("a file");
    let program = "import json, sys, xml.etree.ElementTree as tree\n\
        cases = tree.parse(sys.argv[1]).iter('testcase')\n\
        print(json.dumps([case.get('classname') + '::' + case.get('name') for case in cases]))";
    let output = Command::new("python3")
        .args(["-c", program])
        .arg(&path)
        .output()
        .expect("python3");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// pytest 8 and pytest 9.
const VERSIONS: [&str; 2] = ["3.9", "3.14"];

#[test]
fn names_are_those_of_pytest() {
    for version in VERSIONS {
        let Some(python) = python_with_packages(version) else {
            return;
        };
        let written = write(&python, &[]);
        let theirs = read(&fs::read(&written.xml).expect("a file")).1;
        // How a path with a bracket is named changed in pytest 9.2.
        let known: Vec<String> = written
            .ids
            .iter()
            .filter(|id| !id.contains("test_bracket"))
            .cloned()
            .collect();
        let ours = read(&junit(&of_all(&known), None, None)).1;
        let mut theirs = names(&theirs);
        theirs.retain(|(_, name)| !name.contains("test_bracket"));
        assert_eq!(names(&ours), theirs, "{version}");
    }
}

#[test]
fn a_file_that_lacks_nothing_stays_the_same_bytes() {
    let plain: [&[&str]; 1] = [&[]];
    let all: [&[&str]; 3] = [
        &["--junitprefix=pre.fix", "-o", "junit_logging=all"],
        &["-o", "junit_family=xunit1"],
        &["-n", "1"],
    ];
    for (version, all_options) in VERSIONS.into_iter().zip([&plain[..], &all]) {
        let Some(python) = python_with_packages(version) else {
            return;
        };
        for options in all_options {
            let written = write(&python, options);
            let before = fs::read(&written.xml).expect("a file");
            let after = repair_junit(&before, &of_all(&written.ids), None, None).expect("repaired");
            assert_eq!(
                String::from_utf8(after),
                String::from_utf8(before),
                "{version} {options:?}"
            );
        }
    }
}

#[test]
fn what_is_missing_is_added() {
    let Some(python) = python_with_packages("3.14") else {
        return;
    };
    for (options, prefix) in [(&[][..], ""), (&["--junitprefix=pre"], "pre.")] {
        let written = write(&python, options);
        let before = fs::read(&written.xml).expect("a file");
        let (old_counts, old) = read(&before);
        let mut record = of_all(&written.ids);
        record
            .tests
            .push(test("tests/test_hang.py::test_h[<]", TestOutcome::Hung));
        record
            .tests
            .push(test("tests/test_hang.py::test_late", TestOutcome::Failed));
        record.not_run = vec!["tests/test_hang.py::test_never".into()];
        let after = repair_junit(&before, &record, None, Some("/b")).expect("repaired");
        let (counts, cases) = read(&after);
        assert_eq!(cases[..old.len()], old[..], "what was there stays");
        let added = &cases[old.len()..];
        assert_eq!(added.len(), 3);
        assert_eq!(added[0].class, format!("{prefix}tests.test_hang"));
        assert_eq!(added[0].name, "test_h[<]");
        let inside: Vec<&str> = added[0]
            .inside
            .iter()
            .map(|(tag, _)| tag.as_str())
            .collect();
        assert_eq!(inside, ["properties", "property", "error", "system-out"]);
        assert!(added[0].text.contains("\n[[ATTACHMENT|/b/report.txt]]\n"));
        assert_eq!(
            added[2].inside,
            [("skipped".to_owned(), "not run: run hung".to_owned())]
        );
        let more = [3, 1, 1, 1];
        for at in 0..4 {
            assert_eq!(counts[at], old_counts[at] + more[at]);
        }
        assert_eq!(python_reads(&after).len(), cases.len());
        let again = repair_junit(&after, &record, None, Some("/b")).expect("repaired");
        assert!(again == after, "repairing again changes nothing");
    }
}

#[test]
fn a_test_that_pytest_has_gets_the_verdict() {
    let Some(python) = python_with_packages("3.14") else {
        return;
    };
    let written = write(&python, &["-n", "1", "-o", "junit_logging=system-out"]);
    let before = fs::read(&written.xml).expect("a file");
    let (old_counts, old) = read(&before);
    for (name, tag) in [
        // The worker died in it.
        ("test_crash", "error"),
        // It failed in its call; it has no output.
        ("TestClass::test_method", "failure"),
        // It has passed as far as pytest knows, with properties and output of its own.
        ("test_print", ""),
        ("test_plain", ""),
    ] {
        let id = format!("tests/test_suite.py::{name}");
        assert!(written.ids.contains(&id));
        let mut record = of_all(&written.ids);
        for known in &mut record.tests {
            if known.test.untrusted() == id {
                known.outcome = TestOutcome::Hung;
            }
        }
        let after = repair_junit(&before, &record, None, Some("/b")).expect("repaired");
        let (counts, cases) = read(&after);
        assert_eq!(names(&cases), names(&old));
        let differ: Vec<(&Case, &Case)> = old
            .iter()
            .zip(&cases)
            .filter(|(old, new)| old != new)
            .collect();
        let [(old, new)] = differ[..] else {
            panic!("{name}: {} cases differ", differ.len());
        };
        assert!(id.ends_with(&new.name));
        assert!(
            new.text.contains("\n[[ATTACHMENT|/b/report.txt]]\n"),
            "{new:?}"
        );
        let count = |case: &Case, tag: &str| case.inside.iter().filter(|(t, _)| t == tag).count();
        assert_eq!(count(new, "properties"), 1);
        assert_eq!(count(new, "system-out"), 1);
        assert_eq!(count(new, "error") + count(new, "failure"), 1);
        if tag.is_empty() {
            assert_eq!(counts[1], old_counts[1] + 1);
            assert_eq!(counts[0], old_counts[0]);
        } else {
            assert_eq!(counts, old_counts);
            let of = |case: &Case| {
                let result = case.inside.iter().find(|(found, _)| found == tag);
                result.expect("a result").1.clone()
            };
            assert!(
                of(new).ends_with(&format!(" (pytest: {})", of(old))),
                "{new:?}"
            );
        }
        python_reads(&after);
        let again = repair_junit(&after, &record, None, Some("/b")).expect("repaired");
        assert!(again == after, "judging again changes nothing");
    }
}

#[test]
fn what_is_not_a_whole_file_of_pytest_is_refused() {
    let Some(python) = python_with_packages("3.14") else {
        return;
    };
    let written = write(&python, &[]);
    let whole = fs::read(&written.xml).expect("a file");
    let record = of_all(&written.ids);
    let refused = |bytes: &[u8]| repair_junit(bytes, &record, None, None).expect_err("refused");
    for end in (0..whole.len()).step_by(7) {
        let error = refused(&whole[..end]);
        let is_cut = matches!(error, JunitError::Truncated | JunitError::NotXml { .. });
        assert!(is_cut, "{end}: {error}");
    }
    for foreign in [
        &b"<html></html>"[..],
        b"<testsuites/>",
        b"<testsuites><testsuite/><testsuite/></testsuites>",
        b"<!DOCTYPE testsuites [<!ENTITY a 'b'>]><testsuites><testsuite/></testsuites>",
        b"<?xml version='1.0' encoding='latin-1'?><testsuites><testsuite/></testsuites>",
    ] {
        assert!(matches!(refused(foreign), JunitError::NotPytest { .. }));
    }
    for broken in [
        &b"\xff\xfe"[..],
        b"<testsuites><testsuite>&unknown;</testsuite></testsuites>",
        b"<testsuites><testsuite a='1' a='2'/></testsuites>",
        b"<testsuites><testsuite name='\x07'/></testsuites>",
        b"<testsuites><testsuite/></testsuites>more",
        b"<testsuite/><testsuite/>",
        b"<testsuites><testsuite></testsuites></testsuite>",
    ] {
        let error = refused(broken);
        assert!(matches!(error, JunitError::NotXml { .. }), "{error:?}");
    }
    let mut later = record.clone();
    later.began = "2999-01-01T00:00:00Z".to_owned();
    let error = repair_junit(&whole, &later, None, None).expect_err("refused");
    assert!(matches!(error, JunitError::Stale { .. }), "{error}");
}

#[test]
fn an_empty_file_of_pytest_takes_what_it_lacks() {
    let empty = b"<?xml version=\"1.0\" encoding=\"utf-8\"?><testsuites name='a\"b'><testsuite name='p' tests=\"0\" errors=\"0\" failures=\"0\" skipped=\"0\" /></testsuites>";
    let record = record(vec![test("a.py::b", TestOutcome::Hung)], &["a.py::c"]);
    let after = repair_junit(empty, &record, None, None).expect("repaired");
    let (counts, cases) = read(&after);
    assert_eq!((counts, cases.len()), ([2, 1, 0, 1], 2));
    python_reads(&after);
}

/// Names out of everything that XML, CDATA, attributes and terminals care for.
fn hostile() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        any::<char>().prop_map(String::from),
        "[<>&\"'\\]\\[ \n\r\t\u{0}\u{7f}\u{85}\u{fffe}\u{ffff}]",
        Just("]]>".to_owned()),
        Just("<!--".to_owned()),
        Just("&#0;".to_owned()),
        Just("::".to_owned()),
        Just(".py".to_owned()),
    ];
    prop::collection::vec(part, 0..12).prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_name_is_xml(names in prop::collection::vec((hostile(), hostile()), 1..6), bundle in hostile()) {
        let record = hostile_record(&names);
        let xml = junit(&record, None, Some(&bundle));
        let (counts, cases) = read(&xml);
        prop_assert_eq!(counts[0], cases.len() as u64);
        // Our own file lacks nothing: and it holds only what a whole file may.
        let again = repair_junit(&xml, &record, None, Some(&bundle)).expect("whole");
        prop_assert_eq!(String::from_utf8(again), String::from_utf8(xml));
    }
}

fn hostile_record(names: &[(String, String)]) -> RunRecord {
    let outcomes = [
        TestOutcome::Failed,
        TestOutcome::Hung,
        TestOutcome::Crashed,
        TestOutcome::Error,
        TestOutcome::Skipped,
    ];
    let tests = names.iter().zip(outcomes.iter().cycle());
    // Different ids may have one name in JUnit; these do not.
    let tests = tests
        .enumerate()
        .map(|(number, ((id, message), outcome))| TestRecord {
            message: Some(message.as_str().into()),
            file: Some(id.as_str().into()),
            ..test(&format!("{id}{number}"), *outcome)
        });
    record(tests.collect(), &[])
}

#[test]
fn python_reads_any_name() {
    use proptest::strategy::ValueTree;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let names: Vec<(String, String)> = (0..500)
        .map(|_| {
            let name = hostile().new_tree(&mut runner).expect("a name").current();
            let message = hostile().new_tree(&mut runner).expect("a text").current();
            (name, message)
        })
        .collect();
    let xml = junit(&hostile_record(&names), None, None);
    let ours: Vec<String> = read(&xml)
        .1
        .iter()
        .map(|case| format!("{}::{}", case.class, case.name))
        .collect();
    assert_eq!(ours.len(), 500);
    assert_eq!(python_reads(&xml), ours);
}
