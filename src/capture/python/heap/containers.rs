//! Dicts, tuples, lists, sets, weak references.

use super::{Heap, MAX_ITEMS, ObjectError};
use crate::capture::python::offsets::{DictKeysLayout, fixed};

impl Heap<'_> {
    /// Where a `PyDictKeysObject` has its entries: address of the first, number, bytes of one, bytes before its key.
    fn entry_table(&self, keys: u64) -> Result<(u64, u64, u64, u64), ObjectError> {
        let bad = || ObjectError::Not(keys, "a dict's keys");
        match self.offsets.dict_keys {
            DictKeysLayout::Logarithmic => {
                let general = self.memory.u8(keys.wrapping_add(fixed::KEYS_KIND))? == 0;
                let log2_index = self
                    .memory
                    .u8(keys.wrapping_add(fixed::KEYS_LOG2_INDEX_BYTES))?;
                let count = self.memory.u64(keys.wrapping_add(fixed::KEYS_COUNT))?;
                if log2_index > 40 {
                    return Err(bad());
                }
                let first = keys
                    .wrapping_add(fixed::KEYS_INDICES)
                    .wrapping_add(1 << log2_index);
                let (size, skip) = if general { (24, 8) } else { (16, 0) };
                Ok((first, count, size, skip))
            }
            DictKeysLayout::Sized => {
                let slots = self.memory.u64(keys.wrapping_add(fixed::OLD_KEYS_SIZE))?;
                let count = self.memory.u64(keys.wrapping_add(fixed::OLD_KEYS_COUNT))?;
                let index_bytes = match slots {
                    0..=0xff => 1,
                    0x100..=0xffff => 2,
                    0x1_0000..=0xffff_ffff => 4,
                    _ => return Err(bad()),
                };
                let first = keys
                    .wrapping_add(fixed::OLD_KEYS_INDICES)
                    .wrapping_add(slots * index_bytes);
                Ok((first, count, 24, 8))
            }
        }
    }

    /// The entries of a `PyDictKeysObject`: key, value (0 in a split table), index.
    pub(super) fn entries(&self, keys: u64) -> Result<Vec<(u64, u64, u64)>, ObjectError> {
        let (first, count, size, skip) = self.entry_table(keys)?;
        if count > MAX_ITEMS {
            return Err(ObjectError::Not(keys, "a dict's keys"));
        }
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

    /// The `str` keys of a dict with their values.
    pub(crate) fn named(&self, dict: u64) -> Result<Vec<(String, u64)>, ObjectError> {
        let entries = self.dict(dict)?;
        self.memory
            .prefetch(entries.iter().map(|(key, _)| (*key, 64)));
        Ok(entries
            .into_iter()
            .filter_map(|(key, value)| Some((self.string(key).ok()?, value)))
            .collect())
    }

    /// `len()` of a tuple, list, deque or other object of variable size.
    pub(crate) fn length(&self, object: u64) -> Result<u64, ObjectError> {
        Ok(self.memory.u64(object.wrapping_add(fixed::SIZE))?)
    }

    /// The items of a tuple.
    pub(crate) fn tuple(&self, object: u64) -> Result<Vec<u64>, ObjectError> {
        if !self.is(object, "tuple") {
            return Err(ObjectError::Not(object, "a tuple"));
        }
        let first = object.wrapping_add(self.offsets.tuple_items);
        self.pointers(first, self.length(object)?, 8)
    }

    /// The items of a list.
    pub(crate) fn list(&self, object: u64) -> Result<Vec<u64>, ObjectError> {
        if !self.is(object, "list") {
            return Err(ObjectError::Not(object, "a list"));
        }
        let first = self.memory.u64(object.wrapping_add(fixed::LIST_ITEMS))?;
        self.pointers(first, self.length(object)?, 8)
    }

    /// The items of a `collections.deque`, from the left: no more than its first block has, 64 at most.
    pub(crate) fn deque(&self, object: u64) -> Result<Vec<u64>, ObjectError> {
        if !self.is(object, "collections.deque") {
            return Err(ObjectError::Not(object, "a deque"));
        }
        let block = self.memory.u64(object.wrapping_add(fixed::DEQUE_BLOCK))?;
        let index = self.memory.u64(object.wrapping_add(fixed::DEQUE_INDEX))?;
        let room = fixed::DEQUE_BLOCK_LENGTH.saturating_sub(index);
        let first = block.wrapping_add(8).wrapping_add(index.wrapping_mul(8));
        self.pointers(first, self.length(object)?.min(room), 8)
    }

    /// All items of a `collections.deque`; an error for one of more than `most`.
    pub(crate) fn whole_deque(&self, object: u64, most: u64) -> Result<Vec<u64>, ObjectError> {
        let length = self.length(object)?;
        if length > most {
            return Err(ObjectError::Not(object, "a short deque"));
        }
        let mut block = self.memory.u64(object.wrapping_add(fixed::DEQUE_BLOCK))?;
        let mut index = self.memory.u64(object.wrapping_add(fixed::DEQUE_INDEX))?;
        let item = |block: u64, index: u64| self.memory.u64(block.wrapping_add(8 + 8 * index));
        let mut items = Vec::new();
        for _ in 0..length {
            if index >= fixed::DEQUE_BLOCK_LENGTH {
                // Behind its items a block has the address of the next one.
                block = item(block, fixed::DEQUE_BLOCK_LENGTH)?;
                index = 0;
            }
            items.push(item(block, index)?);
            index += 1;
        }
        Ok(items)
    }

    /// The members of a set, in no order that means anything.
    pub(crate) fn set(&self, object: u64) -> Result<Vec<u64>, ObjectError> {
        if !self.is(object, "set") && !self.is(object, "frozenset") {
            return Err(ObjectError::Not(object, "a set"));
        }
        let mask = self.memory.u64(object.wrapping_add(fixed::SET_MASK))?;
        let table = self.memory.u64(object.wrapping_add(fixed::SET_TABLE))?;
        let slots = mask
            .checked_add(1)
            .filter(|slots| *slots <= 4 * MAX_ITEMS)
            .ok_or(ObjectError::Not(object, "a set"))?;
        self.memory
            .prefetch([(table, usize::try_from(slots * 16).unwrap_or(0))]);
        let mut out = Vec::new();
        for slot in 0..slots {
            let key = self.memory.u64(table.wrapping_add(16 * slot))?;
            // A slot whose member was taken out keeps a dummy with the hash -1.
            if key != 0 && self.memory.i64(table.wrapping_add(16 * slot + 8))? != -1 {
                out.push(key);
            }
        }
        Ok(out)
    }

    /// What a weak reference refers to, if that is still alive.
    pub(crate) fn referent(&self, weak_reference: u64) -> Result<Option<u64>, ObjectError> {
        let object = self
            .memory
            .u64(weak_reference.wrapping_add(fixed::WEAKREF_OBJECT))?;
        Ok((object != 0 && !self.is_none(object)).then_some(object))
    }

    /// `count` pointers, `step` bytes apart.
    fn pointers(&self, first: u64, count: u64, step: u64) -> Result<Vec<u64>, ObjectError> {
        if count > MAX_ITEMS {
            return Err(ObjectError::Not(first, "a list of sane length"));
        }
        self.memory
            .prefetch([(first, usize::try_from(count * step).unwrap_or(0))]);
        (0..count)
            .map(|index| Ok(self.memory.u64(first.wrapping_add(step * index))?))
            .collect()
    }
}
