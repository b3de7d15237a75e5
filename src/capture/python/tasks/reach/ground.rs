//! What objects refer to, of those that asyncio's and trio's tasks have to do with.

use super::super::futures::Futures;
use crate::capture::python::code::CodeCache;
use crate::capture::python::frame::RawFrame;
use crate::capture::python::generator;
use crate::capture::python::offsets::fixed;
use crate::capture::python::references::{Open, References};
use crate::model::is_library_file;
use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;

/// Most objects of a process that are looked at.
const MAX_IN_ALL: usize = 6000;
/// Most objects that one refers to, or variables of one frame.
const MAX_REFERENTS: usize = 1500;
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
    pub(super) references: References<'g>,
    pub(super) codes: &'g CodeCache,
    pub(super) futures: &'g Futures<'g>,
    /// Where walks end: whoever has a task may cancel it, and nothing more; what event loops do is asked of them.
    pub(super) ends: &'g BTreeSet<u64>,
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
        let mut out = Referents::default();
        for frame in frames {
            out.objects.extend(self.references.of_frame(frame)?);
            let file = frame.code.file.untrusted();
            if is_wild(file) {
                out.uses_any = true;
            } else if !is_library_file(file) {
                let globals = self.references.globals(frame)?;
                self.code(frame.code.address, globals, &mut out)?;
            }
        }
        Ok(out)
    }

    fn expand(&mut self, object: u64) -> Result<Referents, Open> {
        let mut out = Referents::default();
        if self.ends.contains(&object) {
            return Ok(out);
        }
        let references = self.references;
        let heap = references.heap;
        let kind = heap.type_name(object)?;
        match &*kind {
            name if MORE_LEAVES.contains(&name) => {}
            "function" => self.function(object, &mut out)?,
            // What they are made of is their first field.
            "FutureIter"
            | "_asyncio.FutureIter"
            | "coroutine_wrapper"
            | "async_generator_asend"
            | "async_generator_athrow" => {
                out.objects.push(references.pointer(object, fixed::SIZE)?);
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
                out.objects.push(references.pointer(object, ITERATED)?);
            }
            kind => match references.of_known(object, kind)? {
                Some(objects) => out.objects = objects,
                None if self.is_class(object)? => self.class(object, &mut out)?,
                None if self.futures.is_future(object) => {
                    out.objects = self.futures.leads_to(object).ok_or(Open)?;
                }
                None => self.instance(object, &mut out)?,
            },
        }
        if out.objects.len() + out.attributes.len() > MAX_REFERENTS {
            return Err(Open);
        }
        Ok(out)
    }

    fn is_class(&self, object: u64) -> Result<bool, Open> {
        let kind = self.references.heap.type_of(object)?;
        Ok(self.references.pointer(kind, fixed::TYPE_FLAGS)? & CLASS != 0)
    }

    fn module(&self, module: u64, out: &mut Referents) -> Result<(), Open> {
        let Some((dict, file)) = self.references.module(module)? else {
            return Ok(());
        };
        if is_wild(&file) {
            out.uses_any = true;
        } else if !is_library_file(&file) {
            members(self.references.heap.named(dict)?, true, out);
        }
        Ok(())
    }

    fn class(&mut self, class: u64, out: &mut Referents) -> Result<(), Open> {
        if self.references.is_made_by_program(class)? {
            let own = self.is_all_own(class)?;
            let all = self
                .references
                .heap
                .named(self.references.pointer(class, fixed::TYPE_DICT)?)?;
            members(all, own, out);
            out.objects.extend(self.references.heap.bases(class)?);
        }
        Ok(())
    }

    /// The methods of an object that is there already: whoever has it does not make it.
    fn methods(&mut self, class: u64, own: bool, out: &mut Referents) -> Result<(), Open> {
        for base in self.references.heap.bases(class)? {
            if self.references.is_made_by_program(base)? {
                let mut all = self
                    .references
                    .heap
                    .named(self.references.pointer(base, fixed::TYPE_DICT)?)?;
                all.retain(|(name, _)| !OF_MAKING.contains(&name.as_str()));
                members(all, own, out);
            }
        }
        Ok(())
    }

    /// Whether a class and all that it derives from are the program's: of others the library calls methods by names of its own.
    fn is_all_own(&mut self, class: u64) -> Result<bool, Open> {
        if let Some(known) = self.own_classes.get(&class) {
            return Ok(*known);
        }
        let mut own = true;
        for base in self.references.heap.bases(class)? {
            own &= self.references.is_made_by_program(base)?;
        }
        self.own_classes.insert(class, own);
        Ok(own)
    }

    fn function(&self, function: u64, out: &mut Referents) -> Result<(), Open> {
        let (parts, file) = self.references.function(function)?;
        let name = self
            .references
            .heap
            .callable_name(function)
            .unwrap_or_default();
        let written = WRITTEN_FILES
            .iter()
            .any(|written| file.starts_with(written));
        if written && is_special(&name) {
            return Ok(());
        }
        out.objects.extend(parts.captured);
        if is_wild(&file) {
            out.uses_any = true;
        } else if !is_library_file(&file) {
            self.code(parts.code, parts.globals, out)?;
        }
        Ok(())
    }

    /// The names of a code object, with the globals that they stand for and the functions that are defined within it.
    fn code(&self, code: u64, globals: u64, out: &mut Referents) -> Result<(), Open> {
        let names = self.references.names(code, &FIND_TASKS)?;
        out.uses_any |= USE_ANY.iter().any(|name| names.contains(*name));
        out.objects.extend(self.references.named(&names, globals)?);
        out.names.extend(names.into_iter().map(Rc::from));
        Ok(())
    }

    fn instance(&mut self, object: u64, out: &mut Referents) -> Result<(), Open> {
        let heap = self.references.heap;
        let kind = heap.type_of(object)?;
        let items = self.references.items(object, kind)?;
        let is_container = items.is_some();
        out.objects.extend(items.into_iter().flatten());
        let known: [&[u8]; 2] = [b"_socket.socket", b"typing.Generic"];
        let made_in_python = self.references.is_made_in_python(kind, &known)?;
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
