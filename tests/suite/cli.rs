//! The command line: help, exit codes, one line for each complaint, terminals and pipes.

use crate::support::hangscope::{Run, command, finish, run};
use crate::support::program::{Program, until};
use crate::support::{pythons, repository, skip};
use nix::unistd::Uid;
use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

fn waiting(version: &str, how: &str) -> Option<Program> {
    let python = pythons::python(version)?;
    Some(Program::ready(
        &python,
        &repository("fixtures/programs/waiting_program.py"),
        &[how],
    ))
}

/// A program that hangs, for what any report must hold to.
fn hanging() -> Option<Program> {
    let python = pythons::python("3.14")?;
    Some(Program::ready(
        &python,
        &repository("fixtures/detectors/join-on-blocked-thread/hang_chain.py"),
        &[],
    ))
}

fn one_line(run: &Run) -> &str {
    assert_eq!(run.stdout, "");
    let text = run
        .stderr
        .strip_suffix('\n')
        .unwrap_or_else(|| panic!("not a line: {:?}", run.stderr));
    assert!(!text.contains('\n'), "more than one line: {text}");
    text.strip_prefix("hangscope: ")
        .unwrap_or_else(|| panic!("who says so? {text}"))
}

#[test]
fn help_of_each_command() {
    for name in [
        "",
        "dump",
        "watch",
        "nextest-wrapper",
        "analyze",
        "explain",
        "doctor",
        "demo",
    ] {
        let mut words: Vec<&str> = name.split_whitespace().collect();
        words.push("--help");
        let run = finish(command().args(&words).env("COLUMNS", "100"));
        assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""));
        let snapshot = if name.is_empty() {
            "help".to_owned()
        } else {
            format!("help_{name}")
        };
        insta::assert_snapshot!(snapshot, run.stdout);
    }
}

#[test]
fn no_such_process() {
    // Pids end at 4,194,304 on Linux.
    let run = run(["dump", "4194305"]);
    assert_eq!(run.code, Some(4));
    assert_eq!(one_line(&run), "no process 4194305");
}

#[test]
fn a_process_id_that_is_none() {
    for word in ["0", "-1", "x", "99999999999", ""] {
        let run = run(["dump", "--", word]);
        assert_eq!(run.code, Some(2), "{word}: {}", run.stderr);
        assert_eq!(run.stdout, "");
    }
}

#[test]
fn a_kernel_thread() {
    let is_one =
        fs::read_to_string("/proc/2/stat").is_ok_and(|stat| stat.starts_with("2 (kthreadd)"));
    if !is_one {
        skip("pid 2 is no kernel thread here");
        return;
    }
    let run = run(["dump", "2"]);
    assert_eq!(run.code, Some(2));
    assert!(one_line(&run).contains("kernel thread"), "{}", run.stderr);
}

#[test]
fn itself() {
    // The shell becomes hangscope, which has then the pid that it is given.
    let mut shell = Command::new("sh");
    shell.args(["-c", "exec \"$0\" dump $$", env!("CARGO_BIN_EXE_hangscope")]);
    let run = finish(&mut shell);
    assert_eq!(run.code, Some(2));
    assert_eq!(one_line(&run), "cannot dump itself");
}

#[test]
fn a_process_without_python() {
    let program = Program::start(Command::new("sleep").arg("100000"));
    let comm = format!("/proc/{}/comm", program.pid());
    until("it has become sleep", || {
        fs::read_to_string(&comm).is_ok_and(|comm| comm == "sleep\n")
    });
    let run = run(["dump", &program.pid().to_string()]);
    assert!(
        run.stdout
            .contains(&format!("process {} sleep 100000", program.pid())),
        "{}",
        run.stdout
    );
    assert!(run.stdout.contains("sleep"), "{}", run.stdout);
    assert!(!run.stdout.contains("hang:"), "{}", run.stdout);
    assert!(matches!(run.code, Some(0 | 3)), "{run:?}");
}

#[test]
fn a_zombie() {
    let Some(python) = pythons::python("3.11") else {
        return skip("a zombie needs Python 3.11");
    };
    let mut parent = Command::new(python);
    // The child ends, and its parent never waits for it.
    parent.args([
        "-c",
        "import os, signal\npid = os.fork()\nif pid == 0: os._exit(0)\nprint(pid, flush=True)\nsignal.pause()",
    ]);
    let mut program = Program::start(&mut parent);
    let pid = program.line();
    let stat = format!("/proc/{pid}/stat");
    until("it is a zombie", || {
        fs::read_to_string(&stat).is_ok_and(|stat| stat.contains(") Z "))
    });
    let run = run(["dump", &pid]);
    assert_eq!(run.code, Some(4));
    let line = one_line(&run);
    assert!(
        line.contains("zombie") && line.contains(&program.pid().to_string()),
        "{line}"
    );
}

