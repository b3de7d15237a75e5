//! One table a minor version, each told by what it changed.

use super::{
    AttributeLayout, DictKeysLayout, FrameRoot, GeneratorLayout, InstructionLayout, IntLayout,
    LineTable, LockLayout, Offsets, SignalOffsets, StackDepth, Variables, WithBlocks,
};

/// Versions with a table.
pub(crate) const OLDEST_MINOR: u8 = 9;
/// Versions with a table.
pub(crate) const NEWEST_MINOR: u8 = 15;

/// The table of `3.minor`.
pub(crate) fn for_minor(minor: u8) -> Option<Offsets> {
    match minor {
        9 => Some(v3_9()),
        10 => Some(v3_10()),
        11 => Some(v3_11()),
        12 => Some(v3_12()),
        13 => Some(v3_13()),
        14 => Some(v3_14()),
        15 => Some(v3_15()),
        _ => None,
    }
}

fn exception_table(push_exc_info: u8, with_except_start: u8, two_slots: bool) -> WithBlocks {
    WithBlocks::ExceptionTable {
        table: 40,
        push_exc_info,
        with_except_start,
        two_slots,
    }
}

/// CPython 3.9: `internal/pycore_runtime.h`, `internal/pycore_interp.h`, `cpython/pystate.h`, `cpython/frameobject.h`,
/// `cpython/code.h`; frames are objects.
fn v3_9() -> Offsets {
    Offsets {
        minor: 9,
        runtime_size: 656,
        interpreter_size: 5656,
        thread_cframe: None,
        frame_instruction: 104,
        instruction: InstructionLayout::Index(1),
        frame_locals: 360,
        stack_depth: StackDepth::Top(72),
        with_blocks: WithBlocks::BlockStack {
            count: 112,
            blocks: 120,
            values: 64,
        },
        line_table: LineTable::Lnotab,
        function_code: 16,
        function_qualname: 104,
        heap_type_cached_keys: 864,
        ..v3_10()
    }
}

/// CPython 3.10: the line table is that of PEP 626, and the stack's depth a number.
fn v3_10() -> Offsets {
    Offsets {
        minor: 10,
        runtime_size: 672,
        interpreter_size: 113528,
        thread_cframe: Some(48),
        runtime_interpreters_head: 32,
        runtime_finalizing: 16,
        runtime_gil: Some(352),
        runtime_current: Some(568),
        interpreter_id: 24,
        interpreter_threads_head: 8,
        interpreter_finalizing: 56,
        interpreter_modules: 856,
        thread_ident: 176,
        thread_native_id: None,
        thread_id: 256,
        thread_frame: FrameRoot::Direct(24),
        frame_previous: 24,
        frame_code: 32,
        frame_globals: 48,
        frame_instruction: 96,
        instruction: InstructionLayout::Index(2),
        frame_owner: None,
        frame_locals: 352,
        stack_depth: StackDepth::Count(80),
        with_blocks: WithBlocks::BlockStack {
            count: 104,
            blocks: 112,
            values: 64,
        },
        code_name: 112,
        code_filename: 104,
        code_flags: Some(36),
        code_qualname: None,
        code_linetable: 120,
        line_table: LineTable::Ranges,
        code_first_line: 40,
        code_instructions: 48,
        code_stack_size: 32,
        code_names: 64,
        code_variables: Variables::Three(72, 88, 80),
        generator: GeneratorLayout::Pointer(16),
        dict_keys: DictKeysLayout::Sized,
        attributes: AttributeLayout::DictOffset,
        ..v3_11()
    }
}

/// CPython 3.11: `pycore_runtime.h`, `pycore_interp.h`, `cpython/pystate.h`, `pycore_frame.h`.
fn v3_11() -> Offsets {
    Offsets {
        minor: 11,
        runtime_size: 166688,
        interpreter_size: 107752,
        runtime_interpreters_head: 40,
        runtime_finalizing: 24,
        runtime_gil: Some(360),
        runtime_current: Some(576),
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
        thread_native_id: Some(160),
        thread_id: 240,
        thread_status: None,
        thread_state: None,
        thread_whence: None,
        thread_holds_gil: None,
        thread_frame: FrameRoot::ThroughCFrame(56, 8),
        thread_cframe: Some(56),
        frame_previous: 48,
        frame_code: 32,
        frame_globals: 8,
        frame_instruction: 56,
        instruction: InstructionLayout::Pointer,
        frame_owner: Some(69),
        frame_locals: 72,
        stack_depth: StackDepth::CountWithVariables(64),
        frame_first_foreign_owner: 3,
        frame_tag_mask: 0,
        with_blocks: exception_table(35, 49, false),
        code_name: 120,
        code_filename: 112,
        code_flags: None,
        code_qualname: Some(128),
        code_linetable: 136,
        line_table: LineTable::Locations,
        code_first_line: 72,
        code_instructions: 184,
        code_stack_size: 68,
        code_names: 32,
        code_variables: Variables::One {
            names: 96,
            count: 76,
        },
        function_code: 48,
        function_qualname: 40,
        generator: GeneratorLayout::Embedded {
            frame: 80,
            state: 75,
            suspended: (-1, -1),
            executing: 0,
        },
        tuple_items: 24,
        unicode_ascii_size: 48,
        unicode_compact_size: 72,
        heap_type_cached_keys: 872,
        dict_keys: DictKeysLayout::Logarithmic,
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
        runtime_size: 459944,
        interpreter_size: 383552,
        runtime_gil: None,
        runtime_current: None,
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
        thread_native_id: Some(144),
        thread_id: 224,
        thread_status: Some(24),
        thread_frame: FrameRoot::ThroughCFrame(56, 0),
        frame_previous: 8,
        frame_code: 0,
        frame_globals: 24,
        frame_owner: Some(70),
        code_first_line: 68,
        code_instructions: 192,
        code_stack_size: 64,
        code_variables: Variables::One {
            names: 96,
            count: 72,
        },
        generator: GeneratorLayout::Embedded {
            frame: 72,
            state: 67,
            suspended: (-1, -1),
            executing: 0,
        },
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
        runtime_size: 283320,
        interpreter_size: 194968,
        thread_cframe: None,
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
        thread_native_id: Some(160),
        thread_id: 224,
        thread_status: Some(32),
        thread_state: Some(40),
        thread_whence: Some(36),
        thread_frame: FrameRoot::Direct(72),
        with_blocks: exception_table(33, 44, false),
        code_instructions: 200,
        generator: GeneratorLayout::Embedded {
            frame: 72,
            state: 67,
            suspended: (-2, -1),
            executing: 0,
        },
        attributes: AttributeLayout::Inline,
        dict_values_first: 8,
        ..v3_12()
    }
}

/// CPython 3.14: tagged references in frames, locks are `PyMutex`.
fn v3_14() -> Offsets {
    Offsets {
        minor: 14,
        runtime_size: 316616,
        interpreter_size: 225864,
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
        frame_owner: Some(74),
        frame_locals: 80,
        stack_depth: StackDepth::Pointer(64),
        frame_tag_mask: 3,
        with_blocks: exception_table(32, 43, true),
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
        runtime_size: 346560,
        interpreter_size: 226232,
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
        thread_native_id: Some(184),
        thread_id: 248,
        thread_state: Some(48),
        thread_whence: Some(44),
        with_blocks: exception_table(30, 41, true),
        generator: GeneratorLayout::Embedded {
            frame: 72,
            state: 67,
            suspended: (1, 3),
            executing: 4,
        },
        heap_type_cached_keys: 888,
        ..v3_14()
    }
}
