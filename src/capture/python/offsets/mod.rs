//! Where the fields are: one table per CPython minor version (x86_64 and aarch64 agree: both are LP64),
//! taken from the versions' own internal headers, and corrected by `_Py_DebugOffsets` (3.13+) where the
//! target carries it. Nothing here is trusted before [`super::runtime`] has checked it on the process.

mod debug_table;
pub(crate) mod fixed;
mod versions;

pub(crate) use debug_table::{corrected, table_length};
pub(crate) use versions::{NEWEST_MINOR, OLDEST_MINOR, for_minor};

/// Field offsets in bytes, each with the C field that it is of. `None`: the version has no such field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Offsets {
    /// The `14` of 3.14.
    pub(crate) minor: u8,
    // _PyRuntimeState
    /// `_PyRuntimeState.interpreters.head` (`pycore_runtime.h`).
    pub(crate) runtime_interpreters_head: u64,
    /// `_PyRuntimeState._finalizing`: the thread state that ends the runtime.
    pub(crate) runtime_finalizing: u64,
    /// The runtime-wide GIL (up to 3.11).
    pub(crate) runtime_gil: Option<u64>,
    /// `gilstate.tstate_current` (up to 3.11): the thread state that holds the GIL. `last_holder` is not kept up to date
    /// by a switch between interpreters.
    pub(crate) runtime_current: Option<u64>,
    /// `sizeof(_PyRuntimeState)`, to tell the runtime's own locks; builds differ in the last bytes.
    pub(crate) runtime_size: u64,
    /// `sizeof(PyInterpreterState)`, likewise.
    pub(crate) interpreter_size: u64,
    /// `_PyRuntimeState.signals` (3.12+).
    pub(crate) runtime_signals: Option<SignalOffsets>,
    // PyInterpreterState
    /// `PyInterpreterState.id` (`pycore_interp.h`).
    pub(crate) interpreter_id: u64,
    /// `PyInterpreterState.next`.
    pub(crate) interpreter_next: u64,
    /// `PyInterpreterState.threads.head`; `tstate_head` up to 3.10.
    pub(crate) interpreter_threads_head: u64,
    /// `PyInterpreterState.finalizing`.
    pub(crate) interpreter_finalizing: u64,
    /// `_finalizing`, set once thread shutdown and atexit are over.
    pub(crate) interpreter_torn_down_by: Option<u64>,
    /// `PyInterpreterState.imports.modules`, that is `sys.modules`; `modules` up to 3.11.
    pub(crate) interpreter_modules: u64,
    /// `PyInterpreterState.ceval.gil` (3.12+).
    pub(crate) interpreter_gil: Option<u64>,
    /// `PyInterpreterState.ceval.own_gil` (3.12+).
    pub(crate) interpreter_own_gil: Option<u64>,
    /// `PyInterpreterState._whence` (3.13+).
    pub(crate) interpreter_whence: Option<u64>,
    /// `PyInterpreterState.threads.main` (3.13+).
    pub(crate) interpreter_threads_main: Option<u64>,
    // PyThreadState
    /// `PyThreadState.next` (`cpython/pystate.h`).
    pub(crate) thread_next: u64,
    /// `PyThreadState.interp`.
    pub(crate) thread_interpreter: u64,
    /// `PyThreadState.thread_id`, a `pthread_t`.
    pub(crate) thread_ident: u64,
    /// `native_thread_id` (3.11+).
    pub(crate) thread_native_id: Option<u64>,
    /// `PyThreadState.id`.
    pub(crate) thread_id: u64,
    /// `PyThreadState._status` (3.12+).
    pub(crate) thread_status: Option<u64>,
    /// `PyThreadState.state` (3.13+).
    pub(crate) thread_state: Option<u64>,
    /// `PyThreadState._whence` (3.13+).
    pub(crate) thread_whence: Option<u64>,
    /// `PyThreadState.holds_gil` (3.14+).
    pub(crate) thread_holds_gil: Option<u64>,
    /// The innermost frame.
    pub(crate) thread_frame: FrameRoot,
    /// `cframe` (3.10 to 3.12): on the C stack of the thread that runs it, or within the thread state.
    pub(crate) thread_cframe: Option<u64>,
    // _PyInterpreterFrame (3.11+), PyFrameObject (before)
    /// `_PyInterpreterFrame.previous` (`pycore_frame.h`, 3.14+ `pycore_interpframe.h`); `f_back` before.
    pub(crate) frame_previous: u64,
    /// `f_executable` (3.13+), `f_code` before.
    pub(crate) frame_code: u64,
    /// `f_globals`.
    pub(crate) frame_globals: u64,
    /// `instr_ptr` (3.13+), `prev_instr` (3.11, 3.12), `f_lasti` before.
    pub(crate) frame_instruction: u64,
    /// What is there.
    pub(crate) instruction: InstructionLayout,
    /// Who owns the frame (3.11+).
    pub(crate) frame_owner: Option<u64>,
    /// `localsplus`; `f_localsplus` up to 3.10.
    pub(crate) frame_locals: u64,
    /// How deep the evaluation stack is.
    pub(crate) stack_depth: StackDepth,
    /// Values of `owner` from here on are not Python frames.
    pub(crate) frame_first_foreign_owner: u8,
    /// References in frames are tagged in these bits (3.14+).
    pub(crate) frame_tag_mask: u64,
    /// How the blocks are found that a frame is in.
    pub(crate) with_blocks: WithBlocks,
    // PyCodeObject
    /// `PyCodeObject.co_name` (`cpython/code.h`).
    pub(crate) code_name: u64,
    /// `co_filename`.
    pub(crate) code_filename: u64,
    /// `co_flags`, where frames do not tell who owns them (before 3.11).
    pub(crate) code_flags: Option<u64>,
    /// `co_qualname` (3.11+).
    pub(crate) code_qualname: Option<u64>,
    /// `co_linetable`; `co_lnotab` in 3.9.
    pub(crate) code_linetable: u64,
    /// Its format.
    pub(crate) line_table: LineTable,
    /// `co_firstlineno`.
    pub(crate) code_first_line: u64,
    /// `co_code_adaptive` (3.11+); `co_code`, a `bytes`, before.
    pub(crate) code_instructions: u64,
    /// `co_stacksize`.
    pub(crate) code_stack_size: u64,
    /// `co_names`: the globals and attributes that it uses.
    pub(crate) code_names: u64,
    /// Names of its variables.
    pub(crate) code_variables: Variables,
    // PyFunctionObject
    /// `PyFunctionObject.func_code` (`cpython/funcobject.h`).
    pub(crate) function_code: u64,
    /// `PyFunctionObject.func_qualname`.
    pub(crate) function_qualname: u64,
    // PyGenObject, which coroutines and asynchronous generators share
    /// Its frame (`cpython/genobject.h`).
    pub(crate) generator: GeneratorLayout,
    /// First item of a tuple.
    pub(crate) tuple_items: u64,
    // Objects
    /// `sizeof(PyASCIIObject)` (`cpython/unicodeobject.h`).
    pub(crate) unicode_ascii_size: u64,
    /// `sizeof(PyCompactUnicodeObject)`.
    pub(crate) unicode_compact_size: u64,
    /// `PyHeapTypeObject.ht_cached_keys` (`cpython/object.h`).
    pub(crate) heap_type_cached_keys: u64,
    /// `PyDictKeysObject` (`pycore_dict.h`; `dict-common.h` up to 3.10).
    pub(crate) dict_keys: DictKeysLayout,
    /// Instance attributes.
    pub(crate) attributes: AttributeLayout,
    /// First element in `PyDictValues`.
    pub(crate) dict_values_first: u64,
    /// `PyLongObject` (`cpython/longintrepr.h`).
    pub(crate) int_layout: IntLayout,
    /// Offset of `PyMutex` in `_thread.lock` (3.14+); earlier locks hold a pointer to a semaphore.
    pub(crate) locks: LockLayout,
}

