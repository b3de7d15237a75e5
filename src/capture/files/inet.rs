//! The sockets of a network namespace, from `/proc/PID/net/{tcp,tcp6,udp,udp6}`: the target's own one.

use super::net_unix;
use super::unix::UnixSocket;
use crate::model::{FileKind, SocketState};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::OnceLock;

/// Longest table that is read: some 100,000 sockets.
const MAX_TABLE: u64 = 16 << 20;

/// A socket of these tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct InetSocket {
    pub(super) kind: FileKind,
    pub(super) local: SocketAddr,
    /// Port 0 when it is not connected.
    pub(super) remote: SocketAddr,
    pub(super) state: Option<SocketState>,
    /// 0 for one that belongs to no process: not accepted yet, or closed and not done.
    pub(super) inode: u64,
}

/// The sockets of a network namespace.
#[derive(Debug, Default)]
pub(super) struct Table {
    folder: String,
    unix: OnceLock<BTreeMap<u64, UnixSocket>>,
    by_inode: BTreeMap<u64, InetSocket>,
    by_ends: BTreeMap<(SocketAddr, SocketAddr), InetSocket>,
}

impl Table {
    /// Reads the tables through `folder`, such as `/proc/1/net`.
    pub(super) fn read(folder: &str) -> Self {
        let mut table = Self {
            folder: folder.to_owned(),
            ..Self::default()
        };
        for (name, kind) in [
            ("tcp", FileKind::TcpSocket),
            ("tcp6", FileKind::TcpSocket),
            ("udp", FileKind::UdpSocket),
            ("udp6", FileKind::UdpSocket),
        ] {
            table.add(kind, &read(folder, name));
        }
        table
    }

    fn add(&mut self, kind: FileKind, bytes: &[u8]) {
        let text = String::from_utf8_lossy(bytes);
        for socket in text.lines().filter_map(|line| parse(kind, line)) {
            if socket.inode != 0 {
                self.by_inode.insert(socket.inode, socket);
            }
            if kind == FileKind::TcpSocket && socket.remote.port() != 0 {
                self.by_ends.insert((socket.local, socket.remote), socket);
            }
        }
    }

    pub(super) fn get(&self, inode: u64) -> Option<&InetSocket> {
        self.by_inode.get(&inode)
    }

    /// A UNIX socket of the namespace, without its peer.
    pub(super) fn unix(&self, inode: u64) -> Option<UnixSocket> {
        let read = || net_unix::parse(&read(&self.folder, "unix"));
        self.unix.get_or_init(read).get(&inode).cloned()
    }

    /// The other end, if that is in the same namespace.
    pub(super) fn mirrored(&self, socket: &InetSocket) -> Option<&InetSocket> {
        self.by_ends.get(&(socket.remote, socket.local))
    }

    /// The listening socket in whose queue a connection is that no process has accepted: of the other end, which belongs to none.
    pub(super) fn listener(&self, unaccepted: &InetSocket) -> Option<&InetSocket> {
        let waits = unaccepted.inode == 0 && unaccepted.state == Some(SocketState::Established);
        let is_for = |socket: &&InetSocket| {
            let (bound, wanted) = (socket.local.ip(), unaccepted.local.ip());
            socket.state == Some(SocketState::Listen)
                && socket.local.port() == unaccepted.local.port()
                && (bound == wanted || bound.is_unspecified())
        };
        waits.then(|| self.by_inode.values().find(is_for))?
    }
}

fn read(folder: &str, name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Ok(file) = File::open(format!("{folder}/{name}")) {
        let _ = file.take(MAX_TABLE).read_to_end(&mut bytes);
    }
    bytes
}

/// A line of a table; `None` for the heading and for anything else.
fn parse(kind: FileKind, line: &str) -> Option<InetSocket> {
    let words: Vec<&str> = line.split_ascii_whitespace().take(10).collect();
    let state = u8::from_str_radix(words.get(3)?, 16).ok()?;
    Some(InetSocket {
        kind,
        local: end(words.get(1)?)?,
        remote: end(words.get(2)?)?,
        state: (kind == FileKind::TcpSocket)
            .then(|| socket_state(state))
            .flatten(),
        inode: words.get(9)?.parse().ok()?,
    })
}

