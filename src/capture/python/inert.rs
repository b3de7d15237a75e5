//! Threads that will wake nobody, whatever they can come to: all that their code may still do is known to be harmless, such as that
//! of a heartbeat (`while True: time.sleep(1); self.beats += 1`).

use super::bytecode;
use super::frame::RawFrame;
use super::heap::Heap;
use super::slots;
use super::thread_state::RawThreadState;
use super::waits;
use super::with_blocks;
use crate::model::is_library_file;
use std::collections::BTreeSet;

/// Most frames that are looked through.
const MAX_FRAMES: usize = 50;
/// Most variables of a function.
const MAX_OBJECTS: usize = 64;
/// Deepest calls that are followed, and most functions.
const MAX_CALLS: u8 = 4;
const MAX_FUNCTIONS: usize = 50;
/// Names of modules, builtins and methods that wake no thread, whatever they belong to in ordinary code.
const HARMLESS: [&str; 52] = [
    "time",
    "sleep",
    "monotonic",
    "monotonic_ns",
    "perf_counter",
    "perf_counter_ns",
    "time_ns",
    "strftime",
    "datetime",
    "now",
    "utcnow",
    "isoformat",
    "print",
    "range",
    "len",
    "str",
    "int",
    "float",
    "bool",
    "repr",
    "round",
    "sum",
    "min",
    "max",
    "abs",
    "sorted",
    "enumerate",
    "zip",
    "isinstance",
    "format",
    "join",
    "is_alive",
    "is_set",
    "empty",
    "qsize",
    "append",
    "items",
    "values",
    "keys",
    "random",
    "uniform",
    "randint",
    "name",
    "threading",
    "current_thread",
    "get_ident",
    "getpid",
    "os",
    "sys",
    "True",
    "Exception",
    "KeyboardInterrupt",
];
/// Types of values that do nothing when they are used.
const DATA: [&str; 12] = [
    "int",
    "float",
    "str",
    "bytes",
    "bool",
    "NoneType",
    "list",
    "tuple",
    "dict",
    "set",
    "complex",
    "datetime.datetime",
];

/// The same of iterators, functions and the like: to call one takes a name.
const PASSIVE: [&str; 14] = [
    "range",
    "range_iterator",
    "list_iterator",
    "tuple_iterator",
    "str_iterator",
    "str_ascii_iterator",
    "dict_keyiterator",
    "dict_valueiterator",
    "dict_itemiterator",
    "builtin_function_or_method",
    "module",
    "function",
    "method",
    "type",
];
/// Methods that are called without their name.
const OPERATORS: [&str; 18] = [
    "__iter__",
    "__next__",
    "__enter__",
    "__exit__",
    "__call__",
    "__getattr__",
    "__getattribute__",
    "__setattr__",
    "__getitem__",
    "__setitem__",
    "__contains__",
    "__len__",
    "__bool__",
    "__eq__",
    "__lt__",
    "__add__",
    "__iadd__",
    "__del__",
];

/// Whether all that a thread's code may still do is harmless.
pub(super) fn is_inert(heap: &Heap<'_>, raw: &RawThreadState) -> bool {
    if raw.state.cut.is_some() || raw.raw_frames.len() > MAX_FRAMES {
        return false;
    }
    let mut code = Code {
        heap,
        seen: BTreeSet::new(),
    };
    let is_own = |frame: &&RawFrame| !is_library_file(frame.code.file.untrusted());
    let (own, library): (Vec<&RawFrame>, Vec<&RawFrame>) = raw.raw_frames.iter().partition(is_own);
    // Other library code may call the program's.
    let starts = |frame: &&RawFrame| frame.code.file.untrusted().ends_with("/threading.py");
    !own.is_empty() && library.iter().all(starts) && own.iter().all(|frame| code.frame(frame))
}

struct Code<'h> {
    heap: &'h Heap<'h>,
    /// Functions that were looked into.
    seen: BTreeSet<u64>,
}

impl Code<'_> {
    /// Whether what a frame may still run is harmless.
    fn frame(&mut self, frame: &RawFrame) -> bool {
        let Some(ahead) = bytecode::names_ahead(self.heap, frame) else {
            return false;
        };
        let objects = slots::values(self.heap, frame).unwrap_or_default();
        let globals = waits::used_globals(self.heap, frame);
        let Ok(stack) = slots::stack(self.heap, frame) else {
            return false;
        };
        let of_stack = stack.values.into_iter().filter(|value| *value != 0);
        let mut at_hand = objects.iter().copied().chain(of_stack);
        if objects.len() > MAX_OBJECTS
            || !with_blocks::active(self.heap, frame).is_empty()
            || !at_hand.all(|object| self.is_passive(object))
        {
            return false;
        }
        ahead.all.iter().all(|name| {
            let global = globals.iter().find(|(known, _)| known == name);
            self.name(name, global.map(|(_, value)| *value), &objects, MAX_CALLS)
        })
    }

    /// Whether no code runs when an object is iterated over, compared or added to: that of a generator or of a class's operators.
    fn is_passive(&self, object: u64) -> bool {
        let heap = self.heap;
        let Ok(kind) = heap.type_name(object) else {
            return false;
        };
        let of_program = || {
            // Whose attributes can be read is made in Python.
            heap.attributes(object)
                .is_ok_and(|attributes| !attributes.is_empty())
                && OPERATORS
                    .iter()
                    .all(|name| heap.method_function(object, name).is_none())
        };
        DATA.contains(&&*kind) || PASSIVE.contains(&&*kind) || of_program()
    }

    /// Whether the use of a name is harmless: of a global by its value, of an attribute by what the objects at hand have there.
    fn name(&mut self, name: &str, global: Option<u64>, objects: &[u64], left: u8) -> bool {
        let heap = self.heap;
        if let Some(value) = global {
            return heap.is(value, "module") && HARMLESS.contains(&name)
                || self.value(value, objects, left);
        }
        let mut found = false;
        for object in objects {
            if let Some(method) = heap.method_function(*object, name) {
                found = true;
                if !self.function(method, objects, left) {
                    return false;
                }
            }
            if let Ok(Some(value)) = heap.attribute(*object, name) {
                found = true;
                if !self.value(value, objects, left) {
                    return false;
                }
            }
        }
        found || HARMLESS.contains(&name)
    }

    fn value(&mut self, value: u64, objects: &[u64], left: u8) -> bool {
        let Ok(kind) = self.heap.type_name(value) else {
            return false;
        };
        match &*kind {
            data if DATA.contains(&data) => true,
            "function" => self.function(value, objects, left),
            // A bound method, whatever its name.
            _ if self.heap.is_of_program(value) => false,
            _ => {
                let name = self.heap.callable_name(value);
                name.is_some_and(|name| HARMLESS.contains(&name.as_str()))
            }
        }
    }

    /// Whether all names in a function's code are harmless.
    fn function(&mut self, function: u64, objects: &[u64], left: u8) -> bool {
        let heap = self.heap;
        let Some(left) = left.checked_sub(1) else {
            return false;
        };
        if !heap.is_of_program(function) {
            let name = heap.callable_name(function);
            return name.is_some_and(|name| HARMLESS.contains(&name.as_str()));
        }
        if !self.seen.insert(function) {
            return true; // it is being looked into
        }
        let (Some((_, names)), Ok(parts)) =
            (heap.code_names(function), heap.function_parts(function))
        else {
            return false;
        };
        self.seen.len() <= MAX_FUNCTIONS
            && names.iter().all(|name| {
                let global = heap.dict_get(parts.globals, name).ok().flatten();
                self.name(name, global, objects, left)
            })
    }
}
