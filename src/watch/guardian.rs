//! The guardian: between hangscope and the command, so that no process of the run outlives hangscope.
//!
//! It is a subreaper: whatever the command orphans becomes its child. It is the only one that waits for
//! processes of the run, and it traces none, so its waits see nothing but ends and job control.

use super::handover::receive_command;
use super::kill::{self, KILL_FOR};
use super::lines::Lines;
use super::processes::own_pid;
use super::wire::{Order, Word};
use crate::model::Pid;
use nix::sys::signal::{SigSet, Signal};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{WaitOptions, wait};
use std::io;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

/// The hidden subcommand that makes hangscope a guardian.
pub const GUARDIAN: &str = "__guardian";

/// Between two rounds of killing, when nothing is reaped meanwhile.
const ROUND: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 20_000_000,
};

/// The guardian's whole life. Its standard input is the socket to hangscope. Returns its exit code.
#[must_use]
pub fn guardian() -> u8 {
    match Guardian::begin() {
        Ok(Some(mut guardian)) => {
            guardian.serve();
            0
        }
        Ok(None) => 0,
        Err(_) => 125,
    }
}

struct Guardian {
    link: Lines,
    children: UnixStream,
    command: Pid,
    ended: bool,
    empty: bool,
}

impl Guardian {
    /// Starts the command. `None` when it could not be, which hangscope has been told.
    fn begin() -> io::Result<Option<Self>> {
        // The copy is close-on-exec, and the original is overwritten before the command is started.
        let stream = UnixStream::from(rustix::stdio::stdin().try_clone_to_owned()?);
        let (arguments, stdin) = receive_command(&stream)?;
        rustix::stdio::dup2_stdin(&stdin)?;
        drop(stdin);
        nix::sys::prctl::set_child_subreaper(true)?;
        let link = Lines::new(stream);
        let Some((program, arguments)) = arguments.split_first() else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        // All that changes signals comes after this: the command inherits mask and dispositions as they are.
        let child = match Command::new(program)
            .args(arguments)
            .process_group(0)
            .spawn()
        {
            Ok(child) => child,
            Err(error) => {
                link.say(Word::NotStarted(error.raw_os_error().unwrap_or(0)));
                return Ok(None);
            }
        };
        // A stray `pkill` or a group-wide TERM must not take the guardian before its charges.
        let mut mask = SigSet::all();
        mask.remove(Signal::SIGCHLD);
        mask.thread_set_mask()?;
        let (children, wake) = UnixStream::pair()?;
        children.set_nonblocking(true)?;
        signal_hook::low_level::pipe::register(nix::libc::SIGCHLD, wake)?;
        let command = i32::try_from(child.id()).unwrap_or(0);
        link.say(Word::Started(command));
        Ok(Some(Self {
            link,
            children,
            command,
            ended: false,
            empty: false,
        }))
    }

    fn serve(&mut self) {
        loop {
            self.reap();
            let (lines, gone) = self.link.read();
            for line in lines {
                match Order::parse(&line) {
                    Some(Order::Signal(signal)) => self.signal(signal),
                    Some(Order::Terminate) => kill::terminate_tree(own_pid(), self.group()),
                    Some(Order::Kill) => {
                        let left = self.kill_all();
                        self.link
                            .say(Word::Gone(i32::try_from(left).unwrap_or(i32::MAX)));
                    }
                    Some(Order::Release) => return,
                    None => {}
                }
            }
            if gone {
                self.kill_all();
                // Nobody else is left to do it.
                if let Some(folder) = std::env::var_os(super::testrun::RUN_VARIABLE) {
                    super::testrun::remove_folder(Path::new(&folder));
                }
                return;
            }
            self.wait(None);
        }
    }

    /// The command's group, as long as its number cannot have become another's.
    fn group(&self) -> Option<Pid> {
        (!self.ended).then_some(self.command)
    }

    fn signal(&self, signal: i32) {
        match self.group() {
            Some(group) => kill::signal_group(group, signal),
            None => {
                kill::signal_below(own_pid(), signal, |process| process.group == self.command);
            }
        }
    }

    /// Until hangscope says something, a child changes, or the time is over.
    fn wait(&mut self, most: Option<&Timespec>) {
        let mut fds = [
            PollFd::new(&self.link, PollFlags::IN),
            PollFd::new(&self.children, PollFlags::IN),
        ];
        // While killing a dead hangscope's socket is readable for ever; only the children matter then.
        let fds = if most.is_some() {
            fds.get_mut(1..).unwrap_or_default()
        } else {
            &mut fds[..]
        };
        let _ = poll(fds, most);
        // Emptied before the children are looked at: what comes later wakes us again.
        let mut buffer = [0; 256];
        while matches!(rustix::io::read(&self.children, &mut buffer[..]), Ok(count) if count > 0) {}
    }

    fn reap(&mut self) {
        let options = WaitOptions::NOHANG | WaitOptions::UNTRACED;
        loop {
            match wait(options) {
                Ok(Some((pid, status))) => {
                    if pid.as_raw_nonzero().get() != self.command || self.ended {
                        continue;
                    }
                    let word = if let Some(signal) = status.stopping_signal() {
                        Word::Stopped(signal)
                    } else if let Some(code) = status.exit_status() {
                        Word::Exited(code)
                    } else if let Some(signal) = status.terminating_signal() {
                        Word::Killed(signal)
                    } else {
                        continue;
                    };
                    self.ended = !matches!(word, Word::Stopped(_));
                    self.link.say(word);
                }
                Ok(None) => {
                    self.empty = false;
                    return;
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => break,
            }
        }
        // No child at all: since orphans become ours, no process of the run is left.
        if !self.ended {
            // SIGCHLD was inherited as ignored and the command ended before we took it over.
            self.ended = true;
            self.link.say(Word::Lost);
        }
        if !self.empty {
            self.empty = true;
            self.link.say(Word::Empty);
        }
    }

    /// Kills until no child is left. Returns how many could not be killed in time.
    fn kill_all(&mut self) -> usize {
        let began = Instant::now();
        loop {
            self.reap();
            if self.empty {
                return 0;
            }
            if began.elapsed() > KILL_FOR {
                return super::processes::alive_below(own_pid()).len();
            }
            kill::signal_below(own_pid(), nix::libc::SIGKILL, |_| true);
            self.reap();
            if !self.empty {
                self.wait(Some(&ROUND));
            }
        }
    }
}
