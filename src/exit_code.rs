//! Every exit code of hangscope. A stable interface; `docs/exit-codes.md` is its page.

/// How a command ended. `watch` passes its child's own code on instead where it has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitCode {
    /// Done; for `dump` and `analyze`: complete, and no hang seen.
    Success,
    /// The command line, the configuration or a given file is unusable.
    Usage,
    /// Something alive that was asked for could not be read.
    Incomplete,
    /// The process does not exist, or ended before anything was read.
    NoSuchProcess,
    /// The operating system does not let us read the process.
    Permission,
    /// `dump`, `analyze`: a hang was found.
    HangFound,
    /// `watch`: the command succeeded and tests left behind what `--fail-on-leak` names.
    Leak,
    /// `watch`: a limit ended the run.
    TimedOut,
    /// `watch`: hangscope itself failed.
    OwnFailure,
    /// `watch`: the command was found but could not be run.
    CannotRun,
    /// `watch`: the command was not found.
    CommandNotFound,
    /// Any other code: the watched command's own.
    Other(u8),
}

impl ExitCode {
    /// The number given to `exit(2)`.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::Usage => 2,
            Self::Incomplete => 3,
            Self::NoSuchProcess => 4,
            Self::Permission => 5,
            Self::HangFound => 10,
            Self::Leak => 11,
            Self::TimedOut => 124,
            Self::OwnFailure => 125,
            Self::CannotRun => 126,
            Self::CommandNotFound => 127,
            Self::Other(code) => code,
        }
    }
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> Self {
        Self::from(code.code())
    }
}
