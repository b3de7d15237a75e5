//! What objects refer to: what is followed alike for threads and for tasks. What cannot be followed leaves the question open.

use super::frame::RawFrame;
use super::heap::{FunctionParts, Heap, ObjectError};
use super::offsets::fixed;
use super::slots;
use crate::model::is_library_file;
use std::collections::BTreeSet;

/// Most items of a deque, and most names in the code of a function.
const MAX_ITEMS: u64 = 1500;
/// Deepest nest of functions within a function whose names are looked at.
const MAX_NESTED: u8 = 4;
/// Most of those of one function.
const MAX_CODES: usize = 500;
/// Types of objects that refer to nothing of the program's.
const LEAVES: [&str; 27] = [
    "int",
    "str",
    "float",
    "bytes",
    "bool",
    "NoneType",
    "complex",
    "bytearray",
    "range",
    "ellipsis",
    "code",
    "range_iterator",
    "longrange_iterator",
    "NotImplementedType",
    "_thread.lock",
    "_thread.RLock",
    "_thread._ThreadHandle",
    "_contextvars.Context",
    "_io.TextIOWrapper",
    "_io.BufferedWriter",
    "_io.BufferedReader",
    "_io.FileIO",
    "wrapper_descriptor",
    "method_descriptor",
    "getset_descriptor",
    "member_descriptor",
    "classmethod_descriptor",
];
/// Names of functions that lead anywhere.
const UNBOUNDED: [&str; 13] = [
    "globals",
    "eval",
    "exec",
    "__import__",
    "import_module",
    "get_objects",
    "get_referrers",
    "modules",
    "_getframe",
    "_current_frames",
    "main_thread",
    "_active",
    "vars",
];
/// `tp_flags` of lists, tuples and dicts, and of classes that derive from them.
const LIST: u64 = 1 << 25;
const TUPLE: u64 = 1 << 26;
const DICT: u64 = 1 << 29;

/// The question is open.
pub(super) struct Open;

impl From<ObjectError> for Open {
    fn from(_: ObjectError) -> Self {
        Self
    }
}

/// The objects of an interpreter, with its `sys.modules`.
#[derive(Clone, Copy)]
pub(super) struct References<'r> {
    pub(super) heap: &'r Heap<'r>,
    pub(super) modules: u64,
}

