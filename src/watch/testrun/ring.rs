//! One ring file: a header page, and a stream of records that wraps around in the rest.
//!
//! The process writes into a map of the file and never waits for us, so all that is read here may be changed,
//! torn or overwritten at any moment. The number of bytes written so far is published after the bytes: what
//! was copied counts only if that number, read again, shows that it cannot have been overwritten meanwhile.

use super::news::Who;
use super::record::{self, Record};
use rustix::fs::{FileType, Mode, OFlags};
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

/// Bytes of the header.
pub(super) const HEADER: u64 = 4096;
/// What a complete header begins with.
pub(super) const MAGIC: &[u8; 8] = b"hangscp1";
/// Where the number of bytes written so far stands.
const TOTAL: u64 = 64;
/// Where a request to the process stands: serial, stage, length and text.
const REQUEST: u64 = 128;
/// Longest text of a request.
const REQUEST_TEXT: usize = 3800;
/// The sizes of a stream that we believe. The plugin makes 64 KiB to 1 MiB.
const CAPACITY: std::ops::RangeInclusive<u64> = 4096..=16 * 1024 * 1024;
/// How often a stream that runs away from us is tried to be caught in one look.
const CATCHES: usize = 4;
/// After how many looks at bytes that are no record a ring is given up. One look is not enough: on a weakly
/// ordered machine the number of bytes can be seen before the bytes.
const PATIENCE: u32 = 20;

/// What a file in the folder of rings is.
#[derive(Debug)]
pub(super) enum Opened {
    /// A ring.
    Ring(Ring),
    /// Not one yet: its header is not complete.
    NotYet,
    /// Not one that we read, for this reason.
    Refused(&'static str),
}

/// An open ring.
#[derive(Debug)]
pub(super) struct Ring {
    file: File,
    capacity: u64,
    /// Bytes of the stream that have been read: always the boundary of a record.
    position: u64,
    /// The number that the next record must have; unknown after a loss without a boundary.
    next: Option<u32>,
    /// The number that it would have had without that loss.
    missed_from: u32,
    /// Looks in a row that found something that is no record.
    confused: u32,
    stopped: bool,
}

/// What one look at a ring brought.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Look {
    /// Records that were overwritten before they were read. They came before the others.
    pub(super) lost: u64,
    /// Records, in order.
    pub(super) records: Vec<Record>,
    /// Why it is read no further.
    pub(super) stopped: Option<&'static str>,
}

