//! The memory map of a process: which files are mapped where, and how to open them.

use super::elf::{ElfError, ElfFile, open_mapped};
use super::memory::{Memory, PAGE, Range, ReadError, pages};
use crate::model::{Foreign, Pid, Tid};
use procfs::FromBufRead;
use procfs::process::{MMPermissions, MMapPath, MemoryMap, MemoryMaps};
use std::collections::BTreeSet;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::iter;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Longest map that is read: 4,000 threads have some 10,000 lines of 100 bytes.
const MAX_MAP: u64 = 64 << 20;

/// A mapped file.
#[derive(Clone, Debug)]
pub(crate) struct Module {
    /// Last component of its path.
    pub(crate) name: String,
    /// Where hangscope can open it.
    pub(crate) open_path: String,
    /// `open_path` is one of the kernel's magic links.
    follow: bool,
    /// Its path as the kernel tells it, and its inode number.
    told: (String, u64),
    /// Lowest address it is mapped at.
    pub(crate) first_mapping: u64,
}

impl Module {
    /// Opens the file to look symbols and sections up.
    pub(crate) fn open(&self) -> Result<ElfFile, ElfError> {
        ElfFile::new(self.open_file()?)
    }

    /// Opens the file.
    pub(crate) fn open_file(&self) -> Result<File, ElfError> {
        let (path, inode) = &self.told;
        open_mapped(&self.open_path, self.follow, (path, *inode))
    }

    /// Its path as the kernel tells it, in the process's root.
    pub(crate) fn path(&self) -> &str {
        &self.told.0
    }
}

/// Mapped memory that may be executed.
#[derive(Clone, Debug)]
pub(crate) struct CodeMapping {
    /// First address.
    pub(crate) start: u64,
    /// Address behind the last one.
    pub(crate) end: u64,
    /// Where in its file it begins.
    pub(crate) offset: u64,
    /// What is mapped there.
    pub(crate) content: Content,
}

/// What is mapped somewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// A file: its number among [`Code::modules`].
    File(usize),
    /// The code that the kernel gives every process (vdso(7)).
    Vdso,
    /// Nothing that has a name: code made at run time.
    Anonymous,
}

/// The code that is mapped in a process.
#[derive(Clone, Debug, Default)]
pub(crate) struct Code {
    /// In order of address.
    pub(crate) mappings: Vec<CodeMapping>,
    /// The mapped files, executable or not.
    pub(crate) modules: Vec<Module>,
    /// Number among `modules` of the program itself.
    pub(crate) program: Option<usize>,
}

/// A range of mapped memory that may be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Region {
    pub(crate) start: u64,
    pub(crate) end: u64,
    /// The stack of the process's first thread, as the kernel made it.
    pub(crate) first_stack: bool,
    /// It may be written, and is no library's of the system.
    pub(crate) of_program: bool,
}

/// The mapped ranges of a process that may be read; none if they are not told.
pub(crate) fn regions(pid: Pid, tid: Tid) -> Vec<Region> {
    let maps = read_maps(&format!("/proc/{pid}/task/{tid}"));
    let maps: Vec<MemoryMap> = maps.into_iter().flatten().collect();
    regions_of(&maps)
}

fn regions_of(maps: &[MemoryMap]) -> Vec<Region> {
    let beside_library = |index: usize, map: &MemoryMap| {
        let before = index.checked_sub(1).and_then(|before| maps.get(before));
        let before = before.filter(|before| before.address.1 == map.address.0);
        let after = maps.get(index + 1);
        let after = after.filter(|after| after.address.0 == map.address.1);
        map.pathname == MMapPath::Anonymous
            && map.address.1 - map.address.0 <= MOST_BESIDE_LIBRARY
            && before
                .into_iter()
                .chain(after)
                .any(|map| is_of_system(&map.pathname))
    };
    let readable = maps.iter().enumerate();
    let readable = readable.filter(|(_, map)| map.perms.contains(MMPermissions::READ));
    let regions = readable.map(|(index, map)| Region {
        start: map.address.0,
        end: map.address.1,
        first_stack: map.pathname == MMapPath::Stack,
        of_program: map.perms.contains(MMPermissions::WRITE)
            && !is_of_system(&map.pathname)
            && !beside_library(index, map),
    });
    regions.collect()
}

/// Memory without a name next to a library's, up to this size, is that library's zeroed data, or what the loader keeps: the
/// first thread's own variables.
const MOST_BESIDE_LIBRARY: u64 = 256 << 10;

