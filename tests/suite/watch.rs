//! `hangscope watch`: how a run ends, what the command sees, what is saved.

use crate::support_watch::{Place, json, python, run};
use std::fs;
use std::os::unix::fs::PermissionsExt;

#[test]
fn exit_codes_are_passed_on() {
    let place = Place::new();
    for code in ["0", "7", "124", "255"] {
        let end =
            run(&mut place.watch(&["--", "sh", "-c", "echo out; echo err >&2; exit $0", code]));
        assert_eq!(end.code().to_string(), code);
        assert_eq!(
            (end.stdout.as_str(), end.stderr.as_str()),
            ("out\n", "err\n")
        );
    }
    assert!(!place.path(".hangscope").exists(), "nothing to archive");
    place.assert_nothing_left();
}

#[test]
fn a_death_by_signal_is_died_again() {
    let place = Place::new();
    for number in [1, 2, 6, 9, 11, 13, 15, 30, 45] {
        let end = run(&mut place.watch(&["--", "sh", "-c", &format!("kill -{number} $$")]));
        assert_eq!(end.code(), -number);
    }
}

#[test]
fn a_command_that_cannot_be_run() {
    let place = Place::new();
    let end = run(&mut place.watch(&["--", "no-such-command"]));
    assert_eq!(end.code(), 127);
    assert!(
        end.stderr
            .starts_with("hangscope: failed to run command no-such-command: "),
        "{}",
        end.stderr
    );
    assert_eq!(end.stderr.lines().count(), 1);

    fs::write(place.path("plain"), "text").expect("a file");
    assert_eq!(run(&mut place.watch(&["--", "./plain"])).code(), 126);
    fs::set_permissions(place.path("plain"), fs::Permissions::from_mode(0o755)).expect("its mode");
    let end = run(&mut place.watch(&["--", "./plain"]));
    assert_eq!(end.code(), 126, "no program: {}", end.stderr);
    assert_eq!(run(&mut place.watch(&["--", "/"])).code(), 126);
}

#[test]
fn at_the_limit_the_run_is_dumped_and_ended() {
    let place = Place::new();
    let script = "echo READY; sleep 1000 & sleep 1000";
    let end = run(&mut place.watch(&[
        "--run-timeout",
        "0.3",
        "--samples",
        "3",
        "--interval",
        "10ms",
        "--",
        "sh",
        "-c",
        script,
    ]));
    assert_eq!(end.code(), 124);
    place.assert_nothing_left();
    assert!(
        end.stderr.starts_with("\nhangscope: run timeout (0.3 s)\n"),
        "{}",
        end.stderr
    );
    let bundle = place.bundle();
    let name = bundle.file_name().expect("a name").to_string_lossy();
    assert!(
        end.stderr.ends_with(&format!(
            "archive: .hangscope/{name}/ (report.txt, dump.json)\n"
        )),
        "{}",
        end.stderr
    );
    let dump = json(&bundle.join("dump.json"));
    assert_eq!(dump["samples"].as_array().expect("samples").len(), 3);
    assert_eq!(
        dump["samples"][0]["processes"]
            .as_array()
            .expect("processes")
            .len(),
        3,
        "{dump:#}"
    );
    assert_eq!(dump["trigger"]["kind"], "run-timeout");
    let manifest = json(&bundle.join("manifest.json"));
    assert_eq!(
        manifest["outcome"],
        serde_json::json!({"kind": "timed-out", "code": 124})
    );
}

#[test]
fn the_exit_code_of_the_limit_can_be_chosen() {
    let place = Place::new();
    let options = [
        "--run-timeout",
        "100ms",
        "--hang-exit-code",
        "3",
        "--no-archive",
        "--samples",
        "1",
    ];
    let end = run(place.watch(&options).args(["--", "sleep", "1000"]));
    assert_eq!(end.code(), 3);
    assert!(!place.path(".hangscope").exists());
    assert!(
        end.stderr.contains("run timeout (0.1 s)") && !end.stderr.contains("archive"),
        "{}",
        end.stderr
    );
}

