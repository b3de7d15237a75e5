//! Open files of the target: what each is, and who has its other end.

mod words;

use super::{Child, Foreign, Pid};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// An open file of the target.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Descriptor {
    /// Its number.
    pub number: i32,
    /// What `/proc/PID/fd/N` points at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<Foreign>,
    /// What kind of file that is; absent where it could not be looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<FileKind>,
    /// What it was opened for (`flags` of `/proc/PID/fdinfo/N`); tells the ends of a pipe apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access: Option<Access>,
    /// What the thread waits for on it; empty where the kind of wait says so already.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub wants: Vec<Want>,
    /// For a pipe, a UNIX socket or an eventfd: the other processes that have it open, a pipe by either end; absent where
    /// that could not be found out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub also_open_in: Option<Vec<Pid>>,
    /// Of a socket: the state of its connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<SocketState>,
    /// Of a socket: its own address, `ADDRESS:PORT` or a path (`@…` for one without a file).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<Foreign>,
    /// Of a pipe or socket: its other end; absent where there is none, or that could not be found out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<Peer>,
    /// Of a pidfd: the process that it refers to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<Child>,
    /// Of a timerfd: milliseconds until it expires next; absent when it is not armed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remaining_ms: Option<u64>,
}

/// Kinds of open files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum FileKind {
    /// A pipe without a name. Named ones count as `file`.
    Pipe,
    /// A UNIX domain socket (`unix(7)`).
    UnixSocket,
    /// A TCP socket.
    TcpSocket,
    /// A UDP socket.
    UdpSocket,
    /// A socket of another protocol.
    OtherSocket,
    /// `epoll(7)`.
    Epoll,
    /// `eventfd(2)`.
    Eventfd,
    /// `timerfd_create(2)`.
    Timerfd,
    /// `signalfd(2)`.
    Signalfd,
    /// `pidfd_open(2)`.
    Pidfd,
    /// `inotify(7)`.
    Inotify,
    /// A terminal, or the master of one.
    Terminal,
    /// Something else with a path: a file, a directory, a device, a named pipe.
    File,
    /// Something else without one.
    Other,
}

/// What a file was opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Access {
    /// `O_RDONLY`.
    Read,
    /// `O_WRONLY`.
    Write,
    /// `O_RDWR`; sockets always.
    ReadWrite,
}

/// What is waited for on a file of a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Want {
    /// Data or a connection to take (`POLLIN`, the first set of `select(2)`).
    Read,
    /// Room to write (`POLLOUT`, the second set).
    Write,
    /// Exceptional conditions (`POLLPRI`, the third set).
    Exception,
}

/// State of a socket: those of TCP, of which a UNIX socket has `established`, `listen`, `syn-sent` and `close`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the names of RFC 9293")]
pub enum SocketState {
    Established,
    SynSent,
    SynReceived,
    FinWait1,
    FinWait2,
    TimeWait,
    /// Not connected.
    Close,
    /// The other end has closed its half.
    CloseWait,
    LastAck,
    Listen,
    Closing,
}

/// The other end of a pipe or socket; of a file whose lock is waited for, who holds that.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Peer {
    /// Other processes that have it open.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub processes: Vec<Pid>,
    /// What those are and how they are doing; the first 16 of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub who: Vec<Child>,
    /// Descriptors of the waiting process itself that are it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub own: Vec<i32>,
    /// Of a socket: its address; a remote one says nothing of processes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<Foreign>,
    /// It has been closed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub closed: bool,
    /// The connection has not been accepted yet: `processes` and `own` have the listening socket in whose queue it is.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unaccepted: bool,
    /// `processes` and `own` are all that have it: each process of the machine could be looked at, and somebody was found.
    /// If not, others may have it: processes of other users, outside of the container, or on another machine.
    pub complete: bool,
}

impl Peer {
    /// Whether a live process other than the waiting one has it, or may have; `None` where that is not known.
    #[must_use]
    pub fn is_outside(&self) -> Option<bool> {
        if self.closed {
            return Some(false);
        }
        if !self.processes.is_empty() {
            return Some(true);
        }
        self.complete.then_some(false)
    }
}

