//! What the rings tell.

use super::record::Record;
use crate::model::{Foreign, Key, Pid};

/// A process: its id and when it started, since ids are used again. The older ones come first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Who {
    /// Field 22 of `/proc/PID/stat`: clock ticks from boot to its start.
    pub(crate) start_ticks: u64,
    /// Its process id.
    pub(crate) pid: Pid,
}

impl Who {
    /// Its key in the model.
    pub(crate) fn key(self) -> Key {
        Key::process(self.pid, self.start_ticks)
    }
}

/// Something that the rings tell.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct News {
    /// The process whose ring tells it.
    pub(crate) who: Who,
    /// When, on CLOCK_MONOTONIC, in nanoseconds; never in the future.
    pub(crate) at: u64,
    /// What.
    pub(crate) what: What,
}

/// What the rings tell.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum What {
    /// A ring has appeared. With the processes above its process, nearest first.
    Opened(Vec<Pid>),
    /// A record.
    Record(Box<Record>),
    /// So many records were overwritten before they were read. What follows is newer.
    Lost(u64),
    /// The names of the tests that were collected.
    Collected(Vec<Foreign>),
    /// The ring is read no further, for this reason.
    Stopped(&'static str),
    /// The process is gone. Nothing of it follows.
    Ended,
}
