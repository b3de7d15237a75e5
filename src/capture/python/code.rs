//! Code objects.

use super::heap::{Heap, ObjectError};
use super::lines;
use super::offsets::{LineTable, Variables};
use super::qualname;
use super::with_blocks::{self, ExceptionEntry};
use crate::model::{Foreign, Frame};
use std::cell::{Cell, OnceCell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

/// Longest line table that is read.
const MAX_LINE_TABLE: u64 = 1 << 20;

/// What a code object says, read once per sample.
pub(crate) struct Code {
    pub(crate) address: u64,
    /// `co_name`.
    pub(crate) name: String,
    /// `co_qualname`, or before 3.11 what it was found to be.
    function: OnceCell<Foreign>,
    pub(crate) file: Foreign,
    first_line: i64,
    line_table: Vec<u8>,
    lines: RefCell<HashMap<i64, Option<u32>>>,
    variables: OnceCell<Rc<[String]>>,
    names: OnceCell<Rc<[String]>>,
    exceptions: OnceCell<Rc<[ExceptionEntry]>>,
    globals: RefCell<Option<(u64, Globals)>>,
}

/// Globals by name, with their values.
pub(crate) type Globals = Rc<[(String, u64)]>;

/// Most text of frames that is kept of one process, in bytes. Ten thousand frames take one million.
const MAX_TEXT: usize = 256 << 20;

/// The code objects met so far.
pub(crate) struct CodeCache {
    codes: RefCell<HashMap<u64, Option<Rc<Code>>>>,
    text_left: Cell<usize>,
}

impl Default for CodeCache {
    fn default() -> Self {
        Self {
            codes: RefCell::default(),
            text_left: Cell::new(MAX_TEXT),
        }
    }
}

impl CodeCache {
    /// Takes a frame's share of the text that may be kept; false when all is used up.
    pub(crate) fn afford(&self, frame: &Frame) -> bool {
        let size =
            size_of::<Frame>() + frame.function.untrusted().len() + frame.file.untrusted().len();
        let left = self.text_left.get().checked_sub(size);
        self.text_left.set(left.unwrap_or(0));
        left.is_some()
    }

    /// The code object at `address`; `None` when no code object is there.
    pub(crate) fn get(&self, heap: &Heap<'_>, address: u64) -> Option<Rc<Code>> {
        if let Some(code) = self.codes.borrow().get(&address) {
            return code.clone();
        }
        let code = read(heap, address).ok().map(Rc::new);
        self.codes.borrow_mut().insert(address, code.clone());
        code
    }
}

fn read(heap: &Heap<'_>, address: u64) -> Result<Code, ObjectError> {
    if !heap.is(address, "code") {
        return Err(ObjectError::Not(address, "a code object"));
    }
    let (memory, offsets) = (heap.memory, heap.offsets);
    let pointer = |offset: u64| memory.u64(address.wrapping_add(offset));
    let function = OnceCell::new();
    if let Some(offset) = offsets.code_qualname {
        let _ = function.set(heap.string(pointer(offset)?)?.into());
    }
    let first_line = i64::from(memory.i32(address.wrapping_add(offsets.code_first_line))?);
    let table = pointer(offsets.code_linetable)?;
    Ok(Code {
        address,
        name: heap.string(pointer(offsets.code_name)?)?,
        function,
        file: heap.string(pointer(offsets.code_filename)?)?.into(),
        first_line,
        line_table: heap.byte_string(table, MAX_LINE_TABLE).unwrap_or_default(),
        lines: RefCell::default(),
        variables: OnceCell::new(),
        names: OnceCell::new(),
        exceptions: OnceCell::new(),
        globals: RefCell::default(),
    })
}

/// Most variables or names of one function that are looked at.
const MAX_VARIABLES: usize = 4096;

impl Code {
    /// Its qualified name; `frame` is one that runs it.
    pub(crate) fn function(&self, heap: &Heap<'_>, frame: u64) -> &Foreign {
        self.function.get_or_init(|| {
            let found = qualname::of(heap, self, frame);
            found.unwrap_or_else(|| self.name.clone()).into()
        })
    }

    /// The line of the instruction at this byte offset.
    pub(crate) fn line(&self, kind: LineTable, offset: i64) -> Option<u32> {
        *self
            .lines
            .borrow_mut()
            .entry(offset)
            .or_insert_with(|| lines::line_at(kind, &self.line_table, self.first_line, offset))
    }

    /// A frame of this code, at this byte offset.
    pub(crate) fn frame(&self, heap: &Heap<'_>, frame: u64, offset: i64) -> Frame {
        Frame {
            function: self.function(heap, frame).clone(),
            file: self.file.clone(),
            line: self.line(heap.offsets.line_table, offset),
            instruction: offset,
            locals: Vec::new(),
        }
    }

    /// Names of its variables, in the order of their places in a frame: locals, cells, free variables.
    pub(crate) fn variables(&self, heap: &Heap<'_>) -> Rc<[String]> {
        let names = self
            .variables
            .get_or_init(|| self.read_variables(heap).unwrap_or_default().into());
        Rc::clone(names)
    }

    fn read_variables(&self, heap: &Heap<'_>) -> Result<Vec<String>, ObjectError> {
        let pointer = |offset: u64| heap.memory.u64(self.address.wrapping_add(offset));
        let objects = match heap.offsets.code_variables {
            Variables::One { names, .. } => heap.tuple(pointer(names)?)?,
            Variables::Three(own, cells, free) => {
                let mut all = heap.tuple(pointer(own)?)?;
                all.extend(heap.tuple(pointer(cells)?)?);
                all.extend(heap.tuple(pointer(free)?)?);
                all
            }
        };
        strings(heap, &objects)
    }

    /// Names of the globals and attributes that it uses.
    pub(crate) fn names(&self, heap: &Heap<'_>) -> Rc<[String]> {
        let read = || -> Result<Vec<String>, ObjectError> {
            let names = self.address.wrapping_add(heap.offsets.code_names);
            strings(heap, &heap.tuple(heap.memory.u64(names)?)?)
        };
        let names = self.names.get_or_init(|| read().unwrap_or_default().into());
        Rc::clone(names)
    }

    /// Those of the globals in the dictionary at this address that it uses; `read` reads them. Threads in the same function have the same.
    pub(crate) fn globals(&self, dictionary: u64, read: impl FnOnce() -> Globals) -> Globals {
        let known = self.globals.borrow().clone();
        if let Some((_, globals)) = known.filter(|(of, _)| *of == dictionary) {
            return globals;
        }
        let globals = read();
        *self.globals.borrow_mut() = Some((dictionary, Rc::clone(&globals)));
        globals
    }

    /// Number of places for variables in a frame, before its evaluation stack.
    pub(crate) fn variable_count(&self, heap: &Heap<'_>) -> Result<u64, ObjectError> {
        match heap.offsets.code_variables {
            Variables::One { count, .. } => Ok(u64::from(
                heap.memory.u32(self.address.wrapping_add(count))?,
            )),
            Variables::Three(..) => Ok(self.variables(heap).len() as u64),
        }
    }

    /// `co_exceptiontable` (3.11+).
    pub(crate) fn exceptions(&self, heap: &Heap<'_>) -> Rc<[ExceptionEntry]> {
        let entries = self
            .exceptions
            .get_or_init(|| with_blocks::exception_table(heap, self.address).into());
        Rc::clone(entries)
    }
}

fn strings(heap: &Heap<'_>, objects: &[u64]) -> Result<Vec<String>, ObjectError> {
    heap.memory
        .prefetch(objects.iter().map(|object| (*object, 64)));
    objects
        .iter()
        .take(MAX_VARIABLES)
        .map(|name| heap.string(*name))
        .collect()
}
