//! What happens during a watched run, and how it ended.

use super::{Foreign, Pid, Report, SlowTest};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Something that `watch` tells its user. The sink that renders it is given by `commands`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The tree was looked at. Why is in the report's trigger.
    Verdict {
        /// What was seen; boxed since it is much larger than the other events.
        report: Box<Report>,
        /// The folder it was saved in; absent when the archive is off or failed.
        bundle: Option<PathBuf>,
        /// Whether the command had ended by itself when the capture was done.
        ended: bool,
    },
    /// The tree could not be looked at, in whole or from some sample on. The run goes on as if it had been.
    CaptureFailed {
        /// Why, as one clause.
        why: Foreign,
    },
    /// A bundle could not be written. The run and the verdict are not touched by that.
    ArchiveFailed {
        /// Why, as one clause.
        why: Foreign,
    },
    /// A limit now ends the run, and no verdict has said so: TERM to the tree, KILL after the grace.
    Ending {
        /// The limit, as in `run timeout (10 s)`.
        why: Foreign,
    },
    /// A limit has been reached and something is done about it, or something of that has come to an end.
    Acting {
        /// What, as one clause.
        what: Foreign,
    },
    /// A test takes long. Only told on a terminal.
    Slow(SlowStatus),
    /// The command ended and these of its processes did not. They are left alone.
    LeftBehind(Vec<LeftProcess>),
    /// These processes could not be killed (state D, or another user's).
    Survived(Vec<LeftProcess>),
    /// Something of hangscope's own failed; the run goes on.
    Trouble {
        /// What failed and what that means, as one clause.
        what: Foreign,
    },
}

/// Where a run stands while one of its tests takes long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlowStatus {
    /// The test that runs the longest, or what else is under way.
    pub place: Foreign,
    /// For how long, in milliseconds.
    pub elapsed_ms: u64,
    /// Other tests that run at the same time.
    pub others: usize,
    /// Tests that have finished.
    pub finished: usize,
    /// Tests that were collected.
    pub collected: Option<usize>,
    /// The slowest of the finished ones.
    pub slowest: Option<SlowTest>,
    /// Threads of all processes of the run.
    pub threads: Option<u32>,
}

/// A process that outlived the command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftProcess {
    /// Its id.
    pub pid: Pid,
    /// Its name (`comm`).
    pub name: Foreign,
}

/// How a watched run ended, as the manifest of a bundle states it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Outcome {
    /// In one word.
    pub kind: OutcomeKind,
    /// The code that the caller of hangscope sees (128 + number for a death by signal); absent while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<i32>,
    /// The signal that the command died of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
}

/// Ways for a watched run to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OutcomeKind {
    /// It had not ended when the bundle was written, or hangscope could not write its end down.
    Running,
    /// The command ended by itself.
    ChildExit,
    /// The command died of a signal that was not hangscope's.
    ChildSignal,
    /// A limit ended the run.
    TimedOut,
    /// How the command ended is unknown: its status was lost.
    Unknown,
}

impl Outcome {
    /// A run that goes on.
    pub const RUNNING: Self = Self {
        kind: OutcomeKind::Running,
        code: None,
        signal: None,
    };
    /// The command ended by itself with this code.
    #[must_use]
    pub fn exited(code: i32) -> Self {
        Self {
            kind: OutcomeKind::ChildExit,
            code: Some(code),
            signal: None,
        }
    }
    /// The command died of this signal.
    #[must_use]
    pub fn killed(signal: i32) -> Self {
        Self {
            kind: OutcomeKind::ChildSignal,
            code: Some(128_i32.saturating_add(signal)),
            signal: Some(signal),
        }
    }
    /// A limit ended the run; `code` is what hangscope exits with then.
    #[must_use]
    pub fn timed_out(code: u8) -> Self {
        Self {
            kind: OutcomeKind::TimedOut,
            code: Some(i32::from(code)),
            signal: None,
        }
    }
}
