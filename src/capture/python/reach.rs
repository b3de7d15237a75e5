//! What a thread's code can come to: followed from the variables of its frames through attributes, containers, closures, and the
//! globals that its functions name. If that has an end and an object is not in it, the thread is not going to act on it. What
//! cannot be followed (an object of an unknown C type, a module that is imported by name) leaves the question open.

use super::heap::Heap;
use super::inert;
use super::interpreter::Census;
use super::offsets::fixed;
use super::references::{Open, References};
use super::thread_state::RawThreadState;
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
                references: References { heap, modules },
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

/// What objects refer to; `None` of those that cannot be followed. Threads share much of it.
type Known = HashMap<u64, Option<Rc<[u64]>>>;

struct Walk<'h, 'k> {
    references: References<'h>,
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
            self.push(self.references.of_frame(frame)?);
            if !is_library_file(frame.code.file.untrusted()) {
                let globals = self.references.globals(frame)?;
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
    fn push(&mut self, objects: Vec<u64>) {
        let objects = objects.into_iter().filter(|object| *object != 0);
        self.found.extend(objects.take(MAX_OBJECTS));
    }

    fn expand(&mut self, object: u64) -> Result<(), Open> {
        let references = self.references;
        let heap = references.heap;
        let kind = heap.type_name(object)?;
        match &*kind {
            "function" => {
                let (parts, file) = references.function(object)?;
                self.push(parts.captured.to_vec());
                if !is_library_file(&file) {
                    self.push_globals(parts.code, parts.globals)?;
                }
            }
            "module" => {
                let module = references.module(object)?;
                if let Some((dict, _)) = module.filter(|(_, file)| !is_library_file(file)) {
                    let members = heap.dict(dict)?.into_iter();
                    self.push(members.map(|(_, value)| value).collect());
                }
            }
            "type" | "ABCMeta" | "EnumType" => self.expand_class(object)?,
            kind => match references.of_known(object, kind)? {
                Some(objects) => self.push(objects),
                None => self.expand_instance(object)?,
            },
        }
        Ok(())
    }

    /// A class of the program's own: its methods may be called on any object of it.
    fn expand_class(&mut self, class: u64) -> Result<(), Open> {
        let heap = self.references.heap;
        if self.references.is_made_by_program(class)? {
            let dict = self.references.pointer(class, fixed::TYPE_DICT)?;
            let members = heap.dict(dict)?.into_iter();
            self.push(members.map(|(_, value)| value).collect());
            self.push(heap.bases(class)?);
        }
        Ok(())
    }

    /// The globals that a code object names, with the functions that are defined within it.
    fn push_globals(&mut self, code: u64, globals: u64) -> Result<(), Open> {
        let names = self.references.names(code, &[])?;
        self.push(self.references.named(&names, globals)?);
        Ok(())
    }

    fn expand_instance(&mut self, object: u64) -> Result<(), Open> {
        let heap = self.references.heap;
        let class = heap.type_of(object)?;
        let items = self.references.items(object, class)?;
        let is_container = items.is_some();
        self.push(items.unwrap_or_default());
        let made_in_python = self
            .references
            .is_made_in_python(class, &[b"_socket.socket"])?;
        if made_in_python {
            self.push(heap.attribute_values(object)?);
            self.push(vec![class]);
        }
        match is_container || made_in_python {
            true => Ok(()),
            false => Err(Open),
        }
    }
}
