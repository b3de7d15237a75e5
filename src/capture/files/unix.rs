//! UNIX sockets, by `sock_diag(7)`: the only place where the kernel tells the other end of one. It answers for hangscope's
//! own network namespace. As for `ss(8)`, the kernel loads its module `unix_diag` for the first question, if that is one.

use super::inet::socket_state;
use crate::model::{Foreign, SocketState};
use rustix::net::netlink::{SOCK_DIAG, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

/// `SOCK_DIAG_BY_FAMILY`.
const BY_FAMILY: u16 = 20;
/// `NLM_F_REQUEST`.
const REQUEST: u16 = 1;
/// `UDIAG_SHOW_NAME | UDIAG_SHOW_PEER | UDIAG_SHOW_MEMINFO`.
const SHOW: u32 = 0x1 | 0x4 | 0x20;
/// `UNIX_DIAG_NAME`, `UNIX_DIAG_PEER`, `UNIX_DIAG_MEMINFO`.
const NAME: u16 = 0;
const PEER: u16 = 2;
const MEMINFO: u16 = 5;
/// Bytes of `struct nlmsghdr`.
const HEADER: usize = 16;
/// Bytes of `struct unix_diag_msg`.
const MESSAGE: usize = 16;
/// Most attributes of one answer.
const MAX_ATTRIBUTES: usize = 32;

/// What the kernel says of a UNIX socket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct UnixSocket {
    pub(super) state: Option<SocketState>,
    /// Path, or `@…` for an abstract name.
    pub(super) name: Option<Foreign>,
    /// Inode of the other end; 0 when that has been closed, absent when it was never connected.
    pub(super) peer: Option<u64>,
    /// Bytes of kernel memory in use for what was sent and not read yet, and the limit beyond which a write fails or blocks.
    pub(super) sent: Option<(u32, u32)>,
}

/// Asks for the socket of this inode.
pub(super) fn ask(inode: u64) -> Option<UnixSocket> {
    let inode = u32::try_from(inode).ok()?;
    let socket = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        Some(SOCK_DIAG),
    )
    .ok()?;
    let kernel = SocketAddrNetlink::new(0, 0);
    rustix::net::sendto(&socket, &request(inode), SendFlags::empty(), &kernel).ok()?;
    // The kernel answers within the send.
    let mut answer = vec![0; 8192];
    let (_, length) = rustix::net::recv(&socket, &mut answer[..], RecvFlags::empty()).ok()?;
    parse(answer.get(..length)?, inode)
}

/// A `struct nlmsghdr` and a `struct unix_diag_req`.
fn request(inode: u32) -> Vec<u8> {
    const LENGTH: u32 = 40;
    let mut out = Vec::with_capacity(LENGTH as usize);
    out.extend(LENGTH.to_ne_bytes());
    out.extend(BY_FAMILY.to_ne_bytes());
    out.extend(REQUEST.to_ne_bytes());
    // Sequence number and port: one question, one answer, one socket.
    out.extend([0; 8]);
    out.extend([u8::try_from(AddressFamily::UNIX.as_raw()).unwrap_or(1), 0]);
    out.extend([0; 2]);
    // All states.
    out.extend(u32::MAX.to_ne_bytes());
    out.extend(inode.to_ne_bytes());
    out.extend(SHOW.to_ne_bytes());
    // INET_DIAG_NOCOOKIE, twice.
    out.extend([0xff; 8]);
    out
}

/// Parses the answer: one message about the socket that was asked for.
fn parse(answer: &[u8], inode: u32) -> Option<UnixSocket> {
    let length = usize::try_from(u32_at(answer, 0)?).ok()?;
    let message = answer.get(..length)?;
    if u16_at(message, 4)? != BY_FAMILY || u32_at(message, HEADER + 4)? != inode {
        return None;
    }
    let mut socket = UnixSocket {
        state: socket_state(*message.get(HEADER + 2)?),
        ..UnixSocket::default()
    };
    let mut rest = message.get(HEADER + MESSAGE..)?;
    for _ in 0..MAX_ATTRIBUTES {
        let (Some(size), Some(kind)) = (u16_at(rest, 0), u16_at(rest, 2)) else {
            break;
        };
        let size = usize::from(size);
        let Some(value) = rest.get(4..size) else {
            break;
        };
        match kind {
            NAME => socket.name = path(value),
            PEER => socket.peer = u32_at(value, 0).map(u64::from),
            // SK_MEMINFO_WMEM_ALLOC and SK_MEMINFO_SNDBUF.
            MEMINFO => socket.sent = u32_at(value, 8).zip(u32_at(value, 12)),
            _ => {}
        }
        rest = rest.get(size.next_multiple_of(4)..).unwrap_or(&[]);
    }
    Some(socket)
}

fn path(bytes: &[u8]) -> Option<Foreign> {
    let bytes = bytes.get(..bytes.len().min(256))?;
    match bytes.split_first()? {
        (0, rest) => {
            let mut name = b"@".to_vec();
            name.extend(rest);
            Some(Foreign::from_bytes(&name))
        }
        _ => Some(Foreign::from_bytes(
            bytes.strip_suffix(b"\0").unwrap_or(bytes),
        )),
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(
        bytes.get(at..at.checked_add(2)?)?.try_into().ok()?,
    ))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(
        bytes.get(at..at.checked_add(4)?)?.try_into().ok()?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    fn inode(file: impl AsFd) -> u64 {
        rustix::fs::fstat(file).expect("fstat").st_ino
    }

    #[test]
    fn the_ends_of_a_pair_name_each_other() {
        let (a, b) = UnixStream::pair().expect("a pair");
        let Some(found) = ask(inode(&a)) else {
            // No sock_diag in this kernel or sandbox.
            return;
        };
        assert_eq!(found.peer, Some(inode(&b)));
        assert_eq!(found.state, Some(SocketState::Established));
        assert!(found.sent.is_some_and(|(used, limit)| used < limit));
        drop(b);
        let found = ask(inode(&a)).expect("it is there");
        assert_eq!(found.peer, Some(0), "closed");
        assert_eq!(ask(0), None);
    }

    #[test]
    fn a_full_one_is_seen_to_be_full() {
        use std::io::Write;
        let (mut a, _b) = UnixStream::pair().expect("a pair");
        a.set_nonblocking(true).expect("non-blocking");
        let mut bytes = 0;
        while a.write(&[0]).is_ok() {
            bytes += 1;
            if let Some(found) = ask(inode(&a)) {
                let (used, limit) = found.sent.expect("told");
                // Nearly full, poll(2) has long said so.
                assert!(used <= limit || bytes > 100, "{used} of {limit}");
            }
        }
        if let Some(found) = ask(inode(&a)) {
            let (used, limit) = found.sent.expect("told");
            assert!(used >= limit, "{used} of {limit} after {bytes}");
        }
    }

    proptest! {
        #[test]
        fn any_answer(bytes in prop::collection::vec(any::<u8>(), 0..200), inode: u32) {
            let _ = parse(&bytes, inode);
        }

        #[test]
        fn any_attributes(bytes in prop::collection::vec(any::<u8>(), 0..120)) {
            let mut answer = Vec::new();
            answer.extend(u32::try_from(32 + bytes.len()).expect("short").to_ne_bytes());
            answer.extend(BY_FAMILY.to_ne_bytes());
            answer.extend([0; 10]);
            answer.extend([1, 1, 1, 0]);
            answer.extend(7_u32.to_ne_bytes());
            answer.extend([0; 8]);
            answer.extend(&bytes);
            prop_assert!(parse(&answer, 7).is_some());
        }
    }
}
