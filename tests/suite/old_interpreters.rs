//! CPython 3.9 to 3.12 note the thread that made a sub-interpreter: which one runs it is found on the threads' stacks. What the
//! program says itself is the truth.

use crate::support::hangscope::{dump, dump_with, run};
use crate::support::program::{Program, until};
use crate::support::{pythons, repository};
use hangscope::model::{GapKind, Process, Report, Thread, Verdict};
use std::collections::BTreeMap;
use std::process::Command;

/// Threads that run code of each interpreter.
type Told = BTreeMap<i64, Vec<i32>>;

fn start(version: &str, args: &[&str]) -> Option<(Program, Told)> {
    let python = pythons::python(version)?;
    let script = repository("fixtures/programs/old_interpreters_program.py");
    let mut program = Program::start(Command::new(python).arg(script).args(args));
    let lines = program.wait_for("READY");
    Some((program, serde_json::from_str(&lines[0]).expect("JSON")))
}

fn root(report: &Report) -> &Process {
    &report.samples.last().expect("a sample").processes[0]
}

/// Threads with a thread state of an interpreter, and of the main one those that have no other.
fn found(process: &Process, interpreter: i64) -> Vec<i32> {
    let in_it = |thread: &&Thread| thread.state_of(interpreter).is_some();
    process
        .threads
        .iter()
        .filter(in_it)
        .map(|thread| thread.tid)
        .collect()
}

fn is_untold(report: &Report) -> bool {
    let sample = report.samples.last().expect("a sample");
    sample.gaps.iter().any(|gap| {
        gap.kind == GapKind::Unsupported && gap.missing.untrusted().contains("which threads run")
    })
}

fn check_right(process: &Process, told: &Told, version: &str) {
    for (interpreter, threads) in told.iter().filter(|(interpreter, _)| **interpreter != 0) {
        assert_eq!(
            &found(process, *interpreter),
            threads,
            "interpreter {interpreter} on {version}"
        );
    }
}

fn innermost(process: &Process, tid: i32) -> (i64, String, usize) {
    let thread = process
        .threads
        .iter()
        .find(|thread| thread.tid == tid)
        .expect("a thread");
    let state = thread.python.first().expect("a thread state");
    let function = state
        .frames
        .first()
        .map(|frame| frame.function.untrusted().to_owned());
    (
        state.interpreter_id,
        function.unwrap_or_default(),
        state.frames.len(),
    )
}

fn check_blocked(version: &str) {
    let Some((mut program, told)) = start(version, &[]) else {
        return;
    };
    until("all wait", || {
        let report = dump_with(program.pid(), &["--samples", "1"]).report();
        program.must_be_alive();
        let process = root(&report);
        if !process.threads.iter().all(|thread| thread.settled) {
            return false;
        }
        assert!(!is_untold(&report), "{version}: {:#?}", report.samples);
        check_right(process, &told, version);
        assert!(
            process
                .python
                .as_ref()
                .is_some_and(|python| python.running_threads_known)
        );
        let tid = |interpreter: i64| told[&interpreter][0];
        assert_eq!(innermost(process, tid(1)), (1, "in_lock".to_owned(), 2));
        assert_eq!(innermost(process, tid(2)), (2, "in_sleep".to_owned(), 302));
        // The older one runs, called by the newer one.
        assert_eq!(innermost(process, tid(4)), (4, "in_read".to_owned(), 2));
        let nested = process
            .threads
            .iter()
            .find(|thread| thread.tid == tid(4))
            .expect("it");
        let order: Vec<i64> = nested
            .python
            .iter()
            .map(|state| state.interpreter_id)
            .collect();
        assert_eq!(order, [4, 5, 0]);
        // Its name is the one that the main interpreter knows it by, not that of the thread that made the interpreter.
        assert_eq!(nested.display_name().untrusted(), "nested");
        let main = process
            .threads
            .iter()
            .find(|thread| thread.tid == told[&0][0])
            .expect("main");
        assert_eq!(main.python.len(), 1, "{main:?}");
        true
    });
}

/// A thread that runs has no stack pointer: then it is told rightly, or said not to be known.
fn check_spinning(version: &str) {
    let Some((mut program, told)) = start(version, &["spin"]) else {
        return;
    };
    let mut known = 0;
    for _ in 0..20 {
        let report = dump_with(program.pid(), &["--samples", "1"]).report();
        program.must_be_alive();
        let process = root(&report);
        if is_untold(&report) {
            assert_ne!(report.analysis.verdict, Verdict::Hang);
            continue;
        }
        known += 1;
        check_right(process, &told, version);
    }
    assert!(
        version == "3.9" || known > 10,
        "{version}: known {known} times of 20"
    );
}

/// What could not be judged before is now: a hang beside an idle sub-interpreter, and one within.
fn check_judged(version: &str) {
    const BESIDE: &str = "import _xxsubinterpreters as i, threading\nkept = i.create(isolated=False)\n\
        t = threading.Thread(target=threading.Event().wait, name='worker')\nt.start()\nprint('READY', flush=True)\nt.join()";
    const WITHIN: &str = "import _xxsubinterpreters as i, threading\nkept = i.create(isolated=False)\n\
        t = threading.Thread(target=i.run_string, args=(kept, '''import threading\nt = threading.Thread(\
        target=threading.Event().wait, name='worker')\nt.start()\nt.join()'''), name='pool')\nt.start()\n\
        print('READY', flush=True)\nt.join()";
    let Some(python) = pythons::python(version) else {
        return;
    };
    for script in [BESIDE, WITHIN] {
        let mut program = Program::start(Command::new(&python).args(["-c", script]));
        program.wait_for("READY");
        let mut saved = String::new();
        until("it is found", || {
            let run = dump(program.pid());
            program.must_be_alive();
            let report = run.report();
            let names = |key| {
                let sample = report.samples.last().expect("a sample");
                let thread = sample.thread(key).expect("a thread");
                thread.display_name().untrusted().to_owned()
            };
            let found = report.analysis.findings.iter().any(|finding| {
                assert_eq!(finding.id, "join-on-blocked-thread");
                let culprit = finding.blockers.last().map(names);
                assert_eq!(culprit.as_deref(), Some("worker"), "{finding:?}");
                report.analysis.verdict == Verdict::Hang
            });
            saved = run.stdout;
            found
        });
        check_not_judged_without_the_flag(&saved);
    }
}

/// A dump that does not say that the threads are known, as those of older hangscopes.
fn check_not_judged_without_the_flag(saved: &str) {
    let mut dump: serde_json::Value = serde_json::from_str(saved).expect("JSON");
    for sample in dump["samples"].as_array_mut().expect("samples") {
        for process in sample["processes"].as_array_mut().expect("processes") {
            let runtime = process["python"].as_object_mut().expect("a runtime");
            assert!(runtime.remove("running_threads_known").is_some());
        }
    }
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), dump.to_string()).expect("written");
    let path = file.path().to_str().expect("UTF-8");
    let report = run(["analyze", path, "--format", "json"]).report();
    assert!(
        report.analysis.findings.is_empty(),
        "{:#?}",
        report.analysis
    );
}

macro_rules! on_versions {
    ($($module:ident: $check:ident;)*) => {$(
        mod $module {
            #[test]
            fn py39() { super::$check("3.9"); }
            #[test]
            fn py310() { super::$check("3.10"); }
            #[test]
            fn py311() { super::$check("3.11"); }
            #[test]
            fn py312() { super::$check("3.12"); }
        }
    )*};
}

on_versions! {
    blocked: check_blocked;
    spinning: check_spinning;
    judged: check_judged;
}