#[test]
fn a_reader_that_has_seen_enough() {
    let Some(program) = hanging() else { return };
    let pid = program.pid().to_string();
    for (args, code) in [
        (vec!["dump", &pid, "--all"], 10),
        (vec!["dump", &pid, "--format", "json"], 10),
        (vec!["explain"], 0),
        (vec!["dump", "--help"], 0),
    ] {
        let mut child = command()
            .args(&args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        drop(child.stdout.take());
        let mut stderr = String::new();
        child
            .stderr
            .take()
            .expect("a pipe")
            .read_to_string(&mut stderr)
            .expect("UTF-8");
        let status = child.wait().expect("it ends");
        assert_eq!(
            (status.code(), stderr.as_str()),
            (Some(code), ""),
            "{args:?}"
        );
    }
}

#[test]
fn a_file_that_cannot_be_written() {
    let Some(program) = waiting("3.14", "event") else {
        return;
    };
    for path in ["/proc/no/such/file", "/", ""] {
        let run = run([
            "dump",
            &program.pid().to_string(),
            "--samples",
            "1",
            "-o",
            path,
        ]);
        assert_eq!(run.code, Some(2), "{path}: {}", run.stderr);
        assert_eq!(run.stdout, "");
    }
    let run = run([
        "dump",
        &program.pid().to_string(),
        "--samples",
        "1",
        "-o",
        "/proc/no/such/file",
    ]);
    assert!(
        one_line(&run).contains("/proc/no/such/file"),
        "{}",
        run.stderr
    );
}

#[test]
fn a_report_in_a_file() {
    let Some(program) = hanging() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("dump.json");
    let pid = program.pid().to_string();
    let path_text = path.to_str().expect("UTF-8");
    let saved = run(["dump", &pid, "--format", "json", "-o", path_text]);
    assert_eq!(
        (saved.code, saved.stdout.as_str(), saved.stderr.as_str()),
        (Some(10), "", "")
    );
    let report: hangscope::model::Report =
        serde_json::from_slice(&fs::read(&path).expect("the file")).expect("a report");
    assert_eq!(report.schema, hangscope::model::SCHEMA);
    assert_eq!(report.options.pid, program.pid());
}

#[test]
fn one_sample_cannot_tell_stuck_from_slow() {
    let Some(program) = hanging() else { return };
    let run = run([
        "dump",
        &program.pid().to_string(),
        "--samples",
        "1",
        "--format",
        "json",
    ]);
    let report = run.report();
    assert_eq!(report.samples.len(), 1);
    assert_eq!(run.code, Some(0), "a single look is no proof of a hang");
    let sure = report
        .analysis
        .findings
        .iter()
        .any(|finding| finding.certainty > hangscope::model::Certainty::Possible);
    assert!(!sure, "{:#?}", report.analysis.findings);
}

#[test]
fn colour_where_it_is_wanted() {
    let Some(program) = hanging() else { return };
    let pid = program.pid().to_string();
    let escapes = |run: &Run| run.stdout.contains("\u{1b}[");
    assert!(!escapes(&run(["dump", &pid])), "a pipe gets no colour");
    assert!(!escapes(&run(["dump", &pid, "--color", "never"])));
    assert!(escapes(&run(["dump", &pid, "--color", "always"])));
    assert!(!escapes(&finish(
        command().args(["dump", &pid]).env("NO_COLOR", "1")
    )));
    let forced = finish(
        command()
            .args(["dump", &pid, "--color", "always"])
            .env("NO_COLOR", "1"),
    );
    assert!(
        escapes(&forced),
        "what is asked for outranks the environment"
    );
}

#[test]
fn no_line_is_wider_than_asked_for() {
    let Some(program) = hanging() else { return };
    let pid = program.pid().to_string();
    for width in [60, 80, 100] {
        let run = run(["dump", &pid, "--width", &width.to_string()]);
        assert_eq!(run.code, Some(10));
        for line in run.stdout.lines() {
            assert!(
                line.chars().count() <= width,
                "{} > {width}: {line}",
                line.chars().count()
            );
        }
    }
    let run = finish(command().args(["dump", &pid]).env("COLUMNS", "80"));
    assert!(
        run.stdout.lines().all(|line| line.chars().count() <= 80),
        "{}",
        run.stdout
    );
}

#[test]
fn a_process_of_another_user() {
    if !Uid::effective().is_root() {
        skip("becoming another user needs root");
        return;
    }
    let Some(program) = waiting("3.14", "event") else {
        return;
    };
    let folder = tempfile::Builder::new()
        .prefix("hangscope-test-")
        .tempdir_in("/tmp")
        .expect("a folder");
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))
        .expect("a folder for all");
    let binary = folder.path().join("hangscope");
    fs::copy(env!("CARGO_BIN_EXE_hangscope"), &binary).expect("a copy");
    fs::set_permissions(&binary, fs::Permissions::from_mode(0o755)).expect("for all to run");
    let run = as_nobody(&binary, &["dump", &program.pid().to_string()]);
    assert_eq!(run.code, Some(5), "{run:?}");
    assert_eq!(run.stdout, "");
    assert!(
        run.stderr.starts_with("hangscope: cannot read process "),
        "{}",
        run.stderr
    );
    assert!(run.stderr.contains("permission denied"), "{}", run.stderr);
    assert!(
        run.stderr.lines().count() >= 2 && run.stderr.contains("sudo"),
        "no remedy: {}",
        run.stderr
    );
    // And where it is not there at all, that is what is said.
    assert_eq!(as_nobody(&binary, &["dump", "4194305"]).code, Some(4));
}

fn as_nobody(binary: &Path, args: &[&str]) -> Run {
    let mut wrapped = Command::new("setpriv");
    wrapped
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(binary)
        .args(args)
        .current_dir("/")
        .stdin(Stdio::null());
    finish(&mut wrapped)
}

#[test]
fn explain_prints_each_page_and_refuses_others() {
    let list = run(["explain"]);
    assert_eq!(list.code, Some(0));
    for cause in hangscope::analysis::detectors::causes() {
        assert!(list.stdout.contains(cause.id), "{}", cause.id);
        let page = run(["explain", cause.id]);
        assert_eq!(page.code, Some(0));
        assert_eq!(page.stdout.trim_end(), cause.page.trim_end());
    }
    let unknown = run(["explain", "no-such-cause"]);
    assert_eq!(unknown.code, Some(2));
    assert!(
        unknown.stderr.contains("no-such-cause"),
        "{}",
        unknown.stderr
    );
}
