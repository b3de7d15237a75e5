//! Lines over a socket.

use super::wire::{Order, Word};
use rustix::net::RecvFlags;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

/// A socket that carries lines. Reading never blocks.
#[derive(Debug)]
pub(super) struct Lines {
    stream: UnixStream,
    pending: Vec<u8>,
}

impl Lines {
    /// Lines over this socket.
    pub(super) fn new(stream: UnixStream) -> Self {
        Self {
            stream,
            pending: Vec::new(),
        }
    }

    /// Sends an order. That nobody is there to take it is seen when reading.
    pub(super) fn order(&self, order: Order) {
        let _ = (&self.stream).write_all(order.line().as_bytes());
    }

    /// Sends a word. That nobody is there to take it is seen when reading.
    pub(super) fn say(&self, word: Word) {
        let _ = (&self.stream).write_all(word.line().as_bytes());
    }

    /// Reads the lines that have come. The second value says that the other side is gone.
    pub(super) fn read(&mut self) -> (Vec<String>, bool) {
        let mut gone = false;
        let mut buffer = [0; 4096];
        loop {
            match rustix::net::recv(&self.stream, &mut buffer[..], RecvFlags::DONTWAIT) {
                Ok((_, 0)) => gone = true,
                Ok((_, count)) => {
                    self.pending
                        .extend_from_slice(buffer.get(..count).unwrap_or(&[]));
                    continue;
                }
                Err(rustix::io::Errno::INTR) => continue,
                Err(rustix::io::Errno::AGAIN) => {}
                Err(_) => gone = true,
            }
            break;
        }
        let mut lines = Vec::new();
        while let Some(end) = self.pending.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = self.pending.drain(..=end).collect();
            lines.push(String::from_utf8_lossy(&line).trim_end().to_owned());
        }
        (lines, gone)
    }
}

impl AsFd for Lines {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::Lines;
    use std::io::Write as _;
    use std::os::unix::net::UnixStream;

    #[test]
    fn lines_come_whole_and_the_end_is_seen() -> std::io::Result<()> {
        let (here, there) = UnixStream::pair()?;
        let mut lines = Lines::new(here);
        (&there).write_all(b"exited 7\nem")?;
        assert_eq!(lines.read(), (vec!["exited 7".to_owned()], false));
        (&there).write_all(b"pty\n")?;
        drop(there);
        assert_eq!(lines.read(), (vec!["empty".to_owned()], true));
        Ok(())
    }
}
