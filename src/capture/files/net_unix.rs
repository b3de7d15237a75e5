//! UNIX sockets of other network namespaces than hangscope's own, from `/proc/PID/net/unix`: state and name, no peers.

use super::unix::UnixSocket;
use crate::model::{Foreign, SocketState};
use std::collections::BTreeMap;

/// `__SO_ACCEPTCON` of the kernel's `net.h`.
const LISTENS: u32 = 1 << 16;

/// Parses the table. A name may hold newlines, and so forge lines; no more than words hang on them.
pub(super) fn parse(bytes: &[u8]) -> BTreeMap<u64, UnixSocket> {
    let text = String::from_utf8_lossy(bytes);
    text.lines().filter_map(line).collect()
}

/// `00000000dd6174d4: 00000003 00000000 00000000 0001 03 13166 /run/x`.
fn line(line: &str) -> Option<(u64, UnixSocket)> {
    let mut rest = line;
    let mut word = || {
        rest = rest.trim_start_matches(' ');
        let (word, after) = rest.split_once(' ').unwrap_or((rest, ""));
        rest = after;
        word
    };
    let (_address, _references, _protocol) = (word(), word(), word());
    let flags = u32::from_str_radix(word(), 16).ok()?;
    let _kind = word();
    let state = u8::from_str_radix(word(), 16).ok()?;
    let inode = word().parse().ok()?;
    let name: String = rest.chars().take(256).collect();
    let socket = UnixSocket {
        // The states of `enum socket_state` in the kernel's `net.h`.
        state: match state {
            _ if flags & LISTENS != 0 => Some(SocketState::Listen),
            1 => Some(SocketState::Close),
            2 => Some(SocketState::SynSent),
            3 => Some(SocketState::Established),
            _ => None,
        },
        name: (!name.is_empty()).then(|| Foreign::from(name)),
        ..UnixSocket::default()
    };
    Some((inode, socket))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_table() {
        let table = parse(
            b"Num       RefCount Protocol Flags    Type St Inode Path\n\
              00000000dd6174d4: 00000003 00000000 00000000 0001 03 13166\n\
              0000000019cd880f: 00000002 00000000 00010000 0001 01   543 /run/a b\n\
              0000000019cd8810: 00000002 00000000 00010000 0001 01 544 @abstract\n",
        );
        assert_eq!(table.len(), 3);
        assert_eq!(table[&13166].state, Some(SocketState::Established));
        assert_eq!(table[&13166].name, None);
        let server = &table[&543];
        assert_eq!(server.state, Some(SocketState::Listen));
        assert_eq!(
            server.name.as_ref().map(Foreign::untrusted),
            Some("/run/a b")
        );
    }

    proptest! {
        #[test]
        fn any_line(text in "[0-9a-f: @/\\n]{0,90}", bytes in prop::collection::vec(any::<u8>(), 0..90)) {
            let _ = parse(text.as_bytes());
            let _ = parse(&bytes);
        }
    }
}
