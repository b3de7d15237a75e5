//! `fixtures/hangs`: programs that hang as real ones do, and look-alikes that do not. Each is dumped as a user would, and the
//! first verdict is held against the truth of `truth.json`: cause, culprit and place.

use crate::support::program::Program;
use crate::support::scoreboard::{Scored, is_placed, judge, score_all, words};
use crate::support::{fixture, pythons};
use hangscope::model::Finding;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

/// A line of `truth.json`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Truth {
    file: String,
    #[serde(default)]
    healthy: bool,
    /// Of a healthy one: the causes that it looks like.
    #[serde(default)]
    like: Vec<String>,
    /// Of a healthy one: ids of the notices that it earns.
    #[serde(default)]
    notes: Vec<String>,
    /// Acceptable ids of the first finding.
    #[serde(default)]
    causes: Vec<String>,
    /// The thread, task or process that its sentence or evidence must name.
    #[serde(default)]
    culprit: String,
    /// Where it must say that this one is; else a line that is marked `# <- here`.
    #[serde(default)]
    place: Option<String>,
    /// Versions on which the cause is not recognised yet, with what is missing. A hit there is an error, too: the line is
    /// to be removed.
    #[serde(default)]
    missed: BTreeMap<String, String>,
    /// Versions that it is for, if not all.
    #[serde(default)]
    on: Vec<String>,
}

fn truths() -> Vec<Truth> {
    let text = std::fs::read_to_string(fixture("hangs/truth.json")).expect("the table");
    serde_json::from_str(&text).expect("a table of truths")
}

/// `file.py:7` for each marked line.
fn marked(truth: &Truth) -> Vec<String> {
    let text = std::fs::read_to_string(fixture("hangs").join(&truth.file)).expect("a program");
    text.lines()
        .enumerate()
        .filter(|(_, line)| line.trim_end().ends_with("# <- here"))
        .map(|(index, _)| format!("{}:{}", truth.file, index + 1))
        .collect()
}

fn start(python: &Path, file: &str) -> Program {
    let path = fixture("hangs").join(file);
    let mut command = Command::new(python);
    if file.starts_with("test_") {
        command.args(["-m", "pytest", "-s", "-q", "-p", "no:cacheprovider"]);
    }
    let mut program = Program::start(command.arg(path));
    // pytest may have left a dot on the line.
    while !program.line().ends_with("READY") {}
    program
}

/// Whether a finding is what the truth says, or what differs.
fn compare(truth: &Truth, finding: &Finding) -> Result<(), String> {
    let words = words(finding);
    if !truth.causes.contains(&finding.id) {
        return Err(format!("not {}", truth.causes.join(" or ")));
    }
    if !words.contains(&truth.culprit) {
        return Err(format!("does not name {}", truth.culprit));
    }
    let places = truth
        .place
        .clone()
        .map_or_else(|| marked(truth), |place| vec![place]);
    if places.iter().any(|place| is_placed(&words, place)) {
        Ok(())
    } else {
        Err(format!("is not at {}", places.join(" or ")))
    }
}

/// Scores all programs of the table that `wanted` picks.
fn scoreboard(version: &str, wanted: fn(&Truth) -> bool) {
    let Some(python) = pythons::python_with_packages(version) else {
        return;
    };
    let todo: Vec<Truth> = truths()
        .into_iter()
        .filter(wanted)
        .filter(|truth| truth.on.is_empty() || truth.on.iter().any(|on| on == version))
        .collect();
    score_all(version, todo, |truth| {
        let mut program = start(&python, &truth.file);
        let (score, said) = judge(&mut program, truth.healthy, &truth.notes, |finding| {
            compare(&truth, finding)
        });
        Scored {
            known_miss: truth.missed.contains_key(version),
            name: truth.file,
            score,
            said,
        }
    });
}

#[test]
fn hangs_of_threads_3_11() {
    scoreboard("3.11", |truth| !truth.healthy && !is_of_tasks(truth));
}

#[test]
fn hangs_of_threads_3_14() {
    scoreboard("3.14", |truth| !truth.healthy && !is_of_tasks(truth));
}

#[test]
fn hangs_of_tasks_3_11() {
    scoreboard("3.11", |truth| !truth.healthy && is_of_tasks(truth));
}

#[test]
fn hangs_of_tasks_3_14() {
    scoreboard("3.14", |truth| !truth.healthy && is_of_tasks(truth));
}

#[test]
fn healthy_programs_3_11() {
    scoreboard("3.11", |truth| truth.healthy);
}

#[test]
fn healthy_programs_3_14() {
    scoreboard("3.14", |truth| truth.healthy);
}

fn is_of_tasks(truth: &Truth) -> bool {
    truth.file.starts_with("asyncio_") || truth.file.starts_with("trio_")
}

#[test]
fn each_program_is_in_the_table_and_says_what_it_shows() {
    let mut files: Vec<String> = std::fs::read_dir(fixture("hangs"))
        .expect("the programs")
        .map(|entry| entry.expect("an entry").file_name())
        .filter_map(|name| name.into_string().ok())
        .filter(|name| name.ends_with(".py"))
        .collect();
    files.sort();
    let mut told: Vec<String> = truths().into_iter().map(|truth| truth.file).collect();
    told.sort();
    assert_eq!(files, told);
    for truth in truths() {
        let text = std::fs::read_to_string(fixture("hangs").join(&truth.file)).expect("a program");
        assert!(text.starts_with("\"\"\""), "{}: no docstring", truth.file);
        assert!(text.contains("READY"), "{}: never ready", truth.file);
        let placed = truth.place.is_some() || !marked(&truth).is_empty();
        assert!(
            (truth.healthy && !(truth.like.is_empty() && truth.notes.is_empty()))
                || (placed && !truth.causes.is_empty() && !truth.culprit.is_empty()),
            "{}: cause, culprit and place are wanted",
            truth.file
        );
    }
}
