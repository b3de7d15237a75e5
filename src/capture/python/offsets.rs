//! Where the fields are: one table per CPython minor version (x86_64 and aarch64 agree: both are LP64),
//! taken from the versions' own internal headers, and corrected by `_Py_DebugOffsets` (3.13+) where the
//! target carries it. Nothing here is trusted before [`super::runtime`] has checked it on the process.

/// Field offsets in bytes. `None`: the version has no such field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Offsets {
    pub(crate) minor: u8,
    // _PyRuntimeState
    pub(crate) runtime_interpreters_head: u64,
    pub(crate) runtime_finalizing: u64,
    /// The runtime-wide GIL of 3.11.
    pub(crate) runtime_gil: Option<u64>,
    pub(crate) runtime_signals: Option<SignalOffsets>,
    // PyInterpreterState
    pub(crate) interpreter_id: u64,
    pub(crate) interpreter_next: u64,
    pub(crate) interpreter_threads_head: u64,
    pub(crate) interpreter_finalizing: u64,
    /// `_finalizing`, set once thread shutdown and atexit are over.
    pub(crate) interpreter_torn_down_by: Option<u64>,
    pub(crate) interpreter_modules: u64,
    pub(crate) interpreter_gil: Option<u64>,
    pub(crate) interpreter_own_gil: Option<u64>,
    pub(crate) interpreter_whence: Option<u64>,
    pub(crate) interpreter_threads_main: Option<u64>,
    // PyThreadState
    pub(crate) thread_next: u64,
    pub(crate) thread_interpreter: u64,
    pub(crate) thread_ident: u64,
    pub(crate) thread_native_id: u64,
    pub(crate) thread_id: u64,
    pub(crate) thread_status: Option<u64>,
    pub(crate) thread_state: Option<u64>,
    pub(crate) thread_whence: Option<u64>,
    pub(crate) thread_holds_gil: Option<u64>,
    pub(crate) thread_frame: FrameRoot,
    // _PyInterpreterFrame
    pub(crate) frame_previous: u64,
    pub(crate) frame_code: u64,
    pub(crate) frame_instruction: u64,
    pub(crate) frame_owner: u64,
    pub(crate) frame_locals: u64,
    /// Values of `owner` from here on are not Python frames.
    pub(crate) frame_first_foreign_owner: u8,
    /// References in frames are tagged in these bits (3.14+).
    pub(crate) frame_tag_mask: u64,
    // PyCodeObject
    pub(crate) code_filename: u64,
    pub(crate) code_qualname: u64,
    pub(crate) code_linetable: u64,
    pub(crate) code_first_line: u64,
    pub(crate) code_instructions: u64,
    pub(crate) code_local_names: u64,
    pub(crate) code_local_count: u64,
    /// First item of a tuple.
    pub(crate) tuple_items: u64,
    // Objects
    pub(crate) unicode_ascii_size: u64,
    pub(crate) unicode_compact_size: u64,
    pub(crate) heap_type_cached_keys: u64,
    pub(crate) attributes: AttributeLayout,
    /// First element in `PyDictValues`.
    pub(crate) dict_values_first: u64,
    pub(crate) int_layout: IntLayout,
    /// Offset of `PyMutex` in `_thread.lock` (3.14+); earlier locks hold a pointer to a semaphore.
    pub(crate) locks: LockLayout,
}

/// Where a thread state's innermost frame is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FrameRoot {
    /// `current_frame` of the thread state (3.13+).
    Direct(u64),
    /// `cframe->current_frame` (3.11, 3.12): offset of `cframe`, then within it.
    ThroughCFrame(u64, u64),
}

/// `_PyRuntime.signals` (3.12+).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SignalOffsets {
    /// `handlers[0].tripped`; handlers are 16 bytes apart.
    pub(crate) first_tripped: u64,
    pub(crate) wakeup_fd: u64,
}

