//! What objects refer to, of those that asyncio's and trio's tasks have to do with.

use super::super::futures::Futures;
use crate::capture::python::code::CodeCache;
use crate::capture::python::frame::RawFrame;
use crate::capture::python::generator;
use crate::capture::python::heap::{Heap, ObjectError};
use crate::capture::python::offsets::fixed;
use crate::capture::python::reach::{DICT, LEAVES, LIST, TUPLE, UNBOUNDED, deque_items};
use crate::capture::python::slots;
use crate::model::is_library_file;
use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;

/// Most objects of a process that are looked at.
const MAX_IN_ALL: usize = 6000;
/// Most objects that one refers to, or variables of one frame.
const MAX_REFERENTS: usize = 1500;
/// Deepest nest of functions within a function whose names are looked at.
const MAX_NESTED: u8 = 4;
/// Most functions of one nest.
const MAX_CODES: usize = 500;
/// More types that refer to nothing that a task could act on: what loggers write to is not what tasks wait for.
const MORE_LEAVES: [&str; 15] = [
    "object",
    "Logger",
    "RootLogger",
    "itertools.count",
    "re.Pattern",
    "_random.Random",
    "Random",
    "datetime.datetime",
    "datetime.timedelta",
    "datetime.timezone",
    "decimal.Decimal",
    "_struct.Struct",
    "TaskStepMethWrapper",
    "_asyncio.TaskStepMethWrapper",
    "traceback",
];
/// `tp_flags` of types of types.
const CLASS: u64 = 1 << 31;
/// `it_seq` of an iterator over a list or tuple.
const ITERATED: u64 = 24;
/// Functions that find tasks by no reference.
const FIND_TASKS: [&str; 3] = ["all_tasks", "current_root_task", "child_nurseries"];
/// Code that has such a name may use any attribute.
const USE_ANY: [&str; 5] = [
    "getattr",
    "__dict__",
    "attrgetter",
    "methodcaller",
    "__getattribute__",
];
/// Packages that call nothing of the program's but what it gives them to call.
const TAME: [&str; 8] = [
    "/trio/",
    "/anyio/",
    "/outcome/",
    "/sniffio/",
    "/attr/",
    "/sortedcontainers/",
    "/_pytest/",
    "/pluggy/",
];
/// Methods that make an object, or show it.
const OF_MAKING: [&str; 7] = [
    "__init__",
    "__new__",
    "__post_init__",
    "__init_subclass__",
    "__repr__",
    "__str__",
    "__format__",
];
/// What the classes `dataclass` and `attrs` write: it reads fields, and acts on nothing.
const WRITTEN_FILES: [&str; 2] = ["<string>", "<attrs generated"];

/// The question is open.
pub(super) struct Open;

impl From<ObjectError> for Open {
    fn from(_: ObjectError) -> Self {
        Self
    }
}

/// What an object refers to.
#[derive(Debug, Default)]
pub(super) struct Referents {
    /// All that counts whatever the code does.
    pub(super) objects: Vec<u64>,
    /// What counts only if code has the name.
    pub(super) attributes: Vec<(Rc<str>, u64)>,
    /// The names that its code has.
    pub(super) names: Vec<Rc<str>>,
    /// It may use any attribute, whatever its name.
    pub(super) uses_any: bool,
}

/// What is known of the objects of one interpreter.
pub(super) struct Ground<'g> {
    pub(super) heap: &'g Heap<'g>,
    pub(super) codes: &'g CodeCache,
    pub(super) futures: &'g Futures<'g>,
    /// Where walks end: whoever has a task may cancel it, and nothing more; what event loops do is asked of them.
    pub(super) ends: &'g BTreeSet<u64>,
    /// `sys.modules`.
    pub(super) modules: u64,
    pub(super) known: HashMap<u64, Option<Rc<Referents>>>,
    pub(super) own_classes: HashMap<u64, bool>,
}

