//! The headers of an ELF file (elf(5)): its segments and sections, from a file or from bytes.
//!
//! Decoded by hand, since no piece of a target's file need be aligned or whole.

use std::fs::File;
use std::os::unix::fs::FileExt;

/// Most program headers that are looked at.
const MAX_SEGMENTS: usize = 4096;
/// Most sections that are looked at.
const MAX_SECTIONS: usize = 1 << 17;
/// Largest table of section names.
const MAX_NAMES: u64 = 8 << 20;
/// Largest note that is looked at.
const MAX_NOTE: u64 = 64 << 10;

const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
const PT_GNU_EH_FRAME: u32 = 0x6474_e550;
const PF_X: u32 = 1;
const NT_GNU_BUILD_ID: u32 = 3;
/// Type of a section that has no bytes in the file.
pub(super) const SHT_NOBITS: u32 = 8;

/// Where the bytes of an ELF file come from.
#[derive(Debug)]
pub(super) enum Source {
    File(File),
    Bytes(Vec<u8>),
}

impl Source {
    /// `length` bytes at `offset`; `None` if there are not so many.
    pub(super) fn read(&self, offset: u64, length: u64) -> Option<Vec<u8>> {
        match self {
            Self::File(file) => {
                // A size that a header claims is believed only if the file has it.
                if offset.checked_add(length)? > file.metadata().ok()?.len() {
                    return None;
                }
                let mut bytes = vec![0; usize::try_from(length).ok()?];
                file.read_exact_at(&mut bytes, offset).ok()?;
                Some(bytes)
            }
            Self::Bytes(bytes) => {
                let start = usize::try_from(offset).ok()?;
                let end = start.checked_add(usize::try_from(length).ok()?)?;
                bytes.get(start..end).map(<[u8]>::to_vec)
            }
        }
    }
}

/// A program header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    kind: u32,
    executable: bool,
    pub(super) offset: u64,
    pub(super) address: u64,
    pub(super) file_size: u64,
    pub(super) memory_size: u64,
}

/// A section header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Section {
    pub(super) name: Vec<u8>,
    pub(super) kind: u32,
    pub(super) flags: u64,
    pub(super) address: u64,
    pub(super) offset: u64,
    pub(super) size: u64,
    /// Number of the section that belongs to it.
    pub(super) link: u32,
}

/// The headers of an ELF file.
#[derive(Debug)]
pub(super) struct Headers {
    pub(super) machine: u16,
    pub(super) segments: Vec<Segment>,
    /// Empty if the file has none, or if they cannot be read.
    pub(super) sections: Vec<Section>,
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let field = bytes.get(at..at.checked_add(2)?)?;
    Some(u16::from_le_bytes(field.try_into().ok()?))
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let field = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(field.try_into().ok()?))
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    let field = bytes.get(at..at.checked_add(8)?)?;
    Some(u64::from_le_bytes(field.try_into().ok()?))
}

impl Headers {
    /// Reads the headers of a 64-bit little-endian file.
    pub(super) fn read(source: &Source) -> Result<Self, &'static str> {
        const MALFORMED: &str = "not a usable ELF file";
        let head = source.read(0, 64).ok_or(MALFORMED)?;
        if !head.starts_with(b"\x7fELF") {
            return Err("not an ELF file");
        }
        if head[4] != 2 {
            return Err("a 32-bit program");
        }
        if head[5] != 1 {
            return Err("a big-endian program");
        }
        let machine = u16_at(&head, 18).ok_or(MALFORMED)?;
        let segments = segments(source, &head).ok_or(MALFORMED)?;
        let sections = sections(source, &head).unwrap_or_default();
        Ok(Self {
            machine,
            segments,
            sections,
        })
    }

    /// A section by its name.
    pub(super) fn section(&self, name: &[u8]) -> Option<&Section> {
        self.sections
            .iter()
            .find(|section| section.name == name && section.kind != SHT_NOBITS)
    }

    /// What to add to an address in the file to get one in the process, given a mapping of code: by the executable segment
    /// whose bytes in the file hold the mapping's offset.
    pub(super) fn bias(&self, mapping_start: u64, mapping_offset: u64) -> Option<u64> {
        let page = crate::capture::memory::PAGE;
        let segment = self.loads().find(|segment| {
            // A mapping begins at a whole page, at or before what it is made for.
            let first = segment.offset / page * page;
            segment.executable
                && mapping_offset >= first
                && mapping_offset < segment.offset.saturating_add(segment.file_size)
        })?;
        let address = segment
            .address
            .wrapping_add(mapping_offset)
            .wrapping_sub(segment.offset);
        Some(mapping_start.wrapping_sub(address))
    }

    /// The segment with the index of the unwind table.
    pub(super) fn unwind_index(&self) -> Option<Segment> {
        let mut segments = self.segments.iter();
        segments
            .find(|segment| segment.kind == PT_GNU_EH_FRAME)
            .copied()
    }

    /// The loaded segment that an address in the file belongs to.
    pub(super) fn load_of(&self, address: u64) -> Option<Segment> {
        self.loads()
            .find(|load| address >= load.address && address - load.address < load.memory_size)
    }

    /// The loaded segment that an offset in the file belongs to.
    pub(super) fn load_of_offset(&self, offset: u64) -> Option<Segment> {
        self.loads()
            .find(|load| offset >= load.offset && offset - load.offset < load.file_size)
    }

    fn loads(&self) -> impl Iterator<Item = Segment> {
        let all = self.segments.iter().copied();
        all.filter(|segment| segment.kind == PT_LOAD)
    }

    /// The build id, where `read` gives the bytes of a note segment.
    pub(super) fn build_id(&self, read: impl Fn(&Segment) -> Option<Vec<u8>>) -> Option<Vec<u8>> {
        let notes = self.segments.iter().filter(|segment| {
            segment.kind == PT_NOTE && segment.file_size <= MAX_NOTE && segment.file_size > 0
        });
        notes.take(16).find_map(|note| build_id(&read(note)?))
    }
}