/// `0100007F:9825`: the address as native-endian words in hexadecimal, and the port.
fn end(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    if !address.is_ascii() {
        return None;
    }
    let mut words = [0_u32; 4];
    let count = address.len() / 8;
    if address.len() % 8 != 0 || !matches!(count, 1 | 4) {
        return None;
    }
    for (index, word) in words.iter_mut().take(count).enumerate() {
        *word = u32::from_str_radix(address.get(index * 8..index * 8 + 8)?, 16).ok()?;
    }
    let mut bytes = [0_u8; 16];
    for (chunk, word) in bytes.chunks_exact_mut(4).zip(words) {
        chunk.copy_from_slice(&word.to_ne_bytes());
    }
    let ip = if count == 1 {
        IpAddr::V4(Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3]))
    } else {
        // The two ends of a connection may be of both families.
        IpAddr::V6(Ipv6Addr::from(bytes)).to_canonical()
    };
    Some(SocketAddr::new(ip, port))
}

/// A state of `enum` in the kernel's `tcp_states.h`.
pub(super) fn socket_state(number: u8) -> Option<SocketState> {
    Some(match number {
        1 => SocketState::Established,
        2 => SocketState::SynSent,
        // 12 is TCP_NEW_SYN_RECV.
        3 | 12 => SocketState::SynReceived,
        4 => SocketState::FinWait1,
        5 => SocketState::FinWait2,
        6 => SocketState::TimeWait,
        7 => SocketState::Close,
        8 => SocketState::CloseWait,
        9 => SocketState::LastAck,
        10 => SocketState::Listen,
        11 => SocketState::Closing,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TCP: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
        0: 0100007F:9825 00000000:0000 0A 00000000:00000001 00:00000000 00000000     0        0 13186 2 00000000 100 0 0 10 0\n   \
        2: 0100007F:C704 0100007F:9825 01 00000000:00000000 00:00000000 00000000     0        0 13187 2 00000000 20 0 0 10 -1\n   \
        3: 0100007F:9825 0100007F:C704 08 00000000:00000000 00:00000000 00000000     0        0 13188 1 00000000 20 0 0 10 -1\n";

    #[test]
    #[cfg(target_endian = "little")]
    fn a_connection_within_the_machine() {
        let mut table = Table::default();
        table.add(FileKind::TcpSocket, TCP.as_bytes());
        let listening = table.get(13186).expect("listed");
        assert_eq!(listening.state, Some(SocketState::Listen));
        assert_eq!(listening.local.to_string(), "127.0.0.1:38949");
        let client = table.get(13187).expect("listed");
        assert_eq!(table.mirrored(client).map(|other| other.inode), Some(13188));
        assert_eq!(
            table.get(13188).expect("listed").state,
            Some(SocketState::CloseWait)
        );
        assert_eq!(table.mirrored(listening), None);
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn a_connection_that_was_not_accepted() {
        let queued = TCP.replace(
            "08 00000000:00000000 00:00000000 00000000     0        0 13188",
            "01 00000000:00000000 00:00000000 00000000     0        0 0",
        );
        let mut table = Table::default();
        table.add(FileKind::TcpSocket, queued.as_bytes());
        let client = table.get(13187).expect("listed");
        let other = table.mirrored(client).expect("listed");
        assert_eq!(
            table.listener(other).map(|socket| socket.inode),
            Some(13186)
        );
        assert_eq!(table.listener(client), None);
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn both_families() {
        let v6 = end("0000000000000000FFFF00000100007F:0050").expect("parses");
        assert_eq!(v6.to_string(), "127.0.0.1:80");
        let v6 = end("00000000000000000000000001000000:0050").expect("parses");
        assert_eq!(v6.to_string(), "[::1]:80");
        assert_eq!(end("0100007F"), None);
        assert_eq!(end("0100007:50"), None);
        assert_eq!(end("01000é7F:50"), None);
    }

    proptest! {
        #[test]
        fn any_text(text in "\\PC{0,200}") {
            let _ = parse(FileKind::TcpSocket, &text);
            let _ = end(&text);
        }

        #[test]
        fn any_line(words in prop::collection::vec("[0-9A-Fa-f:]{0,40}", 0..14)) {
            let _ = parse(FileKind::UdpSocket, &words.join(" "));
        }
    }
}
