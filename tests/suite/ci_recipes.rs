//! The recipes of `docs/ci.md`: read from the page, and run against a suite that hangs.
//!
//! The shell parts run as the CI's runner would run them. Only the length of hangscope's limit is replaced, and what
//! uploads is played by [`upload`], with the real action's rules for hidden files and conditions.

use crate::support::{fixture, pythons::python_with_packages, repository};
use crate::support_watch::{End, Place, Run, json, run, wait_until};
use crate::watch_cargo::{LIB, apart, build, has_nextest, package};
use rustix::process::Signal;
use serde_json::Value;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Command;

/// In place of the recipe's minutes. pytest has reached the test that hangs long before.
const LIMIT: &str = "3s";

/// The code blocks of a language under a heading.
fn blocks(heading: &str, language: &str) -> Vec<String> {
    let page = fs::read_to_string(repository("docs/ci.md")).expect("the page");
    let section = page
        .split("\n## ")
        .find_map(|section| section.strip_prefix(heading)?.strip_prefix('\n'))
        .unwrap_or_else(|| panic!("no heading {heading}"));
    section
        .split("```")
        .skip(1)
        .step_by(2)
        .filter_map(|block| block.strip_prefix(language)?.strip_prefix('\n'))
        .map(str::to_owned)
        .collect()
}

fn block(heading: &str, language: &str) -> String {
    let mut found = blocks(heading, language);
    assert_eq!(found.len(), 1, "{heading}: {found:#?}");
    found.remove(0)
}

fn yaml(heading: &str) -> Value {
    serde_saphyr::from_str(&block(heading, "yaml")).expect("YAML")
}

/// The words after an option of hangscope's in a command.
fn option<'a>(script: &'a str, name: &str) -> &'a str {
    let mut words = script.split_whitespace();
    words.find(|word| *word == name).expect("the option");
    words.next().expect("its value")
}

/// Whole minutes, from `25m`.
fn minutes(text: &str) -> u64 {
    text.strip_suffix('m')
        .and_then(|number| number.parse().ok())
        .unwrap_or_else(|| panic!("{text} is not in minutes"))
}

/// A project whose suite hangs, with `hangscope` and `pytest` on PATH.
fn project() -> Option<(Place, String)> {
    let python = python_with_packages("3.13")?;
    let place = Place::new();
    fs::create_dir(place.path("tests")).expect("a folder");
    fs::copy(
        fixture("watch/test_hangs.py"),
        place.path("tests/test_hangs.py"),
    )
    .expect("the suite");
    let tools = place.path("tools");
    fs::create_dir(&tools).expect("a folder");
    symlink(env!("CARGO_BIN_EXE_hangscope"), tools.join("hangscope")).expect("a link");
    let pytest = format!(
        "#!/bin/sh\nexec '{}' -m pytest -p no:cacheprovider \"$@\"\n",
        python.display()
    );
    fs::write(tools.join("pytest"), pytest).expect("a script");
    fs::set_permissions(tools.join("pytest"), fs::Permissions::from_mode(0o755)).expect("its mode");
    let path = format!(
        "{}:{}",
        tools.display(),
        std::env::var("PATH").expect("PATH")
    );
    Some((place, path))
}

/// A shell of the CI's, with a script of the recipe's.
fn shell(place: &Place, path: &str, arguments: &[&str], script: &str) -> Run {
    let limit = option(script, "--run-timeout");
    let script = script.replace(
        &format!("--run-timeout {limit}"),
        &format!("--run-timeout {LIMIT}"),
    );
    fs::write(place.path("script.sh"), script).expect("the script");
    let mut bash: Command = place.command("bash");
    bash.args(arguments)
        .arg("script.sh")
        .env("PATH", path)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env_remove("GITHUB_ACTIONS");
    Run::start(&mut bash)
}

fn hangs(place: &Place) {
    wait_until("the suite hangs", || place.path("ready").exists());
}

/// Copies what the step would upload into the folder `artifact`, as upload-artifact 4.4 does: nothing whose path
/// has a part that begins with a dot unless asked for; links are followed.
fn upload(place: &Place, step: &Value, job_failed: bool) {
    match step["if"].as_str() {
        Some("always()") => {}
        None | Some("success()") if job_failed => return,
        None | Some("success()") => {}
        other => panic!("no stand-in for if: {other:?}"),
    }
    let with = &step["with"];
    let hidden = with["include-hidden-files"].as_bool().unwrap_or(false);
    for path in with["path"].as_str().expect("path").lines() {
        if hidden || !path.starts_with('.') {
            copy(&place.path(path), &place.path("artifact"), hidden);
        }
    }
}