impl Descriptor {
    /// Whether it is a socket that has another end.
    #[must_use]
    pub fn is_socket(&self) -> bool {
        matches!(self.kind, Some(FileKind::TcpSocket | FileKind::UnixSocket))
    }

    /// Whether only code of the waiting process can make something happen on it: a pipe or socket pair that nobody else has. No
    /// eventfd: drivers may signal those.
    #[must_use]
    pub fn is_internal(&self) -> bool {
        let alone = self.also_open_in.as_ref().is_some_and(Vec::is_empty);
        match (self.kind, &self.peer) {
            // Who has a pipe's own end as well cannot end the wait for the other; who has a socket can shut it down.
            (Some(FileKind::Pipe), Some(peer)) => is_own(peer),
            (Some(FileKind::UnixSocket), Some(peer)) => alone && is_own(peer),
            // A report that was saved before peers were known.
            (None, None) => alone,
            _ => false,
        }
    }

    /// Whether something outside of the waiting process may make something happen on it: a live peer, a terminal, a child, a
    /// network. `None` where that is not known. Of an eventfd that nobody else has it is taken that no driver signals it.
    #[must_use]
    pub fn has_outside_peer(&self) -> Option<bool> {
        if self.is_internal() {
            return Some(false);
        }
        if self.state == Some(SocketState::Listen) {
            return Some(true);
        }
        match self.kind? {
            FileKind::Pipe | FileKind::UnixSocket => self.peer.as_ref()?.is_outside(),
            FileKind::TcpSocket => Some(!self.peer.as_ref().is_some_and(|peer| peer.closed)),
            FileKind::UdpSocket
            | FileKind::OtherSocket
            | FileKind::Terminal
            | FileKind::Signalfd
            | FileKind::Inotify => Some(true),
            FileKind::Timerfd => Some(false),
            FileKind::Pidfd => Some(self.process.as_ref()?.is_alive()),
            FileKind::Eventfd => Some(!self.also_open_in.as_ref()?.is_empty()),
            FileKind::Epoll | FileKind::File | FileKind::Other => None,
        }
    }
}

fn is_own(peer: &Peer) -> bool {
    peer.complete && peer.processes.is_empty() && !peer.own.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pipe(peer: Peer) -> Descriptor {
        Descriptor {
            number: 4,
            kind: Some(FileKind::Pipe),
            access: Some(Access::Read),
            also_open_in: Some(vec![7]),
            peer: Some(peer),
            ..Descriptor::default()
        }
    }

    fn peer(processes: &[Pid], own: &[i32], complete: bool) -> Peer {
        Peer {
            processes: processes.to_vec(),
            own: own.to_vec(),
            complete,
            ..Peer::default()
        }
    }

    #[test]
    fn a_pipe_is_internal_if_only_the_process_has_its_other_end() {
        assert!(pipe(peer(&[], &[5], true)).is_internal());
        assert!(!pipe(peer(&[], &[5], false)).is_internal());
        assert!(!pipe(peer(&[7], &[5], true)).is_internal());
        // A reader that waits has a writer; if none is seen, it is out of sight.
        assert!(!pipe(peer(&[], &[], false)).is_internal());
        assert_eq!(
            pipe(peer(&[], &[], false)).has_outside_peer(),
            None,
            "not known"
        );
        assert_eq!(pipe(peer(&[7], &[], true)).has_outside_peer(), Some(true));
    }

    #[test]
    fn a_socket_pair_shared_with_a_child_is_not_internal() {
        let mut socket = pipe(peer(&[], &[5], true));
        socket.kind = Some(FileKind::UnixSocket);
        assert!(!socket.is_internal(), "process 7 may shut it down");
        socket.also_open_in = Some(Vec::new());
        assert!(socket.is_internal());
    }

    #[test]
    fn descriptors_of_older_reports() {
        let old: Descriptor =
            serde_json::from_str(r#"{"number": 3, "file": "pipe:[5]", "also_open_in": []}"#)
                .expect("parses");
        assert!(old.is_internal());
    }
}
