//! Causes, pages and fixtures belong together: none without the others.

use crate::support::repository;
use hangscope::analysis::detectors::causes;
use std::collections::BTreeSet;
use std::fs;

/// The headings of a page, in this order.
const HEADINGS: [&str; 7] = [
    "What it looks like",
    "Why it happens",
    "How hangscope knows",
    "How to confirm by hand",
    "How to fix",
    "False alarms",
    "References",
];

fn names(folder: &str, suffix: &str) -> BTreeSet<String> {
    // A cause without a folder is shown by `fixtures/hangs`.
    fs::read_dir(repository(folder))
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let name = entry.ok()?.file_name().into_string().ok()?;
            Some(name.strip_suffix(suffix)?.to_owned())
        })
        .collect()
}

fn ids() -> BTreeSet<String> {
    causes().map(|cause| cause.id.to_owned()).collect()
}

#[test]
fn each_cause_is_named_once() {
    assert_eq!(ids().len(), causes().count());
    for cause in causes() {
        let plain = cause.id.chars().all(|c| c.is_ascii_lowercase() || c == '-');
        assert!(
            plain && !cause.id.starts_with('-') && !cause.id.ends_with('-'),
            "{}",
            cause.id
        );
        assert!(
            cause.summary.ends_with('.') && !cause.summary.contains('\n'),
            "{}",
            cause.summary
        );
    }
}

#[test]
fn each_cause_has_a_page_and_each_page_a_cause() {
    assert_eq!(names("docs/detectors", ".md"), ids());
    for cause in causes() {
        let page =
            fs::read_to_string(repository("docs/detectors").join(format!("{}.md", cause.id)))
                .expect("a page");
        assert_eq!(page, cause.page, "explain {} prints its page", cause.id);
    }
}

/// Shown by tests of their own: what is left when nothing fits, and what only a watched run tells.
const SHOWN_BY_TESTS: [&str; 2] = ["stuck-cause-unknown", "interpreter-left-behind"];

/// Programs of `fixtures/hangs` by a field of their line: `causes` of those that hang, `notes` and `like` of those that do not.
fn shown_by_hangs(field: &str) -> BTreeSet<String> {
    let tables = ["hangs", "hangs/rust", "hangs/c"].map(|folder| {
        let path = repository("fixtures").join(folder).join("truth.json");
        let text = fs::read_to_string(path).expect("the table");
        serde_json::from_str::<Vec<serde_json::Value>>(&text).expect("JSON")
    });
    let lines = tables.iter().flatten();
    lines
        .filter_map(|line| line[field].as_array())
        .flatten()
        .filter_map(|id| Some(id.as_str()?.to_owned()))
        .collect()
}

#[test]
fn each_cause_has_fixtures_and_each_fixture_a_cause() {
    let folders = names("fixtures/detectors", "");
    assert!(folders.is_subset(&ids()), "{folders:?}");
    let (hang, healthy) = (shown_by_hangs("causes"), shown_by_hangs("like"));
    let noted = shown_by_hangs("notes");
    assert!(
        [&hang, &healthy, &noted]
            .iter()
            .all(|shown| shown.is_subset(&ids()))
    );
    for id in ids() {
        let files = names(&format!("fixtures/detectors/{id}"), "");
        let near_miss = files
            .iter()
            .any(|name| name.starts_with("near_miss") && name.ends_with(".py"));
        let by_test = SHOWN_BY_TESTS.contains(&id.as_str());
        assert!(
            near_miss || healthy.contains(&id) || by_test,
            "{id} has no near miss"
        );
        for needed in ["hang.py", "hang.dump.json"] {
            let shown = hang.contains(&id) || noted.contains(&id) || by_test;
            assert!(
                files.contains(needed) || (files.is_empty() && shown),
                "{id} has no {needed}"
            );
        }
    }
}

#[test]
fn each_fixture_is_in_the_table_of_tests_and_says_when_it_is_ready() {
    let table = fs::read_to_string(repository("tests/suite/detectors.rs")).expect("the table");
    for id in ids() {
        for name in names(&format!("fixtures/detectors/{id}"), ".py") {
            let file = format!("{id}/{name}.py");
            assert!(table.contains(&file), "{file} is in no row of detectors.rs");
            let text = fs::read_to_string(repository("fixtures/detectors").join(&file))
                .expect("a fixture");
            assert!(
                text.starts_with("\"\"\""),
                "{file} does not say what it shows"
            );
            assert!(
                text.contains("READY"),
                "{file} does not say when it is ready"
            );
        }
    }
}

#[test]
fn each_page_has_the_headings() {
    for cause in causes() {
        let mut lines = cause.page.lines();
        assert_eq!(lines.next(), Some(format!("# {}", cause.id).as_str()));
        let found: Vec<&str> = cause
            .page
            .lines()
            .filter_map(|line| line.strip_prefix("## "))
            .collect();
        assert_eq!(found, HEADINGS, "{}", cause.id);
        for heading in HEADINGS {
            let (_, after) = cause
                .page
                .split_once(&format!("## {heading}\n"))
                .expect("a heading");
            let body = after.split("\n## ").next().unwrap_or_default();
            assert!(
                body.trim().len() > 40,
                "{}: nothing under {heading:?}",
                cause.id
            );
        }
        assert!(
            cause.page.lines().all(|line| line.chars().count() <= 80),
            "{}: wider than a terminal",
            cause.id
        );
    }
}
