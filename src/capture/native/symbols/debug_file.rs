//! Separate files with the symbols and lines of a stripped one, where gdb looks for them (its manual, "Separate Debug Files").

use super::super::headers::{Headers, Source, u32_at};
use super::super::object_file::ObjectFile;
use crate::capture::elf::open_regular;
use rustix::fs::{Mode, OFlags, ResolveFlags};
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Largest file whose checksum is taken, which reads it whole. Files with a build id need none.
const MAX_CHECKED: u64 = 64 << 20;
/// Longest name of a debug file.
const MAX_LINK: u64 = 4096;

/// A separate file with debug information.
#[derive(Debug)]
pub(super) struct DebugFile {
    pub(super) source: Source,
    pub(super) headers: Headers,
}

impl DebugFile {
    /// That of `object`, which has `path` in the directory tree at `root`.
    pub(super) fn find(object: &ObjectFile, root: &str, path: &str) -> Option<Self> {
        let by_id = object.build_id.as_ref().and_then(|id| {
            let digits: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
            let (first, rest) = digits.split_at_checked(2)?;
            let path = format!("usr/lib/debug/.build-id/{first}/{rest}.debug");
            Self::open(root, &path, |found| found.build_id.as_ref() == Some(id))
        });
        by_id.or_else(|| Self::by_link(object, root, path))
    }

    fn by_link(object: &ObjectFile, root: &str, path: &str) -> Option<Self> {
        let section = object.headers.section(b".gnu_debuglink")?;
        let bytes = object.section_bytes(section, MAX_LINK)?;
        let end = bytes.iter().position(|byte| *byte == 0)?;
        let name = std::str::from_utf8(&bytes[..end]).ok()?;
        if name.is_empty() || name.contains('/') {
            return None;
        }
        let checksum = u32_at(&bytes, (end + 1).checked_next_multiple_of(4)?)?;
        let folder = Path::new(path).parent()?.to_str()?.trim_start_matches('/');
        let places = [
            format!("{folder}/{name}"),
            format!("{folder}/.debug/{name}"),
            format!("usr/lib/debug/{folder}/{name}"),
        ];
        places.iter().find_map(|place| {
            Self::open(root, place, |found| {
                match (&object.build_id, &found.build_id) {
                    (Some(ours), Some(theirs)) => ours == theirs,
                    _ => crc32(&found.source) == Some(checksum),
                }
            })
        })
    }

    fn open(root: &str, path: &str, is_it: impl Fn(&ObjectFile) -> bool) -> Option<Self> {
        let file = open_in(root, path)?;
        let found = ObjectFile::from_source(
            crate::capture::native::arch::Architecture::host()?,
            Source::File(file),
        )
        .ok()?;
        is_it(&found).then_some(Self {
            source: found.source,
            headers: found.headers,
        })
    }
}

/// Opens a regular file below `root`; links lead nowhere else (openat2(2)). In distributions the files are links to each other.
fn open_in(root: &str, path: &str) -> Option<File> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    let folder = rustix::fs::open(root, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).ok()?;
    let within = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    match rustix::fs::openat2(&folder, path, flags, Mode::empty(), within) {
        Ok(opened) => {
            let file = File::from(opened);
            file.metadata().ok()?.is_file().then_some(file)
        }
        // Older than Linux 5.6, or a filter that does not know the call.
        Err(rustix::io::Errno::NOSYS | rustix::io::Errno::PERM) => {
            open_regular(&format!("{root}/{path}"), false).ok()
        }
        Err(_) => None,
    }
}

/// The checksum that `.gnu_debuglink` has: CRC-32 of the whole file.
fn crc32(source: &Source) -> Option<u32> {
    let Source::File(file) = source else {
        return None;
    };
    if file.metadata().ok()?.len() > MAX_CHECKED {
        return None;
    }
    let mut crc = flate2::Crc::new();
    let mut piece = vec![0; 64 << 10];
    let mut rest = file.take(MAX_CHECKED);
    loop {
        match rest.read(&mut piece).ok()? {
            0 => return Some(crc.sum()),
            length => crc.update(&piece[..length]),
        }
    }
}
