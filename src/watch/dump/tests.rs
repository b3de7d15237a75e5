//! A capture that fails, in one way or another.

use super::{Dump, Inspect, Said, Taken, Target};
use crate::inspect::{Request, Samples};
use crate::model::{Analysis, Host, Report, RunRecord, SCHEMA, Tool, Trigger};
use crate::watch::{OnHang, Options};
use rustix::event::{PollFd, PollFlags, poll};
use std::path::Path;
use std::time::Duration;

fn report(request: &Request) -> Report {
    Report {
        schema: SCHEMA.to_owned(),
        tool: Tool {
            name: "hangscope".to_owned(),
            version: "0".to_owned(),
        },
        created: String::new(),
        host: Host {
            kernel: String::new(),
            arch: String::new(),
            cpus: 1,
        },
        options: crate::model::Options {
            pid: request.pid,
            tree: request.tree,
            samples: 1,
            interval_ms: 0,
            all: false,
            width: 100,
        },
        trigger: request.trigger.clone(),
        run: None,
        samples: Vec::new(),
        analysis: Analysis::default(),
    }
}

fn take(archive: &Path, inspect: Inspect) -> Taken {
    let options = Options {
        command: vec!["true".into()],
        run_timeout: None,
        test_timeout: None,
        idle_timeout: None,
        report_after: None,
        on_hang: OnHang::Continue,
        plugin: false,
        own_test: false,
        status: false,
        fail_on_leak: Vec::new(),
        grace: Duration::ZERO,
        archive: Some(archive.to_owned()),
        hang_exit_code: 124,
        samples: Samples::Auto,
        interval: Duration::ZERO,
        width: 100,
    };
    let target = Target {
        root: 1,
        guardian: 1,
        command: 42,
    };
    let trigger = Trigger::RunTimeout { limit_ms: 1 };
    let mut dump = Dump::start(
        inspect,
        target,
        &options,
        (Samples::Auto, Duration::ZERO),
        trigger,
        RunRecord::default(),
    )
    .unwrap_or_else(|error| panic!("{error}"));
    loop {
        let _ = poll(&mut [PollFd::new(&dump, PollFlags::IN)], None);
        for said in dump.read() {
            if let Said::Done(taken) = said {
                return *taken;
            }
        }
    }
}

#[test]
fn a_panic_after_the_first_sample_keeps_that_one() {
    let place = tempfile::tempdir().unwrap_or_else(|error| panic!("{error}"));
    let taken = take(place.path(), |request, on_report| {
        on_report(&report(request));
        panic!("a bug")
    });
    assert_eq!(taken.failure.as_deref(), Some("hangscope failed: a bug"));
    assert_eq!(taken.report.map(|report| report.options.pid), Some(42));
    let manifest =
        std::fs::read_to_string(place.path().join("latest/manifest.json")).unwrap_or_default();
    assert!(
        manifest.contains("a bug") && place.path().join("latest/dump.json").exists(),
        "{manifest}"
    );
}

#[test]
fn a_capture_that_fails_at_once_leaves_the_reason() {
    let place = tempfile::tempdir().unwrap_or_else(|error| panic!("{error}"));
    let taken = take(place.path(), |_, _| Err("no such process".to_owned()));
    assert_eq!(taken.failure.as_deref(), Some("no such process"));
    let manifest =
        std::fs::read_to_string(place.path().join("latest/manifest.json")).unwrap_or_default();
    assert!(manifest.contains("no such process"), "{manifest}");
    assert!(!place.path().join("latest/dump.json").exists() && taken.report.is_none());
}

#[test]
fn an_archive_that_cannot_be_made_costs_no_report() {
    let taken = take(Path::new("/proc/self/nowhere"), |request, on_report| {
        assert!(on_report(&report(request)));
        Ok(report(request))
    });
    assert!(
        taken
            .archive_failure
            .is_some_and(|why| why.contains("/proc/self/nowhere"))
    );
    assert!(taken.failure.is_none() && taken.report.is_some() && taken.bundle.is_none());
}
