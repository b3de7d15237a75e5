//! What an open file of the target is, and who has its other end.
//!
//! Only names, tables and descriptions that the kernel gives are read. The files themselves are neither opened, which would
//! make a further end of a pipe, nor asked for their state, which may block on a dead network.

mod fdinfo;
mod holders;
mod inet;
mod locks;
mod net_unix;
mod unix;
mod wakeup;

pub(super) use fdinfo::{Watched, wants};

use super::children;
use crate::model::{
    Access, Child, Descriptor, FileKind, Foreign, Peer, Pid, SocketState, Tid, Want,
};
use fdinfo::FdInfo;
use holders::{Holder, Holders};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Mutex};

/// Most files of one process that are looked at closely; a hostile one may wait on any number.
const MAX_DESCRIBED: usize = 4096;
/// Most processes at the other end of a file that are named.
const MAX_NAMED: usize = 16;
/// Most holders of one pipe or eventfd that are looked at closely.
const MAX_HOLDERS: usize = 4096;

/// What is known of the files of the whole machine, for one sample.
#[derive(Debug, Default)]
pub(super) struct FileIndex {
    holders: Holders,
    /// Sockets by the inode of their network namespace.
    inet: Mutex<BTreeMap<u64, Arc<inet::Table>>>,
}

/// The files of one process.
pub(super) struct Files<'i> {
    pid: Pid,
    /// A live thread of it.
    alive: Tid,
    index: &'i FileIndex,
    known: RefCell<BTreeMap<i32, Descriptor>>,
}

impl<'i> Files<'i> {
    pub(super) fn new(pid: Pid, alive: Tid, index: &'i FileIndex) -> Self {
        Self {
            pid,
            alive,
            index,
            known: RefCell::default(),
        }
    }

    /// The file with this number, and who has its other end.
    pub(super) fn describe(&self, number: i32, wants: Vec<Want>) -> Descriptor {
        let known = self.known.borrow().get(&number).cloned();
        let mut file = known.unwrap_or_else(|| {
            let file = self.look_at(number);
            self.known.borrow_mut().insert(number, file.clone());
            file
        });
        file.wants = wants;
        file
    }

    /// The file whose lock is waited for, with the process that holds it.
    pub(super) fn locked(&self, number: i32) -> Descriptor {
        let mut file = self.describe(number, Vec::new());
        if let Some(holder) = locks::holder_for(self.pid) {
            let processes = vec![holder];
            file.peer = Some(Peer {
                who: who(&processes),
                processes,
                complete: true,
                ..Peer::default()
            });
        }
        file
    }

    /// The files that an epoll watches.
    pub(super) fn watched_by(&self, epoll: i32) -> Vec<Watched> {
        if self.link(epoll).as_deref() != Some("anon_inode:[eventpoll]") {
            return Vec::new();
        }
        fdinfo::read(self.pid, self.alive, epoll).watched
    }

    fn link(&self, number: i32) -> Option<String> {
        let Self { pid, alive, .. } = self;
        let link = fs::read_link(format!("/proc/{pid}/task/{alive}/fd/{number}")).ok()?;
        Some(link.to_string_lossy().into_owned())
    }

    fn look_at(&self, number: i32) -> Descriptor {
        let mut file = Descriptor {
            number,
            ..Descriptor::default()
        };
        let Some(link) = self.link(number) else {
            return file;
        };
        if self.known.borrow().len() < MAX_DESCRIBED {
            let info = fdinfo::read(self.pid, self.alive, number);
            file.access = info.access;
            self.look_closely(&mut file, &link, &info);
        }
        file.file = Some(Foreign::from(link));
        file
    }