fn segments(source: &Source, head: &[u8]) -> Option<Vec<Segment>> {
    let offset = u64_at(head, 32)?;
    let size = usize::from(u16_at(head, 54)?);
    let count = usize::from(u16_at(head, 56)?).min(MAX_SEGMENTS);
    if count == 0 || size < 56 {
        return Some(Vec::new());
    }
    let bytes = source.read(offset, (size * count) as u64)?;
    let segment = |at: &[u8]| {
        Some(Segment {
            kind: u32_at(at, 0)?,
            executable: u32_at(at, 4)? & PF_X != 0,
            offset: u64_at(at, 8)?,
            address: u64_at(at, 16)?,
            file_size: u64_at(at, 32)?,
            memory_size: u64_at(at, 40)?,
        })
    };
    bytes.chunks_exact(size).map(segment).collect()
}

fn sections(source: &Source, head: &[u8]) -> Option<Vec<Section>> {
    let offset = u64_at(head, 40)?;
    let size = usize::from(u16_at(head, 58)?);
    if offset == 0 || size < 64 {
        return None;
    }
    // What does not fit into the header is in the first section (elf(5), e_shnum and e_shstrndx).
    let first = source.read(offset, size as u64)?;
    let count = match u16_at(head, 60)? {
        0 => usize::try_from(u64_at(&first, 32)?).ok()?,
        count => usize::from(count),
    };
    let names_number = match u16_at(head, 62)? {
        0xffff => usize::try_from(u32_at(&first, 40)?).ok()?,
        number => usize::from(number),
    };
    if count > MAX_SECTIONS {
        return None;
    }
    let bytes = source.read(offset, size.checked_mul(count)? as u64)?;
    let names_header = bytes.get(size.checked_mul(names_number)?..)?;
    let names_size = u64_at(names_header, 32)?;
    if names_size > MAX_NAMES {
        return None;
    }
    let names = source.read(u64_at(names_header, 24)?, names_size)?;
    let section = |at: &[u8]| {
        let name = names.get(u32_at(at, 0)? as usize..)?;
        let end = name.iter().take(256).position(|byte| *byte == 0)?;
        Some(Section {
            name: name[..end].to_vec(),
            kind: u32_at(at, 4)?,
            flags: u64_at(at, 8)?,
            address: u64_at(at, 16)?,
            offset: u64_at(at, 24)?,
            size: u64_at(at, 32)?,
            link: u32_at(at, 40)?,
        })
    };
    let unnamed = Section {
        name: Vec::new(),
        kind: 0,
        flags: 0,
        address: 0,
        offset: 0,
        size: 0,
        link: 0,
    };
    // Others are told by number: one that makes no sense keeps its place.
    let all = bytes.chunks_exact(size);
    Some(
        all.map(|at| section(at).unwrap_or_else(|| unnamed.clone()))
            .collect(),
    )
}

/// The build id in the bytes of a note segment.
fn build_id(notes: &[u8]) -> Option<Vec<u8>> {
    let mut at = 0_usize;
    loop {
        let name_size = u32_at(notes, at)? as usize;
        let size = u32_at(notes, at.checked_add(4)?)? as usize;
        let kind = u32_at(notes, at.checked_add(8)?)?;
        let name_start = at.checked_add(12)?;
        let start = name_start.checked_add(name_size.checked_next_multiple_of(4)?)?;
        let end = start.checked_add(size)?;
        let name = notes.get(name_start..name_start.checked_add(name_size)?)?;
        if kind == NT_GNU_BUILD_ID && name == b"GNU\0" && (2..=64).contains(&size) {
            return notes.get(start..end).map(<[u8]>::to_vec);
        }
        at = end.checked_next_multiple_of(4)?;
    }
}