/// How instance attributes are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AttributeLayout {
    /// 3.11: values at -32, dict at -24.
    TwoPointers,
    /// 3.12: one pointer at -24, its lowest bit set for values.
    TaggedPointer,
    /// 3.13+: dict pointer at -24, else values inline behind the object.
    Inline,
}

/// How integers are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IntLayout {
    /// Signed digit count at 16 (3.11).
    Size,
    /// `lv_tag` at 16 (3.12+).
    Tag,
}

/// What a lock object holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LockLayout {
    /// `sem_t*` at 16.
    Semaphore,
    /// `PyMutex` at 16; RLock: owner at 24.
    Mutex,
}

/// Versions with a table.
pub(crate) const OLDEST_MINOR: u8 = 11;
/// Versions with a table.
pub(crate) const NEWEST_MINOR: u8 = 15;

/// The table of `3.minor`.
pub(crate) fn for_minor(minor: u8) -> Option<Offsets> {
    match minor {
        11 => Some(v3_11()),
        12 => Some(v3_12()),
        13 => Some(v3_13()),
        14 => Some(v3_14()),
        15 => Some(v3_15()),
        _ => None,
    }
}

/// CPython 3.11: `pycore_runtime.h`, `pycore_interp.h`, `cpython/pystate.h`, `pycore_frame.h`.
fn v3_11() -> Offsets {
    Offsets {
        minor: 11,
        runtime_interpreters_head: 40,
        runtime_finalizing: 24,
        runtime_gil: Some(360),
        runtime_signals: None,
        interpreter_id: 48,
        interpreter_next: 0,
        interpreter_threads_head: 16,
        interpreter_finalizing: 84,
        interpreter_torn_down_by: None,
        interpreter_modules: 888,
        interpreter_gil: None,
        interpreter_own_gil: None,
        interpreter_whence: None,
        interpreter_threads_main: None,
        thread_next: 8,
        thread_interpreter: 16,
        thread_ident: 152,
        thread_native_id: 160,
        thread_id: 240,
        thread_status: None,
        thread_state: None,
        thread_whence: None,
        thread_holds_gil: None,
        thread_frame: FrameRoot::ThroughCFrame(56, 8),
        frame_previous: 48,
        frame_code: 32,
        frame_instruction: 56,
        frame_owner: 69,
        frame_locals: 72,
        frame_first_foreign_owner: 3,
        frame_tag_mask: 0,
        code_filename: 112,
        code_qualname: 128,
        code_linetable: 136,
        code_first_line: 72,
        code_instructions: 184,
        code_local_names: 96,
        code_local_count: 76,
        tuple_items: 24,
        unicode_ascii_size: 48,
        unicode_compact_size: 72,
        heap_type_cached_keys: 872,
        attributes: AttributeLayout::TwoPointers,
        dict_values_first: 0,
        int_layout: IntLayout::Size,
        locks: LockLayout::Semaphore,
    }
}

/// CPython 3.12: the GIL moves into the interpreter, integers get a tag word.
fn v3_12() -> Offsets {
    Offsets {
        minor: 12,
        runtime_gil: None,
        runtime_signals: Some(SignalOffsets {
            first_tripped: 464,
            wakeup_fd: 1504,
        }),
        interpreter_id: 8,
        interpreter_threads_head: 72,
        interpreter_finalizing: 44,
        interpreter_torn_down_by: Some(104),
        interpreter_modules: 944,
        interpreter_gil: Some(384),
        interpreter_own_gil: Some(392),
        thread_ident: 136,
        thread_native_id: 144,
        thread_id: 224,
        thread_status: Some(24),
        thread_frame: FrameRoot::ThroughCFrame(56, 0),
        frame_previous: 8,
        frame_code: 0,
        frame_owner: 70,
        code_first_line: 68,
        code_instructions: 192,
        code_local_count: 72,
        unicode_ascii_size: 40,
        unicode_compact_size: 56,
        heap_type_cached_keys: 880,
        attributes: AttributeLayout::TaggedPointer,
        int_layout: IntLayout::Tag,
        ..v3_11()
    }
}

