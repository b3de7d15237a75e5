//! Python objects: types, strings, ints, containers, attributes. Every value read may be garbage.

mod attributes;
mod callables;
mod containers;
mod values;

pub(crate) use callables::FunctionParts;

use super::offsets::{Offsets, fixed};
use crate::capture::memory::{CachedMemory, ReadError};
use attributes::Slots;
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

/// Most items of a container that are looked at.
const MAX_ITEMS: u64 = 1 << 20;

/// Why an object could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ObjectError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("{0:#x} is not {1}")]
    Not(u64, &'static str),
}

/// A view of the target's object heap for the time of one sample.
pub(crate) struct Heap<'a> {
    pub(crate) memory: &'a CachedMemory<'a>,
    pub(crate) offsets: &'a Offsets,
    type_names: RefCell<HashMap<u64, Rc<str>>>,
    type_modules: RefCell<HashMap<u64, Option<Rc<str>>>>,
    shared_keys: RefCell<HashMap<u64, Rc<HashMap<String, u64>>>>,
    slots: RefCell<HashMap<u64, Rc<Slots>>>,
}

impl<'a> Heap<'a> {
    pub(crate) fn new(memory: &'a CachedMemory<'a>, offsets: &'a Offsets) -> Self {
        Self {
            memory,
            offsets,
            type_names: RefCell::default(),
            type_modules: RefCell::default(),
            shared_keys: RefCell::default(),
            slots: RefCell::default(),
        }
    }

    /// `type(object)`.
    pub(crate) fn type_of(&self, object: u64) -> Result<u64, ObjectError> {
        Ok(self.memory.u64(object.wrapping_add(fixed::TYPE))?)
    }

    /// `tp_name` of an object's type: `type(object).__name__` for classes made in Python, dotted for most others.
    pub(crate) fn type_name(&self, object: u64) -> Result<Rc<str>, ObjectError> {
        let kind = self.type_of(object)?;
        if let Some(name) = self.type_names.borrow().get(&kind) {
            return Ok(Rc::clone(name));
        }
        let pointer = self.memory.u64(kind.wrapping_add(fixed::TYPE_NAME))?;
        let bytes = self.memory.c_string(pointer, 256)?;
        let name: Rc<str> = String::from_utf8_lossy(&bytes).into();
        self.type_names.borrow_mut().insert(kind, Rc::clone(&name));
        Ok(name)
    }

    pub(crate) fn is(&self, object: u64, type_name: &str) -> bool {
        self.type_name(object).is_ok_and(|name| &*name == type_name)
    }

    /// The type's name with its module, as users write it: `queue.Queue`, `threading.Event`, `_thread.lock`.
    pub(crate) fn full_type_name(&self, object: u64) -> Result<String, ObjectError> {
        let name = self.type_name(object)?;
        if name.contains('.') {
            return Ok(name.to_string());
        }
        let kind = self.type_of(object)?;
        let known = self.type_modules.borrow().get(&kind).cloned();
        let module = known.unwrap_or_else(|| {
            let module = self.type_module(kind).ok().flatten().map(Rc::from);
            self.type_modules.borrow_mut().insert(kind, module.clone());
            module
        });
        Ok(match module.as_deref() {
            None | Some("builtins") => name.to_string(),
            Some(module) => format!("{module}.{name}"),
        })
    }

    /// `__module__` in a heap type's own dict.
    fn type_module(&self, kind: u64) -> Result<Option<String>, ObjectError> {
        let flags = self.memory.u64(kind.wrapping_add(fixed::TYPE_FLAGS))?;
        if flags & fixed::FLAG_HEAP_TYPE == 0 {
            return Ok(None);
        }
        let dict = self.memory.u64(kind.wrapping_add(fixed::TYPE_DICT))?;
        match self.dict_get(dict, "__module__")? {
            Some(module) => Ok(Some(self.string(module)?)),
            None => Ok(None),
        }
    }

    /// Whether there may be an object at `address`: it has a type, and that has one that is a `type`.
    pub(crate) fn looks_like_object(&self, address: u64) -> bool {
        address.is_multiple_of(8)
            && self
                .type_of(address)
                .and_then(|kind| self.type_of(kind))
                .is_ok_and(|metatype| self.is(metatype, "type"))
    }
}
