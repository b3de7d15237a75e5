//! How the command line and the real standard input get from hangscope to the guardian.
//!
//! The socket between them is the guardian's standard input at first: of the descriptors that a process can
//! be started with safely, only the first three can be named. So the real one follows through the socket.

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use std::ffi::{OsStr, OsString};
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;

/// Most bytes of a command line; the kernel's own limit is 6 MiB.
const MAX_COMMAND: usize = 16 << 20;

/// Hands the command line and the real standard input to the guardian, whose own is this socket.
pub(super) fn send_command(
    stream: &UnixStream,
    command: &[OsString],
    stdin: BorrowedFd<'_>,
) -> io::Result<()> {
    let mut text = Vec::new();
    for argument in command {
        text.extend_from_slice(argument.as_bytes());
        text.push(0);
    }
    let length = u64::try_from(text.len()).unwrap_or(u64::MAX).to_le_bytes();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = [stdin];
    control.push(SendAncillaryMessage::ScmRights(&fds));
    sendmsg(
        stream,
        &[IoSlice::new(&length)],
        &mut control,
        SendFlags::NOSIGNAL,
    )?;
    (&*stream).write_all(&text)
}

/// The guardian's side of [`send_command`].
pub(super) fn receive_command(stream: &UnixStream) -> io::Result<(Vec<OsString>, OwnedFd)> {
    let unusable = || io::Error::from(io::ErrorKind::InvalidData);
    let mut length = [0; 8];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let got = recvmsg(
        stream,
        &mut [IoSliceMut::new(&mut length)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC | RecvFlags::WAITALL,
    )?;
    let stdin = control
        .drain()
        .find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        })
        .ok_or_else(unusable)?;
    let length = usize::try_from(u64::from_le_bytes(length)).unwrap_or(usize::MAX);
    if got.bytes != 8 || length > MAX_COMMAND {
        return Err(unusable());
    }
    let mut text = vec![0; length];
    (&*stream).read_exact(&mut text)?;
    let command: Vec<OsString> = text
        .strip_suffix(&[0])
        .ok_or_else(unusable)?
        .split(|&byte| byte == 0)
        .map(|argument| OsStr::from_bytes(argument).to_owned())
        .collect();
    Ok((command, stdin))
}

#[cfg(test)]
mod tests {
    use super::{receive_command, send_command};
    use std::ffi::OsString;
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_command_line_arrives_as_it_was() -> std::io::Result<()> {
        let (here, there) = UnixStream::pair()?;
        let command = ["sh", "", "a b\n", "é"].map(OsString::from);
        send_command(&here, &command, rustix::stdio::stdin())?;
        assert_eq!(receive_command(&there)?.0, command);
        Ok(())
    }
}
