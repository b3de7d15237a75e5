//! What a thread's code can come to: followed from the variables of its frames through attributes, containers, closures, and the
//! globals that its functions name. If that has an end and an object is not in it, the thread is not going to act on it. What
//! cannot be followed (an object of an unknown C type, a module that is imported by name) leaves the question open.

use super::heap::{Heap, ObjectError};
use super::inert;
use super::interpreter::{Census, RawThreadState};
use super::offsets::fixed;
use super::slots;
use crate::model::is_library_file;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::rc::Rc;

/// Most threads of a process that are followed.
const MAX_THREADS: usize = 16;
/// Most objects that are followed from one thread; more leave the question open.
const MAX_OBJECTS: usize = 1500;
/// Most objects that are looked at in a process.
const MAX_IN_ALL: usize = 4000;
/// Most frames of a thread that are followed.
const MAX_FRAMES: usize = 200;
/// Deepest nest of functions within a function whose names are looked at.
const MAX_NESTED: u8 = 4;
/// Most of those of one function.
const MAX_CODES: usize = 500;
/// Types of objects that refer to nothing of the program's.
pub(super) const LEAVES: [&str; 27] = [
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
pub(super) const UNBOUNDED: [&str; 13] = [
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
pub(super) const LIST: u64 = 1 << 25;
pub(super) const TUPLE: u64 = 1 << 26;
pub(super) const DICT: u64 = 1 << 29;

/// Of some objects, those that each thread comes to and might act on; threads that could not be followed to the end are left out. By the address of
/// the thread state.
pub(super) fn reached(
    heap: &Heap<'_>,
    census: &Census,
    wanted: &BTreeSet<u64>,
) -> BTreeMap<u64, BTreeSet<u64>> {
    if census.thread_states.len() > MAX_THREADS {
        return BTreeMap::new();
    }
    let modules: BTreeMap<&str, u64> = census
        .interpreters
        .iter()
        .filter_map(|interpreter| {
            let field = interpreter
                .address
                .0
                .wrapping_add(heap.offsets.interpreter_modules);
            Some((interpreter.key.as_str(), heap.memory.u64(field).ok()?))
        })
        .collect();
    let mut known = HashMap::new();
    census
        .thread_states
        .iter()
        .filter_map(|raw| {
            if inert::is_inert(heap, raw) {
                return Some((raw.state.address.0, BTreeSet::new()));
            }
            let modules = *modules.get(raw.state.interpreter.as_str())?;
            let mut walk = Walk {
                heap,
                modules,
                known: &mut known,
                seen: BTreeSet::new(),
                next: Vec::new(),
                found: Vec::new(),
            };
            walk.follow(raw).ok()?;
            let reached = wanted.intersection(&walk.seen).copied().collect();
            Some((raw.state.address.0, reached))
        })
        .collect()
}

/// The question is open.
struct Open;

impl From<ObjectError> for Open {
    fn from(_: ObjectError) -> Self {
        Self
    }
}

/// What objects refer to; `None` of those that cannot be followed. Threads share much of it.
type Known = HashMap<u64, Option<Rc<[u64]>>>;

struct Walk<'h, 'k> {
    heap: &'h Heap<'h>,
    /// `sys.modules`.
    modules: u64,
    known: &'k mut Known,
    seen: BTreeSet<u64>,
    next: Vec<u64>,
    /// What the object that is looked at now refers to.
    found: Vec<u64>,
}

impl Walk<'_, '_> {
    fn follow(&mut self, raw: &RawThreadState) -> Result<(), Open> {
        // A thread without Python code may run any.
        if raw.raw_frames.is_empty() || raw.raw_frames.len() > MAX_FRAMES || raw.state.cut.is_some()
        {
            return Err(Open);
        }
        for frame in &raw.raw_frames {
            let variables = slots::variables(self.heap, frame)?;
            self.push(variables.into_iter().map(|(_, value)| value));
            let stack = slots::stack(self.heap, frame)?;
            let values = stack.values.into_iter();
            let heap = self.heap;
            self.push(values.filter(|value| *value != 0 && heap.looks_like_object(*value)));
            if !is_library_file(frame.code.file.untrusted()) {
                let field = frame.address.wrapping_add(self.heap.offsets.frame_globals);
                let globals = self.heap.memory.u64(field).map_err(|_| Open)?;
                self.push_globals(frame.code.address, globals)?;
            }
        }
        let first = std::mem::take(&mut self.found);
        self.go_to(&first);
        while let Some(object) = self.next.pop() {
            if self.seen.len() > MAX_OBJECTS {
                return Err(Open);
            }
            let referents = match self.known.get(&object) {
                Some(known) => known.clone(),
                None if self.known.len() >= MAX_IN_ALL => None,
                None => {
                    let expanded = self.expand(object).is_ok();
                    let found: Rc<[u64]> = std::mem::take(&mut self.found).into();
                    let referents = expanded.then_some(found);
                    self.known.insert(object, referents.clone());
                    referents
                }
            };
            self.go_to(&referents.ok_or(Open)?);
        }
        Ok(())
    }

    fn go_to(&mut self, objects: &[u64]) {
        for object in objects {
            if self.seen.insert(*object) {
                self.next.push(*object);
            }
        }
    }

    /// Notes what the object that is looked at refers to.
    fn push(&mut self, objects: impl Iterator<Item = u64>) {
        let objects = objects.filter(|object| *object != 0);
        self.found.extend(objects.take(MAX_OBJECTS));
    }

    fn pointer(&self, object: u64, offset: u64) -> Result<u64, Open> {
        self.heap
            .memory
            .u64(object.wrapping_add(offset))
            .map_err(|_| Open)
    }

    fn expand(&mut self, object: u64) -> Result<(), Open> {
        let heap = self.heap;
        let kind = heap.type_name(object)?;
        match &*kind {
            name if LEAVES.contains(&name) => {}
            "cell" => {
                let content = self.pointer(object, fixed::CELL_VALUE)?;
                self.push([content].into_iter());
            }
            "set" | "frozenset" => self.push(heap.set(object)?.into_iter()),
            "collections.deque" => {
                let items = deque_items(heap, object).ok_or(Open)?;
                self.push(items.into_iter());
            }
            "function" => self.expand_function(object)?,
            "method" => {
                let parts = [
                    self.pointer(object, fixed::METHOD_FUNCTION)?,
                    self.pointer(object, fixed::METHOD_SELF)?,
                ];
                self.push(parts.into_iter());
            }
            "functools.partial" => {
                let parts =
                    [0, 8, 16].map(|field| self.pointer(object, fixed::PARTIAL_FUNCTION + field));
                for part in parts {
                    self.push([part?].into_iter());
                }
            }
            "builtin_function_or_method" | "method-wrapper" => {
                let bound = heap.bound_object(object);
                let bound = bound.filter(|bound| !heap.is(*bound, "module"));
                self.push(bound.into_iter());
            }
            "staticmethod" | "classmethod" => {
                let function = self.pointer(object, 16)?;
                self.push([function].into_iter());
            }
            "property" => {
                for field in [16, 24, 32] {
                    let part = self.pointer(object, field)?;
                    self.push([part].into_iter());
                }
            }
            "weakref.ReferenceType" | "weakref" => {
                self.push(heap.referent(object)?.into_iter());
            }
            "module" => self.expand_module(object)?,
            "type" | "ABCMeta" | "EnumType" => self.expand_class(object)?,
            _ => self.expand_instance(object)?,
        }
        Ok(())
    }

    fn expand_module(&mut self, module: u64) -> Result<(), Open> {
        let heap = self.heap;
        let dict = self.pointer(module, fixed::MODULE_DICT)?;
        let Some(file) = heap.dict_get(dict, "__file__")? else {
            return Ok(());
        };
        if heap.is(file, "str") && !is_library_file(&heap.string(file)?) {
            self.push(heap.dict(dict)?.into_iter().map(|(_, value)| value));
        }
        Ok(())
    }

    /// A class of the program's own: its methods may be called on any object of it.
    fn expand_class(&mut self, class: u64) -> Result<(), Open> {
        let heap = self.heap;
        let dict = self.pointer(class, fixed::TYPE_DICT)?;
        if dict == 0 {
            return Ok(());
        }
        let module = heap.dict_get(dict, "__module__")?;
        let module = module.filter(|module| heap.is(*module, "str"));
        let of_program = match module {
            Some(name) => self.is_of_program(&heap.string(name)?)?,
            None => false,
        };
        if of_program {
            self.push(heap.dict(dict)?.into_iter().map(|(_, value)| value));
            self.push(heap.bases(class)?.into_iter());
        }
        Ok(())
    }

    /// Whether a module by this name is none of a library.
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

    fn expand_function(&mut self, function: u64) -> Result<(), Open> {
        /// Offsets of globals, defaults, keyword defaults and closure: in 3.9, and since 3.10.
        const OLD_FIELDS: [u64; 4] = [24, 32, 40, 48];
        const FIELDS: [u64; 4] = [16, 56, 64, 72];
        let old = self.heap.offsets.function_code < FIELDS[0] + 8;
        let [globals, defaults, keywords, closure] = if old { OLD_FIELDS } else { FIELDS };
        for field in [defaults, keywords, closure] {
            let part = self.pointer(function, field)?;
            self.push([part].into_iter());
        }
        let code = self.pointer(function, self.heap.offsets.function_code)?;
        let file = self.pointer(code, self.heap.offsets.code_filename)?;
        if is_library_file(&self.heap.string(file)?) {
            return Ok(());
        }
        let globals = self.pointer(function, globals)?;
        self.push_globals(code, globals)
    }

    /// The globals that a code object names, with the functions that are defined within it.
    fn push_globals(&mut self, code: u64, globals: u64) -> Result<(), Open> {
        let heap = self.heap;
        let mut names = BTreeSet::new();
        self.names(code, MAX_NESTED, &mut BTreeSet::new(), &mut names)?;
        let by_all_threads = names.contains("enumerate") && names.contains("threading");
        if by_all_threads || UNBOUNDED.iter().any(|name| names.contains(*name)) {
            return Err(Open);
        }
        for name in names {
            match heap.dict_get(globals, &name)? {
                Some(value) => self.push([value].into_iter()),
                // An attribute, a builtin, or a module that the function imports by itself.
                None => {
                    let is_module = heap.dict_get(self.modules, &name)?.is_some();
                    if is_module && self.is_of_program(&name)? {
                        return Err(Open);
                    }
                }
            }
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
        if codes.len() > MAX_CODES || out.len() > MAX_OBJECTS {
            return Err(Open);
        }
        // `co_consts` comes right before `co_names` in all versions.
        let constants = self.pointer(code, heap.offsets.code_names - 8)?;
        let names = self.pointer(code, heap.offsets.code_names)?;
        for name in heap.tuple(names)? {
            out.insert(heap.string(name)?);
        }
        let Some(depth) = depth.checked_sub(1) else {
            return Err(Open);
        };
        for constant in heap.tuple(constants)? {
            if heap.is(constant, "code") {
                self.names(constant, depth, codes, out)?;
            }
        }
        Ok(())
    }

    fn expand_instance(&mut self, object: u64) -> Result<(), Open> {
        let heap = self.heap;
        let kind = heap.type_of(object)?;
        let flags = self.pointer(kind, fixed::TYPE_FLAGS)?;
        let is_container = flags & (LIST | TUPLE | DICT) != 0;
        if flags & LIST != 0 {
            self.push(heap.list(object)?.into_iter());
        }
        if flags & TUPLE != 0 {
            self.push(heap.tuple(object)?.into_iter());
        }
        if flags & DICT != 0 {
            let pairs = heap.dict(object)?.into_iter();
            self.push(pairs.flat_map(|(key, value)| [key, value]));
        }
        let bases = heap.bases(kind)?;
        let mut made_in_python = flags & fixed::FLAG_HEAP_TYPE != 0 && !bases.is_empty();
        // Classes that are made in C have their module in their name, and fields that nobody can follow.
        for base in bases {
            let name = self.pointer(base, fixed::TYPE_NAME)?;
            let name = heap.memory.c_string(name, 256).map_err(|_| Open)?;
            made_in_python &= !name.contains(&b'.') || name == b"_socket.socket";
        }
        if made_in_python {
            let attributes = heap.attributes(object)?;
            self.push(attributes.into_iter().map(|(_, value)| value));
            self.push([kind].into_iter());
        }
        if is_container || made_in_python {
            Ok(())
        } else {
            Err(Open)
        }
    }
}

/// All items of a deque (`dequeobject`: blocks of 64 items, linked both ways); `None` of one that is too long.
pub(super) fn deque_items(heap: &Heap<'_>, deque: u64) -> Option<Vec<u64>> {
    const LEFT_BLOCK: u64 = 24;
    const LEFT_INDEX: u64 = 40;
    const BLOCK_ITEMS: u64 = 64;
    const FIRST_ITEM: u64 = 8;
    let pointer = |at: u64| heap.memory.u64(at).ok();
    let length = heap.length(deque).ok()?;
    if length > MAX_OBJECTS as u64 {
        return None;
    }
    let mut block = pointer(deque.wrapping_add(LEFT_BLOCK))?;
    let mut index = pointer(deque.wrapping_add(LEFT_INDEX))?;
    let mut items = Vec::new();
    for _ in 0..length {
        if index >= BLOCK_ITEMS {
            block = pointer(block.wrapping_add(FIRST_ITEM + 8 * BLOCK_ITEMS))?;
            index = 0;
        }
        items.push(pointer(block.wrapping_add(FIRST_ITEM + 8 * index))?);
        index += 1;
    }
    Some(items)
}
