//! An ELF file that is mapped in one or more processes, read once for all of them.

use super::arch::Architecture;
use super::headers::{Headers, Section, Source};
use super::symbols::FileSymbols;
use super::unwind_table::{Placed, UnwindTable, eh_frame_of};
use crate::capture::memory::CachedMemory;
use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// Largest `.eh_frame` or index of one that is read: that of a program of 500 MB.
const MAX_UNWIND: u64 = 64 << 20;
/// Largest code that the kernel maps (vdso).
pub(super) const MAX_VDSO: u64 = 64 << 10;
/// Most of a file's unwind table that is read from memory.
const MAX_UNWIND_IN_MEMORY: u64 = 8 << 20;
/// How much of it is read at a time.
const PIECE: usize = 64 << 10;

/// What tells files apart.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Identity {
    /// Build id and size: a copy without symbols has the same id.
    BuildId(Vec<u8>, u64),
    /// Device, inode, time of the last change, size.
    Inode(u64, u64, i64, i64, u64),
}

/// The files that were opened, for all processes of a dump.
#[derive(Debug, Default)]
pub(crate) struct ObjectCache {
    objects: Mutex<BTreeMap<Identity, Arc<ObjectFile>>>,
}

impl ObjectCache {
    /// The file, as it was read for another process, or read now.
    pub(super) fn get(
        &self,
        arch: &'static Architecture,
        file: File,
    ) -> Result<Arc<ObjectFile>, &'static str> {
        let meta = file.metadata().map_err(|_| "the file cannot be examined")?;
        let object = ObjectFile::from_source(arch, Source::File(file))?;
        let identity = match &object.build_id {
            Some(id) => Identity::BuildId(id.clone(), meta.len()),
            None => Identity::Inode(
                meta.dev(),
                meta.ino(),
                meta.mtime(),
                meta.mtime_nsec(),
                meta.len(),
            ),
        };
        let mut objects = self.objects.lock().unwrap_or_else(PoisonError::into_inner);
        let known = objects.entry(identity).or_insert_with(|| Arc::new(object));
        Ok(Arc::clone(known))
    }
}

/// An ELF file. All addresses are those of the file.
#[derive(Debug)]
pub(crate) struct ObjectFile {
    arch: &'static Architecture,
    pub(super) source: Source,
    pub(super) headers: Headers,
    pub(super) build_id: Option<Vec<u8>>,
    unwind_table: OnceLock<Result<UnwindTable, &'static str>>,
    pub(super) symbols: FileSymbols,
}

