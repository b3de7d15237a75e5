//! `cargo test` and `cargo nextest run` under watch, in small projects that are built here, offline.

use crate::support::native::c_library;
use crate::support::skip;
use crate::support_watch::{End, Place, Run, json, run, signal, wait_until, write_line};
use rustix::process::Signal;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

/// A test that never ends, another whose name begins alike, and a thread that only inherits the name of its test.
pub(crate) const LIB: &str = r#"
#[cfg(test)]
mod tests {
    #[test]
    fn a_name_with_one_prefix_passes() {}

    #[test]
    fn a_name_with_one_prefix_hangs() {
        std::thread::spawn(|| loop { std::thread::park() });
        loop { std::thread::park() }
    }
}
"#;

/// Writes a package without dependencies.
pub(crate) fn package(place: &Place, edition: &str, files: &[(&str, &str)]) {
    let manifest =
        format!("[package]\nname = \"demo\"\nversion = \"0.1.0\"\nedition = \"{edition}\"\n");
    for (name, text) in [("Cargo.toml", manifest.as_str())].iter().chain(files) {
        let path = place.path(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(path, text).expect("a file");
    }
}

/// The command without what the cargo that runs this very test has set.
pub(crate) fn apart(command: &mut Command) -> &mut Command {
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        let is_of_cargo = ["CARGO", "NEXTEST", "RUSTDOC", "RUST_TEST"]
            .iter()
            .any(|prefix| text.starts_with(prefix));
        if is_of_cargo && text != "CARGO_HOME" {
            command.env_remove(name);
        }
    }
    command
        .env("CARGO_TERM_COLOR", "never")
        .env("CARGO_NET_OFFLINE", "true")
}

/// Builds all, so that limits find nothing to build.
pub(crate) fn build(place: &Place) {
    let end = run(apart(&mut place.command("cargo")).args(["test", "--no-run", "--quiet"]));
    assert_eq!(end.code(), 0, "{}", end.stderr);
}

fn watched(place: &Place, options: &[&str], command: &[&str]) -> End {
    run(apart(place.watch(options).arg("--").args(command)))
}

pub(crate) fn has_nextest(place: &Place) -> bool {
    let mut command = place.command("cargo");
    let version = apart(command.args(["nextest", "--version"])).output();
    let has = version.is_ok_and(|out| out.status.success());
    if !has {
        skip("cargo nextest is not installed");
    }
    has
}

/// The tests that a bundle has, with their outcomes.
fn tests_of(bundle: &Path) -> Vec<(String, String)> {
    let events = fs::read_to_string(bundle.join("events.jsonl")).expect("events");
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let lines = events.lines().skip(1).map(|line| {
        let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
        (text(&line["test"]), text(&line["outcome"]))
    });
    lines.collect()
}

#[test]
fn a_hung_libtest_test_is_named_in_full_and_its_binary_killed() {
    let place = Place::new();
    let other = ("tests/it.rs", "#[test]\nfn in_another_binary() {}\n");
    package(&place, "2021", &[("src/lib.rs", LIB), other]);
    build(&place);
    let options = ["--test-timeout", "3s", "--junitxml", "out.xml"];
    let command = ["cargo", "test", "--no-fail-fast", "--lib", "--tests"];
    let end = watched(&place, &options, &command);
    let name = "demo tests::a_name_with_one_prefix_hangs";
    assert_eq!(end.code(), 101, "cargo's own: {}", end.stderr);
    assert!(
        end.stderr
            .contains(&format!("test timeout (3 s) in {name}\n")),
        "{}",
        end.stderr
    );
    let killed =
        format!("{name}: test timeout (3 s): it cannot be interrupted: its test binary (process ");
    assert!(end.stderr.contains(&killed), "{}", end.stderr);
    assert!(
        end.stdout.contains("test in_another_binary ... ok"),
        "{}",
        end.stdout
    );
    let bundle = place.bundle();
    assert_eq!(tests_of(&bundle), [(name.to_owned(), "hung".to_owned())]);
    let dump = json(&bundle.join("dump.json"));
    assert_eq!(dump["run"]["source"], "cargo");
    let processes = dump["run"]["processes"].as_array().expect("processes");
    let on_threads: Vec<_> = processes
        .iter()
        .filter(|it| it["thread"].is_i64())
        .collect();
    assert_eq!(
        on_threads.len(),
        1,
        "its own thread is no test: {processes:?}"
    );
    assert_eq!(
        (&on_threads[0]["test"], &on_threads[0]["binary"]),
        (&name.into(), &"demo".into())
    );
    let xml = fs::read_to_string(place.path("out.xml")).expect("JUnit");
    let case = r#"classname="demo" name="tests::a_name_with_one_prefix_hangs""#;
    assert!(
        xml.contains(case) && xml.contains("hangscope.hang"),
        "{xml}"
    );
    place.assert_nothing_left();
}

