//! From addresses of code to functions, and to lines where that is worth its time.

mod debug_file;
mod demangle;
mod lines;
mod table;

use super::images::{Images, Located, NotLocated};
use super::object_file::{ObjectCache, ObjectFile};
use super::unwind::NativeFrame;
use crate::capture::memory::CachedMemory;
use crate::model::Foreign;
use debug_file::DebugFile;
use lines::Lines;
use rustc_hash::FxHashMap;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;
use table::SymbolTable;

/// A function that a frame is in. A frame has several if some are inlined into each other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Symbol {
    /// Its name as it was written, if that could be found out; else as linkers have it.
    pub(crate) function: Option<Foreign>,
    /// The source file, as the compiler was told it.
    pub(crate) file: Option<Foreign>,
    /// The line in it, counted from 1.
    pub(crate) line: Option<u32>,
    /// It is inlined into the next one.
    pub(crate) inlined: bool,
}

/// What is known of a file's functions.
#[derive(Debug, Default)]
pub(super) struct FileSymbols {
    own: OnceLock<Option<SymbolTable>>,
    separate: OnceLock<Option<(DebugFile, Option<SymbolTable>)>>,
    lines: OnceLock<Result<Mutex<Lines>, &'static str>>,
}

/// Finds the functions of frames of one process.
pub(crate) struct Symbolizer<'i> {
    images: &'i Images,
    cache: &'i ObjectCache,
    memory: &'i CachedMemory<'i>,
    wants_lines: &'i (dyn Fn(usize) -> bool + Sync),
    until: Instant,
    known: FxHashMap<u64, Arc<[Symbol]>>,
    functions: FxHashMap<u64, Option<Foreign>>,
    without_lines: BTreeMap<usize, &'static str>,
}

impl<'i> Symbolizer<'i> {
    /// Lines and inlined functions are looked for in the modules that `wants_lines` says (by number, see [`Images::name`]),
    /// until a time; all else by symbol tables only.
    pub(crate) fn new(
        images: &'i Images,
        cache: &'i ObjectCache,
        memory: &'i CachedMemory<'i>,
        wants_lines: &'i (dyn Fn(usize) -> bool + Sync),
        until: Instant,
    ) -> Self {
        Self {
            images,
            cache,
            memory,
            wants_lines,
            until,
            known: FxHashMap::default(),
            functions: FxHashMap::default(),
            without_lines: BTreeMap::new(),
        }
    }

    /// The functions that a frame is in, the innermost first; none if nothing is known of it.
    pub(crate) fn resolve(&mut self, frame: &NativeFrame) -> Arc<[Symbol]> {
        let address = frame.lookup();
        if let Some(known) = self.known.get(&address) {
            return Arc::clone(known);
        }
        let symbols: Arc<[Symbol]> = self.look_up(address).into();
        self.known.insert(address, Arc::clone(&symbols));
        symbols
    }

