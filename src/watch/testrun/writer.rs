//! A writer of rings, as the plugin is one; for tests.

use super::news::Who;
use super::ring::{HEADER, MAGIC};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// The bytes of a record.
pub(super) fn bytes_of(
    seq: u32,
    at: u64,
    serial: u32,
    counts: [u32; 5],
    kind: u8,
    flags: u8,
    text: &[u8],
) -> Vec<u8> {
    let length = u32::try_from(44 + text.len()).expect("a short text");
    let mut bytes = Vec::new();
    bytes.extend(length.to_le_bytes());
    bytes.extend(seq.to_le_bytes());
    bytes.extend(at.to_le_bytes());
    bytes.extend(serial.to_le_bytes());
    for count in counts {
        bytes.extend(count.to_le_bytes());
    }
    bytes.extend([kind, flags, 0, 0]);
    bytes.extend(text);
    bytes
}

/// A ring that is being written.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) file: File,
    pub(super) capacity: u64,
    pub(super) total: u64,
    pub(super) seq: u32,
}

impl Writer {
    /// A new ring of this process in the folder.
    pub(super) fn new(rings: &Path, who: Who, capacity: u64) -> Self {
        let name = format!("{}-{}.ring", who.pid, who.start_ticks);
        let mut options = File::options();
        let file = options.read(true).write(true).create_new(true);
        let file = file.open(rings.join(name)).expect("a ring file");
        file.set_len(HEADER + capacity).expect("its size");
        let mut head = Vec::from(*MAGIC);
        head.extend(u64::try_from(who.pid).expect("a pid").to_le_bytes());
        head.extend(who.start_ticks.to_le_bytes());
        head.extend(capacity.to_le_bytes());
        file.write_all_at(&head, 0).expect("a header");
        Self {
            file,
            capacity,
            total: 0,
            seq: 0,
        }
    }

    /// Writes a record, and publishes it.
    pub(super) fn record(&mut self, kind: u8, flags: u8, serial: u32, text: &str) {
        let at = u64::from(self.seq) + 1;
        let bytes = bytes_of(self.seq, at, serial, [1; 5], kind, flags, text.as_bytes());
        self.raw(&bytes);
        self.seq = self.seq.wrapping_add(1);
        self.publish();
    }

    /// Writes bytes into the stream, without publishing them.
    pub(super) fn raw(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let at = self.total % self.capacity;
            let room = usize::try_from(self.capacity - at).expect("a small ring");
            let (now, later) = rest.split_at(room.min(rest.len()));
            self.file.write_all_at(now, HEADER + at).expect("bytes");
            self.total += now.len() as u64;
            rest = later;
        }
    }

    /// Publishes what is written.
    pub(super) fn publish(&self) {
        let total = self.total.to_le_bytes();
        self.file.write_all_at(&total, 64).expect("a total");
    }
}
