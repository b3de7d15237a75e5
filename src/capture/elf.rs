//! Looking up a section or a symbol in an ELF file of the target, reading only the pages needed.

use memchr::memmem;
use object::elf;
use object::read::elf::{FileHeader, ProgramHeader, SectionHeader, Sym, SymbolTable, VersionTable};
use object::{Endianness, ReadCache, ReadRef};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};

/// Largest file that is looked into.
const MAX_FILE: u64 = 4 << 30;
/// Most program headers that are looked at.
const MAX_HEADERS: usize = 4096;
/// Largest table of symbols that is looked at, in bytes: that of a CPython has 30,000 symbols of 24 bytes.
const MAX_SYMBOLS: u64 = 48 << 20;

/// Why a file could not be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ElfError {
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("not a regular file")]
    NotRegular,
    #[error("larger than 4 GiB")]
    TooLarge,
    #[error("a 32-bit program")]
    Bits32,
    #[error("not a usable ELF file")]
    Malformed,
}

/// Opens a regular file of bearable size. `follow` is for `/proc/PID/exe` and `map_files` only, which are links by nature;
/// other paths come from the target and may be a trap (a FIFO, a device, a link out of its root).
pub(crate) fn open_regular(path: &str, follow: bool) -> Result<File, ElfError> {
    let mut flags = nix::fcntl::OFlag::O_NONBLOCK | nix::fcntl::OFlag::O_CLOEXEC;
    if !follow {
        flags |= nix::fcntl::OFlag::O_NOFOLLOW;
    }
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits())
        .open(path)?;
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Err(ElfError::NotRegular);
    }
    if meta.len() > MAX_FILE {
        return Err(ElfError::TooLarge);
    }
    Ok(file)
}

/// Opens `path` if it is the file with this inode number: a path that need not be meant as we understand it.
fn open_inode(path: &str, inode: u64) -> Result<File, ElfError> {
    let file = open_regular(path, false)?;
    if file.metadata()?.ino() != inode {
        return Err(ElfError::Io(std::io::ErrorKind::NotFound.into()));
    }
    Ok(file)
}

/// Opens a mapped file: `open_path`, or, if there is none, the path that the kernel `told`, if it has that inode number.
/// Of a process that has only another root, the kernel tells paths from our root, not from its own.
pub(crate) fn open_mapped(
    open_path: &str,
    follow: bool,
    told: (&str, u64),
) -> Result<File, ElfError> {
    match open_regular(open_path, follow) {
        Err(ElfError::Io(error)) if error.kind() == std::io::ErrorKind::NotFound => {
            open_inode(told.0, told.1).map_err(|_| ElfError::Io(error))
        }
        opened => opened,
    }
}

/// An ELF file of the target.
pub(crate) struct ElfFile {
    cache: ReadCache<File>,
    header: elf::FileHeader64<Endianness>,
    endian: Endianness,
    /// Lowest address of a loadable segment, rounded down to a page; `None` for a program with fixed addresses.
    first_load: Option<u64>,
}

impl ElfFile {
    /// Reads the headers of an opened file.
    pub(crate) fn new(file: File) -> Result<Self, ElfError> {
        Self::parse(ReadCache::new(file))
    }

    fn parse(cache: ReadCache<File>) -> Result<Self, ElfError> {
        let ident = (&cache)
            .read_bytes_at(0, 16)
            .map_err(|()| ElfError::Malformed)?;
        if ident.starts_with(b"\x7fELF") && ident.get(4) == Some(&elf::ELFCLASS32.0) {
            return Err(ElfError::Bits32);
        }
        let header =
            *elf::FileHeader64::<Endianness>::parse(&cache).map_err(|_| ElfError::Malformed)?;
        let endian = header.endian().map_err(|_| ElfError::Malformed)?;
        let first_load = if header.e_type(endian) == elf::ET_EXEC {
            None
        } else {
            let headers = header
                .program_headers(endian, &cache)
                .map_err(|_| ElfError::Malformed)?;
            let lowest = headers
                .iter()
                .take(MAX_HEADERS)
                .filter(|segment| segment.p_type(endian) == elf::PT_LOAD)
                .map(|segment| segment.p_vaddr(endian))
                .min();
            Some(lowest.ok_or(ElfError::Malformed)? & !(super::memory::PAGE - 1))
        };
        Ok(Self {
            cache,
            header,
            endian,
            first_load,
        })
    }

    /// What to add to an address in the file to get one in the process, given the file's lowest mapping.
    pub(crate) fn bias(&self, lowest_mapping: u64) -> u64 {
        self.first_load
            .map_or(0, |first| lowest_mapping.wrapping_sub(first))
    }

    /// Address of a section, without bias.
    pub(crate) fn section(&self, name: &[u8]) -> Option<u64> {
        let sections = self.header.sections(self.endian, &self.cache).ok()?;
        let (_, section) = sections.section_by_name(self.endian, name)?;
        Some(section.sh_addr(self.endian))
    }

