//! Qualified names before 3.11, when code objects did not have them: by the function whose code it is, found in the class
//! of the first argument or among the globals of the frame.

use super::code::Code;
use super::heap::{Heap, ObjectError};
use super::offsets::fixed;

/// The qualified name of `code`, which `frame` runs; `None` where the function is not found, as with nested ones.
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
    let slot = frame.wrapping_add(heap.offsets.frame_locals);
    let first = heap.memory.u64(slot)?;
    if first == 0 {
        return Ok(None);
    }
    let class = if heap.is(first, "type") {
        first
    } else {
        heap.type_of(first)?
    };
    for base in heap.bases(class)? {
        let dict = heap.memory.u64(base.wrapping_add(fixed::TYPE_DICT))?;
        if let Some(found) = heap.dict_get(dict, &code.name)?
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

/// The name of a function if it has this code; class and static methods are looked into.
fn name_of_function(
    heap: &Heap<'_>,
    code: &Code,
    object: u64,
) -> Result<Option<String>, ObjectError> {
    let function = if heap.is(object, "classmethod") || heap.is(object, "staticmethod") {
        // `cm_callable` is the first field of either.
        heap.memory.u64(object.wrapping_add(fixed::SIZE))?
    } else {
        object
    };
    if !heap.is(function, "function") {
        return Ok(None);
    }
    let field = |offset: u64| heap.memory.u64(function.wrapping_add(offset));
    if field(heap.offsets.function_code)? != code.address {
        return Ok(None);
    }
    let name = heap.string(field(heap.offsets.function_qualname)?)?;
    // Libraries rename functions to what they are exported as; the code keeps the name that it was written with.
    Ok((name.rsplit('.').next() == Some(&code.name)).then_some(name))
}
