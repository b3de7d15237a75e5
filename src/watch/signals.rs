//! hangscope's own signals while it watches.

use nix::libc::{
    SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGURG, SIGUSR1, SIGUSR2, SIGWINCH, SIGXFSZ,
};
use signal_hook::iterator::backend::SignalDelivery;
use signal_hook::iterator::exfiltrator::SignalOnly;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// All that we take, in the order in which they are acted on when several came at once.
const TAKEN: [i32; 9] = [
    SIGTERM, SIGINT, SIGHUP, SIGURG, SIGQUIT, SIGUSR1, SIGUSR2, SIGWINCH, SIGCONT,
];

/// The signal that we have the kernel send when our parent ends.
///
/// Not SIGTERM: it also comes when only the *thread* of the parent that started us ends, and from a SIGTERM
/// that the parent sends it cannot be told. This one nobody sends, and where it is not handled it does nothing.
pub(super) const PARENT_DEATH: nix::sys::signal::Signal = nix::sys::signal::Signal::SIGURG;

/// What a signal to hangscope asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Request {
    /// Look now, then pass the signal on: someone is ending the run.
    LookThenForward,
    /// Look now and go on.
    Look,
    /// Nothing to do with us.
    Forward,
    /// We were continued.
    Resume,
    /// Our parent, or the thread of it that started us, has ended.
    LookAtParent,
}

/// What a signal asks for.
pub(super) fn request(signal: i32) -> Request {
    match signal {
        SIGTERM | SIGINT | SIGHUP => Request::LookThenForward,
        SIGQUIT | SIGUSR1 => Request::Look,
        SIGCONT => Request::Resume,
        SIGURG => Request::LookAtParent,
        _ => Request::Forward,
    }
}

/// The signals that have come.
#[derive(Debug)]
pub(super) struct Signals {
    delivery: SignalDelivery<UnixStream, SignalOnly>,
    /// Read early, while only SIGCONT was looked for.
    early: Vec<i32>,
}

impl Signals {
    /// Takes the signals over, except those that were ignored when we were started: whoever did that
    /// (`nohup`, `cmd &` in a script) meant the command, which inherits it only as long as we leave it.
    pub(super) fn take(ignored: u64) -> io::Result<Self> {
        let (read, write) = UnixStream::pair()?;
        // Without a handler a limit on file sizes would end us when we save, and the run with us. Not ignored: the
        // command would inherit that.
        if !is_in(ignored, SIGXFSZ) {
            signal_hook::flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false)))?;
        }
        let taken = TAKEN.iter().filter(|&&signal| !is_in(ignored, signal));
        Ok(Self {
            delivery: SignalDelivery::with_pipe(read, write, SignalOnly, taken)?,
            early: Vec::new(),
        })
    }

    /// What has come since the last call.
    pub(super) fn read(&mut self) -> Vec<i32> {
        let mut came = std::mem::take(&mut self.early);
        came.extend(self.delivery.pending());
        TAKEN
            .into_iter()
            .filter(|signal| came.contains(signal))
            .collect()
    }

    /// Whether SIGCONT has come; all others are kept for [`Self::read`].
    pub(super) fn read_continued(&mut self) -> bool {
        let came: Vec<i32> = self.delivery.pending().collect();
        self.early
            .extend(came.iter().filter(|&&signal| signal != SIGCONT));
        came.contains(&SIGCONT)
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.delivery.get_read().as_fd()
    }
}

/// The signals that this process ignores, as a bit mask; bit 0 is signal 1. Zero if that cannot be read.
pub(super) fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0)
}

/// Whether a signal is in a mask of [`ignored`].
pub(super) fn is_in(mask: u64, signal: i32) -> bool {
    u32::try_from(signal - 1).is_ok_and(|bit| mask.checked_shr(bit).unwrap_or(0) & 1 == 1)
}

/// The name of a signal, as in `SIGTERM`.
pub(super) fn name(signal: i32) -> String {
    signal_hook::low_level::signal_name(signal)
        .map_or_else(|| format!("signal {signal}"), str::to_owned)
}
