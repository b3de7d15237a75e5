//! `dump`, `analyze` of what it saved, and `watch` at its limit come to one first verdict of one hang.

use crate::support::hangscope::{command, finish};
use crate::support::program::Program;
use crate::support::{fixture, pythons};
use crate::support_watch::{Place, run};
use hangscope::model::Report;
use std::path::Path;
use std::process::Command;

/// Programs of `fixtures/hangs`, of each kind one: locks, queues, pipes, children, tasks, a circle, one that polls.
const PROGRAMS: [&str; 10] = [
    "asyncio_condition.py",
    "child_hung.py",
    "generator_closed_late.py",
    "join_never_told.py",
    "lock_self.py",
    "mp_queue_never_fed.py",
    "orphan_holds_pipe.py",
    "polled_queue_without_sentinel.py",
    "ticking_child_pipe_full.py",
    "unittest_never.py",
];

/// Cause and site of the first finding.
fn first(report: &Report) -> Option<(String, String)> {
    let finding = report.analysis.findings.first()?;
    Some((finding.id.clone(), finding.site.clone()))
}

fn parse(text: &str) -> Report {
    serde_json::from_str(text).expect("a report")
}

fn dumped(python: &Path, script: &Path, saved: &Path) -> Report {
    let mut program = Program::start(Command::new(python).arg(script));
    program.wait_for("READY");
    program.wait_for_rest();
    let pid = program.pid().to_string();
    let mut dump = command();
    finish(
        dump.args(["dump", &pid, "--format", "json", "-o"])
            .arg(saved),
    );
    parse(&std::fs::read_to_string(saved).expect("a saved report"))
}

fn watched(place: &Place, python: &Path, script: &Path) -> Report {
    let mut watch = place.watch(&["--run-timeout", "3s", "--grace", "200ms", "--"]);
    run(watch.arg(python).arg(script));
    let report = place.bundle().join("dump.json");
    parse(&std::fs::read_to_string(report).expect("a report in the bundle"))
}

#[test]
fn of_dump_analyze_and_watch() {
    let Some(python) = pythons::python_with_packages("3.14") else {
        return;
    };
    for name in PROGRAMS {
        let script = fixture("hangs").join(name);
        let place = Place::new();
        let saved = place.path("saved.json");
        let by_dump = first(&dumped(&python, &script, &saved));
        assert!(by_dump.is_some(), "{name}: no finding");
        let analyzed = finish(command().args(["analyze", "--format", "json"]).arg(&saved));
        assert_eq!(first(&parse(&analyzed.stdout)), by_dump, "{name}: analyze");
        let by_watch = first(&watched(&place, &python, &script));
        assert_eq!(by_watch, by_dump, "{name}: watch");
    }
}