fn is_of_system(path: &MMapPath) -> bool {
    let folders = ["/lib", "/usr/lib"];
    matches!(path, MMapPath::Path(path) if folders.iter().any(|folder| path.to_string_lossy().starts_with(folder)))
}

/// The range that an address is in, of ranges in order.
pub(crate) fn region_at(regions: &[Region], address: u64) -> Option<&Region> {
    let after = regions.partition_point(|region| region.start <= address);
    let region = regions.get(after.checked_sub(1)?)?;
    (address < region.end).then_some(region)
}

/// Most of a stack that is looked through for its end.
const MOST_OF_STACK: u64 = 64 << 20;

/// Where the stack ends that a stack pointer is in. That of another thread may follow in the same mapping: glibc 2.42 makes guards
/// that are no mappings of their own (`MADV_GUARD_INSTALL`), so a stack ends before the first page that cannot be read, too.
pub(crate) fn stack_end(memory: &dyn Memory, pointer: u64, regions: &[Region]) -> Option<u64> {
    let region = region_at(regions, pointer)?;
    let most = region.end.min(pointer.saturating_add(MOST_OF_STACK));
    let guard = unreadable_pages(memory, pointer, most).next();
    Some(guard.unwrap_or(region.end))
}

/// The pages of a mapping that cannot be read, by their addresses.
pub(crate) fn unreadable_pages(
    memory: &dyn Memory,
    from: u64,
    to: u64,
) -> impl Iterator<Item = u64> {
    // Mostly there are few pages, or it is one of the first.
    let mut lengths = iter::once(16).chain(iter::repeat(1000));
    let mut next = from;
    let pieces = iter::from_fn(move || {
        let start = next;
        let end = (start / PAGE + lengths.next()?)
            .saturating_mul(PAGE)
            .min(to);
        next = end;
        (start < end).then_some((start, end))
    });
    pieces.flat_map(|(start, end)| {
        let first_bytes = pages(start, end).into_iter().map(|page| Range {
            address: page.address,
            length: 1,
        });
        let first_bytes: Vec<Range> = first_bytes.collect();
        let read = memory.read_many(&first_bytes);
        let unmapped = first_bytes.into_iter().zip(read);
        let unmapped = unmapped.filter(|(_, read)| matches!(read, Err(ReadError::Unmapped(_))));
        unmapped.map(|(byte, _)| byte.address).collect::<Vec<_>>()
    })
}

/// What memory is at addresses that processes may share: device, inode and offset, the same in each of them.
pub(crate) fn shared_memory(pid: Pid, tid: Tid, addresses: &[u64]) -> BTreeMap<u64, Foreign> {
    if addresses.is_empty() {
        return BTreeMap::new();
    }
    let maps = read_maps(&format!("/proc/{pid}/task/{tid}"));
    let shared: Vec<MemoryMap> = maps
        .into_iter()
        .flatten()
        .filter(|map| map.perms.contains(MMPermissions::SHARED) && map.inode != 0)
        .collect();
    addresses
        .iter()
        .filter_map(|address| {
            let map = shared
                .iter()
                .find(|map| (map.address.0..map.address.1).contains(address))?;
            let offset = map.offset.checked_add(address - map.address.0)?;
            let (major, minor) = map.dev;
            let memory = format!("{major:x}:{minor:x} inode {} + {offset:#x}", map.inode);
            Some((*address, memory.into()))
        })
        .collect()
}

/// The files that a process shares by memory: device and inode, as [`shared_memory`] tells them.
pub(crate) fn shared_files(pid: Pid) -> BTreeSet<String> {
    let maps = read_maps(&format!("/proc/{pid}")).into_iter().flatten();
    maps.filter(|map| map.perms.contains(MMPermissions::SHARED) && map.inode != 0)
        .map(|map| format!("{:x}:{:x} inode {}", map.dev.0, map.dev.1, map.inode))
        .collect()
}

fn read_maps(task: &str) -> io::Result<MemoryMaps> {
    let reader = BufReader::new(File::open(format!("{task}/maps"))?.take(MAX_MAP));
    MemoryMaps::from_buf_read(reader).map_err(io::Error::other)
}

impl Code {
    /// Reads the map through thread `tid` of `pid` (a leader that has exited has none any more).
    pub(crate) fn read(pid: Pid, tid: Tid) -> io::Result<Self> {
        let maps = read_maps(&format!("/proc/{pid}/task/{tid}"))?;
        Ok(Self::of(pid, tid, maps.into_iter()))
    }

