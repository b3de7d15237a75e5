//! Python stuck inside of extension modules, with the GIL and without: which function of which library it is in.

use crate::capture::root;
use crate::support::hangscope::{Run, dump_with};
use crate::support::native::c_library;
use crate::support::program::Program;
use crate::support::{fixture, pythons, skip};
use hangscope::model::{Finding, Process, Thread};
use std::path::{Path, PathBuf};
use std::process::Command;

const GIL_HELD: &str = "gil-held-in-native-call";

fn run(python: &Path, scene: &str, library: &Path) -> Program {
    let mut program = Program::start(
        Command::new(python)
            .arg(fixture("programs/extensions_program.py"))
            .arg(scene)
            .arg(library),
    );
    program.wait_for("READY");
    program
}

/// A default dump, repeated until it has a finding: `READY` comes just before the call.
fn first_finding(program: &mut Program, id: &str, options: &[&str]) -> (Run, Finding) {
    let mut last = None;
    for _ in 0..10 {
        let run = dump_with(program.pid(), options);
        program.must_be_alive();
        let report = run.report();
        let found = report.analysis.findings.iter().find(|one| one.id == id);
        if let Some(finding) = found.cloned() {
            return (run, finding);
        }
        last = Some(report.analysis);
    }
    panic!("no {id}: {last:#?}");
}

/// The finding names the function, in its sentence and with the stack as evidence.
fn check_named(program: &mut Program, function: &str) {
    let (run, finding) = first_finding(program, GIL_HELD, &[]);
    let title = finding.title.untrusted();
    assert!(title.contains(&format!(", in {function} (")), "{title}");
    let of_native = |part: &hangscope::model::Evidence| {
        let at_stack = part.at.iter().any(|at| at.field == "native.frames");
        at_stack && part.text.untrusted().contains(function)
    };
    assert!(finding.evidence.iter().any(of_native), "{finding:#?}");
    let report = run.report();
    let last = report.samples.last().expect("a sample");
    assert_eq!(
        last.pauses.len(),
        1,
        "a dump without --native takes it where it tells something"
    );
}

#[test]
fn a_c_function_that_keeps_the_gil_is_named() {
    let library = c_library("programs/native/device.c");
    for version in ["3.9", "3.11", "3.14"] {
        let Some(python) = pythons::python(version) else {
            continue;
        };
        check_named(
            &mut run(&python, "device_wait", &library),
            "wait_in_kernel of libdevice.so",
        );
        check_named(
            &mut run(&python, "device_poll", &library),
            "device_poll of libdevice.so",
        );
    }
}

/// The Python with numpy and polars.
fn with_extensions() -> Option<PathBuf> {
    let python = pythons::python_with_packages("3.14")?;
    let mut command = Command::new(&python);
    let imports = command.args(["-c", "import numpy, polars"]).output();
    if !imports.is_ok_and(|output| output.status.success()) {
        skip("the environment of Python 3.14 has no numpy and polars; see tests/provision");
        return None;
    }
    Some(python)
}

fn main_thread(process: &Process) -> &Thread {
    let main = process
        .threads
        .iter()
        .find(|thread| thread.tid == process.pid);
    main.expect("the main thread")
}

/// The names of the functions of a stack up to the first that runs Python code, each with its file.
fn called(thread: &Thread) -> Vec<String> {
    let stack = thread.native.as_ref().expect("a native stack");
    let called = stack
        .frames
        .iter()
        .take_while(|frame| frame.python_frames == 0);
    let module = |frame: &hangscope::model::NativeFrame| {
        let module = frame.module.as_ref();
        module.map_or(String::new(), |name| name.untrusted().to_owned())
    };
    called
        .map(|frame| format!("{} of {}", frame.function_name(), module(frame)))
        .collect()
}

#[test]
fn numpy_with_the_gil() {
    let Some(python) = with_extensions() else {
        return;
    };
    let mut program = run(&python, "sort", Path::new("-"));
    // A sort takes a second or two; the looks are to fall into one.
    let (_, finding) = first_finding(&mut program, GIL_HELD, &["--interval", "50ms"]);
    let title = finding.title.untrusted();
    assert!(title.contains("of _multiarray_umath."), "{title}");
}

/// In the assembly of BLAS, which has no unwind rules: function and library are named, and there the walk may end.
#[test]
fn numpy_without_the_gil() {
    let Some(python) = with_extensions() else {
        return;
    };
    let mut program = run(&python, "dot", Path::new("-"));
    let report = dump_with(program.pid(), &["--native"]).report();
    program.must_be_alive();
    assert!(report.analysis.findings.is_empty());
    let main = main_thread(root(&report));
    let called = called(main);
    assert!(
        called.iter().any(|one| one.starts_with("dgemm_")
            || one.starts_with("cblas_")
            || one.contains("of libscipy_openblas")),
        "{called:#?}"
    );
}

/// Both sides of it: the thread that waits without the GIL for polars, and that of polars in Python code.
#[test]
fn polars_without_the_gil() {
    let Some(python) = with_extensions() else {
        return;
    };
    let mut program = run(&python, "collect", Path::new("-"));
    let report = dump_with(program.pid(), &["--native"]).report();
    program.must_be_alive();
    let process = root(&report);
    let called = called(main_thread(process));
    assert!(
        called
            .iter()
            .any(|one| one.contains("collect") && one.contains("of _polars_runtime")),
        "{called:#?}"
    );
    let worker = process.threads.iter().find(|thread| {
        let mut frames = thread.frames();
        frames.any(|frame| frame.function.untrusted().ends_with("stuck"))
    });
    let worker = worker.expect("a thread of polars in Python code");
    let stack = worker.native.as_ref().expect("a native stack");
    assert_eq!(stack.apart, None, "{stack:#?}");
    let python = stack
        .frames
        .iter()
        .rposition(|frame| frame.python_frames > 0);
    let outside = &stack.frames[python.expect("Python frames")..];
    let of_polars = |frame: &hangscope::model::NativeFrame| {
        let module = frame.module.as_ref();
        module.is_some_and(|name| name.untrusted().starts_with("_polars_runtime"))
    };
    assert!(outside.iter().any(of_polars), "{outside:#?}");
}
