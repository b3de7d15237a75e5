//! Instance attributes: in a dict, in values that lie by the object, in slots.

use super::{Heap, ObjectError};
use crate::capture::python::offsets::{AttributeLayout, fixed};
use std::collections::HashMap;
use std::rc::Rc;

/// `T_OBJECT` and `T_OBJECT_EX` of `structmember.h`: members that are references.
const REFERENCE_MEMBERS: [i32; 2] = [6, 16];
/// Longest method resolution order that is followed.
const MAX_BASES: usize = 256;

/// Most values that lie by an object: more than CPython shares keys for.
const MAX_VALUES: u64 = 256;

/// Offsets of the slots of a type and its bases, by name.
pub(super) type Slots = HashMap<String, u64>;

/// Where an object keeps the attributes that are not in slots.
enum Storage {
    Dict(u64),
    /// Address of the first value; the names are the type's shared keys.
    Values(u64),
    Nowhere,
}

impl Heap<'_> {
    /// An instance attribute: of `__dict__`, in whichever form the version keeps it, or a slot.
    pub(crate) fn attribute(&self, object: u64, name: &str) -> Result<Option<u64>, ObjectError> {
        let kind = self.type_of(object)?;
        let found = match self.storage(object, kind)? {
            Storage::Values(first) => match self.cached_names(kind)?.get(name) {
                Some(index) => {
                    let value = self.memory.u64(first.wrapping_add(8 * index))?;
                    (value != 0).then_some(value)
                }
                None => None,
            },
            Storage::Dict(dict) => self.dict_get(dict, name)?,
            Storage::Nowhere => None,
        };
        if found.is_some() {
            return Ok(found);
        }
        let Some(offset) = self.slots_of(kind)?.get(name).copied() else {
            return Ok(None);
        };
        let value = self.memory.u64(object.wrapping_add(offset))?;
        Ok((value != 0).then_some(value))
    }

    /// All instance attributes that have a value, by name.
    pub(crate) fn attributes(&self, object: u64) -> Result<Vec<(String, u64)>, ObjectError> {
        let kind = self.type_of(object)?;
        let mut out = match self.storage(object, kind)? {
            Storage::Values(first) => {
                let names = self.cached_names(kind)?;
                let mut names: Vec<(&String, &u64)> = names.iter().collect();
                names.sort_by_key(|(_, index)| **index);
                let mut out = Vec::new();
                for (name, index) in names {
                    let value = self.memory.u64(first.wrapping_add(8 * index))?;
                    if value != 0 {
                        out.push((name.clone(), value));
                    }
                }
                out
            }
            Storage::Dict(dict) => self.named(dict)?,
            Storage::Nowhere => Vec::new(),
        };
        let slots = self.slots_of(kind)?;
        let mut slots: Vec<(&String, &u64)> = slots.iter().collect();
        slots.sort_by_key(|(_, offset)| **offset);
        for (name, offset) in slots {
            if let Ok(value) = self.memory.u64(object.wrapping_add(*offset))
                && value != 0
            {
                out.push((name.clone(), value));
            }
        }
        Ok(out)
    }

    /// The values of all instance attributes, without their names.
    pub(crate) fn attribute_values(&self, object: u64) -> Result<Vec<u64>, ObjectError> {
        let kind = self.type_of(object)?;
        let mut out = Vec::new();
        match self.storage(object, kind)? {
            Storage::Values(first) => {
                let names = self.cached_names(kind)?;
                let count = names
                    .values()
                    .max()
                    .map_or(0, |last| last.saturating_add(1));
                for index in 0..count.min(MAX_VALUES) {
                    out.push(self.memory.u64(first.wrapping_add(8 * index))?);
                }
            }
            Storage::Dict(dict) => out.extend(self.dict(dict)?.into_iter().map(|(_, value)| value)),
            Storage::Nowhere => {}
        }
        let mut slots: Vec<u64> = self.slots_of(kind)?.values().copied().collect();
        slots.sort_unstable();
        let at = |offset: u64| self.memory.u64(object.wrapping_add(offset)).ok();
        out.extend(slots.into_iter().filter_map(at));
        out.retain(|value| *value != 0);
        Ok(out)
    }

    fn storage(&self, object: u64, kind: u64) -> Result<Storage, ObjectError> {
        let flags = self.memory.u64(kind.wrapping_add(fixed::TYPE_FLAGS))?;
        if self.offsets.attributes == AttributeLayout::DictOffset
            || flags & fixed::FLAG_MANAGED_DICT == 0
        {
            return self.dict_at_offset(object, kind);
        }
        let pointer = self.memory.u64(object.wrapping_sub(24))?;
        let dict = |address: u64| match address {
            0 => Storage::Nowhere,
            address => Storage::Dict(address),
        };
        Ok(match self.offsets.attributes {
            AttributeLayout::TwoPointers => match self.memory.u64(object.wrapping_sub(32))? {
                0 => dict(pointer),
                values => Storage::Values(values),
            },
            AttributeLayout::TaggedPointer if pointer & 1 == 1 => {
                Storage::Values(pointer.wrapping_add(1))
            }
            AttributeLayout::Inline if pointer == 0 && flags & fixed::FLAG_INLINE_VALUES != 0 => {
                let size = self.memory.u64(kind.wrapping_add(fixed::TYPE_BASIC_SIZE))?;
                let first = object.wrapping_add(size);
                Storage::Values(first.wrapping_add(self.offsets.dict_values_first))
            }
            _ => dict(pointer),
        })
    }

    /// The dict at `tp_dictoffset`: of all objects up to 3.10, later of modules, functions and such. A negative offset
    /// counts from the end of an object of variable size, and is none of ours.
    fn dict_at_offset(&self, object: u64, kind: u64) -> Result<Storage, ObjectError> {
        let offset = self
            .memory
            .i64(kind.wrapping_add(fixed::TYPE_DICT_OFFSET))?;
        let Some(offset) = u64::try_from(offset).ok().filter(|offset| *offset != 0) else {
            return Ok(Storage::Nowhere);
        };
        Ok(match self.memory.u64(object.wrapping_add(offset))? {
            0 => Storage::Nowhere,
            dict => Storage::Dict(dict),
        })
    }

    /// Names and indexes in the shared keys of a heap type.
    fn cached_names(&self, kind: u64) -> Result<Rc<HashMap<String, u64>>, ObjectError> {
        if let Some(names) = self.shared_keys.borrow().get(&kind) {
            return Ok(Rc::clone(names));
        }
        let keys = self
            .memory
            .u64(kind.wrapping_add(self.offsets.heap_type_cached_keys))?;
        let names: HashMap<String, u64> = self
            .entries(keys)?
            .into_iter()
            .filter(|(key, _, _)| *key != 0)
            .filter_map(|(key, _, index)| Some((self.string(key).ok()?, index)))
            .collect();
        let names = Rc::new(names);
        self.shared_keys
            .borrow_mut()
            .insert(kind, Rc::clone(&names));
        Ok(names)
    }

    /// Slots (`member_descriptor`s) of the classes in a type's method resolution order. Only of classes made in Python:
    /// static types keep their dicts elsewhere from 3.12 on.
    fn slots_of(&self, kind: u64) -> Result<Rc<Slots>, ObjectError> {
        if let Some(slots) = self.slots.borrow().get(&kind) {
            return Ok(Rc::clone(slots));
        }
        let mut slots = Slots::new();
        for base in self.bases(kind)? {
            let dict = self.memory.u64(base.wrapping_add(fixed::TYPE_DICT))?;
            let Ok(entries) = self.dict(dict) else {
                continue;
            };
            for (name, descriptor) in entries {
                if !self.is(descriptor, "member_descriptor") {
                    continue;
                }
                let definition = self
                    .memory
                    .u64(descriptor.wrapping_add(fixed::MEMBER_DEFINITION))?;
                let member = self
                    .memory
                    .i32(definition.wrapping_add(fixed::MEMBER_TYPE))?;
                let offset = self
                    .memory
                    .u64(definition.wrapping_add(fixed::MEMBER_OFFSET))?;
                if REFERENCE_MEMBERS.contains(&member) {
                    slots.entry(self.string(name)?).or_insert(offset);
                }
            }
        }
        let slots = Rc::new(slots);
        self.slots.borrow_mut().insert(kind, Rc::clone(&slots));
        Ok(slots)
    }

    /// The classes made in Python among a type's method resolution order, itself first.
    pub(crate) fn bases(&self, kind: u64) -> Result<Vec<u64>, ObjectError> {
        let order = self.memory.u64(kind.wrapping_add(fixed::TYPE_MRO))?;
        if order == 0 {
            return Ok(Vec::new());
        }
        let mut out = Vec::new();
        for base in self.tuple(order)?.into_iter().take(MAX_BASES) {
            let flags = self.memory.u64(base.wrapping_add(fixed::TYPE_FLAGS))?;
            if flags & fixed::FLAG_HEAP_TYPE != 0 {
                out.push(base);
            }
        }
        Ok(out)
    }

    /// Whether one of the classes that `object` is of has this bare name (`Condition`), itself or by inheritance.
    pub(crate) fn is_instance(&self, object: u64, class: &str) -> bool {
        if self.is(object, class) {
            return true;
        }
        let Ok(bases) = self.type_of(object).and_then(|kind| self.bases(kind)) else {
            return false;
        };
        bases.into_iter().any(|base| {
            self.memory
                .u64(base.wrapping_add(fixed::TYPE_NAME))
                .and_then(|name| self.memory.c_string(name, 256))
                .is_ok_and(|name| name == class.as_bytes())
        })
    }

    /// A name in a module that an interpreter has imported: `sys.modules[module].name`.
    pub(crate) fn module_attribute(
        &self,
        interpreter: u64,
        module: &str,
        name: &str,
    ) -> Result<Option<u64>, ObjectError> {
        let modules = self
            .memory
            .u64(interpreter.wrapping_add(self.offsets.interpreter_modules))?;
        if modules == 0 {
            return Ok(None);
        }
        let Some(module) = self.dict_get(modules, module)? else {
            return Ok(None);
        };
        let dict = self.memory.u64(module.wrapping_add(fixed::MODULE_DICT))?;
        self.dict_get(dict, name)
    }
}
