//! What hangscope and the guardian say to each other over their socket: lines of text.

/// hangscope to guardian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// Send this signal to the command's process group.
    Signal(i32),
    /// Send TERM to the whole tree.
    Terminate,
    /// Kill the whole tree, answer [`Word::Gone`].
    Kill,
    /// Leave what still runs alone, and end.
    Release,
}

/// Guardian to hangscope.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// The command runs under this pid, which is its process group, too.
    Started(i32),
    /// It could not be started (an errno, 0 if unknown).
    NotStarted(i32),
    /// A signal stopped the command.
    Stopped(i32),
    /// The command ended by itself with a code.
    Exited(i32),
    /// A signal ended the command.
    Killed(i32),
    /// The command's end was seen, but its status was lost.
    Lost,
    /// No process of the run is left.
    Empty,
    /// The killing is done; so many processes live on.
    Gone(i32),
}

impl Order {
    /// As it is sent.
    pub(super) fn line(self) -> String {
        match self {
            Self::Signal(signal) => format!("signal {signal}\n"),
            Self::Terminate => "terminate\n".to_owned(),
            Self::Kill => "kill\n".to_owned(),
            Self::Release => "release\n".to_owned(),
        }
    }

    /// Reads a line of hangscope's.
    pub(super) fn parse(line: &str) -> Option<Self> {
        Some(match line.split_once(' ').unwrap_or((line, "")) {
            ("signal", signal) => Self::Signal(signal.parse().ok()?),
            ("terminate", _) => Self::Terminate,
            ("kill", _) => Self::Kill,
            ("release", _) => Self::Release,
            _ => return None,
        })
    }
}

impl Word {
    /// As it is sent.
    pub(super) fn line(self) -> String {
        match self {
            Self::Started(pid) => format!("started {pid}\n"),
            Self::NotStarted(errno) => format!("not-started {errno}\n"),
            Self::Stopped(signal) => format!("stopped {signal}\n"),
            Self::Exited(code) => format!("exited {code}\n"),
            Self::Killed(signal) => format!("killed {signal}\n"),
            Self::Lost => "lost\n".to_owned(),
            Self::Empty => "empty\n".to_owned(),
            Self::Gone(left) => format!("gone {left}\n"),
        }
    }

    /// Reads a line of the guardian's.
    pub(super) fn parse(line: &str) -> Option<Self> {
        let (word, number) = line.split_once(' ').unwrap_or((line, ""));
        let number = || number.parse().ok();
        Some(match word {
            "started" => Self::Started(number()?),
            "not-started" => Self::NotStarted(number()?),
            "stopped" => Self::Stopped(number()?),
            "exited" => Self::Exited(number()?),
            "killed" => Self::Killed(number()?),
            "lost" => Self::Lost,
            "empty" => Self::Empty,
            "gone" => Self::Gone(number()?),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{Order, Word};

    #[test]
    fn what_is_written_is_read() {
        for word in [
            Word::Started(1),
            Word::NotStarted(2),
            Word::Stopped(20),
            Word::Exited(0),
            Word::Killed(9),
            Word::Lost,
            Word::Empty,
            Word::Gone(0),
        ] {
            assert_eq!(Word::parse(word.line().trim_end()), Some(word));
        }
        for order in [
            Order::Signal(2),
            Order::Terminate,
            Order::Kill,
            Order::Release,
        ] {
            assert_eq!(Order::parse(order.line().trim_end()), Some(order));
        }
        assert_eq!(
            (Word::parse("x"), Word::parse("exited x"), Order::parse("")),
            (None, None, None)
        );
    }
}
