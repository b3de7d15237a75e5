//! `fixtures/hangs/{rust,c}`: scenes of two programs that hang as real ones do, and look-alikes that do not. Each is dumped as a
//! user would, and the first verdict is held against the table of truths beside the sources.

use crate::support::hangscope::{command, finish};
use crate::support::program::Program;
use crate::support::{fixture, native};
use hangscope::model::{Report, Verdict};
use serde::Deserialize;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;

/// `READY` comes just before the hang: so many looks may be too early.
const LOOKS: u32 = 5;
/// Scenes that are played at a time. Most of them only wait.
const AT_A_TIME: usize = 4;

/// A line of a table.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Truth {
    scene: String,
    #[serde(default)]
    healthy: bool,
    /// Acceptable ids of the first finding.
    #[serde(default)]
    causes: Vec<String>,
    /// Functions or statics of which it must name a line that is marked by an arrow.
    #[serde(default)]
    places: Vec<String>,
    /// What is missing to find it. A hit is an error, too: then this is to go.
    #[serde(default)]
    missed: Option<String>,
}

fn truths(folder: &str) -> Vec<Truth> {
    let text = std::fs::read_to_string(fixture(folder).join("truth.json")).expect("the table");
    serde_json::from_str(&text).expect("a table of truths")
}

/// A marked line: the function or static that it is in, and `file.rs:7`.
type Mark = (String, String);

/// The marked lines of all sources in a folder.
fn marks(folder: &Path) -> Vec<Mark> {
    let mut marks = Vec::new();
    for entry in std::fs::read_dir(folder).expect("the sources") {
        let path = entry.expect("an entry").path();
        let name = path
            .file_name()
            .expect("a name")
            .to_string_lossy()
            .into_owned();
        if !name.ends_with(".rs") && !name.ends_with(".c") {
            continue;
        }
        let text = std::fs::read_to_string(&path).expect("a source");
        let mut within = String::new();
        for (index, line) in text.lines().enumerate() {
            if let Some(found) = definition(line) {
                within = found;
            }
            if line.contains("// <- ") || line.contains("/* <- ") {
                marks.push((within.clone(), format!("{name}:{}", index + 1)));
            }
        }
    }
    marks
}

/// The name that a line begins to define: `fn name(`, `static NAME:`, `static void name(` and such.
fn definition(line: &str) -> Option<String> {
    let words = line.trim_start().trim_start_matches("pub ");
    let rust = words.strip_prefix("fn ").or_else(|| {
        words
            .strip_prefix("static ")
            .filter(|rest| rest.contains(": "))
    });
    let c = || {
        let head = line.strip_prefix("static ")?.split_once('(')?.0;
        head.rsplit([' ', '*']).next()
    };
    let name = rust.or_else(c)?;
    let end = name.find(|next: char| !next.is_alphanumeric() && next != '_');
    Some(name[..end.unwrap_or(name.len())].to_owned())
}

fn dump(pid: i32) -> Report {
    finish(command().args(["dump", &pid.to_string(), "--format", "json"])).report()
}

/// Plays one scene and judges the first verdict on it: what was said, and what is wrong with that.
fn judge(program: &Path, truth: &Truth, marks: &[Mark]) -> (String, Result<(), String>) {
    let mut program = Program::start(Command::new(program).arg(&truth.scene));
    program.wait_for("READY");
    let mut said = String::new();
    for _ in 0..if truth.healthy { 1 } else { LOOKS } {
        let report = dump(program.pid());
        program.must_be_alive();
        let Some(first) = report.analysis.findings.first() else {
            said = format!("{:?}", report.analysis.verdict);
            if truth.healthy && report.analysis.verdict != Verdict::NoHangSeen {
                return (said, Err("a healthy program".to_owned()));
            }
            continue;
        };
        let mut words = first.title.untrusted().to_owned();
        for evidence in &first.evidence {
            words.push('\n');
            words.push_str(evidence.text.untrusted());
        }
        said = format!(
            "{} ({:?}): {}",
            first.id,
            first.certainty,
            first.title.untrusted()
        );
        if truth.healthy {
            return (said, Err("accuses a healthy program".to_owned()));
        }
        if !truth.causes.contains(&first.id) {
            return (said, Err(format!("not {}", truth.causes.join(" or "))));
        }
        let wanted = marks
            .iter()
            .filter(|(within, _)| truth.places.contains(within));
        let places: Vec<&str> = wanted.map(|(_, place)| place.as_str()).collect();
        assert!(!places.is_empty(), "{}: no line is marked", truth.scene);
        let named = places.iter().any(|place| {
            let mut found = words.match_indices(place);
            found.any(|(at, _)| {
                !words[at + place.len()..].starts_with(|next: char| next.is_ascii_digit())
            })
        });
        return match named {
            true => (said, Ok(())),
            false => (said, Err(format!("not at {}", places.join(" or ")))),
        };
    }
    let silent = !truth.healthy;
    (
        said,
        if silent {
            Err("silent".to_owned())
        } else {
            Ok(())
        },
    )
}

fn scoreboard(program: &Path, folder: &str, sources: &str) {
    let marks = marks(&fixture(folder).join(sources));
    let todo = Mutex::new(truths(folder));
    let surprises = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| {
                loop {
                    let Some(truth) = todo.lock().expect("no panic").pop() else {
                        break;
                    };
                    let (said, wrong) = judge(program, &truth, &marks);
                    println!("{}\t{wrong:?}\t{said}", truth.scene);
                    let as_expected = match (&truth.missed, &wrong) {
                        (None, Ok(())) => true,
                        // A wrong accusation is never to be got used to.
                        (Some(_), Err(wrong)) => wrong == "silent",
                        _ => false,
                    };
                    if !as_expected {
                        let line = format!("{}: {wrong:?}: {said}", truth.scene);
                        surprises.lock().expect("no panic").push(line);
                    }
                }
            });
        }
    });
    let surprises = surprises.into_inner().expect("no panic");
    assert!(
        surprises.is_empty(),
        "unlike truth.json:\n{}",
        surprises.join("\n")
    );
}

#[test]
fn rust_debug() {
    scoreboard(&native::rust_hangs("dev"), "hangs/rust", "src");
}

#[test]
fn rust_release() {
    scoreboard(&native::rust_hangs("release"), "hangs/rust", "src");
}

#[test]
fn c() {
    scoreboard(&native::c_program("hangs/c/hangs.c"), "hangs/c", "");
}

#[test]
fn each_scene_is_in_the_table() {
    for (program, folder) in [
        (native::rust_hangs("dev"), "hangs/rust"),
        (native::c_program("hangs/c/hangs.c"), "hangs/c"),
    ] {
        let listed = Command::new(program).output().expect("a list").stdout;
        let listed = String::from_utf8(listed).expect("text");
        let told: Vec<String> = truths(folder)
            .into_iter()
            .map(|truth| truth.scene)
            .collect();
        assert_eq!(listed.lines().collect::<Vec<_>>(), told);
    }
}