fn copy(from: &Path, to: &Path, hidden: bool) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).into_iter().flatten() {
        let entry = entry.expect("an entry");
        let name = entry.file_name();
        if !hidden && name.to_string_lossy().starts_with('.') {
            continue;
        }
        if entry.path().is_dir() {
            copy(&entry.path(), &to.join(name), hidden);
        } else {
            fs::copy(entry.path(), to.join(name)).expect("a copy");
        }
    }
}

/// In this folder is one bundle, whole, that shows the hang; returns how it says that the run ended.
#[track_caller]
fn bundle_in(folder: &Path) -> String {
    let latest = folder.join("latest");
    let manifest = json(&latest.join("manifest.json"));
    for file in manifest["files"].as_array().expect("files") {
        assert!(latest.join(file.as_str().expect("a name")).is_file());
    }
    let dump = fs::read(latest.join("dump.json")).expect("the dump");
    serde_json::from_slice::<hangscope::model::Report>(&dump).expect("a report");
    let text = fs::read_to_string(latest.join("report.txt")).expect("the text");
    assert!(text.contains("test_hangs.py::test_hangs"), "{text}");
    manifest["outcome"]["kind"]
        .as_str()
        .expect("a kind")
        .to_owned()
}

#[track_caller]
fn assert_timed_out(end: &End, place: &Place) {
    assert_eq!(end.code(), 124, "{end:#?}");
    assert!(end.stderr.contains("hangscope: run timeout"), "{end:#?}");
    place.assert_nothing_left();
}

/// The steps of the GitHub recipe that matter: the one that tests, and the one that uploads.
fn github() -> (Value, Value) {
    let recipe = yaml("GitHub Actions");
    let job = &recipe["jobs"]["tests"];
    assert!(
        job.get("timeout-minutes").is_none(),
        "a job's own limit would cancel what comes after the step"
    );
    let steps = job["steps"].as_array().expect("steps");
    let test = steps
        .iter()
        .position(|step| {
            step["run"]
                .as_str()
                .is_some_and(|run| run.contains("hangscope watch"))
        })
        .expect("a step that tests");
    let upload = steps
        .iter()
        .position(|step| {
            step["uses"]
                .as_str()
                .is_some_and(|action| action.starts_with("actions/upload-artifact@"))
        })
        .expect("a step that uploads");
    assert!(test < upload);
    (steps[test].clone(), steps[upload].clone())
}

/// What `shell: bash` of a step means to GitHub's runner.
const GITHUB_BASH: [&str; 5] = ["--noprofile", "--norc", "-e", "-o", "pipefail"];

#[test]
fn the_github_recipe_at_hangscopes_limit() {
    let (test, keep) = github();
    let script = test["run"].as_str().expect("run");
    assert_eq!(test["shell"], "bash");
    let own = test["timeout-minutes"].as_u64().expect("the step's limit");
    assert!(
        minutes(option(script, "--run-timeout")) < own,
        "ours comes first"
    );
    let last = script.lines().last().expect("a line");
    assert!(last.starts_with("exec hangscope watch "), "{last}");

    let Some((place, path)) = project() else {
        return;
    };
    let end = shell(&place, &path, &GITHUB_BASH, script).end();
    assert_timed_out(&end, &place);
    upload(&place, &keep, true);
    assert_eq!(bundle_in(&place.path("artifact")), "timed-out");
}

#[test]
fn the_github_recipe_when_cancelled() {
    let (test, keep) = github();
    let Some((place, path)) = project() else {
        return;
    };
    let run = shell(
        &place,
        &path,
        &GITHUB_BASH,
        test["run"].as_str().expect("run"),
    );
    hangs(&place);
    run.signal(Signal::INT);
    let end = run.end();
    assert_eq!(end.code(), 2, "{end:#?}");
    place.assert_nothing_left();
    upload(&place, &keep, true);
    assert_eq!(bundle_in(&place.path("artifact")), "child-exit");
}

