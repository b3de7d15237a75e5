//! The C function that a thread's innermost Python frame has called and that has not returned: `time.sleep`,
//! `sqlite3.Cursor.execute`, a function of ctypes.

use crate::capture::python::frame::RawFrame;
use crate::capture::python::heap::{Heap, ObjectError};
use crate::capture::python::offsets::{StackDepth, fixed};
use crate::capture::python::slots;
use crate::capture::python::thread_state::RawThreadState;
use crate::model::{Grade, NativeCall};

/// Names of the types of ctypes functions (`ctypes.CDLL._FuncPtr`, prototypes of `CFUNCTYPE` and `PYFUNCTYPE`).
const CTYPES_FUNCTIONS: [&str; 3] = ["_FuncPtr", "CFunctionType", "PyCFuncPtr"];

/// The C function that a blocked thread is in. From 3.14 on the callable's place on the evaluation stack is known; before,
/// it is told only if there is just one C function there.
pub(super) fn called(heap: &Heap<'_>, waiter: &RawThreadState) -> Option<NativeCall> {
    let frame = waiter.raw_frames.first()?;
    let (callable, grade) = match heap.offsets.stack_depth {
        StackDepth::Pointer(_) => (at_call(heap, frame)?, Grade::Derived),
        _ => (only_one(heap, frame)?, Grade::Guessed),
    };
    Some(NativeCall {
        function: name(heap, callable)?.into(),
        grade,
    })
}

/// `CALL` has callable, own object or null, and as many arguments as its operand says on top of the stack.
fn at_call(heap: &Heap<'_>, frame: &RawFrame) -> Option<u64> {
    let stack = slots::stack(heap, frame).ok().filter(|stack| stack.exact)?;
    let code = frame
        .code
        .address
        .wrapping_add(heap.offsets.code_instructions);
    let operand = code.wrapping_add_signed(frame.offset).wrapping_add(1);
    let arguments = usize::from(heap.memory.u8(operand).ok()?);
    let place = stack.values.len().checked_sub(arguments + 2)?;
    stack
        .values
        .get(place)
        .copied()
        .filter(|value| is_native(heap, *value))
}

fn only_one(heap: &Heap<'_>, frame: &RawFrame) -> Option<u64> {
    let stack = slots::stack(heap, frame).ok()?;
    let mut found = stack
        .values
        .into_iter()
        .filter(|value| *value != 0 && is_native(heap, *value));
    let first = found.next()?;
    found.all(|other| other == first).then_some(first)
}

fn is_native(heap: &Heap<'_>, callable: u64) -> bool {
    heap.type_name(callable).is_ok_and(|kind| {
        matches!(&*kind, "builtin_function_or_method" | "method_descriptor")
            || CTYPES_FUNCTIONS.contains(&&*kind)
    })
}

/// The function's name with its module or class.
fn name(heap: &Heap<'_>, callable: u64) -> Option<String> {
    let kind = heap.type_name(callable).ok()?;
    if CTYPES_FUNCTIONS.contains(&&*kind) {
        let name = heap.attribute(callable, "__name__").ok().flatten();
        return Some(match name.and_then(|name| heap.string(name).ok()) {
            Some(name) => format!("{name} (ctypes)"),
            None => "a function of ctypes".to_owned(),
        });
    }
    let bare = heap.callable_name(callable)?;
    let owner = owner(heap, callable, &kind).ok().flatten();
    Some(owner.map_or(bare.clone(), |owner| format!("{owner}.{bare}")))
}

fn owner(heap: &Heap<'_>, callable: u64, kind: &str) -> Result<Option<String>, ObjectError> {
    let pointer = |offset: u64| heap.memory.u64(callable.wrapping_add(offset));
    if kind == "method_descriptor" {
        let class = pointer(fixed::DESCRIPTOR_CLASS)?;
        let name = heap.memory.u64(class.wrapping_add(fixed::TYPE_NAME))?;
        let name = heap.memory.c_string(name, 256)?;
        return Ok(Some(String::from_utf8_lossy(&name).into_owned()));
    }
    let object = pointer(fixed::C_FUNCTION_SELF)?;
    if object == 0 || heap.is(object, "module") {
        let module = pointer(fixed::C_FUNCTION_MODULE)?;
        return match module {
            0 => Ok(None),
            module => Ok(Some(heap.string(module)?)),
        };
    }
    Ok(Some(heap.full_type_name(object)?))
}
