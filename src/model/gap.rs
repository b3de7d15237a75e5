//! What could not be read, and why.

use super::{Foreign, Key};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Something missing from a snapshot. It stands where the data would be: a dump that misses a part says so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Gap {
    /// The process, thread or interpreter that is incomplete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Key>,
    /// What is missing, as a noun phrase ("Python frames").
    pub missing: Foreign,
    /// Why it is missing.
    pub cause: Foreign,
    /// What the user can do about it, if anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<Foreign>,
    /// What kind of gap it is.
    pub kind: GapKind,
}

/// Kinds of gaps; they decide whether a dump counts as incomplete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum GapKind {
    /// The target went away, wholly or in part, while it was read. Nothing to blame.
    Gone,
    /// The operating system refused.
    Denied,
    /// This version, build or platform has no reader (yet).
    Unsupported,
    /// The data kept changing while it was read.
    Moving,
    /// The data did not make sense, or went on beyond what a sane process has, and was not used.
    Implausible,
    /// The process is of a kind that has no such part; for information.
    NotApplicable,
}

impl GapKind {
    /// Whether something that was asked for and is alive could not be read (exit code 3).
    #[must_use]
    pub fn is_incomplete(self) -> bool {
        matches!(self, Self::Denied | Self::Unsupported | Self::Implausible)
    }
}

impl Gap {
    /// A gap with a cause and no remedy.
    #[must_use]
    pub fn new(
        subject: Option<Key>,
        kind: GapKind,
        missing: impl Into<Foreign>,
        cause: impl Into<Foreign>,
    ) -> Self {
        Self {
            subject,
            missing: missing.into(),
            cause: cause.into(),
            remedy: None,
            kind,
        }
    }
    /// Adds what the user can do.
    #[must_use]
    pub fn remedy(mut self, remedy: impl Into<Foreign>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }
}
