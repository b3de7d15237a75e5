//! CPython's own signal state (`_PyRuntime.signals`, 3.12+).

use super::heap::Heap;
use crate::model::PythonSignals;

/// Bytes between two entries of `handlers`.
const HANDLER_SIZE: u64 = 16;
/// Highest signal number.
const LAST_SIGNAL: i32 = 64;

/// Bytes from a handler's `tripped` to its `func`.
const FUNCTION: u64 = 8;

/// Whether a signal has a handler of the program's own. `handler`: address of its entry.
pub(super) fn is_handled(heap: &Heap<'_>, handler: u64) -> bool {
    let function = heap.memory.u64(handler.wrapping_add(FUNCTION));
    function.is_ok_and(|function| function != 0 && heap.is_of_program(function))
}

/// Whether a signal's handler is pytest-timeout's.
pub(super) fn is_watchdog(heap: &Heap<'_>, handler: u64) -> bool {
    let function = heap.memory.u64(handler.wrapping_add(FUNCTION));
    let file = function.ok().and_then(|function| heap.file_of(function));
    file.is_some_and(|file| file.ends_with("/pytest_timeout.py"))
}

/// Reads it; `None` where the version keeps it elsewhere or it cannot be read.
pub(super) fn read(heap: &Heap<'_>, runtime: u64) -> Option<PythonSignals> {
    let offsets = heap.offsets.runtime_signals?;
    let at = |offset: u64| runtime.wrapping_add(offset);
    let (mut pending, mut handled, mut watchdogs) = (Vec::new(), Vec::new(), Vec::new());
    for signal in 1..=LAST_SIGNAL {
        let tripped = at(offsets.first_tripped + HANDLER_SIZE * u64::from(signal.unsigned_abs()));
        if heap.memory.i32(tripped).ok()? != 0 {
            pending.push(signal);
        }
        if is_handled(heap, tripped) {
            handled.push(signal);
        } else if is_watchdog(heap, tripped) {
            watchdogs.push(signal);
        }
    }
    let wakeup_fd = heap.memory.i32(at(offsets.wakeup_fd)).ok()?;
    Some(PythonSignals {
        pending,
        handled,
        watchdogs,
        wakeup_fd: (wakeup_fd >= 0).then_some(wakeup_fd),
        ..PythonSignals::default()
    })
}
