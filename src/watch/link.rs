//! hangscope's hold on the guardian, and on the command should the guardian be lost.

use super::guardian::GUARDIAN;
use super::handover::send_command;
use super::kill;
use super::lines::Lines;
use super::processes::{Process, alive_below, own_pid};
use super::wire::{Order, Word};
use crate::model::Pid;
use rustix::process::{PidfdFlags, WaitId, WaitIdOptions, WaitOptions};
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

/// The guardian and the command under it.
#[derive(Debug)]
pub(super) struct Link {
    lines: Lines,
    guardian: Pid,
    command: Option<Pid>,
    /// Of the command; needed only when the guardian is lost.
    pidfd: Option<OwnedFd>,
    lost: bool,
    ended: bool,
}

impl Link {
    /// Starts a guardian, and it the command. Every other descriptor that hangscope has opened must be
    /// close-on-exec, and signals must be as the command shall have them.
    /// The environment variables reach the command, too.
    pub(super) fn start(
        command: &[OsString],
        environment: &[(OsString, OsString)],
    ) -> io::Result<Self> {
        let (ours, theirs) = UnixStream::pair()?;
        let guardian = Command::new("/proc/self/exe")
            .arg0(env!("CARGO_PKG_NAME"))
            .arg(GUARDIAN)
            .envs(environment.iter().cloned())
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .process_group(0)
            .spawn()?;
        send_command(&ours, command, rustix::stdio::stdin())?;
        Ok(Self {
            lines: Lines::new(ours),
            guardian: i32::try_from(guardian.id()).unwrap_or(0),
            command: None,
            pidfd: None,
            lost: false,
            ended: false,
        })
    }

    /// The guardian's pid. All processes of the run are below it (below us when it is lost).
    pub(super) fn guardian(&self) -> Pid {
        self.guardian
    }

    /// The process that all processes of the run are below.
    pub(super) fn root(&self) -> Pid {
        if self.lost { own_pid() } else { self.guardian }
    }

    /// The command's pid, which is its process group, too.
    pub(super) fn command(&self) -> Option<Pid> {
        self.command
    }

    /// Whether the guardian has gone before its time.
    pub(super) fn is_lost(&self) -> bool {
        self.lost
    }

    /// The descriptor that is readable when [`Self::words`] has something.
    pub(super) fn readable(&self) -> Option<BorrowedFd<'_>> {
        match (&self.pidfd, self.lost) {
            (_, false) => Some(self.lines.as_fd()),
            (Some(pidfd), true) if !self.ended => Some(pidfd.as_fd()),
            _ => None,
        }
    }

    /// What has happened to the command.
    pub(super) fn words(&mut self) -> Vec<Word> {
        if self.lost {
            return self.own_look();
        }
        let (lines, gone) = self.lines.read();
        let mut words: Vec<Word> = lines.iter().filter_map(|line| Word::parse(line)).collect();
        for word in &words {
            match *word {
                Word::Started(pid) => {
                    self.command = Some(pid);
                    self.pidfd = rustix::process::Pid::from_raw(pid)
                        .and_then(|pid| rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok());
                }
                Word::Exited(_) | Word::Killed(_) | Word::Lost => self.ended = true,
                _ => {}
            }
        }
        if gone {
            self.lost = true;
            self.reap_guardian();
            words.extend(self.own_look());
        }
        words
    }

    /// Without the guardian its charges are our children, since we are a subreaper, too.
    fn own_look(&mut self) -> Vec<Word> {
        if self.ended {
            return Vec::new();
        }
        let Some(pidfd) = &self.pidfd else {
            self.ended = true;
            return vec![Word::Lost];
        };
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        let word = match rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), options) {
            Ok(None) => return Vec::new(),
            Ok(Some(status)) => status
                .exit_status()
                .map(Word::Exited)
                .or_else(|| status.terminating_signal().map(Word::Killed))
                .unwrap_or(Word::Lost),
            Err(_) => Word::Lost,
        };
        self.ended = true;
        vec![word]
    }

    /// Has an order carried out, by ourselves when the guardian is lost. Then the answer to [`Order::Kill`]
    /// is returned, for nobody else will say it.
    pub(super) fn order(&self, order: Order) -> Option<Word> {
        if !self.lost {
            self.lines.order(order);
            return None;
        }
        let group = self.command.filter(|_| !self.ended);
        match order {
            Order::Signal(signal) => {
                if let Some(group) = group {
                    kill::signal_group(group, signal);
                }
            }
            Order::Terminate => kill::terminate_tree(own_pid(), group),
            Order::Kill => {
                let left = kill::kill_own_tree();
                return Some(Word::Gone(i32::try_from(left.len()).unwrap_or(i32::MAX)));
            }
            Order::Release => {}
        }
        None
    }

    /// The processes of the run that live.
    pub(super) fn alive(&self) -> Vec<Process> {
        let mut alive = alive_below(self.root());
        alive.retain(|process| process.pid != self.guardian);
        alive
    }

    /// Lets the guardian end and leave alone what still runs.
    pub(super) fn release(&self) {
        if !self.lost {
            self.lines.order(Order::Release);
            self.reap_guardian();
        }
    }

    fn reap_guardian(&self) {
        // Only this one pid: a capture may wait for others.
        let _ = rustix::process::waitpid(
            rustix::process::Pid::from_raw(self.guardian),
            WaitOptions::empty(),
        );
    }
}