/// As build tools other than cargo run them, or a container that has only the binary.
#[test]
fn a_test_binary_without_cargo_is_followed() {
    let place = Place::new();
    package(&place, "2021", &[("src/lib.rs", LIB)]);
    let mut build = place.command("rustc");
    build.args(["--test", "--edition", "2021", "-C", "strip=symbols"]);
    let end = run(apart(build.args(["src/lib.rs", "-o", "unit"])));
    assert_eq!(end.code(), 0, "{}", end.stderr);
    let script = ["sh", "-c", "./unit; exit $?"];
    let end = watched(&place, &["--test-timeout", "3s"], &script);
    assert_eq!(end.code(), 137, "the shell's own: {}", end.stderr);
    let name = "unit tests::a_name_with_one_prefix_hangs";
    let limit = format!("test timeout (3 s) in {name}\n");
    assert!(end.stderr.contains(&limit), "{}", end.stderr);
    let hung = [(name.to_owned(), "hung".to_owned())];
    assert_eq!(tests_of(&place.bundle()), hung);
    place.assert_nothing_left();
}

/// All stacks in one mapping, as glibc 2.42 may make them: each test has the name on its own stack, whether its thread waits or runs.
#[test]
fn tests_on_adjoining_stacks_are_told_apart() {
    const TESTS: &str = "
        #[test] fn names_that_begin_alike_1() { loop { std::thread::park() } }
        #[test] fn names_that_begin_alike_2() { loop { std::thread::park() } }
        #[test] fn names_that_begin_alike_3() { loop { std::hint::spin_loop() } }
    ";
    let place = Place::new();
    package(&place, "2021", &[("unit.rs", TESTS)]);
    let end = run(apart(place.command("rustc").args(["--test", "unit.rs"])));
    assert_eq!(end.code(), 0, "{}", end.stderr);
    let stacks = c_library("programs/native/adjoining_stacks.c");
    let command = "LD_PRELOAD=$0 exec ./unit --test-threads 3";
    let command = ["sh", "-c", command, stacks.to_str().expect("UTF-8")];
    let end = watched(&place, &["--test-timeout", "3s"], &command);
    assert_eq!(end.code(), 124, "the command itself: {}", end.stderr);
    let names: Vec<String> = tests_of(&place.bundle())
        .into_iter()
        .map(|test| test.0)
        .collect();
    let expected = [1, 2, 3].map(|number| format!("unit names_that_begin_alike_{number}"));
    assert_eq!(names, expected);
    place.assert_nothing_left();
}

#[test]
fn a_test_that_always_runs_is_named_in_full() {
    let place = Place::new();
    let spins =
        "#[test]\nfn a_name_that_is_cut_spins() {\n    loop { std::hint::spin_loop() }\n}\n";
    package(
        &place,
        "2021",
        &[("src/lib.rs", ""), ("tests/it.rs", spins)],
    );
    build(&place);
    let command = ["cargo", "test", "--test", "it", "--", "--test-threads=1"];
    let end = watched(&place, &["--test-timeout", "3s", "--no-archive"], &command);
    let named = "test timeout (3 s) in demo::it a_name_that_is_cut_spins\n";
    assert!(end.stderr.contains(named), "{}", end.stderr);
}