/// CPython 3.13: thread states say where they come from, attributes lie inline.
fn v3_13() -> Offsets {
    Offsets {
        minor: 13,
        runtime_interpreters_head: 632,
        runtime_finalizing: 608,
        runtime_signals: Some(SignalOffsets {
            first_tripped: 1080,
            wakeup_fd: 2120,
        }),
        interpreter_id: 7272,
        interpreter_next: 7264,
        interpreter_threads_head: 7344,
        interpreter_finalizing: 7320,
        interpreter_torn_down_by: Some(7384),
        interpreter_modules: 7656,
        interpreter_gil: Some(16),
        interpreter_own_gil: Some(24),
        interpreter_whence: Some(7304),
        interpreter_threads_main: Some(7352),
        thread_ident: 152,
        thread_native_id: 160,
        thread_id: 224,
        thread_status: Some(32),
        thread_state: Some(40),
        thread_whence: Some(36),
        thread_frame: FrameRoot::Direct(72),
        code_instructions: 200,
        attributes: AttributeLayout::Inline,
        dict_values_first: 8,
        ..v3_12()
    }
}

/// CPython 3.14: tagged references in frames, locks are `PyMutex`.
fn v3_14() -> Offsets {
    Offsets {
        minor: 14,
        runtime_interpreters_head: 808,
        runtime_finalizing: 784,
        runtime_signals: Some(SignalOffsets {
            first_tripped: 1256,
            wakeup_fd: 2296,
        }),
        interpreter_id: 7280,
        interpreter_next: 7272,
        interpreter_torn_down_by: Some(7392),
        interpreter_modules: 7688,
        interpreter_threads_main: Some(7360),
        thread_id: 224,
        thread_state: Some(44),
        thread_whence: Some(40),
        thread_holds_gil: Some(36),
        frame_owner: 74,
        frame_locals: 80,
        frame_tag_mask: 3,
        code_instructions: 208,
        tuple_items: 32,
        locks: LockLayout::Mutex,
        ..v3_13()
    }
}

/// CPython 3.15.
fn v3_15() -> Offsets {
    Offsets {
        minor: 15,
        runtime_interpreters_head: 936,
        runtime_finalizing: 912,
        runtime_signals: Some(SignalOffsets {
            first_tripped: 1384,
            wakeup_fd: 2424,
        }),
        interpreter_id: 7272,
        interpreter_next: 7264,
        interpreter_threads_head: 7336,
        interpreter_finalizing: 7312,
        interpreter_torn_down_by: Some(7384),
        interpreter_modules: 7592,
        interpreter_whence: Some(7296),
        interpreter_threads_main: Some(7352),
        thread_ident: 176,
        thread_native_id: 184,
        thread_id: 248,
        thread_state: Some(48),
        thread_whence: Some(44),
        heap_type_cached_keys: 888,
        ..v3_14()
    }
}

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
        thread_native_id: word(shape.native_id)?,
        thread_status: Some(word(shape.status)?),
        thread_holds_gil: match shape.holds_gil {
            Some(index) => Some(word(index)?),
            None => base.thread_holds_gil,
        },
        frame_previous: word(shape.frame + 1)?,
        frame_code: word(shape.frame + 2)?,
        frame_instruction: word(shape.frame + 3)?,
        frame_locals: word(shape.frame + 4)?,
        frame_owner: word(shape.frame + 5)?,
        code_filename: word(shape.code + 1)?,
        code_qualname: word(shape.code + 3)?,
        code_linetable: word(shape.code + 4)?,
        code_first_line: word(shape.code + 5)?,
        code_instructions: word(shape.code + 9)?,
        ..base.clone()
    })
}