    /// Name of a module by its number, see [`Images::name`].
    pub(crate) fn module_name(&self, module: usize) -> &'i str {
        self.images.name(module)
    }

    /// An address as its file counts it.
    pub(crate) fn in_file(&self, address: u64) -> Option<u64> {
        let located = self.images.locate(address, self.memory, self.cache).ok()?;
        Some(located.address)
    }

    /// The module of which code is at an address.
    pub(in crate::capture::native) fn code_module(&self, address: u64) -> Option<usize> {
        let located = self.images.locate(address, self.memory, self.cache).ok()?;
        Some(located.module)
    }

    /// The function at an address by the symbol tables alone.
    pub(in crate::capture::native) fn function_at(&mut self, address: u64) -> Option<Foreign> {
        if let Some(known) = self.functions.get(&address) {
            return known.clone();
        }
        let located = self.images.locate(address, self.memory, self.cache).ok();
        let function = located.and_then(|located| {
            let place = FilePlace {
                object: located.object,
                root: self.images.root(),
                path: self.images.path(located.module),
            };
            place.function(located.address).map(named)
        });
        self.functions.insert(address, function.clone());
        function
    }

    /// Where in memory the function at an address begins, and its table of landing pads.
    pub(in crate::capture::native) fn landing_table(&self, address: u64) -> Option<(u64, u64)> {
        let located = self.images.locate(address, self.memory, self.cache).ok()?;
        let table = located.object.unwind_table().ok()?;
        let (start, landing) = table.landing_table(located.address)?;
        let bias = address.wrapping_sub(located.address);
        Some((start.wrapping_add(bias), landing.wrapping_add(bias)))
    }

    /// The modules whose lines were wanted and not found, and why.
    pub(crate) fn without_lines(&self) -> &BTreeMap<usize, &'static str> {
        &self.without_lines
    }

    fn look_up(&mut self, address: u64) -> Vec<Symbol> {
        let located = self.images.locate(address, self.memory, self.cache);
        let Ok(Located {
            module,
            object,
            address,
        }) = located
        else {
            if let Err(NotLocated::Unusable(module, _)) = located
                && (self.wants_lines)(module)
            {
                self.without_lines.insert(module, "the file cannot be used");
            }
            return Vec::new();
        };
        let place = FilePlace {
            object,
            root: self.images.root(),
            path: self.images.path(module),
        };
        let mut symbols = Vec::new();
        if (self.wants_lines)(module) {
            if Instant::now() >= self.until {
                self.without_lines.insert(module, "there was no time");
            } else {
                match place.lines() {
                    Ok(lines) => {
                        let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
                        symbols = lines.places(address).into_iter().map(symbol).collect();
                    }
                    Err(reason) => {
                        self.without_lines.insert(module, reason);
                    }
                }
            }
        }
        // The outermost is the function that the linker knows.
        match symbols.last_mut() {
            // Debug information of lines only has names without their paths.
            Some(last)
                if last
                    .function
                    .as_ref()
                    .is_some_and(|name| has_path(name.untrusted())) => {}
            Some(last) => {
                if let Some(name) = place.function(address) {
                    last.function = Some(named(name));
                }
            }
            None => symbols.extend(place.function(address).map(|name| Symbol {
                function: Some(named(name)),
                ..Symbol::default()
            })),
        }
        let inlined = symbols.len().saturating_sub(1);
        for symbol in &mut symbols[..inlined] {
            symbol.inlined = true;
        }
        symbols
    }
}

/// A file, and where one of the processes that mapped it has it.
struct FilePlace<'a> {
    object: &'a ObjectFile,
    root: &'a str,
    path: &'a str,
}

impl<'a> FilePlace<'a> {
    /// The name of a function by the symbol tables: the file's own full one, else that of its debug file, else what it exports.
    fn function(&self, address: u64) -> Option<Vec<u8>> {
        let object = self.object;
        let own = object
            .symbols
            .own
            .get_or_init(|| SymbolTable::read(&object.source, &object.headers));
        let own_is_full = object
            .headers
            .sections
            .iter()
            .any(|section| section.kind == table::SHT_SYMTAB);
        let separate = || {
            let (file, table) = self.separate()?;
            table.as_ref()?.name(&file.source, address)
        };
        let name = (!own_is_full).then(separate).flatten();
        name.or_else(|| own.as_ref()?.name(&object.source, address))
    }

    fn separate(&self) -> Option<&'a (DebugFile, Option<SymbolTable>)> {
        let found = self.object.symbols.separate.get_or_init(|| {
            let file = DebugFile::find(self.object, self.root, self.path)?;
            let table = SymbolTable::full(&file.source, &file.headers);
            Some((file, table))
        });
        found.as_ref()
    }

    fn lines(&self) -> Result<&'a Mutex<Lines>, &'static str> {
        let object = self.object;
        let lines = object.symbols.lines.get_or_init(|| {
            let own = Lines::read(&object.source, &object.headers);
            let lines = match (own, Lines::are_in(&object.headers)) {
                (Err(_), false) => match self.separate() {
                    Some((file, _)) => Lines::read(&file.source, &file.headers),
                    None => Err("no debug information"),
                },
                (own, _) => own,
            };
            lines.map(Mutex::new)
        });
        lines.as_ref().map_err(|reason| *reason)
    }
}

fn symbol(place: lines::Place) -> Symbol {
    Symbol {
        function: place.function.map(|name| named(name.into_bytes())),
        file: place.file.map(Foreign::from),
        line: place.line,
        inlined: false,
    }
}

/// Whether a name is more than a function's own, whatever its parameters are.
fn has_path(name: &str) -> bool {
    name.starts_with('<') || name.split('<').next().is_some_and(|own| own.contains("::"))
}

/// A linker's name as it was written.
fn named(raw: Vec<u8>) -> Foreign {
    let raw = String::from_utf8_lossy(&raw).into_owned();
    demangle::demangle(&raw).unwrap_or(raw).into()
}

/// The name that a file's own tables have for an address.
#[cfg(test)]
pub(super) fn function(object: &ObjectFile, address: u64) -> Option<Vec<u8>> {
    let place = FilePlace {
        object,
        root: "/nowhere",
        path: "",
    };
    place.function(address)
}
