//! The reference spawn backend (`fixtures/spawn`): with each of its defect switches a program hangs, and is told why; without
//! it the same program ends, and nothing is said of it.

use crate::support::fixture;
use crate::support::hangscope::{assert_resolves, dump};
use crate::support::program::{Program, until};
use crate::support::pythons;
use hangscope::model::{Report, Verdict};
use std::process::Command;

/// A switch, and what must be said.
struct Defect {
    switch: &'static str,
    id: &'static str,
    /// The last of the blockers: a thread's name, or the beginning of one; nothing where there is none to name.
    culprit: Option<&'static str>,
    says: &'static str,
}

fn start(version: &str, switch: &str, state: &str, config: &str) -> Option<Program> {
    let python = pythons::python_with_packages(version)?;
    let mut command = Command::new(python);
    command
        .arg(fixture("spawn/programs/defect.py"))
        .args([switch, state, config])
        .env("PYTHONPATH", fixture("spawn/src"));
    let mut program = Program::start(&mut command);
    program.wait_for("READY");
    Some(program)
}

fn culprit(report: &Report, id: &str) -> Option<(Option<String>, String)> {
    let finding = report.analysis.findings.iter().find(|it| it.id == id)?;
    let name = finding.blockers.last().map(|key| {
        let thread = report.samples.last().and_then(|sample| sample.thread(key));
        let thread = thread.expect("a blocker in the sample");
        thread.display_name().untrusted().to_owned()
    });
    let mut words = finding.title.untrusted().to_owned();
    for evidence in &finding.evidence {
        words.push('\n');
        words.push_str(evidence.text.untrusted());
    }
    Some((name, words))
}

impl Defect {
    fn with_it(&self, version: &str, config: &str) {
        let Some(mut program) = start(version, self.switch, "on", config) else {
            return;
        };
        let mut last = String::new();
        until(&format!("{} told of {}", self.id, self.switch), || {
            program.must_be_alive();
            let run = dump(program.pid());
            let report = run.report();
            last = format!(
                "{:?} {:#?}",
                report.analysis.verdict, report.analysis.findings
            );
            let Some((name, words)) = culprit(&report, self.id) else {
                return false;
            };
            if report.analysis.verdict != Verdict::Hang {
                return false;
            }
            let named = match (&name, self.culprit) {
                (Some(name), Some(wanted)) => name.starts_with(wanted),
                (None, None) => true,
                _ => false,
            };
            assert!(named, "{name:?}: {last}");
            assert!(
                words.contains(self.says),
                "{:?} is not in\n{words}",
                self.says
            );
            assert_eq!(run.code, Some(10));
            assert_resolves(&report);
            true
        });
        assert!(!last.is_empty());
    }

    /// Looked at before its teardown begins, which is when it is at rest.
    fn without_it(&self, version: &str, config: &str) {
        let Some(mut program) = start(version, self.switch, "look", config) else {
            return;
        };
        let run = dump(program.pid());
        program.must_be_alive();
        let report = run.report();
        assert_eq!(report.analysis.findings, [], "{}", self.switch);
        assert_eq!(
            (report.analysis.verdict, run.code),
            (Verdict::NoHangSeen, Some(0))
        );
        drop(program);
        let Some(mut program) = start(version, self.switch, "off", config) else {
            return;
        };
        let end = program.line();
        assert!(end.starts_with("END"), "{}: {end}", self.switch);
        assert_eq!(program.wait(), Some(0), "{}", self.switch);
    }
}

macro_rules! defects {
    ($($name:ident $defect:expr;)*) => {$(
        mod $name {
            use super::*;
            defects!(@versions $defect);
        }
    )*};
    (@versions $defect:expr) => {
        #[test]
        fn with_it_on_314() {
            $defect.with_it("3.14", "isolated");
        }
        #[test]
        fn with_it_on_315() {
            $defect.with_it("3.15", "isolated");
        }
        #[test]
        fn with_it_in_legacy() {
            $defect.with_it("3.14", "legacy");
        }
        #[test]
        fn without_it_on_314() {
            $defect.without_it("3.14", "isolated");
        }
        #[test]
        fn without_it_on_315() {
            $defect.without_it("3.15", "legacy");
        }
    };
}

defects! {
    run_on_cached_worker Defect {
        switch: "run-on-cached-worker",
        id: "cancel-waits-for-thread",
        culprit: Some("run from"),
        says: "waits in Event.wait at block (",
    };
    join_default Defect {
        switch: "join-default",
        id: "cancel-waits-for-thread",
        culprit: Some("subint-driver-1"),
        says: "which joins `subint-driver-1`, which waits in Event.wait at block (",
    };
    unbounded_shield Defect {
        switch: "unbounded-shield",
        id: "cancel-stopped-by-shield",
        culprit: Some("subint-driver-1"),
        says: "WaitsUnderShield.wait_exited",
    };
    destroy_on_loop_thread Defect {
        switch: "destroy-on-loop-thread",
        id: "destroy-blocked-by-idle-thread",
        culprit: Some("heartbeat"),
        says: "MainThread is ending sub-interpreter 1 (destroy in destroy (",
    };
    no_eof_as_cancel Defect {
        switch: "no-eof-as-cancel",
        id: "event-loops-at-standstill",
        culprit: Some("subint-driver-1"),
        says: "no task of it listens to anybody",
    };
    swallow_broken_send Defect {
        switch: "swallow-broken-send",
        id: "event-loops-at-standstill",
        culprit: Some("subint-driver-1"),
        says: "nobody is left to write what it waits for",
    };
    leave_nondaemon_thread Defect {
        switch: "leave-nondaemon-thread",
        id: "destroy-blocked-by-idle-thread",
        culprit: Some("heartbeat"),
        says: "waits for its non-daemon thread `heartbeat`",
    };
    leave_atexit_block Defect {
        switch: "leave-atexit-block",
        id: "destroy-blocked-by-atexit",
        culprit: None,
        says: "in its exit callback _wait_for_farewell (",
    };
}