impl ObjectFile {
    /// Reads the headers.
    pub(super) fn from_source(
        arch: &'static Architecture,
        source: Source,
    ) -> Result<Self, &'static str> {
        let headers = Headers::read(&source)?;
        if headers.machine != arch.elf_machine {
            return Err("made for another architecture");
        }
        let build_id = headers.build_id(|note| source.read(note.offset, note.file_size));
        Ok(Self {
            arch,
            source,
            headers,
            build_id,
            unwind_table: OnceLock::new(),
            symbols: FileSymbols::default(),
        })
    }

    /// From the first page of a mapped file that cannot be opened, and its unwind table: that is mapped, too. It has no
    /// sections and no symbols.
    pub(super) fn from_memory(
        arch: &'static Architecture,
        memory: &CachedMemory<'_>,
        start: u64,
    ) -> Result<Self, &'static str> {
        let (object, bias) = Self::headers_in_memory(arch, memory, start)?;
        let table = table_in_memory(arch, &object.headers, memory, bias);
        let table = table.ok_or("it cannot be opened, and its unwind table is not in memory");
        Ok(Self {
            unwind_table: OnceLock::from(table),
            ..object
        })
    }

    /// The build id that a mapped file has in its memory.
    pub(super) fn build_id_in_memory(
        arch: &'static Architecture,
        memory: &CachedMemory<'_>,
        start: u64,
    ) -> Option<Vec<u8>> {
        let (object, _) = Self::headers_in_memory(arch, memory, start).ok()?;
        object.build_id
    }

    /// What the first page of a mapped file tells, and what to add to its addresses.
    fn headers_in_memory(
        arch: &'static Architecture,
        memory: &CachedMemory<'_>,
        start: u64,
    ) -> Result<(Self, u64), &'static str> {
        let mut head = vec![0; 4096];
        memory
            .read(start, &mut head)
            .map_err(|_| "its memory cannot be read")?;
        let mut object = Self::from_source(arch, Source::Bytes(head))?;
        object.headers.sections.clear();
        let first = object.headers.load_of_offset(0);
        let bias = start.wrapping_sub(first.ok_or("its head is not loaded")?.address);
        object.build_id = object.headers.build_id(|note| {
            let length = usize::try_from(note.file_size).ok()?;
            memory.bytes(note.address.wrapping_add(bias), length).ok()
        });
        Ok((object, bias))
    }

    /// The vdso, which is in no file but whole in memory.
    pub(super) fn vdso(
        arch: &'static Architecture,
        memory: &CachedMemory<'_>,
        start: u64,
        end: u64,
    ) -> Result<Self, &'static str> {
        let length = end.saturating_sub(start).min(MAX_VDSO);
        let bytes = memory
            .bytes(start, usize::try_from(length).unwrap_or(0))
            .map_err(|_| "its memory cannot be read")?;
        Self::from_source(arch, Source::Bytes(bytes))
    }

    /// The bytes of a section as they are in the file.
    pub(super) fn section_bytes(&self, section: &Section, most: u64) -> Option<Vec<u8>> {
        if section.size > most {
            return None;
        }
        self.source.read(section.offset, section.size)
    }

    /// Its unwind table, or why there is none.
    pub(super) fn unwind_table(&self) -> Result<&UnwindTable, &'static str> {
        let table = self.unwind_table.get_or_init(|| self.read_unwind_table());
        table.as_ref().map_err(|reason| *reason)
    }

    fn read_unwind_table(&self) -> Result<UnwindTable, &'static str> {
        let placed = |name: &[u8]| {
            let section = self.headers.section(name)?;
            Some(Placed {
                bytes: self.section_bytes(section, MAX_UNWIND)?,
                address: section.address,
            })
        };
        if let Some(eh_frame) = placed(b".eh_frame") {
            return Ok(UnwindTable::new(
                self.arch,
                eh_frame,
                placed(b".eh_frame_hdr"),
            ));
        }
        // Without section headers.
        let (header, eh_frame) = self.table_by_segments().ok_or("it has no unwind table")?;
        Ok(UnwindTable::new(self.arch, eh_frame, Some(header)))
    }

    fn table_by_segments(&self) -> Option<(Placed, Placed)> {
        let segment = self.headers.unwind_index()?;
        if segment.file_size > MAX_UNWIND {
            return None;
        }
        let header = Placed {
            bytes: self.source.read(segment.offset, segment.file_size)?,
            address: segment.address,
        };
        let address = eh_frame_of(&header)?;
        let load = self.headers.load_of(address)?;
        let distance = address - load.address;
        let length = load.file_size.checked_sub(distance)?.min(MAX_UNWIND);
        let eh_frame = Placed {
            bytes: self
                .source
                .read(load.offset.checked_add(distance)?, length)?,
            address,
        };
        Some((header, eh_frame))
    }
}

fn table_in_memory(
    arch: &'static Architecture,
    headers: &Headers,
    memory: &CachedMemory<'_>,
    bias: u64,
) -> Option<UnwindTable> {
    let read = |address: u64, length: u64| {
        let mut bytes = Vec::new();
        while (bytes.len() as u64) < length {
            let left = usize::try_from(length).ok()? - bytes.len();
            let at = address.wrapping_add(bytes.len() as u64).wrapping_add(bias);
            bytes.extend(memory.bytes(at, left.min(PIECE)).ok()?);
        }
        Some(Placed { bytes, address })
    };
    let index = headers.unwind_index()?;
    if index.memory_size > MAX_UNWIND_IN_MEMORY {
        return None;
    }
    let header = read(index.address, index.memory_size)?;
    let address = eh_frame_of(&header)?;
    let load = headers.load_of(address)?;
    let length = load.memory_size - (address - load.address);
    let eh_frame = read(address, length.min(MAX_UNWIND_IN_MEMORY))?;
    Some(UnwindTable::new(arch, eh_frame, Some(header)))
}
