//! CPython's signal state up to 3.11: static variables of `signalmodule.c`, which only `.symtab` names. Distributions strip
//! that from their programs; then it is not known.

use super::heap::Heap;
use super::signals;
use crate::capture::maps::Maps;
use crate::capture::memory::CachedMemory;
use crate::model::PythonSignals;

/// Newest minor version that has these variables; later ones have `_PyRuntime.signals`.
const LAST_MINOR: u8 = 11;
/// Bytes of `Handlers`: `NSIG` pairs of an `int` and a pointer.
const HANDLERS_SIZE: u64 = HANDLER_SIZE * 65;
/// Bytes of one of them; `tripped` comes first.
const HANDLER_SIZE: u64 = 16;
/// Bytes of `wakeup`: `fd` and `warn_on_full_buffer`.
const WAKEUP_SIZE: u64 = 8;

/// Addresses of the variables in the process.
#[derive(Clone, Copy, Debug)]
pub(super) struct StaticSignals {
    handlers: u64,
    wakeup: u64,
}

/// Finds them; reads the symbol table, so once a process.
pub(super) fn find(maps: &Maps, minor: u8) -> Option<StaticSignals> {
    if minor > LAST_MINOR {
        return None;
    }
    maps.python_candidates().find_map(|module| {
        let file = module.open().ok()?;
        let bias = file.bias(module.first_mapping);
        let wanted = [
            (&b"Handlers"[..], HANDLERS_SIZE),
            (&b"wakeup"[..], WAKEUP_SIZE),
        ];
        let [handlers, wakeup] = file.variables(wanted);
        Some(StaticSignals {
            handlers: handlers?.wrapping_add(bias),
            wakeup: wakeup?.wrapping_add(bias),
        })
    })
}

impl StaticSignals {
    /// Signals that have a handler of the program's own.
    pub(super) fn handled(self, heap: &Heap<'_>) -> Vec<i32> {
        self.signals_whose(|entry| signals::is_handled(heap, entry))
    }

    /// Signals whose handler is pytest-timeout's.
    pub(super) fn watchdogs(self, heap: &Heap<'_>) -> Vec<i32> {
        self.signals_whose(|entry| signals::is_watchdog(heap, entry))
    }

    fn signals_whose(self, test: impl Fn(u64) -> bool) -> Vec<i32> {
        let entry = |signal: i32| {
            let at = HANDLER_SIZE * u64::from(signal.unsigned_abs());
            self.handlers.wrapping_add(at)
        };
        let all = 1..=64;
        all.filter(|signal| test(entry(*signal))).collect()
    }

    /// Reads the state; `None` if it is not what such variables hold.
    pub(super) fn read(self, memory: &CachedMemory<'_>) -> Option<PythonSignals> {
        let mut pending = Vec::new();
        for signal in 1..=64 {
            let at = HANDLER_SIZE * u64::from(i32::unsigned_abs(signal));
            match memory.i32(self.handlers.wrapping_add(at)).ok()? {
                0 => {}
                1 => pending.push(signal),
                _ => return None,
            }
        }
        let wakeup_fd = memory.i32(self.wakeup).ok().filter(|fd| *fd >= -1)?;
        Some(PythonSignals {
            pending,
            wakeup_fd: (wakeup_fd >= 0).then_some(wakeup_fd),
            ..PythonSignals::default()
        })
    }
}