#[test]
fn the_command_sees_what_it_would_see_without() {
    let place = Place::new();
    let look = r#"
import os, resource, signal, sys
print(sorted(os.environ.items()), sys.argv, os.getcwd(), os.umask(0))
print([os.readlink(f"/proc/self/fd/{fd}") for fd in range(3)])
print(sorted(int(fd) for fd in os.listdir("/proc/self/fd")))
print([line for line in open("/proc/self/status") if line.startswith("Sig") and "SigQ" not in line])
print([resource.getrlimit(number) for number in range(16)])
print(os.read(0, 100), os.getpgrp() == os.getpid())
"#;
    let input = place.path("input");
    fs::write(&input, "from stdin").expect("a file");
    let with = |arguments: &[&str]| {
        let mut command = place.command("sh");
        command
            .args([
                "-c",
                "ulimit -c 0; umask 027; trap '' USR2; exec 5</dev/null; exec \"$0\" \"$@\"",
            ])
            .args(arguments)
            .args([python(), "-c", look, "", "a b", "\u{e9}\n"])
            .stdin(fs::File::open(&input).expect("the input"));
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let out = place.path("out");
        let err = place.path("err");
        let status = command
            .stdout(fs::File::create(&out).expect("out"))
            .stderr(fs::File::create(&err).expect("err"))
            .status()
            .expect("it runs");
        assert!(
            status.success(),
            "{}",
            fs::read_to_string(err).expect("err")
        );
        fs::read_to_string(out).expect("out")
    };
    let without = with(&["env"]);
    let watched = with(&[
        env!("CARGO_BIN_EXE_hangscope"),
        "watch",
        "--no-plugin",
        "--",
    ]);
    // The shell names the program that it runs in `_`.
    let plain = |text: &str| {
        text.replace(env!("CARGO_BIN_EXE_hangscope"), "X")
            .replace("/usr/bin/env", "X")
    };
    assert_eq!(plain(&watched), plain(&without));
}

#[test]
fn five_variables_are_set_for_the_plugin_and_the_runner() {
    let place = Place::new();
    let environment = |command: &mut std::process::Command| -> std::collections::BTreeSet<String> {
        let end = run(command.env_remove("PYTHONPATH").env_remove("TOX_OVERRIDE"));
        end.stdout.lines().map(str::to_owned).collect()
    };
    let without = environment(&mut place.command("env"));
    let watched = environment(place.watch(&["--"]).arg("env"));
    assert!(without.is_subset(&watched));
    let names: Vec<&str> = watched
        .difference(&without)
        .filter_map(|line| line.split_once('='))
        .map(|(name, _)| name)
        .collect();
    let arch = std::env::consts::ARCH.to_ascii_uppercase();
    let runner = |library| format!("CARGO_TARGET_{arch}_UNKNOWN_LINUX_{library}_RUNNER");
    let (gnu, musl) = (runner("GNU"), runner("MUSL"));
    let expected = [&gnu, &musl, "HANGSCOPE_RUN", "PYTHONPATH", "TOX_OVERRIDE"];
    assert_eq!(names, expected);
}

#[test]
fn an_archive_that_cannot_be_written_costs_one_line() {
    let place = Place::new();
    fs::write(place.path("taken"), "mine").expect("a file");
    let options = [
        "--run-timeout",
        "100ms",
        "--interval",
        "10ms",
        "--archive",
        "taken",
        "--",
    ];
    let end = run(place.watch(&options).args(["sleep", "1000"]));
    assert_eq!(end.code(), 124);
    let lines: Vec<&str> = end
        .stderr
        .lines()
        .filter(|line| line.contains("no bundle is saved"))
        .collect();
    assert_eq!(
        lines,
        [
            "hangscope: no bundle is saved: cannot use taken as the archive folder: a file is in the way"
        ]
    );
    assert!(end.stderr.contains("run timeout (0.1 s)"), "{}", end.stderr);
    assert_eq!(
        fs::read_to_string(place.path("taken")).expect("the file"),
        "mine"
    );
    place.assert_nothing_left();
}

#[test]
fn a_full_disk_costs_one_line() {
    let place = Place::new();
    // A limit on file size is the full disk that needs no mount; the signal that comes with it is ignored.
    let script = "ulimit -f 0; trap '' XFSZ; exec \"$0\" watch --run-timeout 100ms --samples 1 -- sleep 1000";
    let end = run(place
        .command("sh")
        .args(["-c", script, env!("CARGO_BIN_EXE_hangscope")]));
    assert_eq!(end.code(), 124, "{}", end.stderr);
    assert!(
        end.stderr.contains("no bundle is saved") && end.stderr.contains("run timeout"),
        "{}",
        end.stderr
    );
    assert!(place.bundles().is_empty());
    place.assert_nothing_left();
}
