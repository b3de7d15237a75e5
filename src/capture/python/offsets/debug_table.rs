//! `_Py_DebugOffsets` (3.13+): the offsets that a CPython carries itself.

use super::{FrameRoot, Offsets};

/// Positions in `_Py_DebugOffsets`, counted in 8-byte words after the cookie. The shape is fixed per minor.
struct TableShape {
    words: usize,
    threads_main: Option<usize>,
    modules: usize,
    gil: usize,
    frame_root: usize,
    ident: usize,
    native_id: usize,
    status: usize,
    holds_gil: Option<usize>,
    /// `interpreter_frame.size`; previous, executable, instr_ptr, localsplus, owner follow.
    frame: usize,
    /// `code_object.size`; filename, name, qualname, linetable, firstlineno follow.
    code: usize,
}

fn shape(minor: u8) -> Option<TableShape> {
    Some(match minor {
        13 => TableShape {
            words: 72,
            threads_main: None,
            modules: 10,
            gil: 13,
            frame_root: 22,
            ident: 23,
            native_id: 24,
            status: 26,
            holds_gil: None,
            frame: 27,
            code: 33,
        },
        14 => TableShape {
            words: 94,
            threads_main: Some(9),
            modules: 11,
            gil: 14,
            frame_root: 25,
            ident: 26,
            native_id: 27,
            status: 29,
            holds_gil: None,
            frame: 30,
            code: 38,
        },
        15 => TableShape {
            words: 110,
            threads_main: Some(9),
            modules: 11,
            gil: 14,
            frame_root: 25,
            ident: 29,
            native_id: 30,
            status: 32,
            holds_gil: Some(33),
            frame: 38,
            code: 46,
        },
        _ => return None,
    })
}

/// Bytes of the target's `_Py_DebugOffsets` to read for this minor, cookie included.
pub(crate) fn table_length(minor: u8) -> Option<usize> {
    shape(minor).map(|shape| 8 + 8 * shape.words)
}

/// Corrects the table of a minor by the target's own `_Py_DebugOffsets` (its bytes, cookie included).
/// Fields that the target's table does not have keep their distance to a neighbour that it has.
/// Returns `None` when the bytes make no sense.
pub(crate) fn corrected(base: &Offsets, table: &[u8]) -> Option<Offsets> {
    let shape = shape(base.minor)?;
    let word = |index: usize| -> Option<u64> {
        let at = 8 + 8 * index;
        let bytes: [u8; 8] = table.get(at..at + 8)?.try_into().ok()?;
        let value = u64::from_le_bytes(bytes);
        (value < 1 << 20).then_some(value)
    };
    let threads_head = word(8)?;
    let beside = |field: Option<u64>| {
        field?
            .checked_add(threads_head)?
            .checked_sub(base.interpreter_threads_head)
    };
    Some(Offsets {
        runtime_finalizing: word(3)?,
        runtime_interpreters_head: word(4)?,
        interpreter_id: word(6)?,
        interpreter_next: word(7)?,
        interpreter_threads_head: threads_head,
        interpreter_finalizing: beside(Some(base.interpreter_finalizing))?,
        interpreter_torn_down_by: beside(base.interpreter_torn_down_by),
        interpreter_whence: beside(base.interpreter_whence),
        interpreter_threads_main: match shape.threads_main {
            Some(index) => Some(word(index)?),
            None => beside(base.interpreter_threads_main),
        },
        interpreter_modules: word(shape.modules)?,
        interpreter_gil: Some(word(shape.gil)?),
        interpreter_own_gil: Some(word(shape.gil)? + 8),
        thread_frame: FrameRoot::Direct(word(shape.frame_root)?),
        thread_ident: word(shape.ident)?,
        thread_native_id: Some(word(shape.native_id)?),
        thread_status: Some(word(shape.status)?),
        thread_holds_gil: match shape.holds_gil {
            Some(index) => Some(word(index)?),
            None => base.thread_holds_gil,
        },
        frame_previous: word(shape.frame + 1)?,
        frame_code: word(shape.frame + 2)?,
        frame_instruction: word(shape.frame + 3)?,
        frame_locals: word(shape.frame + 4)?,
        frame_owner: Some(word(shape.frame + 5)?),
        code_filename: word(shape.code + 1)?,
        code_name: word(shape.code + 2)?,
        code_qualname: Some(word(shape.code + 3)?),
        code_linetable: word(shape.code + 4)?,
        code_first_line: word(shape.code + 5)?,
        code_instructions: word(shape.code + 9)?,
        ..base.clone()
    })
}
