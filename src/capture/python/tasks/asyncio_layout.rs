//! Where asyncio's C types have their fields, and asyncio's own table of some of them (3.14+).

use crate::capture::maps::Maps;
use crate::capture::memory::CachedMemory;
use crate::model::Pid;
use std::sync::OnceLock;

/// `FutureObj.fut_loop`, `fut_callback0`, `fut_callbacks` (`_asynciomodule.c`), the same in all versions with a table.
pub(super) const FUTURE_LOOP: u64 = 16;
pub(super) const FUTURE_FIRST_CALLBACK: u64 = 24;
pub(super) const FUTURE_CALLBACKS: u64 = 40;

/// Fields of `FutureObj` and `TaskObj`, found out by comparing objects with what Python says of them on each version.
#[derive(Clone, Copy, Debug)]
pub(super) struct TaskLayout {
    /// `fut_state`: 0 pending, 1 cancelled, 2 finished.
    pub(super) state: u64,
    /// `fut_result`.
    pub(super) result: u64,
    /// `task_fut_waiter`.
    pub(super) waiter: u64,
    pub(super) coroutine: u64,
    pub(super) name: u64,
    /// `task_num_cancels_requested` (3.11+).
    pub(super) cancels: Option<u64>,
}

impl TaskLayout {
    pub(super) fn for_minor(minor: u8) -> Self {
        let base = Self {
            state: 88,
            result: 64,
            waiter: 128,
            coroutine: 136,
            name: 144,
            cancels: Some(168),
        };
        match minor {
            ..=9 => Self {
                state: 80,
                result: 56,
                waiter: 144,
                coroutine: 152,
                name: 160,
                cancels: None,
            },
            10 => Self {
                waiter: 152,
                coroutine: 160,
                name: 168,
                cancels: None,
                ..base
            },
            11 | 12 => base,
            13 => Self {
                state: 96,
                waiter: 112,
                coroutine: 120,
                name: 128,
                cancels: Some(104),
                ..base
            },
            14.. => Self {
                state: 104,
                waiter: 120,
                coroutine: 128,
                name: 136,
                cancels: Some(112),
                ..base
            },
        }
    }
}

/// asyncio's own table, `Py_AsyncioModuleDebugOffsets`.
#[derive(Clone, Copy, Debug)]
pub(super) struct DebugTable {
    pub(super) task_name: u64,
    pub(super) task_coroutine: u64,
    /// `TaskObj.task_node`, by which tasks are linked.
    pub(super) task_node: u64,
    /// In `PyInterpreterState`: tasks of threads that have ended.
    pub(super) interpreter_tasks: u64,
    /// In `_PyThreadStateImpl`.
    pub(super) thread_loop: u64,
    pub(super) thread_task: u64,
    pub(super) thread_tasks: u64,
}

/// Largest offset that is believed: interpreter states are the largest structures.
const MAX_OFFSET: u64 = 1 << 21;
/// Words of the table.
const WORDS: usize = 13;

impl DebugTable {
    pub(super) fn read(memory: &CachedMemory<'_>, address: u64) -> Option<Self> {
        let bytes = memory.bytes(address, 8 * WORDS).ok()?;
        let mut words = [0_u64; WORDS];
        for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(8)) {
            *word = u64::from_le_bytes(bytes.try_into().ok()?);
            if *word >= MAX_OFFSET {
                return None;
            }
        }
        let [
            size,
            name,
            _,
            _,
            _,
            coroutine,
            node,
            _,
            of_interpreter,
            _,
            event_loop,
            task,
            of_thread,
        ] = words;
        (name < size && coroutine < size && node < size).then_some(Self {
            task_name: name,
            task_coroutine: coroutine,
            task_node: node,
            interpreter_tasks: of_interpreter,
            thread_loop: event_loop,
            thread_task: task,
            thread_tasks: of_thread,
        })
    }
}

/// The ELF section that has the table: in the `_asyncio` extension module, or in Python itself where that is built in.
/// A module may be loaded long after the process was first looked at, so it is looked for anew until found.
#[derive(Clone, Debug, Default)]
pub(in crate::capture::python) struct DebugSection {
    pid: Pid,
    address: OnceLock<u64>,
}

impl DebugSection {
    pub(in crate::capture::python) fn new(pid: Pid, maps: &Maps) -> Self {
        let section = Self {
            pid,
            address: OnceLock::new(),
        };
        section.look_in(maps);
        section
    }

    /// Its address in the target.
    pub(super) fn address(&self) -> Option<u64> {
        if self.address.get().is_none()
            && let Ok(maps) = Maps::read(self.pid, self.pid)
        {
            self.look_in(&maps);
        }
        self.address.get().copied()
    }

    fn look_in(&self, maps: &Maps) {
        for module in maps.asyncio_candidates() {
            let Ok(file) = module.open() else {
                continue;
            };
            if let Some(section) = file.section(b".AsyncioDebug") {
                let address = section.wrapping_add(file.bias(module.first_mapping));
                let _ = self.address.set(address);
                return;
            }
        }
    }
}