    fn look_closely(&self, file: &mut Descriptor, link: &str, info: &FdInfo) {
        let inode = |prefix: &str| {
            let number = link.strip_prefix(prefix)?.strip_suffix(']')?;
            number.parse::<u64>().ok()
        };
        if let Some(pid) = info.pid {
            file.kind = Some(FileKind::Pidfd);
            file.process = Some(children::referred(pid));
            return;
        }
        if link.starts_with("pipe:[") {
            file.kind = Some(FileKind::Pipe);
            self.pipe(file, link);
            return;
        }
        if let Some(inode) = inode("socket:[") {
            self.socket(file, link, inode);
            return;
        }
        file.kind = Some(match link {
            "anon_inode:[eventpoll]" => FileKind::Epoll,
            "anon_inode:[eventfd]" => {
                file.also_open_in = info.eventfd.and_then(|id| self.eventfd_elsewhere(link, id));
                FileKind::Eventfd
            }
            "anon_inode:[timerfd]" => {
                file.remaining_ms = info.timer_ms.filter(|left| *left > 0);
                FileKind::Timerfd
            }
            "anon_inode:[signalfd]" => FileKind::Signalfd,
            "anon_inode:inotify" => FileKind::Inotify,
            path if is_terminal(path) => FileKind::Terminal,
            path if path.starts_with('/') => FileKind::File,
            _ => FileKind::Other,
        });
    }

    /// The processes other than this one among `holders`, each once.
    fn others(&self, holders: &[Holder]) -> Vec<Pid> {
        let mut pids: Vec<Pid> = holders
            .iter()
            .map(|holder| holder.pid)
            .filter(|pid| *pid != self.pid)
            .collect();
        pids.sort_unstable();
        pids.dedup();
        pids
    }

    /// An end made of `holders`. Nobody in sight with an end that exists means that somebody out of sight has it.
    fn peer(&self, holders: &[Holder], all_seen: bool) -> Peer {
        let processes = self.others(holders);
        Peer {
            who: who(&processes),
            processes,
            own: holders
                .iter()
                .filter(|holder| holder.pid == self.pid)
                .map(|holder| holder.number)
                .collect(),
            complete: all_seen && !holders.is_empty(),
            ..Peer::default()
        }
    }

    fn pipe(&self, file: &mut Descriptor, link: &str) {
        let (holders, all_seen) = self.index.holders.of(link);
        file.also_open_in = all_seen.then(|| self.others(holders));
        let opposite = match file.access {
            Some(Access::Read) => Access::Write,
            Some(Access::Write) => Access::Read,
            _ => return,
        };
        let mut ends = Vec::new();
        for holder in holders.iter().take(MAX_HOLDERS) {
            let access = fdinfo::read(holder.pid, holder.pid, holder.number).access;
            // One that cannot be told may well be the other end.
            if access.is_none_or(|access| access == opposite || access == Access::ReadWrite) {
                ends.push(*holder);
            }
        }
        file.peer = Some(self.peer(&ends, all_seen && holders.len() <= MAX_HOLDERS));
    }

    fn eventfd_elsewhere(&self, link: &str, id: u64) -> Option<Vec<Pid>> {
        let (holders, all_seen) = self.index.holders.of(link);
        if !all_seen || holders.len() > MAX_HOLDERS {
            return None;
        }
        let same: Vec<Holder> = holders
            .iter()
            .filter(|holder| {
                fdinfo::read(holder.pid, holder.pid, holder.number).eventfd == Some(id)
            })
            .copied()
            .collect();
        Some(self.others(&same))
    }

