//! The edge: from the command line to the layers below and back to the terminal. Only here is anything printed.

mod analyze;
mod demo;
mod doctor;
mod dump;
mod explain;
mod github;
mod nextest_wrapper;
mod output;
mod python_finder;
mod watch;

use crate::cli::{Cli, Command};
use crate::exit_code::ExitCode;
use clap::Parser;
use std::io::{self, ErrorKind, Write};
use tracing_subscriber::EnvFilter;

/// Runs the command that the process was called with.
#[must_use]
pub fn main() -> ExitCode {
    // Not commands for people: hangscope, or cargo for it, starts it so, see `crate::watch`.
    if std::env::args_os()
        .nth(1)
        .is_some_and(|word| word == crate::watch::GUARDIAN)
    {
        return ExitCode::Other(crate::watch::guardian());
    }
    if std::env::args_os()
        .nth(1)
        .is_some_and(|word| word == crate::watch::CARGO_RUNNER)
    {
        let (code, why) = crate::watch::cargo_runner(std::env::args_os().skip(2));
        complain(&why);
        return ExitCode::Other(code);
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    start_tracing(cli.verbose);
    match cli.command {
        Command::Dump(args) => dump::run(&args),
        Command::Watch(args) => end(watch::run(&args)),
        Command::NextestWrapper(args) => end(nextest_wrapper::run(&args)),
        Command::Analyze(args) => analyze::run(&args),
        Command::Explain(args) => explain::run(&args),
        Command::Doctor => doctor::run(),
        Command::Demo(args) => demo::run(&args),
        Command::Schema => print(&crate::report::schema()),
    }
}

/// Ends as a watched command did.
fn end(ending: watch::Ending) -> ExitCode {
    match ending {
        watch::Ending::Code(code) => code,
        watch::Ending::Signal(signal) => watch::die_by(signal),
    }
}

/// `--help` and `--version` are successes; everything else clap complains about is a usage error.
fn usage(error: &clap::Error) -> ExitCode {
    let printed = error.print();
    if error.use_stderr() || printed.is_err_and(|error| error.kind() != ErrorKind::BrokenPipe) {
        ExitCode::Usage
    } else {
        ExitCode::Success
    }
}

fn start_tracing(verbose: u8) {
    let level = match verbose {
        0 => return,
        1 => "hangscope=debug",
        _ => "hangscope=trace,py_spy=debug",
    };
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(level))
        .with_writer(io::stderr)
        .with_ansi(false)
        .with_span_events(tracing_subscriber::fmt::format::FmtSpan::CLOSE)
        .init();
}

/// Prints to stdout. A reader that has seen enough (a closed pipe) is fine.
fn print(text: &str) -> ExitCode {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => ExitCode::Success,
        Err(error) if error.kind() == ErrorKind::BrokenPipe => ExitCode::Success,
        Err(error) => {
            complain(&format!("cannot write to stdout: {error}"));
            ExitCode::Usage
        }
    }
}

/// One line to stderr that says what failed.
fn complain(message: &str) {
    // If stderr is gone there is nobody left to tell.
    let _ = writeln!(io::stderr(), "hangscope: {message}");
}