impl Ring {
    /// Opens the file `name` of `folder`, which must be the ring of `who`.
    pub(super) fn open(folder: impl AsFd, name: &str, who: Who) -> io::Result<Opened> {
        // NONBLOCK: a FIFO of that name must not hold us.
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = File::from(rustix::fs::openat(folder, name, flags, Mode::empty())?);
        let stat = rustix::fs::fstat(&file)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Ok(Opened::Refused("it is not a plain file"));
        }
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        let mut head = [0; 32];
        if size < HEADER || file.read_exact_at(&mut head, 0).is_err() || !head.starts_with(MAGIC) {
            return Ok(Opened::NotYet);
        }
        let pid = head.get(8..12).and_then(<[u8]>::first_chunk);
        let pid = pid.map(|bytes| u32::from_le_bytes(*bytes));
        if pid != u32::try_from(who.pid).ok() || word(&head, 16) != Some(who.start_ticks) {
            return Ok(Opened::Refused(
                "it is not of the process that its name says",
            ));
        }
        let capacity = word(&head, 24).unwrap_or(0);
        if !CAPACITY.contains(&capacity) || size != HEADER + capacity {
            return Ok(Opened::Refused("its size is not what its header says"));
        }
        Ok(Opened::Ring(Self {
            file,
            capacity,
            position: 0,
            next: Some(0),
            missed_from: 0,
            confused: 0,
            stopped: false,
        }))
    }

    /// Reads what is new.
    pub(super) fn look(&mut self) -> Look {
        self.look_with(&mut || {})
    }

    /// Reads what is new. `copied` is called between the copy and the check whether it is whole.
    pub(super) fn look_with(&mut self, copied: &mut dyn FnMut()) -> Look {
        let mut look = Look::default();
        for _ in 0..CATCHES {
            // Less than was there before is a torn number, which is whole again at the next look.
            let Some(total) = self.total().filter(|&total| total > self.position) else {
                return look;
            };
            if self.stopped {
                return look;
            }
            let from = self.position.max(self.oldest(total));
            let Some(bytes) = self.copy(from, total) else {
                self.stop(&mut look, "its file became shorter");
                return look;
            };
            copied();
            let Some(after) = self.total().filter(|&after| after >= total) else {
                return look;
            };
            let safe = self.oldest(after);
            if safe <= self.position {
                self.take(&bytes, &mut look);
                return look;
            }
            // Lapped: what is left of the copy is whole, but where a record begins in it is not known.
            let skip = usize::try_from(safe.saturating_sub(from)).unwrap_or(usize::MAX);
            let Some(rest) = bytes.get(skip..).filter(|rest| !rest.is_empty()) else {
                continue;
            };
            let boundary = first_boundary(rest, record::longest(self.capacity));
            let kept = rest.get(boundary..).unwrap_or(&[]);
            self.jump(total - kept.len() as u64);
            self.take(kept, &mut look);
            return look;
        }
        // It writes faster than we read. Where it stands now is a boundary.
        if let Some(total) = self.total() {
            self.jump(total.max(self.position));
        }
        look
    }

    /// Writes a request into the header. The process looks at it when it gets the signal.
    pub(super) fn request(&self, serial: u32, stage: u32, text: &str) -> io::Result<()> {
        let mut end = text.len().min(REQUEST_TEXT);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let text = text.as_bytes().get(..end).unwrap_or(&[]);
        let mut head = [0; 12];
        // An older request must not get the new text.
        self.file.write_all_at(&head, REQUEST)?;
        let length = u32::try_from(text.len()).unwrap_or(0).to_le_bytes();
        self.file
            .write_all_at(&[length.as_slice(), text].concat(), REQUEST + 12)?;
        for (to, from) in head.iter_mut().zip(
            u64::from(serial)
                .to_le_bytes()
                .into_iter()
                .chain(stage.to_le_bytes()),
        ) {
            *to = from;
        }
        self.file.write_all_at(&head, REQUEST)
    }

    /// Whether the process has not acted on the last request yet: it sets the stage to 0 when it does.
    pub(super) fn is_pending(&self) -> bool {
        let mut stage = [0; 4];
        self.file.read_exact_at(&mut stage, REQUEST + 8).is_ok() && stage != [0; 4]
    }

    /// The oldest byte of the stream that cannot be overwritten when `total` bytes are published: the record
    /// that is being written now stands beyond them.
    fn oldest(&self, total: u64) -> u64 {
        total.saturating_sub(self.capacity - record::longest(self.capacity) as u64)
    }

    fn total(&self) -> Option<u64> {
        let mut bytes = [0; 8];
        self.file.read_exact_at(&mut bytes, TOTAL).ok()?;
        Some(u64::from_le_bytes(bytes))
    }

    fn copy(&self, from: u64, to: u64) -> Option<Vec<u8>> {
        let length = usize::try_from(to - from).ok()?;
        let mut bytes = vec![0; length];
        let start = from % self.capacity;
        let straight = usize::try_from(self.capacity - start).ok()?.min(length);
        let (first, second) = bytes.split_at_mut(straight);
        self.file.read_exact_at(first, HEADER + start).ok()?;
        self.file.read_exact_at(second, HEADER).ok()?;
        Some(bytes)
    }

    /// Takes the records of a whole copy that begins at `position`.
    fn take(&mut self, mut bytes: &[u8], look: &mut Look) {
        while !bytes.is_empty() {
            let record = record::length(bytes, record::longest(self.capacity))
                .and_then(|length| bytes.split_at_checked(length))
                .filter(|(own, _)| self.next.is_none_or(|next| record::seq(own) == Some(next)))
                .and_then(|(own, rest)| Some((Record::parse(own)?, own.len(), rest)));
            let Some((record, length, rest)) = record else {
                self.confused += 1;
                if self.confused > PATIENCE {
                    self.stop(look, "it holds what is no record");
                }
                return;
            };
            if self.next.is_none() {
                look.lost += u64::from(record.seq.wrapping_sub(self.missed_from));
            }
            self.confused = 0;
            self.position += length as u64;
            self.next = Some(record.seq.wrapping_add(1));
            look.records.push(record);
            bytes = rest;
        }
    }

    /// Goes on at another boundary. What was lost is known when the next record is read.
    fn jump(&mut self, position: u64) {
        if position > self.position {
            self.missed_from = self.next.take().unwrap_or(self.missed_from);
            self.position = position;
        }
    }

    fn stop(&mut self, look: &mut Look, why: &'static str) {
        self.stopped = true;
        look.stopped = Some(why);
    }
}

/// Where the first record begins in bytes that end with a whole one; their number if there is none.
///
/// Text can look like a record, but not like one that is followed by records with the next numbers up to the
/// very end. Read from the end, each place is looked at once.
fn first_boundary(bytes: &[u8], most: usize) -> usize {
    let end = bytes.len();
    let mut first = end;
    let mut good = vec![false; end];
    for at in (0..end).rev() {
        let rest = bytes.get(at..).unwrap_or(&[]);
        let Some(next) = record::length(rest, most).map(|length| at + length) else {
            continue;
        };
        let followed = next == end
            || (good.get(next) == Some(&true)
                && record::seq(bytes.get(next..).unwrap_or(&[]))
                    == record::seq(rest).map(|seq| seq.wrapping_add(1)));
        // The last one has nothing behind it that would confirm it, so it must be sound all through.
        let sound = next != end || rest.get(..next - at).and_then(Record::parse).is_some();
        if followed && sound {
            if let Some(slot) = good.get_mut(at) {
                *slot = true;
            }
            first = at;
        }
    }
    first
}

fn word(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}