/// Where a thread state's innermost frame is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FrameRoot {
    /// `frame` (up to 3.10) or `current_frame` (3.13+) of the thread state.
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

/// How a frame tells its current instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum InstructionLayout {
    /// `f_lasti`, in units of this many bytes (up to 3.10).
    Index(i64),
    /// A pointer into the code object (3.11+).
    Pointer,
}

/// How a frame tells how deep its evaluation stack is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StackDepth {
    /// `f_stacktop`, a pointer, null while the frame executes (3.9).
    Top(u64),
    /// `f_stackdepth`, a count, -1 while the frame executes (3.10).
    Count(u64),
    /// `stacktop`, a count with the variables, -1 while the frame executes (3.11 to 3.13).
    CountWithVariables(u64),
    /// `stackpointer`, a pointer, valid during calls too (3.14+).
    Pointer(u64),
}

/// How the blocks are found that a frame is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WithBlocks {
    /// A stack of blocks in the frame (up to 3.10).
    BlockStack {
        /// `f_iblock`, the number of blocks.
        count: u64,
        /// `f_blockstack`.
        blocks: u64,
        /// `f_valuestack`, a pointer.
        values: u64,
    },
    /// `co_exceptiontable` (3.11+).
    ExceptionTable {
        table: u64,
        /// `PUSH_EXC_INFO` of `opcode.h`.
        push_exc_info: u8,
        /// `WITH_EXCEPT_START` of `opcode.h`.
        with_except_start: u8,
        /// `__exit__` and its object take a slot each (3.14+).
        two_slots: bool,
    },
}

/// The format of a code object's table of lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LineTable {
    /// `co_lnotab` (3.9).
    Lnotab,
    /// `co_linetable` of PEP 626 (3.10).
    Ranges,
    /// `co_linetable`, the location table (3.11+).
    Locations,
}

/// Where a code object has the names of its variables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Variables {
    /// `co_varnames`, `co_cellvars`, `co_freevars` (up to 3.10).
    Three(u64, u64, u64),
    /// `co_localsplusnames` and `co_nlocalsplus` (3.11+).
    One { names: u64, count: u64 },
}

/// How a generator keeps its frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GeneratorLayout {
    /// `gi_frame`, a pointer (up to 3.10).
    Pointer(u64),
    /// `gi_iframe`, the frame itself, and `gi_frame_state` (3.11+).
    Embedded {
        frame: u64,
        state: u64,
        /// Values of `gi_frame_state` that mean suspended: from the first to the second.
        suspended: (i8, i8),
        /// The value that means that it executes.
        executing: i8,
    },
}

/// The layout of `PyDictKeysObject`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DictKeysLayout {
    /// `dk_size` and a function for look-ups (up to 3.10).
    Sized,
    /// Logarithms of sizes, and a kind (3.11+).
    Logarithmic,
}

/// How instance attributes are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AttributeLayout {
    /// Up to 3.10: a dict at `tp_dictoffset`.
    DictOffset,
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
    /// Signed digit count at 16 (up to 3.11).
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
