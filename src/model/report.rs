//! The whole of what hangscope says, as data. `dump.json` is this.

use super::{Analysis, Foreign, Pid, Run, Snapshot};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Name of the schema that this version writes. Fields are only ever added to it.
pub const SCHEMA: &str = "hangscope/1";

/// A report: samples of a process tree and their analysis.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Report {
    /// Always `hangscope/1`.
    pub schema: String,
    /// Who wrote it.
    pub tool: Tool,
    /// When, in UTC (RFC 3339).
    pub created: String,
    /// Where.
    pub host: Host,
    /// What was asked for.
    pub options: Options,
    /// Why the capture was made.
    pub trigger: Trigger,
    /// What the watched run was doing, as its tests see it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<Run>,
    /// What was seen.
    pub samples: Vec<Snapshot>,
    /// What follows from it.
    pub analysis: Analysis,
}

/// The program that wrote a report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Tool {
    /// `hangscope`.
    pub name: String,
    /// Its version.
    pub version: String,
}

impl Tool {
    /// This program.
    #[must_use]
    pub fn current() -> Self {
        Self {
            name: env!("CARGO_PKG_NAME").to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }
}

/// The machine that a report was made on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Host {
    /// Kernel release.
    pub kernel: String,
    /// Machine architecture.
    pub arch: String,
    /// Number of CPUs.
    pub cpus: usize,
}

/// What was asked for; all that rendering depends on is here, so that a saved report renders alike anywhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Options {
    /// The process asked for.
    pub pid: Pid,
    /// Its descendants too.
    pub tree: bool,
    /// Most samples to take.
    pub samples: u32,
    /// Milliseconds between samples.
    pub interval_ms: u64,
    /// Show all stacks in full.
    pub all: bool,
    /// Columns of the text report.
    pub width: usize,
}

/// Why a capture was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum Trigger {
    /// `hangscope dump`.
    Dump,
    /// `hangscope watch`: the run took longer than its limit.
    RunTimeout {
        /// The limit in milliseconds.
        limit_ms: u64,
    },
    /// `hangscope watch`: a test took longer than its limit.
    TestTimeout {
        /// The limit in milliseconds.
        limit_ms: u64,
        /// The test, or what else the process was at.
        test: Foreign,
        /// Whose limit it is: `--test-timeout`, `hangscope mark`, `pytest-timeout`.
        whose: String,
    },
    /// `hangscope watch`: for so long no test began or ended and nothing in the tree got further.
    IdleTimeout {
        /// The limit in milliseconds.
        limit_ms: u64,
        /// Whether the run is ended for it; else it is only told.
        ends: bool,
    },
    /// `hangscope watch`: a signal asked for it.
    Signal {
        /// Its name.
        name: String,
    },
}

impl Trigger {
    /// Whether somebody waits longer than intended: then what a plain look keeps silent is worth telling.
    #[must_use]
    pub fn is_overdue(&self) -> bool {
        match self {
            Self::RunTimeout { .. } | Self::TestTimeout { .. } | Self::IdleTimeout { .. } => true,
            Self::Dump | Self::Signal { .. } => false,
        }
    }
}