impl Ground<'_> {
    /// What an object refers to; an error where that cannot be followed.
    pub(super) fn referents(&mut self, object: u64) -> Result<Rc<Referents>, Open> {
        if let Some(known) = self.known.get(&object) {
            return known.clone().ok_or(Open);
        }
        if self.known.len() >= MAX_IN_ALL {
            return Err(Open);
        }
        let found = self.expand(object).ok().map(Rc::new);
        self.known.insert(object, found.clone());
        found.ok_or(Open)
    }

    /// What frames refer to: their variables, what they calculate with, and the globals that their code names.
    pub(super) fn frames(&mut self, frames: &[RawFrame]) -> Result<Referents, Open> {
        let heap = self.heap;
        let mut out = Referents::default();
        for frame in frames {
            let variables = slots::variables(heap, frame)?;
            out.objects
                .extend(variables.into_iter().map(|(_, value)| value));
            let stack = slots::stack(heap, frame)?;
            let values = stack.values.into_iter();
            out.objects
                .extend(values.filter(|value| *value != 0 && heap.looks_like_object(*value)));
            let file = frame.code.file.untrusted();
            if is_wild(file) {
                out.uses_any = true;
            } else if !is_library_file(file) {
                let field = frame.address.wrapping_add(heap.offsets.frame_globals);
                let globals = heap.memory.u64(field).map_err(|_| Open)?;
                self.code(frame.code.address, globals, &mut out)?;
            }
        }
        Ok(out)
    }

    fn pointer(&self, object: u64, offset: u64) -> Result<u64, Open> {
        let at = object.wrapping_add(offset);
        self.heap.memory.u64(at).map_err(|_| Open)
    }

    fn expand(&mut self, object: u64) -> Result<Referents, Open> {
        let mut out = Referents::default();
        if self.ends.contains(&object) {
            return Ok(out);
        }
        let heap = self.heap;
        let kind = heap.type_name(object)?;
        match &*kind {
            name if LEAVES.contains(&name) || MORE_LEAVES.contains(&name) => {}
            "cell" => out.objects.push(self.pointer(object, fixed::CELL_VALUE)?),
            "set" | "frozenset" => out.objects = heap.set(object)?,
            "collections.deque" => out.objects = deque_items(heap, object).ok_or(Open)?,
            "function" => self.function(object, &mut out)?,
            "method" => {
                out.objects = vec![
                    self.pointer(object, fixed::METHOD_FUNCTION)?,
                    self.pointer(object, fixed::METHOD_SELF)?,
                ];
            }
            "functools.partial" => {
                for field in [0, 8, 16] {
                    let part = self.pointer(object, fixed::PARTIAL_FUNCTION + field)?;
                    out.objects.push(part);
                }
            }
            "builtin_function_or_method" | "method-wrapper" => {
                let bound = heap.bound_object(object);
                out.objects
                    .extend(bound.filter(|bound| !heap.is(*bound, "module")));
            }
            "staticmethod" | "classmethod" => out.objects.push(self.pointer(object, 16)?),
            "property" => {
                for field in [16, 24, 32] {
                    out.objects.push(self.pointer(object, field)?);
                }
            }
            "weakref.ReferenceType" | "weakref" => out.objects.extend(heap.referent(object)?),
            // What they are made of is their first field.
            "FutureIter"
            | "_asyncio.FutureIter"
            | "coroutine_wrapper"
            | "async_generator_asend"
            | "async_generator_athrow" => {
                out.objects.push(self.pointer(object, fixed::SIZE)?);
            }
            "coroutine" | "generator" | "async_generator" => {
                let chain = generator::await_chain(heap, self.codes, object);
                if chain.executing {
                    return Err(Open);
                }
                out = self.frames(&chain.frames)?;
                out.objects.extend(chain.awaits);
            }
            "module" => self.module(object, &mut out)?,
            "list_iterator" | "list_reverseiterator" | "tuple_iterator" => {
                out.objects.push(self.pointer(object, ITERATED)?);
            }
            _ if self.is_class(object)? => self.class(object, &mut out)?,
            _ if self.futures.is_future(object) => {
                out.objects = self.futures.leads_to(object).ok_or(Open)?;
            }
            _ => self.instance(object, &mut out)?,
        }
        if out.objects.len() + out.attributes.len() > MAX_REFERENTS {
            return Err(Open);
        }
        Ok(out)
    }

    fn is_class(&self, object: u64) -> Result<bool, Open> {
        let kind = self.heap.type_of(object)?;
        Ok(self.pointer(kind, fixed::TYPE_FLAGS)? & CLASS != 0)
    }

    fn module(&self, module: u64, out: &mut Referents) -> Result<(), Open> {
        let heap = self.heap;
        let dict = self.pointer(module, fixed::MODULE_DICT)?;
        let Some(file) = heap.dict_get(dict, "__file__")? else {
            return Ok(());
        };
        if !heap.is(file, "str") {
            return Ok(());
        }
        let file = heap.string(file)?;
        if is_wild(&file) {
            out.uses_any = true;
        } else if !is_library_file(&file) {
            members(heap.named(dict)?, true, out);
        }
        Ok(())
    }

    fn class(&mut self, class: u64, out: &mut Referents) -> Result<(), Open> {
        if self.is_made_by_program(class)? {
            let own = self.is_all_own(class)?;
            let all = self.heap.named(self.pointer(class, fixed::TYPE_DICT)?)?;
            members(all, own, out);
            out.objects.extend(self.heap.bases(class)?);
        }
        Ok(())
    }

    /// The methods of an object that is there already: whoever has it does not make it.
    fn methods(&mut self, class: u64, own: bool, out: &mut Referents) -> Result<(), Open> {
        for base in self.heap.bases(class)? {
            if self.is_made_by_program(base)? {
                let mut all = self.heap.named(self.pointer(base, fixed::TYPE_DICT)?)?;
                all.retain(|(name, _)| !OF_MAKING.contains(&name.as_str()));
                members(all, own, out);
            }
        }
        Ok(())
    }

    /// Whether a class is defined in a module of the program's.
    fn is_made_by_program(&self, class: u64) -> Result<bool, Open> {
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

    /// Whether a class and all that it derives from are the program's: of others the library calls methods by names of its own.
    fn is_all_own(&mut self, class: u64) -> Result<bool, Open> {
        if let Some(known) = self.own_classes.get(&class) {
            return Ok(*known);
        }
        let mut own = true;
        for base in self.heap.bases(class)? {
            own &= self.is_made_by_program(base)?;
        }
        self.own_classes.insert(class, own);
        Ok(own)
    }

    fn is_of_program(&self, name: &str) -> Result<bool, Open> {
        let heap = self.heap;
        let Some(module) = heap.dict_get(self.modules, name)? else {
            return Ok(true);
        };
        if !heap.is(module, "module") {
            return Ok(true);
        }
        let dict = self.pointer(module, fixed::MODULE_DICT)?;
        let file = heap.dict_get(dict, "__file__")?;
        match file.filter(|file| heap.is(*file, "str")) {
            Some(file) => Ok(!is_library_file(&heap.string(file)?)),
            None => Ok(name == "__main__"),
        }
    }

    fn function(&self, function: u64, out: &mut Referents) -> Result<(), Open> {
        /// Offsets of globals, defaults, keyword defaults and closure: in 3.9, and since 3.10.
        const OLD_FIELDS: [u64; 4] = [24, 32, 40, 48];
        const FIELDS: [u64; 4] = [16, 56, 64, 72];
        let old = self.heap.offsets.function_code < FIELDS[0] + 8;
        let [globals, defaults, keywords, closure] = if old { OLD_FIELDS } else { FIELDS };
        let code = self.pointer(function, self.heap.offsets.function_code)?;
        let file = self.pointer(code, self.heap.offsets.code_filename)?;
        let file = self.heap.string(file)?;
        let name = self.heap.callable_name(function).unwrap_or_default();
        let written = WRITTEN_FILES
            .iter()
            .any(|written| file.starts_with(written));
        if written && is_special(&name) {
            return Ok(());
        }
        for field in [defaults, keywords, closure] {
            out.objects.push(self.pointer(function, field)?);
        }
        if is_wild(&file) {
            out.uses_any = true;
        } else if !is_library_file(&file) {
            let globals = self.pointer(function, globals)?;
            self.code(code, globals, out)?;
        }
        Ok(())
    }

    /// The names of a code object, with the globals that they stand for and the functions that are defined within it.
    fn code(&self, code: u64, globals: u64, out: &mut Referents) -> Result<(), Open> {
        let heap = self.heap;
        let mut names = BTreeSet::new();
        self.names(code, MAX_NESTED, &mut BTreeSet::new(), &mut names)?;
        let by_all_threads = names.contains("enumerate") && names.contains("threading");
        let mut leads_anywhere = UNBOUNDED.iter().chain(&FIND_TASKS);
        if by_all_threads || leads_anywhere.any(|name| names.contains(*name)) {
            return Err(Open);
        }
        out.uses_any |= USE_ANY.iter().any(|name| names.contains(*name));
        for name in names {
            match heap.dict_get(globals, &name)? {
                Some(value) => out.objects.push(value),
                // An attribute, a builtin, or a module that the function imports by itself.
                None => {
                    let is_module = heap.dict_get(self.modules, &name)?.is_some();
                    if is_module && self.is_of_program(&name)? {
                        return Err(Open);
                    }
                }
            }
            out.names.push(name.into());
        }
        Ok(())
    }

    /// The names in a code object and in those within it. `codes`: those that were looked at.
    fn names(
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
        if codes.len() > MAX_CODES || out.len() > MAX_REFERENTS {
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
                self.names(constant, depth, codes, out)?;
            }
        }
        Ok(())
    }

    fn instance(&mut self, object: u64, out: &mut Referents) -> Result<(), Open> {
        let heap = self.heap;
        let kind = heap.type_of(object)?;
        let flags = self.pointer(kind, fixed::TYPE_FLAGS)?;
        let is_container = flags & (LIST | TUPLE | DICT) != 0;
        if flags & LIST != 0 {
            out.objects.extend(heap.list(object)?);
        }
        if flags & TUPLE != 0 {
            out.objects.extend(heap.tuple(object)?);
        }
        if flags & DICT != 0 {
            let pairs = heap.dict(object)?.into_iter();
            out.objects
                .extend(pairs.flat_map(|(key, value)| [key, value]));
        }
        let bases = heap.bases(kind)?;
        let mut made_in_python = flags & fixed::FLAG_HEAP_TYPE != 0 && !bases.is_empty();
        // Classes that are made in C have their module in their name, and fields that nobody can follow.
        for base in bases {
            let name = self.pointer(base, fixed::TYPE_NAME)?;
            let name = heap.memory.c_string(name, 256).map_err(|_| Open)?;
            made_in_python &=
                !name.contains(&b'.') || matches!(&*name, b"_socket.socket" | b"typing.Generic");
        }
        if made_in_python {
            let mut attributes = heap.attributes(object)?;
            let name = heap.type_name(object)?;
            if matches!(&*name, "CancelStatus" | "CancelScope") {
                // A scope's parent is more than what it can cancel.
                attributes.retain(|(name, _)| name != "_parent" && name != "_parent_scope");
            }
            let own = self.is_all_own(kind)?;
            members(attributes, own, out);
            self.methods(kind, own, out)?;
        }
        if is_container || made_in_python {
            Ok(())
        } else {
            Err(Open)
        }
    }
}

/// Attributes. Those of the program's `own` classes are used by name, but for special names, which the language itself uses.
fn members(attributes: Vec<(String, u64)>, own: bool, out: &mut Referents) {
    for (name, value) in attributes {
        if !own || is_special(&name) {
            out.objects.push(value);
        } else {
            out.attributes.push((name.into(), value));
        }
    }
}

fn is_special(name: &str) -> bool {
    name.starts_with("__") && name.ends_with("__")
}

/// Whether a file belongs to an installed package that may call anything of an object that it is given.
fn is_wild(file: &str) -> bool {
    ["/site-packages/", "/dist-packages/"].iter().any(|folder| {
        file.rfind(folder).is_some_and(|at| {
            let package = &file[at + folder.len() - 1..];
            !TAME.iter().any(|tame| package.starts_with(tame))
        })
    })
}
