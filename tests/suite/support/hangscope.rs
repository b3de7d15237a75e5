//! Runs of the built binary.

use hangscope::model::{Key, Report};
use std::ffi::OsStr;
use std::process::{Command, Output, Stdio};

/// The binary, with an environment that changes nothing.
pub(crate) fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hangscope"));
    command
        .env_remove("NO_COLOR")
        .env_remove("COLUMNS")
        .env_remove("RUST_BACKTRACE")
        .stdin(Stdio::null());
    command
}

/// Runs it. It must not panic, whatever else.
pub(crate) fn run<I, S>(args: I) -> Run
where
    I: IntoIterator<Item = S>,
    S: AsRef<OsStr>,
{
    finish(command().args(args))
}

/// Runs a command made by [`command`] or one that wraps it.
pub(crate) fn finish(command: &mut Command) -> Run {
    let output = command.output().expect("hangscope starts");
    let run = Run::from(output);
    assert!(
        run.code != Some(101) && !run.stderr.contains("panicked"),
        "{command:?} panicked: {}",
        run.stderr
    );
    run
}

/// A finished run.
#[derive(Debug)]
pub(crate) struct Run {
    /// Exit code; `None` after a signal.
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl From<Output> for Run {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).expect("stdout is UTF-8"),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Run {
    /// The report on stdout.
    pub(crate) fn report(&self) -> Report {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| {
            panic!(
                "no report ({error}), exit code {:?}: {}{}",
                self.code, self.stderr, self.stdout
            )
        })
    }
}

/// `dump PID --format json` with three samples close together.
pub(crate) fn dump(pid: i32) -> Run {
    dump_with(pid, &["--samples", "3", "--interval", "200ms"])
}

/// `dump PID --format json` with more arguments.
pub(crate) fn dump_with(pid: i32, more: &[&str]) -> Run {
    finish(
        command()
            .args(["dump", &pid.to_string(), "--format", "json"])
            .args(more),
    )
}

/// Every reference of every finding and edge leads somewhere in the samples.
pub(crate) fn assert_resolves(report: &Report) {
    let analysis = &report.analysis;
    for finding in analysis.findings.iter().chain(&analysis.notices) {
        let of_finding = [&finding.waiter]
            .into_iter()
            .chain(&finding.blockers)
            .chain(&finding.affected);
        for key in of_finding {
            assert!(
                exists(report, report.samples.len() - 1, key),
                "{}: no {key:?}",
                finding.id
            );
        }
        assert!(!finding.evidence.is_empty(), "{}: no evidence", finding.id);
        for evidence in &finding.evidence {
            assert!(
                !evidence.at.is_empty(),
                "{}: {:?} refers to nothing",
                finding.id,
                evidence.text
            );
            for at in &evidence.at {
                assert!(
                    at.sample < report.samples.len(),
                    "{}: no sample {}",
                    finding.id,
                    at.sample
                );
                assert!(
                    exists(report, at.sample, &at.key),
                    "{}: {at:?} is not there",
                    finding.id
                );
            }
        }
    }
}

fn exists(report: &Report, sample: usize, key: &Key) -> bool {
    let sample = &report.samples[sample];
    sample.process(key).is_some()
        || sample.zombies.iter().any(|zombie| zombie.process == *key)
        || sample.thread(key).is_some()
        || sample.processes.iter().any(|process| {
            process.interpreters.iter().any(|interpreter| {
                &interpreter.key == key
                    || interpreter.gil.as_ref().is_some_and(|gil| &gil.key == key)
            }) || process.threads.iter().any(|thread| {
                thread
                    .wait
                    .as_ref()
                    .is_some_and(|wait| wait.target.as_ref() == Some(key))
            }) || process
                .event_loops
                .iter()
                .any(|event_loop| event_loop.task(key).is_some())
        })
}