    fn socket(&self, file: &mut Descriptor, link: &str, inode: u64) {
        if let Some(socket) = self.unix_socket(inode) {
            file.kind = Some(FileKind::UnixSocket);
            file.state = socket.state;
            file.address = socket.name;
            let (holders, all_seen) = self.index.holders.of(link);
            file.also_open_in = all_seen.then(|| self.others(holders));
            file.peer = socket.peer.map(|peer| self.unix_peer(peer));
            return;
        }
        let table = self.inet_table();
        let Some(socket) = table.get(inode) else {
            let other = table.unix(inode);
            file.kind = Some(match &other {
                Some(_) => FileKind::UnixSocket,
                None => self.protocol(file.number),
            });
            if let Some(socket) = other {
                file.state = socket.state;
                file.address = socket.name;
            }
            return;
        };
        file.kind = Some(socket.kind);
        file.state = socket.state;
        file.address = Some(socket.local.to_string().into());
        if socket.remote.port() == 0 {
            return;
        }
        let holders_of = |inode: u64| {
            let (holders, all_seen) = self.index.holders.of(&format!("socket:[{inode}]"));
            self.peer(holders, all_seen)
        };
        let mut peer = match table.mirrored(socket) {
            Some(other) if other.inode != 0 => holders_of(other.inode),
            Some(other) => match table.listener(other) {
                Some(listener) => Peer {
                    unaccepted: true,
                    ..holders_of(listener.inode)
                },
                None => Peer::default(),
            },
            None => Peer::default(),
        };
        peer.address = Some(socket.remote.to_string().into());
        peer.closed = matches!(
            socket.state,
            Some(SocketState::CloseWait | SocketState::LastAck | SocketState::Closing)
        );
        file.peer = Some(peer);
    }

    fn unix_peer(&self, inode: u64) -> Peer {
        if inode == 0 {
            return Peer {
                closed: true,
                complete: true,
                ..Peer::default()
            };
        }
        let (holders, all_seen) = self.index.holders.of(&format!("socket:[{inode}]"));
        let address = unix::ask(inode).and_then(|peer| peer.name);
        Peer {
            address,
            ..self.peer(holders, all_seen)
        }
    }

    /// A UNIX socket; only those of our own network namespace can be asked for.
    fn unix_socket(&self, inode: u64) -> Option<unix::UnixSocket> {
        let ours = fs::metadata("/proc/self/ns/net").ok()?.ino();
        (self.network()? == ours).then(|| unix::ask(inode))?
    }

    /// The inode of the process's network namespace.
    fn network(&self) -> Option<u64> {
        let path = format!("/proc/{}/task/{}/ns/net", self.pid, self.alive);
        Some(fs::metadata(path).ok()?.ino())
    }

    fn inet_table(&self) -> Arc<inet::Table> {
        let read = || {
            let folder = format!("/proc/{}/task/{}/net", self.pid, self.alive);
            Arc::new(inet::Table::read(&folder))
        };
        match (self.network(), self.index.inet.lock()) {
            (Some(network), Ok(mut tables)) => {
                Arc::clone(tables.entry(network).or_insert_with(read))
            }
            _ => read(),
        }
    }

    /// The kind of a socket that is in no table, by the name of its protocol.
    fn protocol(&self, number: i32) -> FileKind {
        let Self { pid, alive, .. } = self;
        let path = format!("/proc/{pid}/task/{alive}/fd/{number}");
        let mut name = [0_u8; 64];
        let length = rustix::fs::getxattr(path, "system.sockprotoname", &mut name[..]).unwrap_or(0);
        let name = name.get(..length).unwrap_or(&[]);
        if name.starts_with(b"UNIX") {
            FileKind::UnixSocket
        } else if name.starts_with(b"TCP") {
            FileKind::TcpSocket
        } else if name.starts_with(b"UDP") {
            FileKind::UdpSocket
        } else {
            FileKind::OtherSocket
        }
    }

    /// Whether `set_wakeup_fd`'s descriptor takes no further byte.
    pub(super) fn is_full(&self, number: i32) -> Option<bool> {
        let link = self.link(number)?;
        if link.starts_with("pipe:[") {
            return wakeup::pipe_is_full(self.pid, self.alive, number);
        }
        let inode = link.strip_prefix("socket:[")?.strip_suffix(']')?;
        let (used, limit) = self.unix_socket(inode.parse().ok()?)?.sent?;
        Some(used >= limit)
    }
}

/// What these processes are.
fn who(processes: &[Pid]) -> Vec<Child> {
    let first = processes.iter().take(MAX_NAMED);
    first.map(|pid| children::referred(*pid)).collect()
}

fn is_terminal(path: &str) -> bool {
    path.starts_with("/dev/pts/")
        || path.starts_with("/dev/tty")
        || matches!(path, "/dev/ptmx" | "/dev/console")
}
