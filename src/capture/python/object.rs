//! Python objects: types, strings, ints, dicts, attributes. Every value read may be garbage.

use super::offsets::{AttributeLayout, IntLayout, Offsets, fixed};
use crate::capture::memory::{CachedMemory, ReadError};
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

/// Longest string taken from the target, in characters.
const MAX_STRING: u64 = 64 << 10;
/// Most entries of a dict that are looked at.
const MAX_ENTRIES: u64 = 1 << 20;

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
    attribute_names: RefCell<HashMap<u64, Rc<HashMap<String, u64>>>>,
}

impl<'a> Heap<'a> {
    pub(crate) fn new(memory: &'a CachedMemory<'a>, offsets: &'a Offsets) -> Self {
        Self {
            memory,
            offsets,
            type_names: RefCell::default(),
            attribute_names: RefCell::default(),
        }
    }

    /// `type(object).__name__`; dotted for most built-in types.
    pub(crate) fn type_name(&self, object: u64) -> Result<Rc<str>, ObjectError> {
        let kind = self.memory.u64(object.wrapping_add(fixed::TYPE))?;
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

    /// Length in characters of a `str`, if it looks like one.
    fn string_length(&self, object: u64) -> Result<u64, ObjectError> {
        Ok(self.memory.u64(object.wrapping_add(fixed::SIZE))?)
    }

    /// The value of a compact `str`.
    pub(crate) fn string(&self, object: u64) -> Result<String, ObjectError> {
        let length = self.string_length(object)?.min(MAX_STRING);
        let state = self.memory.u32(object.wrapping_add(fixed::UNICODE_STATE))?;
        let (width, compact, ascii) = ((state >> 2) & 7, (state >> 5) & 1, (state >> 6) & 1);
        if compact == 0 || !matches!(width, 1 | 2 | 4) || !self.is(object, "str") {
            return Err(ObjectError::Not(object, "a compact str"));
        }
        let head = if ascii == 1 {
            self.offsets.unicode_ascii_size
        } else {
            self.offsets.unicode_compact_size
        };
        let size = usize::try_from(length * u64::from(width)).unwrap_or(usize::MAX);
        let bytes = self.memory.bytes(object.wrapping_add(head), size)?;
        Ok(match width {
            1 => bytes.iter().map(|byte| char::from(*byte)).collect(),
            2 => bytes
                .chunks_exact(2)
                .map(|pair| u32::from(u16::from_le_bytes([pair[0], pair[1]])))
                .map(|unit| char::from_u32(unit).unwrap_or(char::REPLACEMENT_CHARACTER))
                .collect(),
            _ => bytes
                .chunks_exact(4)
                .map(|quad| u32::from_le_bytes([quad[0], quad[1], quad[2], quad[3]]))
                .map(|unit| char::from_u32(unit).unwrap_or(char::REPLACEMENT_CHARACTER))
                .collect(),
        })
    }

    /// The contents of a `bytes`, at most `limit`.
    pub(crate) fn byte_string(&self, object: u64, limit: u64) -> Result<Vec<u8>, ObjectError> {
        let length = self
            .memory
            .u64(object.wrapping_add(fixed::SIZE))?
            .min(limit);
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        Ok(self
            .memory
            .bytes(object.wrapping_add(fixed::BYTES_DATA), length)?)
    }

    /// The value of a non-negative int below 2^90, cut to 64 bits.
    pub(crate) fn int(&self, object: u64) -> Result<u64, ObjectError> {
        let word = self.memory.u64(object.wrapping_add(fixed::SIZE))?;
        let digits = match self.offsets.int_layout {
            IntLayout::Tag => word >> 3,
            IntLayout::Size => word,
        };
        if digits > 3 {
            return Err(ObjectError::Not(object, "a small non-negative int"));
        }
        let mut value = 0_u64;
        for digit in 0..digits {
            let piece = self
                .memory
                .u32(object.wrapping_add(fixed::INT_DIGITS + 4 * digit))?;
            value |= u64::from(piece).checked_shl(30 * digit as u32).unwrap_or(0);
        }
        Ok(value)
    }

    /// The entries of a `PyDictKeysObject`: key, value (0 in a split table), index.
    fn entries(&self, keys: u64) -> Result<Vec<(u64, u64, u64)>, ObjectError> {
        let general = self.memory.u8(keys.wrapping_add(fixed::KEYS_KIND))? == 0;
        let log2_index = self
            .memory
            .u8(keys.wrapping_add(fixed::KEYS_LOG2_INDEX_BYTES))?;
        let count = self.memory.u64(keys.wrapping_add(fixed::KEYS_COUNT))?;
        if count > MAX_ENTRIES || log2_index > 40 {
            return Err(ObjectError::Not(keys, "a dict's keys"));
        }
        let first = keys
            .wrapping_add(fixed::KEYS_INDICES)
            .wrapping_add(1 << log2_index);
        let (size, skip) = if general { (24, 8) } else { (16, 0) };
        self.memory
            .prefetch([(first, usize::try_from(count * size).unwrap_or(0))]);
        (0..count)
            .map(|index| {
                let at = first.wrapping_add(index * size + skip);
                Ok((
                    self.memory.u64(at)?,
                    self.memory.u64(at.wrapping_add(8))?,
                    index,
                ))
            })
            .collect()
    }

    /// Key and value objects of a dict, in insertion order.
    pub(crate) fn dict(&self, dict: u64) -> Result<Vec<(u64, u64)>, ObjectError> {
        let keys = self.memory.u64(dict.wrapping_add(fixed::DICT_KEYS))?;
        let values = self.memory.u64(dict.wrapping_add(fixed::DICT_VALUES))?;
        let mut out = Vec::new();
        for (key, mut value, index) in self.entries(keys)? {
            if values != 0 {
                let at = values
                    .wrapping_add(self.offsets.dict_values_first)
                    .wrapping_add(8 * index);
                value = self.memory.u64(at)?;
            }
            if key != 0 && value != 0 {
                out.push((key, value));
            }
        }
        Ok(out)
    }

    /// The value under a `str` key. Keys of another length are passed over unread.
    pub(crate) fn dict_get(&self, dict: u64, name: &str) -> Result<Option<u64>, ObjectError> {
        let entries = self.dict(dict)?;
        self.memory
            .prefetch(entries.iter().map(|(key, _)| (*key, 64)));
        for (key, value) in entries {
            if self.string_length(key)? == name.chars().count() as u64
                && self.string(key).is_ok_and(|text| text == name)
            {
                return Ok(Some(value));
            }
        }
        Ok(None)
    }

    /// An instance attribute (`__dict__` only, in whichever form the version keeps it).
    pub(crate) fn attribute(&self, object: u64, name: &str) -> Result<Option<u64>, ObjectError> {
        let kind = self.memory.u64(object.wrapping_add(fixed::TYPE))?;
        let flags = self.memory.u64(kind.wrapping_add(fixed::TYPE_FLAGS))?;
        if flags & fixed::FLAG_MANAGED_DICT == 0 {
            return Ok(None);
        }
        let pointer = self.memory.u64(object.wrapping_sub(24))?;
        let (dict, values) = match self.offsets.attributes {
            AttributeLayout::TwoPointers => (pointer, self.memory.u64(object.wrapping_sub(32))?),
            AttributeLayout::TaggedPointer if pointer & 1 == 1 => (0, pointer.wrapping_add(1)),
            AttributeLayout::TaggedPointer => (pointer, 0),
            AttributeLayout::Inline if pointer != 0 => (pointer, 0),
            AttributeLayout::Inline if flags & fixed::FLAG_INLINE_VALUES != 0 => {
                let size = self.memory.u64(kind.wrapping_add(fixed::TYPE_BASIC_SIZE))?;
                let first = object.wrapping_add(size);
                (0, first.wrapping_add(self.offsets.dict_values_first))
            }
            AttributeLayout::Inline => return Ok(None),
        };
        if values != 0 {
            let names = self.cached_names(kind)?;
            let Some(index) = names.get(name) else {
                return Ok(None);
            };
            let value = self.memory.u64(values.wrapping_add(8 * index))?;
            return Ok((value != 0).then_some(value));
        }
        if dict == 0 {
            return Ok(None);
        }
        self.dict_get(dict, name)
    }

    /// Names and indexes in the shared keys of a heap type.
    fn cached_names(&self, kind: u64) -> Result<Rc<HashMap<String, u64>>, ObjectError> {
        if let Some(names) = self.attribute_names.borrow().get(&kind) {
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
        self.attribute_names
            .borrow_mut()
            .insert(kind, Rc::clone(&names));
        Ok(names)
    }
}