#[test]
fn a_hung_doctest_fails_and_the_others_go_on() {
    let hangs = "/// ```\n/// assert!(demo::one() == 1);\n/// ```\npub fn one() -> u8 { 1 }\n\n\
                 /// ```\n/// loop { std::thread::park() }\n/// ```\npub fn two() {}\n";
    // Up to 2021 each doctest is a binary, from 2024 on one binary holds all.
    for edition in ["2021", "2024"] {
        let place = Place::new();
        package(&place, edition, &[("src/lib.rs", hangs)]);
        let options = ["--test-timeout", "3s"];
        let end = watched(&place, &options, &["cargo", "test", "--doc"]);
        let name = "demo src/lib.rs - two (line 6)";
        assert_eq!(end.code(), 101, "{}", end.stderr);
        assert!(
            !end.stderr.contains("WARNING"),
            "rustdoc's own protocol is kept: {}",
            end.stderr
        );
        assert!(
            end.stderr
                .contains(&format!("test timeout (3 s) in {name}\n")),
            "{}",
            end.stderr
        );
        assert!(
            end.stderr.contains("is killed; the other doctests go on"),
            "{}",
            end.stderr
        );
        assert!(end.stdout.contains("1 passed; 1 failed"), "{}", end.stdout);
        assert_eq!(
            tests_of(&place.bundle()),
            [(name.to_owned(), "hung".to_owned())]
        );
        let dump = json(&place.bundle().join("dump.json"));
        let processes = dump["run"]["processes"].as_array().expect("processes");
        let doctest = processes
            .iter()
            .find(|it| it["role"] == "doctest")
            .expect("a doctest");
        assert_eq!(
            (&doctest["file"], &doctest["line"]),
            (&"src/lib.rs".into(), &6.into())
        );
        place.assert_nothing_left();
    }
}

#[test]
fn a_hung_test_of_nextest_fails_alone_and_each_attempt_is_told() {
    let place = Place::new();
    if !has_nextest(&place) {
        return;
    }
    package(&place, "2021", &[("src/lib.rs", LIB)]);
    build(&place);
    let command = [
        "cargo",
        "nextest",
        "run",
        "--no-fail-fast",
        "--retries",
        "1",
    ];
    let end = watched(&place, &["--test-timeout", "3s"], &command);
    assert_eq!(end.code(), 100, "nextest's own: {}", end.stderr);
    assert!(
        !end.stderr.contains("target runner"),
        "nextest tells of runners: {}",
        end.stderr
    );
    for attempt in [1, 2] {
        let name = format!("demo tests::a_name_with_one_prefix_hangs (attempt {attempt} of 2)");
        assert!(
            end.stderr
                .contains(&format!("test timeout (3 s) in {name}\n")),
            "{}",
            end.stderr
        );
        let killed = format!("{name}: test timeout (3 s): it cannot be interrupted: its process ");
        assert!(end.stderr.contains(&killed), "{}", end.stderr);
    }
    assert!(end.stderr.contains("1 passed, 1 failed"), "{}", end.stderr);
    assert_eq!(place.bundles().len(), 2);
    place.assert_nothing_left();
}

#[test]
fn no_limit_runs_while_something_is_built() {
    let place = Place::new();
    let script = "fn main() {\n    std::fs::write(\"building\", \"\").unwrap();\n    \
                  let go = std::fs::File::open(\"go\").unwrap();\n    \
                  std::io::BufRead::read_line(&mut std::io::BufReader::new(go), &mut String::new()).unwrap();\n}\n";
    let passes = "#[test]\nfn passes() {}\n";
    package(
        &place,
        "2021",
        &[("src/lib.rs", passes), ("build.rs", script)],
    );
    let go = place.pipe("go");
    let limits = [
        "--test-timeout",
        "200ms",
        "--idle-timeout",
        "300ms",
        "--report-after",
        "300ms",
    ];
    let mut command = place.watch(&limits);
    let run = Run::start(apart(command.args(["--", "cargo", "test", "--lib"])));
    let is_building = || place.path("building").exists();
    wait_until("the build script waits", is_building);
    // That nothing happens can be seen only after the time in which it would.
    let began = std::time::Instant::now();
    wait_until("all limits have passed several times", || {
        began.elapsed().as_millis() > 2_500
    });
    write_line(&go);
    let end = run.end();
    assert_eq!(end.code(), 0, "{}", end.stderr);
    assert!(!end.stderr.contains("hangscope"), "{}", end.stderr);
    assert!(end.stdout.contains("test passes ... ok"), "{}", end.stdout);
    assert!(place.bundles().is_empty());
}

