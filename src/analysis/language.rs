//! In which language a remedy is to be given: that of the program that has to be changed.

use crate::model::{Process, RuntimeKind};

/// The language of a program. In order of how much is known of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Language {
    /// C, or any other.
    C,
    Rust,
    Python,
}

impl Language {
    pub(super) fn of(process: &Process) -> Self {
        match process.runtime {
            _ if process.python.is_some() => Self::Python,
            RuntimeKind::Python => Self::Python,
            RuntimeKind::Rust => Self::Rust,
            RuntimeKind::Other | RuntimeKind::Unknown => Self::C,
        }
    }

    /// The words for this language.
    pub(super) fn pick<'w>(self, python: &'w str, rust: &'w str, c: &'w str) -> &'w str {
        match self {
            Self::Python => python,
            Self::Rust => rust,
            Self::C => c,
        }
    }

    /// Who else may end a wait, apart from the threads that were seen. In a program that is native anyway "native code" is nobody
    /// else.
    pub(super) fn others(self) -> &'static str {
        match self {
            Self::Python => "a signal handler, native code or another process",
            Self::Rust | Self::C => "a signal handler or another process",
        }
    }
}
