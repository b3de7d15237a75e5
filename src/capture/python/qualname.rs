//! Qualified names before 3.11, when code objects did not have them: by the function whose code it is, found in the class
//! of the first argument or among the globals of the frame.

use super::code::Code;
use super::heap::{Heap, ObjectError};
use super::offsets::fixed;
use super::slots;

/// The qualified name of `code`, which `frame` runs; `None` where the function is not found, as with nested ones and
/// static methods.
pub(super) fn of(heap: &Heap<'_>, code: &Code, frame: u64) -> Option<String> {
    if code.name.starts_with('<') {
        return None; // a module, a lambda, a comprehension
    }
    by_first_argument(heap, code, frame)
        .ok()
        .flatten()
        .or_else(|| by_globals(heap, code, frame).ok().flatten())
}

fn by_first_argument(
    heap: &Heap<'_>,
    code: &Code,
    frame: u64,
) -> Result<Option<String>, ObjectError> {
    let names = code.variables(heap);
    let Some(first) = names
        .first()
        .and_then(|name| slots::variable_of(heap, code, frame, name))
    else {
        return Ok(None);
    };
    let class = if heap.is(first, "type") {
        first
    } else {
        heap.type_of(first)?
    };
    for base in heap.bases(class)? {
        let dict = heap.memory.u64(base.wrapping_add(fixed::TYPE_DICT))?;
        let found = match heap.dict_get(dict, &code.name)? {
            None if is_private(&code.name) => {
                heap.dict_get(dict, &mangled(heap, base, &code.name)?)?
            }
            found => found,
        };
        if let Some(found) = found
            && let Some(name) = name_of_function(heap, code, found)?
        {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

fn by_globals(heap: &Heap<'_>, code: &Code, frame: u64) -> Result<Option<String>, ObjectError> {
    let globals = heap
        .memory
        .u64(frame.wrapping_add(heap.offsets.frame_globals))?;
    match heap.dict_get(globals, &code.name)? {
        Some(found) => name_of_function(heap, code, found),
        None => Ok(None),
    }
}

/// Whether a method of this name is in its class under another one.
fn is_private(name: &str) -> bool {
    name.starts_with("__") && !name.ends_with("__")
}

/// The name that a private method has in its class.
fn mangled(heap: &Heap<'_>, class: u64, name: &str) -> Result<String, ObjectError> {
    let at = heap.memory.u64(class.wrapping_add(fixed::TYPE_NAME))?;
    let class = heap.memory.c_string(at, 256)?;
    let class = String::from_utf8_lossy(&class);
    Ok(format!("_{}{name}", class.trim_start_matches('_')))
}

/// The name of a function if it has this code; class methods, static methods and properties are looked into.
fn name_of_function(
    heap: &Heap<'_>,
    code: &Code,
    object: u64,
) -> Result<Option<String>, ObjectError> {
    let field = |at: u64| heap.memory.u64(object.wrapping_add(at));
    let functions = if heap.is(object, "classmethod") || heap.is(object, "staticmethod") {
        // `cm_callable` is the first field of either.
        vec![field(fixed::SIZE)?]
    } else if heap.is(object, "property") {
        // `prop_get`, `prop_set`, `prop_del`.
        vec![field(16)?, field(24)?, field(32)?]
    } else {
        vec![object]
    };
    for function in functions {
        let field = |at: u64| heap.memory.u64(function.wrapping_add(at));
        if heap.is(function, "function") && field(heap.offsets.function_code)? == code.address {
            let name = heap.string(field(heap.offsets.function_qualname)?)?;
            // Libraries rename functions to what they are exported as; the code keeps the name that it was written with.
            return Ok((name.rsplit('.').next() == Some(&code.name)).then_some(name));
        }
    }
    Ok(None)
}
