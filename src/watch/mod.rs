//! Runs a command and looks after it: its end, its terminal, its signals, the limit on its time.
//!
//! hangscope -> guardian -> command. The [`guardian`](guardian) is our own binary again: it adopts what the
//! command orphans, reaps everything, and ends the whole tree when hangscope is gone, in whatever way. So all
//! processes of the run stay below hangscope, which alone lets it read them under Yama, and nothing outlives
//! it. hangscope itself waits for no process but the guardian: a capture of the same tree runs in this
//! process, and two waits would steal each other's events (`docs/design.md`, section 4).
//!
//! Nothing here prints: what the user should know is an [`Event`] for the sink.

mod cargo;
mod clocks;
mod dump;
mod finish;
mod following;
mod forwarding;
mod guardian;
mod handover;
mod idle;
mod kill;
mod limit;
mod lines;
mod link;
mod looking;
mod overdue;
mod processes;
mod progress;
mod signals;
mod sink;
mod supervisor;
mod surveying;
mod terminal;
mod testrun;
mod wire;

pub use cargo::{CARGO_RUNNER, cargo_runner};
pub use guardian::{GUARDIAN, guardian};

use crate::inspect::Samples;
use crate::model::{Event, Leak, LeftKind, Outcome, Report, RunRecord};
use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// What to run and how to look after it.
#[derive(Clone, Debug)]
pub struct Options {
    /// The command and its arguments.
    pub command: Vec<OsString>,
    /// After how long the run is dumped and ended; never when absent.
    pub run_timeout: Option<Duration>,
    /// After how long a test is dumped and made to end; never when absent, except as its own mark says.
    pub test_timeout: Option<Duration>,
    /// After how long without a test event and without progress the run is dumped and ended; never when absent.
    pub idle_timeout: Option<Duration>,
    /// After how long without a test event and without progress the run is dumped, once; never when absent.
    pub report_after: Option<Duration>,
    /// What is done with a test over its limit.
    pub on_hang: OnHang,
    /// Whether pytest is to load our plugin, and cargo to tell of its test binaries.
    pub plugin: bool,
    /// Whether nextest has started hangscope for the test that its environment names (`nextest-wrapper`). A signal is
    /// then passed on when the look for it is complete, and not when its first sample is saved.
    pub own_test: bool,
    /// Whether to tell of slow tests while they run.
    pub status: bool,
    /// What tests must not leave behind.
    pub fail_on_leak: Vec<LeftKind>,
    /// Time between TERM and KILL, and between other steps that end something.
    pub grace: Duration,
    /// The folder that bundles are written to; none are when absent.
    pub archive: Option<PathBuf>,
    /// The exit code for a run that a limit ended; here only to be noted in the bundle.
    pub hang_exit_code: u8,
    /// How many samples a capture takes.
    pub samples: Samples,
    /// Pause between samples.
    pub interval: Duration,
    /// Columns of the text report.
    pub width: usize,
}

/// What is done with a test over its limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnHang {
    /// It is made to fail, by the mildest means that works.
    Continue,
    /// The run is ended.
    End,
}

/// How a run ended.
#[derive(Debug)]
pub struct Finished {
    /// How the command ended, or was ended.
    pub outcome: Outcome,
    /// All that is known of its tests.
    pub record: RunRecord,
    /// What tests left behind and must not.
    pub leaks: Vec<Leak>,
    /// The last look at the run, if there was any.
    pub report: Option<Report>,
    /// The bundle of that look.
    pub bundle: Option<PathBuf>,
}

/// Why a command was not run, or was lost.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// There is no such command.
    #[error("failed to run command {}: {source}", command.display())]
    NotFound {
        /// The command.
        command: OsString,
        /// What the system said.
        source: io::Error,
    },
    /// The command is there and cannot be run.
    #[error("failed to run command {}: {source}", command.display())]
    CannotRun {
        /// The command.
        command: OsString,
        /// What the system said.
        source: io::Error,
    },
    /// No process could be started.
    #[error("failed to start the guardian process: {0}")]
    Guardian(#[source] io::Error),
    /// The signals or the terminal could not be set up.
    #[error("failed to prepare the watch: {0}")]
    Setup(#[source] io::Error),
}

/// Runs the command to its end and returns how that came.
///
/// Call it from the main thread, once, while the process has no other thread: signals, the parent-death signal
/// and the inherited dispositions belong to the process.
///
/// # Errors
/// When the command was not started.
pub fn run(options: Options, sink: Box<dyn FnMut(Event) + Send>) -> Result<Finished, WatchError> {
    supervisor::run(options, sink)
}