/// Fields whose place has not changed in any version with a table (`object.h`, `dictobject.h`, `pycore_gil.h`).
pub(crate) mod fixed {
    /// `PyObject.ob_type`.
    pub(crate) const TYPE: u64 = 8;
    /// `PyVarObject.ob_size`, and the first field of most objects.
    pub(crate) const SIZE: u64 = 16;
    /// `PyTypeObject.tp_name`.
    pub(crate) const TYPE_NAME: u64 = 24;
    /// `PyTypeObject.tp_basicsize`.
    pub(crate) const TYPE_BASIC_SIZE: u64 = 32;
    /// `PyTypeObject.tp_flags`.
    pub(crate) const TYPE_FLAGS: u64 = 168;
    /// `Py_TPFLAGS_INLINE_VALUES`.
    pub(crate) const FLAG_INLINE_VALUES: u64 = 1 << 2;
    /// `Py_TPFLAGS_MANAGED_DICT`.
    pub(crate) const FLAG_MANAGED_DICT: u64 = 1 << 4;
    /// `PyBytesObject.ob_sval`.
    pub(crate) const BYTES_DATA: u64 = 32;
    /// `PyASCIIObject.state`.
    pub(crate) const UNICODE_STATE: u64 = 32;
    /// `PyDictObject.ma_keys`.
    pub(crate) const DICT_KEYS: u64 = 32;
    /// `PyDictObject.ma_values`.
    pub(crate) const DICT_VALUES: u64 = 40;
    /// `PyDictKeysObject.dk_log2_index_bytes`.
    pub(crate) const KEYS_LOG2_INDEX_BYTES: u64 = 9;
    /// `PyDictKeysObject.dk_kind`.
    pub(crate) const KEYS_KIND: u64 = 10;
    /// `PyDictKeysObject.dk_nentries`.
    pub(crate) const KEYS_COUNT: u64 = 24;
    /// `PyDictKeysObject.dk_indices`.
    pub(crate) const KEYS_INDICES: u64 = 32;
    /// `PyModuleObject.md_dict`.
    pub(crate) const MODULE_DICT: u64 = 16;
    /// `PyCellObject.ob_ref`.
    pub(crate) const CELL_VALUE: u64 = 16;
    /// First digit of an int.
    pub(crate) const INT_DIGITS: u64 = 24;
    /// `_gil_runtime_state.last_holder`.
    pub(crate) const GIL_HOLDER: u64 = 8;
    /// `_gil_runtime_state.locked`.
    pub(crate) const GIL_LOCKED: u64 = 16;
    /// `_gil_runtime_state.switch_number`.
    pub(crate) const GIL_SWITCHES: u64 = 24;
    /// `_gil_runtime_state.cond`, where waiters sleep; `mutex` and `switch_cond` follow.
    pub(crate) const GIL_WAIT_FIRST: u64 = 32;
    /// End of `_gil_runtime_state`.
    pub(crate) const GIL_END: u64 = 208;
    /// The mutex or semaphore pointer of a `_thread.lock` or `_thread.RLock`.
    pub(crate) const LOCK_BODY: u64 = 16;
    /// `_thread.RLock`'s owner (`pthread_t`).
    pub(crate) const RLOCK_OWNER: u64 = 24;
    /// `ThreadHandle.ident` (3.13+).
    pub(crate) const HANDLE_IDENT: u64 = 32;
    /// `ThreadHandle.thread_is_exiting`, which joiners park on (3.13+).
    pub(crate) const HANDLE_EXITING: u64 = 57;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_minor_between_the_bounds_has_a_table() {
        for minor in OLDEST_MINOR..=NEWEST_MINOR {
            assert_eq!(for_minor(minor).map(|offsets| offsets.minor), Some(minor));
        }
        assert_eq!(for_minor(OLDEST_MINOR - 1), None);
        assert_eq!(for_minor(NEWEST_MINOR + 1), None);
    }

    #[test]
    fn a_table_of_garbage_is_refused() {
        let base = for_minor(14).expect("3.14");
        assert_eq!(corrected(&base, &[0xff; 8 + 8 * 94]), None);
        assert_eq!(corrected(&base, b"xdebugpy"), None);
    }
}
