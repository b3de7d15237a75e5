//! Words for open files, the same in all reports.

use super::{Access, Descriptor, FileKind, Peer, SocketState};
use crate::model::{Foreign, Pid};

/// Processes and descriptors that are named one by one.
const MAX_NAMED: usize = 3;

impl Descriptor {
    /// "fd 5 (pipe from pid 77)"; "fd 5" where nothing is known of it.
    #[must_use]
    pub fn words(&self) -> Foreign {
        let what = self.what();
        if what.is_empty() {
            return Foreign::from(format!("fd {}", self.number));
        }
        Foreign::from(format!("fd {} ({what})", self.number))
    }

    /// The same for narrow columns, the number last: "pipe from pid 77 (fd 5)".
    #[must_use]
    pub fn short_words(&self) -> Foreign {
        let what = self.what();
        if what.is_empty() {
            return self.words();
        }
        Foreign::from(format!("{what} (fd {})", self.number))
    }

    fn what(&self) -> String {
        let file = self.file.as_ref().map_or("", Foreign::untrusted);
        let Some(kind) = self.kind else {
            return file.to_owned();
        };
        match kind {
            FileKind::Pipe => {
                let to = if self.access == Some(Access::Write) {
                    "to"
                } else {
                    "from"
                };
                format!("pipe{}", self.other_end(to))
            }
            FileKind::UnixSocket => self.socket("UNIX socket"),
            FileKind::TcpSocket => self.socket("TCP"),
            FileKind::UdpSocket => self.socket("UDP"),
            FileKind::Pidfd => match &self.process {
                Some(process) => format!("process {}", process.words().untrusted()),
                None => "pidfd".to_owned(),
            },
            FileKind::Timerfd => match self.remaining_ms {
                Some(left) => format!("timerfd, {} s left", left / 1000),
                None => "timerfd, not armed".to_owned(),
            },
            FileKind::Eventfd => match self.also_open_in.as_deref() {
                Some([]) => "eventfd of its own".to_owned(),
                Some(pids) => format!("eventfd shared with {}", processes(pids)),
                None => "eventfd".to_owned(),
            },
            FileKind::Epoll => "epoll".to_owned(),
            FileKind::Signalfd => "signalfd".to_owned(),
            FileKind::Inotify => "inotify".to_owned(),
            FileKind::Terminal => format!("terminal {file}"),
            FileKind::OtherSocket | FileKind::File | FileKind::Other => file.to_owned(),
        }
    }

    fn socket(&self, name: &str) -> String {
        let own = self.address.as_ref().map(Foreign::untrusted);
        if self.state == Some(SocketState::Listen) {
            return own.map_or_else(
                || format!("{name} listener"),
                |own| format!("{name} listener {own}"),
            );
        }
        let Some(peer) = &self.peer else {
            return match (own, self.state) {
                (_, Some(SocketState::Close)) => format!("{name}, not connected"),
                (Some(own), _) => format!("{name} {own}"),
                (None, _) => name.to_owned(),
            };
        };
        let there = match &peer.address {
            Some(address) => format!(" to {}", address.untrusted()),
            None => String::new(),
        };
        let who = if there.is_empty() {
            self.other_end("to")
        } else {
            self.other_end(",")
        };
        let state = match self.state {
            Some(SocketState::SynSent) => ", connecting",
            _ => "",
        };
        format!("{name}{there}{who}{state}")
    }

    /// Who has the other end, after `link`: " from pid 7 and fd 4 of its own".
    fn other_end(&self, link: &str) -> String {
        let Some(peer) = &self.peer else {
            return String::new();
        };
        let link = if link == "," {
            ",".to_owned()
        } else {
            format!(" {link}")
        };
        let mut holders = Vec::new();
        if !peer.processes.is_empty() {
            holders.push(processes(&peer.processes));
        }
        if !peer.own.is_empty() {
            holders.push(format!("fd {} of its own", listed(&peer.own)));
        }
        match (peer.closed, holders.is_empty()) {
            (true, _) => ", closed by its peer".to_owned(),
            (false, false) => format!("{link} {}", holders.join(" and ")),
            (false, true) => unseen(peer).to_owned(),
        }
    }
}

