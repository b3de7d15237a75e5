//! Holders and waits under coverage and debuggers, which rewrite bytecode and put frames of their own on the stacks.

use crate::support::program::Program;
use crate::support::{pythons, repository, skip};
use crate::waits;
use std::process::Command;

/// `pytest --cov` of a test that hangs, with each core that coverage has.
fn check_covered(version: &str, core: &str) {
    let Some(python) = pythons::python_with_packages(version) else {
        return;
    };
    let find = "import pytest_cov";
    let found = Command::new(&python).args(["-c", find]).output();
    if !found.is_ok_and(|output| output.status.success()) {
        skip(&format!("there is no pytest-cov for Python {version}"));
        return;
    }
    let programs = repository("fixtures/programs");
    let folder = tempfile::tempdir().expect("a folder");
    let test = format!(
        "import runpy, sys\ndef test_that_hangs():\n    sys.argv = ['locks']\n    runpy.run_path({:?})\n",
        programs.join("locks_program.py")
    );
    std::fs::write(folder.path().join("test_it.py"), test).expect("a test");
    let mut run = Command::new(python);
    run.args(["-m", "pytest", "-q", "-s", "--cov-branch", "--cov"])
        .arg(programs)
        .current_dir(folder.path())
        .env("COVERAGE_CORE", core);
    let mut program = Program::start(&mut run);
    // The program's line follows what pytest prints of the test's name.
    let mut lines = program.wait_for("READY");
    let last = lines.last_mut().expect("a line");
    *last = last[last.find('{').expect("JSON")..].to_owned();
    waits::check_program(&program, &lines, &format!("{version} {core}"));
}

fn check_debugged(version: &str) {
    let Some(python) = pythons::python(version) else {
        return;
    };
    let script = repository("fixtures/programs/locks_program.py");
    let mut program = Program::start(Command::new(python).arg(script).arg("bdb"));
    let lines = program.wait_for("READY");
    waits::check_program(&program, &lines, &format!("{version} bdb"));
}

#[test]
fn covered_3_9() {
    check_covered("3.9", "ctrace");
}

#[test]
fn covered_3_12_by_monitoring() {
    check_covered("3.12", "sysmon");
}

#[test]
fn covered_3_12_by_tracing() {
    check_covered("3.12", "ctrace");
}

#[test]
fn covered_3_14_by_monitoring() {
    check_covered("3.14", "sysmon");
}

#[test]
fn covered_3_14_by_tracing_in_python() {
    check_covered("3.14", "pytrace");
}

#[test]
fn under_a_debugger() {
    for version in ["3.9", "3.11", "3.12", "3.14"] {
        check_debugged(version);
    }
}