    /// The same, and all mapped ranges, by one look at the map.
    pub(crate) fn read_with_regions(pid: Pid, tid: Tid) -> io::Result<(Self, Vec<Region>)> {
        let maps: Vec<MemoryMap> = read_maps(&format!("/proc/{pid}/task/{tid}"))?
            .into_iter()
            .collect();
        let regions = regions_of(&maps);
        Ok((Self::of(pid, tid, maps.into_iter()), regions))
    }

    fn of(pid: Pid, tid: Tid, maps: impl Iterator<Item = MemoryMap>) -> Self {
        let task = format!("/proc/{pid}/task/{tid}");
        let program = std::fs::read_link(format!("{task}/exe")).ok();
        let mut code = Self::default();
        let mut numbers: HashMap<PathBuf, usize> = HashMap::new();
        for map in maps {
            let content = match &map.pathname {
                MMapPath::Path(path) => Content::File(match numbers.get(path) {
                    Some(number) => *number,
                    None => {
                        let number = code.modules.len();
                        let is_program = program.as_ref() == Some(path);
                        if is_program {
                            code.program = Some(number);
                        }
                        code.modules
                            .push(module(pid, &task, path, &map, is_program));
                        numbers.insert(path.clone(), number);
                        number
                    }
                }),
                MMapPath::Vdso => Content::Vdso,
                _ => Content::Anonymous,
            };
            if map.perms.contains(MMPermissions::EXECUTE) {
                code.mappings.push(CodeMapping {
                    start: map.address.0,
                    end: map.address.1,
                    offset: map.offset,
                    content,
                });
            }
        }
        code
    }
}

fn module(pid: Pid, task: &str, path: &Path, map: &MemoryMap, is_program: bool) -> Module {
    let bytes = path.as_os_str().as_bytes();
    let text = String::from_utf8_lossy(bytes);
    let (open_path, follow) = if is_program {
        (format!("{task}/exe"), true)
    } else if bytes.ends_with(b" (deleted)") {
        let (from, to) = map.address;
        (format!("/proc/{pid}/map_files/{from:x}-{to:x}"), true)
    } else {
        (format!("{task}/root{text}"), false)
    };
    Module {
        name: text.rsplit('/').next().unwrap_or("").to_owned(),
        open_path,
        follow,
        told: (text.into_owned(), map.inode),
        first_mapping: map.address.0,
    }
}

/// Whether a file is called `python`, `python3` or `python3.14`.
fn is_python(name: &str) -> bool {
    let version = name.strip_prefix("python");
    version.is_some_and(|version| {
        version
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'.'))
    })
}

/// The mapped files of a process, in order of address.
#[derive(Clone, Debug)]
pub(crate) struct Maps {
    modules: Vec<Module>,
    /// Number among `modules` of the program itself.
    program: Option<usize>,
}

impl Maps {
    /// Reads the map through thread `tid` of `pid` (a leader that has exited has none any more).
    pub(crate) fn read(pid: Pid, tid: Tid) -> io::Result<Self> {
        let code = Code::read(pid, tid)?;
        Ok(Self {
            modules: code.modules,
            program: code.program,
        })
    }

    /// Files that may hold the Python runtime, the likeliest first: `libpython*`, then the program itself, then what is called
    /// like one: a program that was started by naming the loader (`ld-linux… python3`) is not what the process runs.
    pub(crate) fn python_candidates(&self) -> impl Iterator<Item = &Module> {
        self.modules
            .iter()
            .filter(|module| module.name.starts_with("libpython"))
            .chain(self.program())
            .chain(self.modules.iter().filter(|module| is_python(&module.name)))
    }

    /// Files that may hold asyncio's C code: its extension module, or Python itself.
    pub(crate) fn asyncio_candidates(&self) -> impl Iterator<Item = &Module> {
        self.modules
            .iter()
            .filter(|module| module.name.starts_with("_asyncio."))
            .chain(self.python_candidates())
    }

    /// The program itself.
    pub(crate) fn program(&self) -> Option<&Module> {
        self.modules.get(self.program?)
    }

    /// The C library.
    pub(crate) fn c_library(&self) -> Option<&Module> {
        self.modules.iter().find(|module| {
            module.name.starts_with("libc.so")
                || module.name.starts_with("libc-2")
                || module.name.starts_with("ld-musl")
        })
    }
}
