//! Signals to hangscope, and the terminal's job control.

use super::signals::{self, Request};
use super::supervisor::{Phase, Supervisor};
use super::wire::Order;
use crate::inspect::Samples;
use crate::model::Trigger;
use nix::libc::{SIGCONT, SIGTERM, SIGTSTP, SIGTTIN, SIGTTOU};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::time::{Duration, Instant};

/// How long a signal that ends the run is held for the first sample. GitHub sends KILL 10 s after the first.
const FORWARD_AT_LATEST: Duration = Duration::from_secs(5);
/// Signals that come so soon after the first are one cancel: GitLab signals the shell and us, and the shell's
/// end tells us once more; `timeout` signals its child, and then its group with the child in it. Taken as a
/// second wish they would end the run before the first sample of it.
const ONE_CANCEL: Duration = Duration::from_secs(1);
/// How long to wait for the SIGCONT that shows that we were stopped.
const STOP_SEEN: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 100_000_000,
};

impl Supervisor {
    /// Acts on a signal to hangscope.
    pub(super) fn signal(&mut self, signal: i32) {
        match signals::request(signal) {
            Request::Forward => self.forward(signal),
            Request::Resume => self.resume(),
            Request::Look if self.is_undisturbed() && self.dump.is_none() => {
                self.look(
                    Trigger::Signal {
                        name: signals::name(signal),
                    },
                    self.options.samples,
                );
            }
            Request::Look => {}
            Request::LookThenForward => self.look_then_forward(signal, signals::name(signal)),
            Request::LookAtParent => self.look_at_parent(),
        }
    }

    /// If our parent has ended, that is as good as a SIGTERM.
    pub(super) fn look_at_parent(&mut self) {
        if rustix::process::getppid() == self.parent {
            return;
        }
        // Nobody is left who could send a second signal to a command that is deaf to the first.
        let patience = FORWARD_AT_LATEST.saturating_add(self.options.grace);
        if self.orphaned_until.is_none() {
            self.orphaned_until = Instant::now().checked_add(patience);
        }
        // The signal that ended our parent may have come to us, too, and is passed on: no second one then.
        if !self.is_same_cancel() {
            self.look_then_forward(SIGTERM, "the end of the parent process".to_owned());
        }
    }

    /// Whether nothing has begun to end the run.
    fn is_undisturbed(&self) -> bool {
        self.phase == Phase::Running && self.end.is_none()
    }

    /// Whether a signal that comes now belongs to one that is dealt with already.
    fn is_same_cancel(&self) -> bool {
        self.signalled
            .is_some_and(|first| first.elapsed() < ONE_CANCEL)
    }

    /// Whether a first sample is under way that nobody should take the run away from.
    fn is_looking(&self) -> bool {
        let may_look = matches!(self.phase, Phase::Running | Phase::LookingAtHang(_));
        may_look && self.end.is_none() && self.dump.as_ref().is_some_and(|dump| !dump.is_saved())
    }

    fn look_then_forward(&mut self, signal: i32, name: String) {
        let same = self.is_same_cancel();
        let again = self.signalled.is_some();
        self.signalled.get_or_insert_with(Instant::now);
        if again
            && same
            && let Some((held, _)) = &mut self.held
        {
            if !held.contains(&signal) {
                held.push(signal);
            }
            return;
        }
        if again || !(self.is_undisturbed() || self.is_looking()) {
            self.forward_held();
            self.forward(signal);
            return;
        }
        self.held = Some((vec![signal], Instant::now() + FORWARD_AT_LATEST));
        match &self.dump {
            // Two seconds may be all that is left: no more samples. If one is on disk, that is enough.
            Some(dump) => {
                dump.stop();
                if dump.is_saved() {
                    self.forward_held();
                }
            }
            None if self.options.own_test => {
                self.look(Trigger::Signal { name }, self.options.samples);
            }
            None => self.look(Trigger::Signal { name }, Samples::Exactly(1)),
        }
    }

    fn forward(&mut self, signal: i32) {
        self.link.order(Order::Signal(signal));
    }

    /// Passes on the signals that waited for a capture.
    pub(super) fn forward_held(&mut self) {
        for signal in self
            .held
            .take()
            .map(|(signals, _)| signals)
            .unwrap_or_default()
        {
            self.forward(signal);
        }
    }

    /// The command was stopped. If that is the terminal's doing, so are we.
    pub(super) fn mirror_stop(&mut self, signal: i32) {
        let by_terminal = matches!(signal, SIGTTIN | SIGTTOU);
        let (Some(terminal), Some(group)) = (&mut self.terminal, self.link.command()) else {
            // No terminal, no shell that could continue us: whoever stopped the command continues it.
            return;
        };
        // It wanted the terminal before it had it.
        if by_terminal && terminal.give(group) {
            self.forward(SIGCONT);
            return;
        }
        terminal.take_back();
        let now = Instant::now();
        if let Some(limit) = &mut self.limit {
            limit.stand(now);
        }
        self.stood_since.get_or_insert(now);
        // To the whole job, as the terminal would have sent it, a script around us included. Not SIGSTOP: of
        // these the kernel spares an orphaned group, where nobody could continue us.
        let ours = if by_terminal { signal } else { SIGTSTP };
        super::kill::signal_group(rustix::process::getpgrp().as_raw_nonzero().get(), ours);
        let _ = poll(
            &mut [PollFd::new(&self.signals, PollFlags::IN)],
            Some(&STOP_SEEN),
        );
        if self.signals.read_continued() {
            self.resume();
        } else if !by_terminal {
            // We were spared, as the command would have been in our place.
            self.resume();
        }
    }

    /// We were continued, and so is the command; in the foreground it gets the terminal again.
    fn resume(&mut self) {
        let now = Instant::now();
        if let Some(limit) = &mut self.limit {
            limit.go_on(now);
        }
        if let Some(since) = self.stood_since.take() {
            self.following.stood(now.saturating_duration_since(since));
            self.progress.note(now);
        }
        if let (Some(terminal), Some(group)) = (&mut self.terminal, self.link.command())
            && self.end.is_none()
            && terminal.is_for_command()
        {
            terminal.give(group);
        }
        self.forward(SIGCONT);
    }
}
