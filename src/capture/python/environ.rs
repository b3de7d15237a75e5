//! The live environment of a process: `setenv` changes it after the start, `/proc/PID/environ` does not show that.

use crate::capture::maps::Maps;
use crate::capture::memory::CachedMemory;
use crate::model::{Foreign, RunningTest};

/// Most variables that are looked at.
const MAX_VARIABLES: usize = 10_000;
/// What pytest sets to the node id and phase of the running test.
const PYTEST_VARIABLE: &[u8] = b"PYTEST_CURRENT_TEST=";

/// Address of the variable `environ`. A program linked at a fixed address owns a copy of it (a copy relocation), and
/// libc's own is then unused, so the program is asked first.
pub(crate) fn find(maps: &Maps) -> Option<u64> {
    [maps.program(), maps.c_library()]
        .into_iter()
        .flatten()
        .find_map(|module| {
            let file = module.open().ok()?;
            let address = file
                .exported(b"environ")
                .or_else(|| file.exported(b"__environ"))?;
            Some(address.wrapping_add(file.bias(module.first_mapping)))
        })
}

/// The value of `PYTEST_CURRENT_TEST` now.
pub(crate) fn pytest_current_test(memory: &CachedMemory<'_>, environ: u64) -> Option<Vec<u8>> {
    let mut at = memory.u64(environ).ok()?;
    for _ in 0..MAX_VARIABLES {
        let variable = memory.u64(at).ok()?;
        if variable == 0 {
            return None;
        }
        let length = PYTEST_VARIABLE.len();
        if memory
            .c_string(variable, length)
            .is_ok_and(|head| head == PYTEST_VARIABLE)
        {
            return memory.c_string(variable + length as u64, 64 << 10).ok();
        }
        at += 8;
    }
    None
}

/// Whether the environment that a process was started with had this value already: then it is a test of its parent.
pub(crate) fn is_inherited(value: &[u8], at_start: &[u8]) -> bool {
    at_start
        .split(|byte| *byte == 0)
        .any(|variable| variable.strip_prefix(PYTEST_VARIABLE) == Some(value))
}

/// Splits pytest's `nodeid (phase)`.
pub(crate) fn running_test(value: &[u8], inherited: bool) -> RunningTest {
    let text = String::from_utf8_lossy(value);
    let (id, phase) = match text.rsplit_once(" (") {
        Some((id, rest)) if rest.ends_with(')') => (id, rest.strip_suffix(')')),
        _ => (&*text, None),
    };
    RunningTest {
        id: Foreign::from(id),
        phase: phase.map(str::to_owned),
        inherited,
    }
}

#[cfg(test)]
mod tests {
    use super::running_test;

    #[test]
    fn node_ids_may_hold_parentheses() {
        let test = running_test(b"t.py::test[a (b)] (call)", false);
        assert_eq!(test.id.untrusted(), "t.py::test[a (b)]");
        assert_eq!(test.phase.as_deref(), Some("call"));
        assert_eq!(running_test(b"odd", true).phase, None);
    }
}