impl References<'_> {
    pub(super) fn pointer(&self, object: u64, offset: u64) -> Result<u64, Open> {
        let at = object.wrapping_add(offset);
        self.heap.memory.u64(at).map_err(|_| Open)
    }

    /// What an object of one of the types that everybody knows refers to, with zeros; `None` for any other type.
    pub(super) fn of_known(&self, object: u64, kind: &str) -> Result<Option<Vec<u64>>, Open> {
        let heap = self.heap;
        let fields = |offsets: &[u64]| -> Result<Vec<u64>, Open> {
            let fields = offsets.iter().map(|offset| self.pointer(object, *offset));
            fields.collect()
        };
        Ok(Some(match kind {
            name if LEAVES.contains(&name) => Vec::new(),
            "cell" => fields(&[fixed::CELL_VALUE])?,
            "set" | "frozenset" => heap.set(object)?,
            "collections.deque" => heap.whole_deque(object, MAX_ITEMS)?,
            "method" => fields(&[fixed::METHOD_FUNCTION, fixed::METHOD_SELF])?,
            "functools.partial" => {
                let first = fixed::PARTIAL_FUNCTION;
                fields(&[first, first + 8, first + 16])?
            }
            "builtin_function_or_method" | "method-wrapper" => {
                let bound = heap.bound_object(object);
                let bound = bound.filter(|bound| !heap.is(*bound, "module"));
                bound.into_iter().collect()
            }
            "staticmethod" | "classmethod" => fields(&[16])?,
            "property" => fields(&[16, 24, 32])?,
            "weakref.ReferenceType" | "weakref" => heap.referent(object)?.into_iter().collect(),
            _ => return Ok(None),
        }))
    }

    /// The variables of a frame, and what it calculates with.
    pub(super) fn of_frame(&self, frame: &RawFrame) -> Result<Vec<u64>, Open> {
        let variables = slots::values(self.heap, frame)?;
        let stack = slots::stack(self.heap, frame)?.values.into_iter();
        let stack = stack.filter(|value| *value != 0 && self.heap.looks_like_object(*value));
        Ok(variables.into_iter().chain(stack).collect())
    }

    /// The globals of a frame.
    pub(super) fn globals(&self, frame: &RawFrame) -> Result<u64, Open> {
        self.pointer(frame.address, self.heap.offsets.frame_globals)
    }

    /// The dictionary of a module and its file, if it has one.
    pub(super) fn module(&self, module: u64) -> Result<Option<(u64, String)>, Open> {
        let heap = self.heap;
        let dict = self.pointer(module, fixed::MODULE_DICT)?;
        let file = heap.dict_get(dict, "__file__")?;
        match file.filter(|file| heap.is(*file, "str")) {
            Some(file) => Ok(Some((dict, heap.string(file)?))),
            None => Ok(None),
        }
    }

    /// Whether a module by this name is none of a library.
    fn is_of_program(&self, name: &str) -> Result<bool, Open> {
        let module = self.heap.dict_get(self.modules, name)?;
        let Some(module) = module.filter(|module| self.heap.is(*module, "module")) else {
            return Ok(true);
        };
        Ok(match self.module(module)? {
            Some((_, file)) => !is_library_file(&file),
            None => name == "__main__",
        })
    }

    /// Whether a class is defined in a module of the program's.
    pub(super) fn is_made_by_program(&self, class: u64) -> Result<bool, Open> {
        let heap = self.heap;
        let dict = self.pointer(class, fixed::TYPE_DICT)?;
        if dict == 0 {
            return Ok(false);
        }
        let module = heap.dict_get(dict, "__module__")?;
        match module.filter(|module| heap.is(*module, "str")) {
            Some(name) => self.is_of_program(&heap.string(name)?),
            None => Ok(false),
        }
    }

    /// The parts of a function, and the file of its code.
    pub(super) fn function(&self, function: u64) -> Result<(FunctionParts, String), Open> {
        let parts = self.heap.function_parts(function)?;
        let file = self.pointer(parts.code, self.heap.offsets.code_filename)?;
        Ok((parts, self.heap.string(file)?))
    }

    /// The names in a code object and in those within it; open if one leads anywhere, as those in `more` do.
    pub(super) fn names(&self, code: u64, more: &[&str]) -> Result<BTreeSet<String>, Open> {
        let mut names = BTreeSet::new();
        self.add_names(code, MAX_NESTED, &mut BTreeSet::new(), &mut names)?;
        let by_all_threads = names.contains("enumerate") && names.contains("threading");
        let mut leads_anywhere = UNBOUNDED.iter().chain(more);
        if by_all_threads || leads_anywhere.any(|name| names.contains(*name)) {
            return Err(Open);
        }
        Ok(names)
    }

    /// `codes`: those that were looked at.
    fn add_names(
        &self,
        code: u64,
        depth: u8,
        codes: &mut BTreeSet<u64>,
        out: &mut BTreeSet<String>,
    ) -> Result<(), Open> {
        let heap = self.heap;
        if !codes.insert(code) {
            return Ok(());
        }
        if codes.len() > MAX_CODES || out.len() as u64 > MAX_ITEMS {
            return Err(Open);
        }
        // `co_consts` comes right before `co_names` in all versions.
        let constants = self.pointer(code, heap.offsets.code_names - 8)?;
        let names = self.pointer(code, heap.offsets.code_names)?;
        for name in heap.tuple(names)? {
            out.insert(heap.string(name)?);
        }
        let depth = depth.checked_sub(1).ok_or(Open)?;
        for constant in heap.tuple(constants)? {
            if heap.is(constant, "code") {
                self.add_names(constant, depth, codes, out)?;
            }
        }
        Ok(())
    }

    /// The globals that these names stand for.
    pub(super) fn named(&self, names: &BTreeSet<String>, globals: u64) -> Result<Vec<u64>, Open> {
        let heap = self.heap;
        let mut out = Vec::new();
        for name in names {
            match heap.dict_get(globals, name)? {
                Some(value) => out.push(value),
                // An attribute, a builtin, or a module that the function imports by itself.
                None => {
                    let is_module = heap.dict_get(self.modules, name)?.is_some();
                    if is_module && self.is_of_program(name)? {
                        return Err(Open);
                    }
                }
            }
        }
        Ok(out)
    }

    /// The items of an object whose class is a container or derives from one; `None` of others.
    pub(super) fn items(&self, object: u64, class: u64) -> Result<Option<Vec<u64>>, Open> {
        let heap = self.heap;
        let flags = self.pointer(class, fixed::TYPE_FLAGS)?;
        if flags & (LIST | TUPLE | DICT) == 0 {
            return Ok(None);
        }
        let mut out = Vec::new();
        if flags & LIST != 0 {
            out.extend(heap.list(object)?);
        }
        if flags & TUPLE != 0 {
            out.extend(heap.tuple(object)?);
        }
        if flags & DICT != 0 {
            let pairs = heap.dict(object)?.into_iter();
            out.extend(pairs.flat_map(|(key, value)| [key, value]));
        }
        Ok(Some(out))
    }

    /// Whether a class and those it derives from are made in Python, or are `known` ones: the others have their module in their
    /// name, and fields that nobody can follow.
    pub(super) fn is_made_in_python(&self, class: u64, known: &[&[u8]]) -> Result<bool, Open> {
        let heap = self.heap;
        let flags = self.pointer(class, fixed::TYPE_FLAGS)?;
        let bases = heap.bases(class)?;
        let mut made_in_python = flags & fixed::FLAG_HEAP_TYPE != 0 && !bases.is_empty();
        for base in bases {
            let name = self.pointer(base, fixed::TYPE_NAME)?;
            let name = heap.memory.c_string(name, 256).map_err(|_| Open)?;
            made_in_python &= !name.contains(&b'.') || known.contains(&&*name);
        }
        Ok(made_in_python)
    }
}
