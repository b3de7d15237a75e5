//! Runs a command and looks after it: its end, its terminal, its signals, the limit on its time.
//!
//! hangscope -> guardian -> command. The [`guardian`](guardian) is our own binary again: it adopts what the
//! command orphans, reaps everything, and ends the whole tree when hangscope is gone, in whatever way. So all
//! processes of the run stay below hangscope, which alone lets it read them under Yama, and nothing outlives
//! it. hangscope itself waits for no process but the guardian: a capture of the same tree runs in this
//! process, and two waits would steal each other's events (`docs/design.md`, section 4).
//!
//! Nothing here prints: what the user should know is an [`Event`] for the sink.

mod clocks;
mod dump;
mod finish;
mod forwarding;
mod guardian;
mod handover;
mod kill;
mod limit;
mod lines;
mod link;
mod looking;
mod processes;
mod signals;
mod sink;
mod supervisor;
mod terminal;
#[allow(
    dead_code,
    unused_imports,
    reason = "the supervisor does not use it yet"
)]
mod testrun;
mod wire;

pub use guardian::{GUARDIAN, guardian};

use crate::inspect::Samples;
use crate::model::{Event, Outcome};
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
    /// Time between TERM and KILL.
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
pub fn run(options: Options, sink: Box<dyn FnMut(Event) + Send>) -> Result<Outcome, WatchError> {
    supervisor::run(options, sink)
}