    /// Address of an exported symbol, without bias: by the GNU hash table, else by walking the dynamic symbols.
    pub(crate) fn exported(&self, name: &[u8]) -> Option<u64> {
        let sections = self.header.sections(self.endian, &self.cache).ok()?;
        let symbols = sections
            .symbols(self.endian, &self.cache, elf::SHT_DYNSYM)
            .ok()?;
        let symbol = match sections.gnu_hash(self.endian, &self.cache) {
            Ok(Some((table, _))) => {
                let hash = elf::gnu_hash(name);
                let any_version = VersionTable::default();
                table
                    .find(self.endian, name, hash, None, &symbols, &any_version)?
                    .1
            }
            _ => symbols.iter().find(|symbol| {
                !symbol.is_undefined(self.endian)
                    && symbol.name(self.endian, symbols.strings()) == Ok(name)
            })?,
        };
        Some(symbol.st_value(self.endian))
    }

    /// How far below the thread pointer a program keeps a thread-local variable, by parts of its mangled name and its size in
    /// bytes, where thread-local data ends at the thread pointer (variant II of Drepper's "ELF Handling For Thread-Local
    /// Storage": x86-64). Absent from a stripped file, and if two variables answer to the description.
    pub(crate) fn below_thread_pointer(&self, parts: &[&[u8]], size: u64) -> Option<u64> {
        let segments = self.header.program_headers(self.endian, &self.cache).ok()?;
        let data = segments
            .iter()
            .take(MAX_HEADERS)
            .find(|segment| segment.p_type(self.endian) == elf::PT_TLS)?;
        let end = data
            .p_memsz(self.endian)
            .checked_next_multiple_of(data.p_align(self.endian).max(1))?;
        let symbols = self.all_symbols()?;
        let mut found = symbols
            .iter()
            .filter(|symbol| {
                symbol.st_type() == elf::STT_TLS && symbol.st_size(self.endian) == size
            })
            .filter(|symbol| {
                let name = symbol.name(self.endian, symbols.strings());
                let has = |part: &&[u8]| name.is_ok_and(|name| memmem::find(name, part).is_some());
                parts.iter().all(has)
            })
            .map(|symbol| symbol.st_value(self.endian));
        match (found.next(), found.next()) {
            (Some(only), None) => end.checked_sub(only),
            _ => None,
        }
    }

    /// The symbols of a file that is not stripped, if they are bearably many.
    fn all_symbols(
        &self,
    ) -> Option<SymbolTable<'_, elf::FileHeader64<Endianness>, &ReadCache<File>>> {
        let sections = self.header.sections(self.endian, &self.cache).ok()?;
        let too_large = sections.iter().any(|section| {
            section.sh_type(self.endian) == elf::SHT_SYMTAB
                && section.sh_size(self.endian) > MAX_SYMBOLS
        });
        if too_large {
            return None;
        }
        sections
            .symbols(self.endian, &self.cache, elf::SHT_SYMTAB)
            .ok()
    }

    /// Addresses, without bias, of variables that are not exported, by name and size in bytes. Link-time optimisation may add
    /// to a name (`wakeup.lto_priv.0`). Absent from a stripped file, and if two variables answer to the description.
    pub(crate) fn variables<const N: usize>(&self, wanted: [(&[u8], u64); N]) -> [Option<u64>; N] {
        let mut found: [Vec<u64>; N] = std::array::from_fn(|_| Vec::new());
        let Some(symbols) = self.all_symbols() else {
            return [None; N];
        };
        for symbol in symbols.iter() {
            let size = symbol.st_size(self.endian);
            // Names are read of few.
            if symbol.st_type() != elf::STT_OBJECT || !wanted.iter().any(|(_, want)| *want == size)
            {
                continue;
            }
            let Ok(name) = symbol.name(self.endian, symbols.strings()) else {
                continue;
            };
            let plain = name.split(|byte| *byte == b'.').next().unwrap_or(name);
            for ((want, length), places) in wanted.iter().zip(&mut found) {
                if plain == *want && size == *length && places.len() < 2 {
                    places.push(symbol.st_value(self.endian));
                }
            }
        }
        found.map(|places| match places.as_slice() {
            [only] => Some(*only),
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write;

    #[test]
    fn a_variable_that_is_not_there() {
        let file = ElfFile::new(open_regular("/proc/self/exe", true).expect("our own program"))
            .expect("ELF");
        let found = file.variables([(b"no_such_variable", 4), (b"Handlers", 1040)]);
        assert_eq!(found, [None, None]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]
        /// A small file with the head of a real one and anything after it.
        #[test]
        fn a_damaged_file(
            sections_at in 64_u64..2048,
            rest in prop::collection::vec(any::<u8>(), 2048),
            bytes in prop::collection::vec((0_usize..2112, any::<u8>()), 0..16),
        ) {
            let mut file = std::fs::File::open("/proc/self/exe").expect("our own program");
            let mut data = vec![0; 64];
            std::io::Read::read_exact(&mut file, &mut data).expect("its head");
            // e_shoff and e_shnum.
            data[40..48].copy_from_slice(&sections_at.to_le_bytes());
            data[60..62].copy_from_slice(&8_u16.to_le_bytes());
            data.extend(rest);
            for (at, byte) in bytes {
                data[at] = byte;
            }
            let mut written = tempfile::NamedTempFile::new().expect("a file");
            written.write_all(&data).expect("written");
            let path = written.path().to_str().expect("a name");
            if let Ok(file) = open_regular(path, false).and_then(ElfFile::new) {
                let _ = file.variables([(b"wakeup", 8), (b"Handlers", 1040)]);
                let _ = file.section(b".PyRuntime");
                let _ = file.exported(b"_PyRuntime");
            }
        }
    }
}
