//! The controlling terminal, shared with the command the way a shell does it.

use crate::model::Pid;
use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use rustix::fs::{Mode, OFlags};
use rustix::process;
use rustix::termios::{self, OptionalActions, Termios};
use std::os::fd::OwnedFd;

/// The controlling terminal.
#[derive(Debug)]
pub(super) struct Terminal {
    tty: OwnedFd,
    ours: process::Pid,
    modes: Option<Termios>,
    given: bool,
}

impl Terminal {
    /// The controlling terminal, if there is one.
    pub(super) fn open() -> Option<Self> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOCTTY;
        let tty = rustix::fs::open("/dev/tty", flags, Mode::empty()).ok()?;
        Some(Self {
            modes: termios::tcgetattr(&tty).ok(),
            ours: process::getpgrp(),
            tty,
            given: false,
        })
    }

    /// Whether the command gets the terminal from the start: it reads it, and nobody else of our job does.
    /// With output into `| less` the reader needs it, too; the command then gets it when it asks (SIGTTIN).
    pub(super) fn is_for_command(&self) -> bool {
        termios::isatty(rustix::stdio::stdin()) && termios::isatty(rustix::stdio::stdout())
    }

    /// Makes a group the foreground group if we are that, and says whether it is.
    pub(super) fn give(&mut self, group: Pid) -> bool {
        let Some(group) = process::Pid::from_raw(group) else {
            return false;
        };
        match termios::tcgetpgrp(&self.tty) {
            Ok(now) if now == group => self.given = true,
            Ok(now) if now == self.ours => self.given = self.set(group),
            // Someone else's, such as the shell's when we run in the background.
            _ => return false,
        }
        self.given
    }

    /// Takes back what [`Self::give`] gave.
    pub(super) fn take_back(&mut self) {
        if std::mem::take(&mut self.given) {
            self.set(self.ours);
        }
    }

    /// Sets the terminal's modes back to what they were, after a command that could not do it itself.
    pub(super) fn restore_modes(&self) {
        let is_ours = termios::tcgetpgrp(&self.tty).is_ok_and(|now| now == self.ours);
        if let Some(modes) = self.modes.as_ref().filter(|_| is_ours) {
            without_ttou(|| {
                let _ = termios::tcsetattr(&self.tty, OptionalActions::Now, modes);
            });
        }
    }

    fn set(&self, group: process::Pid) -> bool {
        without_ttou(|| termios::tcsetpgrp(&self.tty, group).is_ok())
    }
}

/// Runs something that would stop us with SIGTTOU when we are not the foreground group. Blocking it on this
/// thread is enough, and leaves its disposition alone.
fn without_ttou<T>(body: impl FnOnce() -> T) -> T {
    let mut mask = SigSet::empty();
    mask.add(Signal::SIGTTOU);
    let before = mask.thread_swap_mask(SigmaskHow::SIG_BLOCK);
    let result = body();
    if let Ok(before) = before {
        let _ = before.thread_set_mask();
    }
    result
}