#[test]
fn without_the_marks_that_the_page_asks_for_nothing_is_uploaded() {
    let place = Place::new();
    fs::create_dir(place.path(".hangscope")).expect("a folder");
    fs::write(place.path(".hangscope/file"), "text").expect("a file");
    let (_, keep) = github();
    for name in ["if", "with"] {
        let mut broken = keep.clone();
        match name {
            "if" => broken.as_object_mut().expect("a step").remove("if"),
            _ => broken["with"]
                .as_object_mut()
                .expect("inputs")
                .remove("include-hidden-files"),
        };
        upload(&place, &broken, true);
        assert!(!place.path("artifact").exists(), "{name}");
    }
    upload(&place, &keep, true);
    assert!(place.path("artifact/file").exists());
}

#[test]
fn the_gitlab_recipe() {
    let recipe = yaml("GitLab CI");
    let job = &recipe["tests"];
    let lines: Vec<&str> = job["script"]
        .as_array()
        .expect("a script")
        .iter()
        .map(|line| line.as_str().expect("a line"))
        .collect();
    let last = lines.last().expect("a line");
    assert!(last.starts_with("exec hangscope watch "), "{last}");
    let ours = minutes(option(last, "--run-timeout"));
    let scripts = minutes(
        job["variables"]["RUNNER_SCRIPT_TIMEOUT"]
            .as_str()
            .expect("a limit"),
    );
    let jobs = minutes(job["timeout"].as_str().expect("a limit"));
    assert!(ours < scripts && scripts < jobs);
    assert_eq!(job["artifacts"]["when"], "always");
    assert_eq!(
        job["artifacts"]["paths"],
        serde_json::json!([".hangscope/"])
    );
    let junit = job["artifacts"]["reports"]["junit"]
        .as_str()
        .expect("a path");
    assert!(last.contains(&format!("--junitxml={junit} ")), "{last}");

    let Some((place, path)) = project() else {
        return;
    };
    // As GitLab's runner wraps the lines of a job.
    let script = format!(
        "set -eo pipefail\n: | eval $'{}'\nexit 0\n",
        lines.join("\\n").replace('\'', "\\'")
    );
    let end = shell(&place, &path, &[], &script).end();
    assert_timed_out(&end, &place);
    assert_eq!(bundle_in(&place.path(".hangscope")), "timed-out");
}

#[test]
fn the_jenkins_recipe() {
    let recipe = block("Jenkins", "groovy");
    let step = recipe
        .lines()
        .find_map(|line| line.trim().strip_prefix("sh '")?.strip_suffix('\''))
        .expect("a step");
    assert!(step.starts_with("exec hangscope watch "), "{step}");
    let own = recipe
        .split_once("timeout(time: ")
        .and_then(|(_, rest)| rest.split_once(','))
        .and_then(|(number, _)| number.parse().ok())
        .expect("the build's limit");
    assert!(minutes(option(step, "--run-timeout")) < own);
    assert!(recipe.contains("always {") && recipe.contains("'.hangscope/**'"));

    let Some((place, path)) = project() else {
        return;
    };
    let end = shell(&place, &path, &["-xe"], step).end();
    assert_timed_out(&end, &place);
    assert_eq!(bundle_in(&place.path(".hangscope")), "timed-out");
}

/// Unpacks what the script has kept.
fn unpack(place: &Place) {
    let status = place
        .command("tar")
        .args([
            "-xzf",
            "hangscope.tar.gz",
            "--transform",
            "s/^.hangscope/kept/",
        ])
        .status()
        .expect("tar runs");
    assert!(status.success());
}

#[test]
fn the_shell_recipe_at_hangscopes_limit_and_when_told_to_stop() {
    let script = blocks("Any shell", "bash").remove(0);
    for stop in [None, Some(Signal::TERM), Some(Signal::INT)] {
        let Some((place, path)) = project() else {
            return;
        };
        let run = shell(&place, &path, &[], &script);
        if let Some(stop) = stop {
            hangs(&place);
            run.signal(stop);
        }
        let end = run.end();
        place.assert_nothing_left();
        unpack(&place);
        let outcome = bundle_in(&place.path("kept"));
        match stop {
            None => {
                assert_eq!(end.code(), 124, "{end:#?}");
                assert_eq!(outcome, "timed-out");
            }
            // The suite dies of the TERM that it gets.
            Some(_) => {
                assert_eq!(end.code(), 143, "{end:#?}");
                assert_eq!(outcome, "child-signal");
            }
        }
    }
}