/// Words for an end that nobody was found to have.
fn unseen(peer: &Peer) -> &'static str {
    match (&peer.address, peer.complete) {
        (None, false) => ", other end out of sight",
        _ => "",
    }
}

/// "pid 7", "pids 7, 8, 9 and 4 more".
fn processes(pids: &[Pid]) -> String {
    let noun = if pids.len() == 1 { "pid" } else { "pids" };
    format!("{noun} {}", listed(pids))
}

pub(in crate::model) fn listed(numbers: &[i32]) -> String {
    let shown: Vec<String> = numbers.iter().take(MAX_NAMED).map(i32::to_string).collect();
    let more = numbers.len().saturating_sub(MAX_NAMED);
    let shown = shown.join(", ");
    if more == 0 {
        shown
    } else {
        format!("{shown} and {more} more")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(descriptor: Descriptor) -> String {
        descriptor.words().untrusted().to_owned()
    }

    fn of(kind: FileKind) -> Descriptor {
        Descriptor {
            number: 5,
            kind: Some(kind),
            ..Descriptor::default()
        }
    }

    #[test]
    fn pipes() {
        let mut pipe = of(FileKind::Pipe);
        pipe.access = Some(Access::Read);
        assert_eq!(said(pipe.clone()), "fd 5 (pipe)");
        pipe.peer = Some(Peer::default());
        assert_eq!(said(pipe.clone()), "fd 5 (pipe, other end out of sight)");
        pipe.peer = Some(Peer {
            processes: vec![7, 8, 9, 10, 11],
            own: vec![6],
            complete: true,
            ..Peer::default()
        });
        assert_eq!(
            said(pipe.clone()),
            "fd 5 (pipe from pids 7, 8, 9 and 2 more and fd 6 of its own)"
        );
        pipe.access = Some(Access::Write);
        pipe.peer = Some(Peer {
            processes: vec![77],
            ..Peer::default()
        });
        assert_eq!(said(pipe), "fd 5 (pipe to pid 77)");
    }

    #[test]
    fn sockets() {
        let mut socket = of(FileKind::TcpSocket);
        socket.state = Some(SocketState::Listen);
        socket.address = Some("0.0.0.0:80".into());
        assert_eq!(said(socket.clone()), "fd 5 (TCP listener 0.0.0.0:80)");
        socket.state = Some(SocketState::Established);
        socket.peer = Some(Peer {
            processes: vec![9],
            address: Some("127.0.0.1:4".into()),
            ..Peer::default()
        });
        assert_eq!(said(socket.clone()), "fd 5 (TCP to 127.0.0.1:4, pid 9)");
        socket.peer = Some(Peer {
            address: Some("10.0.0.1:4".into()),
            closed: true,
            ..Peer::default()
        });
        assert_eq!(said(socket), "fd 5 (TCP to 10.0.0.1:4, closed by its peer)");
    }

    #[test]
    fn others() {
        let mut timer = of(FileKind::Timerfd);
        timer.remaining_ms = Some(3_500);
        assert_eq!(said(timer), "fd 5 (timerfd, 3 s left)");
        let mut file = of(FileKind::File);
        file.file = Some("/tmp/x".into());
        assert_eq!(said(file), "fd 5 (/tmp/x)");
        let bare = Descriptor {
            number: 9,
            ..Descriptor::default()
        };
        assert_eq!(said(bare.clone()), "fd 9");
        assert_eq!(bare.short_words().untrusted(), "fd 9");
        let mut pipe = of(FileKind::Pipe);
        pipe.access = Some(Access::Read);
        assert_eq!(pipe.short_words().untrusted(), "pipe (fd 5)");
    }
}
