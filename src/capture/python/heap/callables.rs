//! Functions and methods: what they are called, and what they are bound to.

use super::{Heap, ObjectError};
use crate::capture::python::offsets::fixed;
use crate::capture::python::with_blocks;
use crate::model::is_library_file;

/// How many wrappers around a function are looked through.
const MAX_WRAPPERS: u8 = 4;

/// What is to be known of a method's code.
pub(crate) struct Method {
    /// Names of the globals and attributes that it uses.
    pub(crate) names: Vec<String>,
    /// It has a `try` or `with`.
    pub(crate) has_blocks: bool,
}

/// What a function object consists of.
pub(crate) struct FunctionParts {
    pub(crate) code: u64,
    /// The dictionary of its globals.
    pub(crate) globals: u64,
    /// Defaults, keyword defaults and closure; 0 where there are none.
    pub(crate) captured: [u64; 3],
}

impl Heap<'_> {
    /// The bare name of a callable (`__exit__`, `acquire`), where its type is known.
    pub(crate) fn callable_name(&self, callable: u64) -> Option<String> {
        self.name_within(callable, MAX_WRAPPERS).ok().flatten()
    }

    fn name_within(&self, callable: u64, left: u8) -> Result<Option<String>, ObjectError> {
        let Some(left) = left.checked_sub(1) else {
            return Ok(None);
        };
        let pointer = |offset: u64| self.memory.u64(callable.wrapping_add(offset));
        Ok(match &*self.type_name(callable)? {
            "builtin_function_or_method" => {
                let definition = pointer(fixed::C_FUNCTION_DEFINITION)?;
                let name = self.memory.u64(definition)?;
                let bytes = self.memory.c_string(name, 256)?;
                Some(String::from_utf8_lossy(&bytes).into_owned())
            }
            "method" => self.name_within(pointer(fixed::METHOD_FUNCTION)?, left)?,
            "function" => {
                let name = self.string(pointer(self.offsets.function_qualname)?)?;
                name.rsplit('.').next().map(str::to_owned)
            }
            "method_descriptor" | "wrapper_descriptor" => {
                Some(self.string(pointer(fixed::DESCRIPTOR_NAME)?)?)
            }
            "method-wrapper" => self.name_within(pointer(fixed::WRAPPER_DESCRIPTOR)?, left)?,
            _ => None,
        })
    }

    /// A method of an object's class, if it is made in Python.
    pub(crate) fn method(&self, object: u64, method: &str) -> Option<Method> {
        let function = self.method_function(object, method)?;
        let (code, names) = self.code_names(function)?;
        Some(Method {
            names,
            has_blocks: with_blocks::has_any(self, code),
        })
    }

    /// The function that a method of an object's class is.
    pub(crate) fn method_function(&self, object: u64, method: &str) -> Option<u64> {
        let kind = self.type_of(object).ok()?;
        let function = self.bases(kind).ok()?.into_iter().find_map(|base| {
            let dict = self.memory.u64(base.wrapping_add(fixed::TYPE_DICT)).ok()?;
            self.dict_get(dict, method).ok().flatten()
        })?;
        self.is(function, "function").then_some(function)
    }

    /// The code of a function, and the names of globals and attributes in it.
    pub(crate) fn code_names(&self, function: u64) -> Option<(u64, Vec<String>)> {
        let pointer = |object: u64, offset: u64| self.memory.u64(object.wrapping_add(offset)).ok();
        let code = pointer(function, self.offsets.function_code)?;
        let names = self.tuple(pointer(code, self.offsets.code_names)?).ok()?;
        let names = names.into_iter().map(|name| self.string(name).ok());
        Some((code, names.collect::<Option<Vec<String>>>()?))
    }

    /// The parts of a function.
    pub(crate) fn function_parts(&self, function: u64) -> Result<FunctionParts, ObjectError> {
        /// Offsets of globals, defaults, keyword defaults and closure: in 3.9, and since 3.10.
        const OLD_FIELDS: [u64; 4] = [24, 32, 40, 48];
        const FIELDS: [u64; 4] = [16, 56, 64, 72];
        let old = self.offsets.function_code < FIELDS[0] + 8;
        let [globals, rest @ ..] = if old { OLD_FIELDS } else { FIELDS };
        let pointer = |offset: u64| self.memory.u64(function.wrapping_add(offset));
        let mut captured = [0; 3];
        for (part, field) in captured.iter_mut().zip(rest) {
            *part = pointer(field)?;
        }
        Ok(FunctionParts {
            code: pointer(self.offsets.function_code)?,
            globals: pointer(globals)?,
            captured,
        })
    }

    /// Whether a callable is a function or method whose code is not the standard library's or an installed package's.
    pub(crate) fn is_of_program(&self, callable: u64) -> bool {
        self.file_of(callable)
            .is_some_and(|file| !is_library_file(&file))
    }

    /// The file of a function's or method's code.
    pub(crate) fn file_of(&self, callable: u64) -> Option<String> {
        self.code_file(callable, MAX_WRAPPERS).ok()?
    }

    fn code_file(&self, callable: u64, left: u8) -> Result<Option<String>, ObjectError> {
        let Some(left) = left.checked_sub(1) else {
            return Ok(None);
        };
        let pointer = |object: u64, offset: u64| self.memory.u64(object.wrapping_add(offset));
        match &*self.type_name(callable)? {
            "function" => {
                let code = pointer(callable, self.offsets.function_code)?;
                self.string(pointer(code, self.offsets.code_filename)?)
                    .map(Some)
            }
            "method" => self.code_file(pointer(callable, fixed::METHOD_FUNCTION)?, left),
            "functools.partial" => {
                self.code_file(pointer(callable, fixed::PARTIAL_FUNCTION)?, left)
            }
            _ => Ok(None),
        }
    }

    /// The object that a method is bound to.
    pub(crate) fn bound_object(&self, callable: u64) -> Option<u64> {
        let kind = self.type_name(callable).ok()?;
        let offset = match &*kind {
            "builtin_function_or_method" => fixed::C_FUNCTION_SELF,
            "method" => fixed::METHOD_SELF,
            "method-wrapper" => fixed::WRAPPER_SELF,
            _ => return None,
        };
        let object = self.memory.u64(callable.wrapping_add(offset)).ok()?;
        (object != 0).then_some(object)
    }
}
