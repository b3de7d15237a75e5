//! `hangscope nextest-wrapper`: between nextest, or cargo, and one test binary.
//!
//! nextest ends a test that takes too long by TERM to its process group, and KILL after a grace. The test is in a group of
//! its own here, so TERM reaches hangscope alone: it looks, saves, and passes TERM on. After KILL the guardian ends the test.

use super::watch::{self, Ending};
use crate::cli::NextestWrapperArgs;
use crate::exit_code::ExitCode;
use crate::inspect::Samples;
use crate::model::Event;
use crate::watch::{OnHang, Options};
use std::ffi::OsStr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Runs the test. Nothing is printed unless a signal comes.
#[must_use]
pub(super) fn run(args: &NextestWrapperArgs) -> Ending {
    if lists(&args.command) {
        return Ending::Code(become_it(args));
    }
    let options = Options {
        command: args.command.clone(),
        run_timeout: None,
        test_timeout: None,
        idle_timeout: None,
        report_after: None,
        on_hang: OnHang::Continue,
        plugin: false,
        own_test: true,
        status: false,
        fail_on_leak: Vec::new(),
        // It is nextest that ends the test.
        grace: Duration::from_secs(5),
        archive: (!args.no_archive).then(|| archive(args.archive.as_deref())),
        hang_exit_code: 124,
        samples: Samples::Exactly(3),
        interval: Duration::from_millis(500),
        width: super::output::width(None, std::io::stderr()),
    };
    // What the test leaves running is nextest's to tell.
    let is_told = |event: &Event| !matches!(event, Event::LeftBehind(_) | Event::Slow(_));
    match watch::execute(options, is_told) {
        Ok(finished) => watch::ending(finished.outcome),
        Err(ending) => ending,
    }
}

/// Whether the binary is only asked which tests it has. libtest takes what follows `--` for names.
fn lists(command: &[std::ffi::OsString]) -> bool {
    let options = command.iter().skip(1).take_while(|word| *word != "--");
    options.into_iter().any(|word| word == OsStr::new("--list"))
}

fn become_it(args: &NextestWrapperArgs) -> ExitCode {
    let Some((program, arguments)) = args.command.split_first() else {
        return ExitCode::Usage;
    };
    let error = Command::new(program).args(arguments).exec();
    super::complain(&format!("failed to run {}: {error}", program.display()));
    match error.kind() {
        std::io::ErrorKind::NotFound => ExitCode::CommandNotFound,
        _ => ExitCode::CannotRun,
    }
}

/// A relative folder is that of the workspace: tests run in the folders of their packages.
fn archive(wanted: Option<&Path>) -> PathBuf {
    let wanted = wanted.unwrap_or(Path::new(".hangscope"));
    match std::env::var_os("NEXTEST_WORKSPACE_ROOT") {
        Some(root) => Path::new(&root).join(wanted),
        None => wanted.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::lists;

    #[test]
    fn a_binary_that_lists_its_tests_is_told_from_one_that_runs_them() {
        let of = |words: &[&str]| lists(&words.iter().map(Into::into).collect::<Vec<_>>());
        assert!(of(&["/t/it-1", "--list", "--format", "terse"]));
        assert!(!of(&["/t/it-1", "--exact", "a", "--nocapture"]));
        assert!(!of(&["/t/it-1", "--", "--list"]));
        assert!(!of(&["--list"]));
    }
}