#[test]
fn a_test_that_waits_is_idle_where_a_build_is_not() {
    let place = Place::new();
    let hangs = "#[test]\nfn waits_for_nothing() {\n    loop { std::thread::park() }\n}\n";
    package(&place, "2021", &[("src/lib.rs", hangs)]);
    build(&place);
    let end = watched(
        &place,
        &["--idle-timeout", "1s"],
        &["cargo", "test", "--lib"],
    );
    assert_eq!(end.code(), 124, "{}", end.stderr);
    assert!(
        end.stderr.contains("in demo waits_for_nothing\n"),
        "{}",
        end.stderr
    );
    assert!(
        end.stderr
            .contains("0 tests seen to end, how is not known; 1 hung"),
        "{}",
        end.stderr
    );
    place.assert_nothing_left();
}

/// Writes down what a test binary, and a program that it starts, can see of how they were started.
const SEES: &str = r#"
#[test]
fn sees() {
    use std::fmt::Write as _;
    let mut text = format!("{:?}\n{:?}\n", std::env::args(), std::env::current_dir());
    let out = std::process::Command::new("env").output().unwrap();
    let mut lines: Vec<String> = String::from_utf8(out.stdout).unwrap().lines().map(str::to_owned).collect();
    lines.sort();
    for line in lines {
        writeln!(text, "{line}").unwrap();
    }
    for fd in 0..20 {
        if let Ok(file) = std::fs::read_link(format!("/proc/self/fd/{fd}")) {
            let file = file.display().to_string();
            let kind = file.split(':').next().unwrap();
            writeln!(text, "{fd} {kind}").unwrap();
        }
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    for line in status.lines().filter(|line| ["SigBlk", "SigIgn", "SigCgt"].contains(&&line[..6.min(line.len())])) {
        writeln!(text, "{line}").unwrap();
    }
    std::fs::write(std::env::var("SEES").unwrap(), text).unwrap();
}
"#;

#[test]
fn a_test_binary_sees_nothing_of_the_runner() {
    let place = Place::new();
    package(&place, "2021", &[("src/lib.rs", ""), ("tests/it.rs", SEES)]);
    build(&place);
    let seen = |command: &mut Command, name: &str| {
        let path = place.path(name);
        let end = run(apart(command).env("SEES", &path));
        assert_eq!(end.code(), 0, "{}", end.stderr);
        let text = fs::read_to_string(path).expect("it was written");
        let ours = [
            "HANGSCOPE_RUN=",
            "PYTHONPATH=",
            "TOX_OVERRIDE=",
            "SEES=",
            "_=",
        ];
        let theirs = text
            .lines()
            .filter(|line| !ours.iter().any(|name| line.starts_with(name)));
        let text: Vec<&str> = theirs.collect();
        (text.join("\n"), end.stdout)
    };
    let test = ["cargo", "test", "--quiet", "--test", "it"];
    let bare = seen(place.command("cargo").args(&test[1..]), "bare");
    let watched = seen(place.watch(&["--"]).args(test), "watched");
    let differ: Vec<_> = watched
        .0
        .lines()
        .zip(bare.0.lines())
        .filter(|(one, other)| one != other)
        .collect();
    assert_eq!(watched.0, bare.0, "{differ:?}");
    assert!(bare.0.contains("CARGO_PKG_NAME=demo") && !bare.0.contains("_RUNNER"));
}

#[test]
fn the_end_of_a_test_run_is_the_same() {
    let place = Place::new();
    let it = "#[test]\nfn fails() { assert!(std::env::var_os(\"FAIL\").is_none()) }\n\
              #[test]\nfn aborts() { if std::env::var_os(\"ABORT\").is_some() { std::process::abort() } }\n\
              #[test]\nfn exits() { if std::env::var_os(\"EXIT\").is_some() { std::process::exit(7) } }\n";
    package(&place, "2021", &[("src/lib.rs", ""), ("tests/it.rs", it)]);
    build(&place);
    for variable in ["NONE", "FAIL", "ABORT", "EXIT"] {
        let test = ["cargo", "test", "--quiet", "--test", "it"];
        let bare = run(apart(
            place.command("cargo").args(&test[1..]).env(variable, "1"),
        ));
        let watched = run(apart(place.watch(&["--"]).args(test).env(variable, "1")));
        assert_eq!(
            watched.code(),
            bare.code(),
            "{variable}: {}",
            watched.stderr
        );
        assert!(
            !watched.stderr.contains("\nhangscope"),
            "{variable}: {}",
            watched.stderr
        );
    }
}

#[test]
fn the_users_own_runner_is_started() {
    let place = Place::new();
    let seen = "#[test]\nfn seen() {\n    let runner = std::env::vars().find(|(name, _)| name.ends_with(\"GNU_RUNNER\"));\n    \
                println!(\"runner {:?}\", runner.map(|(_, value)| value));\n}\n";
    let runner = "#!/bin/sh\necho \"chained $1\"\nshift\n\"$@\"\n";
    let files = [
        ("src/lib.rs", ""),
        ("tests/it.rs", seen),
        ("tools/runner", runner),
    ];
    package(&place, "2021", &files);
    let made = Command::new("chmod")
        .arg("+x")
        .arg(place.path("tools/runner"))
        .status();
    assert!(made.expect("chmod").success());
    build(&place);
    let test = [
        "cargo",
        "test",
        "--quiet",
        "--test",
        "it",
        "--",
        "--nocapture",
    ];
    let arch = std::env::consts::ARCH;
    let variable = format!(
        "CARGO_TARGET_{}_UNKNOWN_LINUX_GNU_RUNNER",
        arch.to_ascii_uppercase()
    );
    let path = place.path("tools/runner");
    let value = format!("{} word", path.display());
    let end = run(apart(&mut place.watch(&["--"]))
        .args(test)
        .env(variable, &value));
    assert!(
        end.stdout.contains("chained word"),
        "{}{}",
        end.stdout,
        end.stderr
    );
    assert!(
        end.stdout.contains(&format!("runner Some({value:?})")),
        "as it was: {}",
        end.stdout
    );
    for target in [
        format!("{arch}-unknown-linux-gnu"),
        "'cfg(target_os = \"linux\")'".to_owned(),
    ] {
        let config = format!("[target.{target}]\nrunner = [\"tools/runner\", \"a word\"]\n");
        fs::create_dir_all(place.path(".cargo")).expect("a folder");
        fs::write(place.path(".cargo/config.toml"), config).expect("a file");
        let bare = run(apart(place.command("cargo").args(&test[1..])));
        let end = run(apart(place.watch(&["--"]).args(test)));
        for out in [&bare.stdout, &end.stdout] {
            assert!(
                out.contains("chained a word") && out.contains("runner None"),
                "{target}: {out}"
            );
        }
    }
}

#[test]
fn a_test_below_the_users_own_runner_is_followed() {
    let place = Place::new();
    let runner = "#!/bin/sh\n\"$@\"\n";
    package(
        &place,
        "2021",
        &[("src/lib.rs", LIB), ("tools/runner", runner)],
    );
    let made = Command::new("chmod")
        .arg("+x")
        .arg(place.path("tools/runner"))
        .status();
    assert!(made.expect("chmod").success());
    build(&place);
    let config = format!(
        "target.{}-unknown-linux-gnu.runner='tools/runner'",
        std::env::consts::ARCH
    );
    // On the command line it goes before our variable: then the process tree must do.
    let command = ["cargo", "--config", &config, "test", "--lib"];
    let end = watched(&place, &["--test-timeout", "3s", "--no-archive"], &command);
    let named = "test timeout (3 s) in demo tests::a_name_with_one_prefix_hangs\n";
    assert!(end.stderr.contains(named), "{}", end.stderr);
    place.assert_nothing_left();
}

#[test]
fn what_nextest_says_of_hangscope_itself_is_not_of_the_command() {
    let place = Place::new();
    let mut command = place.watch(&["--run-timeout", "1s", "--", "sleep", "1000"]);
    let command = apart(&mut command)
        .env("NEXTEST", "1")
        .env("NEXTEST_TEST_NAME", "outer")
        .env("NEXTEST_BINARY_ID", "demo");
    let end = run(command);
    assert_eq!(end.code(), 124);
    assert!(!end.stderr.contains("outer"), "{}", end.stderr);
}

#[test]
fn before_nextest_ends_a_test_the_wrapper_looks() {
    let place = Place::new();
    if !has_nextest(&place) {
        return;
    }
    let config = format!(
        "experimental = [\"wrapper-scripts\"]\n\
         [scripts.wrapper.hangscope]\ncommand = ['{}', 'nextest-wrapper', '--']\n\
         [[profile.default.scripts]]\nfilter = 'all()'\nrun-wrapper = 'hangscope'\n\
         [profile.default]\nslow-timeout = {{ period = '2s', terminate-after = 1, grace-period = '60s' }}\n",
        env!("CARGO_BIN_EXE_hangscope")
    );
    package(
        &place,
        "2021",
        &[("src/lib.rs", LIB), (".config/nextest.toml", &config)],
    );
    build(&place);
    let mut command = place.command("cargo");
    let end = run(apart(command.args(["nextest", "run", "--no-fail-fast"])));
    let name = "demo tests::a_name_with_one_prefix_hangs";
    end.assert_timed_out(name);
    let bundle = place.bundle();
    assert_eq!(json(&bundle.join("manifest.json"))["outcome"]["signal"], 15);
    let dump = json(&bundle.join("dump.json"));
    assert_eq!(dump["run"]["processes"][0]["test"], name);
    place.assert_nothing_left();
}

#[test]
fn the_wrapper_ends_as_the_test_does_and_the_test_with_it() {
    let place = Place::new();
    let wrapped = |script: &str| {
        let mut command = place.command(env!("CARGO_BIN_EXE_hangscope"));
        apart(command.args(["nextest-wrapper", "--", "sh", "-c", script]));
        command
    };
    assert_eq!(run(&mut wrapped("exit 7")).code(), 7);
    assert_eq!(run(&mut wrapped("kill -KILL $$")).code(), -9);
    let lists = run(place.command(env!("CARGO_BIN_EXE_hangscope")).args([
        "nextest-wrapper",
        "--",
        "echo",
        "--list",
    ]));
    assert_eq!((lists.code(), lists.stdout.as_str()), (0, "--list\n"));
    // As nextest does it after its grace.
    let mut killed = Run::start(wrapped("echo READY; exec sleep 1000").stdin(Stdio::null()));
    killed.ready();
    killed.signal(Signal::KILL);
    assert_eq!(killed.end().code(), -9);
    wait_until("nothing is left", || place.processes().is_empty());
    let mut deaf = Run::start(&mut wrapped("trap '' TERM; echo READY; sleep 1000"));
    deaf.ready();
    let pid = deaf.pid();
    signal(pid, Signal::TERM).expect("it lives");
    wait_until("a bundle is saved", || !place.bundles().is_empty());
    signal(pid, Signal::KILL).expect("it lives");
    assert_eq!(deaf.end().code(), -9);
    wait_until("nothing is left", || place.processes().is_empty());
}
