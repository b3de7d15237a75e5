//! Which file, and which address in it, the code addresses of a process belong to.

use super::arch::Architecture;
use super::object_file::{ObjectCache, ObjectFile};
use crate::capture::maps::{Code, CodeMapping, Content, Module, Region};
use crate::capture::memory::CachedMemory;
use crate::model::{Pid, Tid};
use std::io;
use std::sync::{Arc, OnceLock};

/// A mapped file once it has been looked at, or why it cannot be.
type Opened = OnceLock<Result<Arc<ObjectFile>, String>>;

/// The code of one process. Files are opened when an address in them is asked for.
#[derive(Debug)]
pub(crate) struct Images {
    pub(super) arch: &'static Architecture,
    /// Bits of a code address, as far as any code is mapped: how wide addresses are is up to the kernel (39 to 52 bits on aarch64),
    /// and a signature takes all above.
    pub(super) code_bits: u64,
    code: Code,
    /// `/proc/PID/task/TID/root`: the directory tree that the process sees.
    root: String,
    /// One for each of the modules, and a last one for the vdso.
    opened: Vec<Opened>,
}

/// An address within a file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Located<'i> {
    pub(super) module: usize,
    pub(super) object: &'i ObjectFile,
    /// The address in the file.
    pub(super) address: u64,
}

/// Why there is no file for an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotLocated<'i> {
    /// No code is mapped there.
    NoCode,
    /// Code that was made at run time.
    NoFile,
    /// The file (its number) cannot be used, and why.
    Unusable(usize, &'i str),
}

impl Images {
    /// Reads which code is mapped, and all mapped ranges, through thread `tid` of `pid`.
    ///
    /// # Errors
    /// When the map cannot be read, or on a machine whose stacks cannot be unwound here.
    pub(crate) fn read(pid: Pid, tid: Tid) -> io::Result<(Self, Vec<Region>)> {
        let arch = Architecture::host().ok_or_else(|| {
            let message = format!(
                "native stacks cannot be unwound on {}",
                std::env::consts::ARCH
            );
            io::Error::new(io::ErrorKind::Unsupported, message)
        })?;
        let root = format!("/proc/{pid}/task/{tid}/root");
        let (code, regions) = Code::read_with_regions(pid, tid)?;
        Ok((Self::new(arch, code, root), regions))
    }

    pub(super) fn new(arch: &'static Architecture, code: Code, root: String) -> Self {
        let opened = (0..=code.modules.len()).map(|_| OnceLock::new()).collect();
        let highest = code.mappings.last().map_or(0, |mapping| mapping.end);
        let code_bits = match arch.code_bits {
            u64::MAX => u64::MAX,
            most => most & (u64::MAX >> highest.leading_zeros().min(63)),
        };
        Self {
            arch,
            code_bits,
            code,
            root,
            opened,
        }
    }

    /// Name of a module by its number: the last part of its path, or `[vdso]`.
    pub(crate) fn name(&self, module: usize) -> &str {
        self.code
            .modules
            .get(module)
            .map_or("[vdso]", |module| &module.name)
    }

    pub(super) fn is_vdso(&self, module: usize) -> bool {
        module == self.code.modules.len()
    }

    /// Its whole path, as the process sees it.
    pub(crate) fn path(&self, module: usize) -> &str {
        self.code.modules.get(module).map_or("[vdso]", Module::path)
    }

    pub(super) fn root(&self) -> &str {
        &self.root
    }

    /// Number of the program itself.
    pub(crate) fn program(&self) -> Option<usize> {
        self.code.program
    }

    /// A return address without its signature.
    pub(super) fn code_address(&self, address: u64) -> u64 {
        address & self.code_bits
    }

    /// Whether an address may be executed.
    pub(super) fn is_code(&self, address: u64) -> bool {
        self.mapping(address).is_some()
    }

    fn mapping(&self, address: u64) -> Option<&CodeMapping> {
        let mappings = &self.code.mappings;
        let after = mappings.partition_point(|mapping| mapping.start <= address);
        let mapping = mappings.get(after.checked_sub(1)?)?;
        (address < mapping.end).then_some(mapping)
    }

    /// The file that an address belongs to.
    pub(super) fn locate(
        &self,
        address: u64,
        memory: &CachedMemory<'_>,
        cache: &ObjectCache,
    ) -> Result<Located<'_>, NotLocated<'_>> {
        let mapping = self.mapping(address).ok_or(NotLocated::NoCode)?;
        let module = match mapping.content {
            Content::File(module) => module,
            Content::Vdso => self.code.modules.len(),
            Content::Anonymous => return Err(NotLocated::NoFile),
        };
        let slot = self.opened.get(module).ok_or(NotLocated::NoCode)?;
        let opened = slot.get_or_init(|| match self.code.modules.get(module) {
            Some(file) => self.open(file, memory, cache),
            None => ObjectFile::vdso(self.arch, memory, mapping.start, mapping.end)
                .map(Arc::new)
                .map_err(str::to_owned),
        });
        let object = opened
            .as_ref()
            .map_err(|reason| NotLocated::Unusable(module, reason))?;
        let bias = object
            .headers
            .bias(mapping.start, mapping.offset)
            .ok_or(NotLocated::Unusable(module, "it is not what is mapped"))?;
        Ok(Located {
            module,
            object,
            address: address.wrapping_sub(bias),
        })
    }

    /// The file; else, if it cannot be opened, what is mapped of it.
    fn open(
        &self,
        module: &Module,
        memory: &CachedMemory<'_>,
        cache: &ObjectCache,
    ) -> Result<Arc<ObjectFile>, String> {
        let from_file = module
            .open_file()
            .map_err(|error| error.to_string())
            .and_then(|file| cache.get(self.arch, file).map_err(str::to_owned));
        let start = module.first_mapping;
        let replaced = |object: &ObjectFile| {
            let mapped = ObjectFile::build_id_in_memory(self.arch, memory, start);
            mapped.is_some() && object.build_id.is_some() && mapped != object.build_id
        };
        match from_file {
            Ok(object) if !replaced(&object) => Ok(object),
            Ok(_) => ObjectFile::from_memory(self.arch, memory, start)
                .map(Arc::new)
                .map_err(|_| "it was replaced since it was loaded".to_owned()),
            Err(reason) => ObjectFile::from_memory(self.arch, memory, start)
                .map(Arc::new)
                .map_err(|_| reason),
        }
    }
}
