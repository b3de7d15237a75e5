//! `fixtures/hangs/{rust,c}`: scenes of two programs that hang as real ones do, and look-alikes that do not. Each is dumped as a
//! user would, and the first verdict is held against the table of truths beside the sources.

use crate::support::hangscope::{command, finish};
use crate::support::program::Program;
use crate::support::scoreboard::{Score, Scored, is_placed, judge, score_all, words};
use crate::support::{fixture, native};
use hangscope::model::{Certainty, Finding};
use serde::Deserialize;
use std::path::Path;
use std::process::Command;

/// A line of a table.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Truth {
    scene: String,
    #[serde(default)]
    healthy: bool,
    /// Of a healthy one: what it looks like; `inventory.rs` reads it.
    #[serde(default, rename = "like")]
    _like: Vec<String>,
    /// Acceptable ids of the first finding.
    #[serde(default)]
    causes: Vec<String>,
    /// Functions or statics of which it must name a line that is marked by an arrow.
    #[serde(default)]
    places: Vec<String>,
    /// What is missing to find it. A hit is an error, too: then this is to go.
    #[serde(default)]
    missed: Option<String>,
    /// It takes what is known of code on `x86_64` only: which addresses it names.
    #[serde(default)]
    x86_64_only: bool,
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

/// Whether a finding is what the truth says, or what differs.
fn compare(truth: &Truth, marks: &[Mark], finding: &Finding) -> Result<(), String> {
    if !truth.causes.contains(&finding.id) {
        return Err(format!("not {}", truth.causes.join(" or ")));
    }
    speaks_native(finding)?;
    let words = words(finding);
    let wanted = marks
        .iter()
        .filter(|(within, _)| truth.places.contains(within));
    let places: Vec<&str> = wanted.map(|(_, place)| place.as_str()).collect();
    assert!(!places.is_empty(), "{}: no line is marked", truth.scene);
    match places.iter().any(|place| is_placed(&words, place)) {
        true => Ok(()),
        false => Err(format!("not at {}", places.join(" or "))),
    }
}

/// Whether what is told to do is a thing of Rust or C.
fn speaks_native(finding: &Finding) -> Result<(), String> {
    const OF_PYTHON: [&str; 16] = [
        "Popen",
        "communicate",
        "subprocess",
        "multiprocessing",
        "threading",
        "asyncio",
        "trio",
        "Python",
        "HTTPServer",
        "os.",
        "`with`",
        "`finally`",
        "sentinel",
        "DEVNULL",
        "acquire(",
        "native code",
    ];
    let advice = [&finding.remedy, &finding.refuted_if].map(|text| text.untrusted());
    let mut alien = OF_PYTHON
        .iter()
        .filter(|word| advice.iter().any(|text| text.contains(*word)));
    match alien.next() {
        None => Ok(()),
        Some(word) => Err(format!("\"{word}\" is of Python, in {advice:?}")),
    }
}

fn scoreboard(program: &Path, folder: &str, sources: &str, preload: Option<&Path>) {
    let marks = marks(&fixture(folder).join(sources));
    score_all(folder, truths(folder), |truth| {
        let mut command = Command::new(program);
        command.envs(preload.map(|library| ("LD_PRELOAD", library)));
        let mut program = Program::start(command.arg(&truth.scene));
        program.wait_for("READY");
        let (score, said) = judge(&mut program, truth.healthy, &[], |finding| {
            compare(&truth, &marks, finding)
        });
        Scored {
            name: truth.scene,
            score,
            said,
            known_miss: truth.missed.is_some()
                || (truth.x86_64_only && !cfg!(target_arch = "x86_64")),
        }
    });
}

#[test]
fn rust_debug() {
    scoreboard(&native::rust_hangs("dev"), "hangs/rust", "src", None);
}

#[test]
fn rust_release() {
    scoreboard(&native::rust_hangs("release"), "hangs/rust", "src", None);
}

#[test]
fn c() {
    scoreboard(&native::c_program("hangs/c/hangs.c"), "hangs/c", "", None);
}

/// All stacks in one mapping, as glibc 2.42 may make them.
#[test]
fn c_with_adjoining_stacks() {
    let stacks = native::c_library("programs/native/adjoining_stacks.c");
    let program = native::c_program("hangs/c/hangs.c");
    scoreboard(&program, "hangs/c", "", Some(&stacks));
}

#[test]
fn rust_with_adjoining_stacks() {
    let stacks = native::c_library("programs/native/adjoining_stacks.c");
    let program = native::rust_hangs("release");
    scoreboard(&program, "hangs/rust", "src", Some(&stacks));
}

/// Without a stop some registers are guessed, and callers with them: by that no healthy program may be accused, and of one that hangs
/// no other cause be told as that of a hang.
fn without_a_stop(program: &Path, healthy: bool) {
    let scenes = truths("hangs/rust").into_iter();
    let scenes: Vec<Truth> = scenes.filter(|truth| truth.healthy == healthy).collect();
    score_all("hangs/rust --no-stop", scenes, |truth| {
        let mut program = Program::start(Command::new(program).arg(&truth.scene));
        program.wait_for("READY");
        if !healthy {
            program.wait_for_rest();
        }
        let pid = program.pid().to_string();
        let dump = ["dump", &pid, "--native", "--no-stop", "--format", "json"];
        let report = finish(command().args(dump)).report();
        program.must_be_alive();
        let first = report.analysis.findings.first();
        let score = match first {
            None => Score::Right,
            Some(_) if healthy => Score::Wrong,
            Some(first) if truth.causes.contains(&first.id) => Score::Right,
            Some(first) if first.certainty == Certainty::Possible => Score::Right,
            Some(_) => Score::Wrong,
        };
        Scored {
            name: truth.scene,
            score,
            said: first.map_or_else(String::new, |first| {
                let title = first.title.untrusted();
                format!("{} ({:?}): {title}", first.id, first.certainty)
            }),
            known_miss: false,
        }
    });
}

#[test]
fn healthy_rust_debug_without_a_stop() {
    without_a_stop(&native::rust_hangs("dev"), true);
}

#[test]
fn healthy_rust_release_without_a_stop() {
    without_a_stop(&native::rust_hangs("release"), true);
}

#[test]
fn rust_debug_without_a_stop() {
    without_a_stop(&native::rust_hangs("dev"), false);
}

#[test]
fn rust_release_without_a_stop() {
    without_a_stop(&native::rust_hangs("release"), false);
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