#[test]
fn the_shell_recipe_passes_a_good_end_on() {
    let script = blocks("Any shell", "bash").remove(0);
    let Some((place, path)) = project() else {
        return;
    };
    fs::write(place.path("tests/test_hangs.py"), "def test(): assert 0").expect("a suite");
    let end = shell(&place, &path, &[], &script).end();
    assert_eq!(end.code(), 1, "{end:#?}");
    assert!(!place.path("hangscope.tar.gz").exists());
}

#[test]
fn the_timeout_recipe() {
    let script = blocks("Any shell", "bash").remove(1);
    let mut words = script.split_whitespace();
    assert_eq!(
        [words.next(), words.next(), words.next()],
        [Some("timeout"), Some("-k"), Some("10")]
    );
    let own = minutes(words.next().expect("a limit"));
    assert!(minutes(option(&script, "--run-timeout")) < own);
    let Some((place, path)) = project() else {
        return;
    };
    // The alarm that `timeout` sets for itself, sent early: its own limit is reached.
    let run = shell(&place, &path, &[], &format!("exec {script}"));
    hangs(&place);
    run.signal(Signal::ALARM);
    let end = run.end();
    assert_eq!(end.code(), 124, "{end:#?}");
    place.assert_nothing_left();
    assert_eq!(bundle_in(&place.path(".hangscope")), "child-signal");
}

/// A Rust project with a test that hangs and one that passes, and `hangscope` on PATH.
fn rust_project(files: &[(&str, &str)]) -> (Place, String) {
    let place = Place::new();
    let mut all = vec![("src/lib.rs", LIB)];
    all.extend(files);
    package(&place, "2021", &all);
    build(&place);
    let tools = place.path("tools");
    fs::create_dir(&tools).expect("a folder");
    symlink(env!("CARGO_BIN_EXE_hangscope"), tools.join("hangscope")).expect("a link");
    let path = format!(
        "{}:{}",
        tools.display(),
        std::env::var("PATH").expect("PATH")
    );
    (place, path)
}

const HANGS: &str = "demo tests::a_name_with_one_prefix_hangs";

#[test]
fn the_recipe_for_rust_names_the_test_and_runs_the_others() {
    let workflow = yaml("Rust");
    let steps = workflow["jobs"]["tests"]["steps"]
        .as_array()
        .expect("steps");
    let scripts: Vec<&str> = steps
        .iter()
        .filter_map(|step| step["run"].as_str())
        .filter(|script| script.contains("hangscope watch"))
        .collect();
    assert_eq!(scripts.len(), 2, "{scripts:?}");
    let (place, path) = rust_project(&[]);
    if !has_nextest(&place) {
        return;
    }
    let limit = option(scripts[0], "--test-timeout");
    let script = scripts[0].replace(
        &format!("--test-timeout {limit}"),
        &format!("--test-timeout {LIMIT}"),
    );
    assert!(script.contains(LIMIT));
    let mut command = place.command("bash");
    let command = command.args(["--noprofile", "--norc", "-eo", "pipefail", "-c", &script]);
    let end = run(apart(command).env("PATH", &path));
    assert_eq!(end.code(), 100, "{}", end.stderr);
    assert!(
        end.stderr.contains(&format!("in {HANGS}\n")),
        "{}",
        end.stderr
    );
    assert!(end.stderr.contains("1 passed, 1 failed"), "{}", end.stderr);
    assert_eq!(place.bundles().len(), 1);
    let doctests = run(apart(place.command("bash").args(["-c", scripts[1]])).env("PATH", &path));
    assert_eq!(doctests.code(), 0, "{}", doctests.stderr);
}

#[test]
fn the_recipe_for_nextests_own_limits_leaves_a_bundle() {
    let recipe = block("nextest's own limits", "toml");
    let short = recipe.replace(
        "period = \"60s\", terminate-after = 2",
        "period = \"2s\", terminate-after = 1",
    );
    assert_ne!(short, recipe);
    let (place, path) = rust_project(&[(".config/nextest.toml", &short)]);
    if !has_nextest(&place) {
        return;
    }
    let mut command = place.command("cargo");
    let end = run(apart(command.args(["nextest", "run", "--profile", "ci"])).env("PATH", &path));
    end.assert_timed_out(HANGS);
    let dump = json(&place.bundle().join("dump.json"));
    assert_eq!(dump["run"]["processes"][0]["test"], HANGS);
    assert!(
        dump["samples"]
            .as_array()
            .is_some_and(|samples| samples.len() > 1)
    );
}
