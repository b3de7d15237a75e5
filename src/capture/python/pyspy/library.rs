//! py-spy's library at work.

use super::Fallback;
use crate::model::{Addr, Foreign, Frame, Interpreter, Key, Pid, ThreadState, Tid};
use py_spy::config::LockingStrategy;
use py_spy::{Config, PythonSpy, StackTrace};
use remoteprocess::ProcessMemory as _;

/// Most interpreters of one process.
const MAX_INTERPRETERS: usize = 1000;

/// Reads all interpreters of a process without stopping it.
pub(super) fn read(pid: Pid, minor: u8, key: &Key) -> Result<Fallback, String> {
    let config = Config {
        blocking: LockingStrategy::NonBlocking,
        collect_thread_names: true,
        ..Config::default()
    };
    let mut spy = PythonSpy::new(pid, &config).map_err(|error| format!("{error:#}"))?;
    let mut out = Fallback {
        version: spy.version.to_string(),
        interpreters: Vec::new(),
        thread_states: Vec::new(),
    };
    let newest = spy.addresses.interpreter_address;
    let mut addresses = Vec::new();
    let mut next = newest;
    // `next` is the first field of PyInterpreterState up to 3.12; py-spy itself looks only at the first of the list.
    while next != 0 && !addresses.contains(&next) && addresses.len() < MAX_INTERPRETERS {
        addresses.push(next);
        next = if minor <= 12 {
            pointer_at(&spy, next).unwrap_or(0)
        } else {
            0
        };
    }
    addresses.reverse();
    for (index, &address) in addresses.iter().enumerate() {
        // The main interpreter is last in CPython's list and so first in ours; without a table the others' own ids
        // are not known, their order is.
        let id = i64::try_from(index).unwrap_or(i64::MAX);
        spy.addresses.interpreter_address = address;
        let traces = match spy.get_stack_traces() {
            Ok(traces) => traces,
            Err(error) if addresses.len() == 1 => return Err(format!("{error:#}")),
            Err(_) => Vec::new(),
        };
        out.interpreters.push(Interpreter {
            key: key.interpreter(id),
            id,
            address: Addr(address as u64),
            whence: None,
            finalizing: false,
            torn_down_by: None,
            own_gil: id == 0,
            gil: None,
            running_main: None,
            thread_states: traces.len(),
        });
        for (number, trace) in traces.into_iter().enumerate() {
            let tid = thread_id(&spy, pid, &trace);
            out.thread_states
                .push((thread_state(trace, number, key, id), tid));
        }
    }
    Ok(out)
}

fn pointer_at(spy: &PythonSpy, address: usize) -> Option<usize> {
    let mut bytes = [0; 8];
    spy.process.read(address, &mut bytes).ok()?;
    usize::try_from(u64::from_le_bytes(bytes)).ok()
}

/// The kernel's thread id: py-spy's, else glibc's `struct pthread.tid`, believed only if such a thread exists.
fn thread_id(spy: &PythonSpy, pid: Pid, trace: &StackTrace) -> Option<Tid> {
    const PTHREAD_TID: usize = if cfg!(target_arch = "aarch64") {
        0xd0
    } else {
        0x2d0
    };
    if let Some(tid) = trace.os_thread_id {
        return Tid::try_from(tid).ok();
    }
    let mut bytes = [0; 4];
    let address = usize::try_from(trace.thread_id)
        .ok()?
        .checked_add(PTHREAD_TID)?;
    spy.process.read(address, &mut bytes).ok()?;
    let tid = Tid::from_le_bytes(bytes);
    std::path::Path::new(&format!("/proc/{pid}/task/{tid}"))
        .exists()
        .then_some(tid)
}

fn thread_state(trace: StackTrace, number: usize, key: &Key, interpreter: i64) -> ThreadState {
    ThreadState {
        address: Addr(0),
        id: number as u64,
        interpreter: key.interpreter(interpreter),
        interpreter_id: interpreter,
        ident: Addr(trace.thread_id),
        tid: None,
        whence: None,
        state: None,
        status: Vec::new(),
        holds_gil: trace.owns_gil,
        name: trace.thread_name.map(Foreign::from),
        daemon: None,
        fingerprint: None,
        frames: trace
            .frames
            .into_iter()
            .map(|frame| Frame {
                function: frame.name.into(),
                file: frame.filename.into(),
                line: u32::try_from(frame.line).ok().filter(|line| *line != 0),
                instruction: -1,
                locals: Vec::new(),
            })
            .collect(),
        cut: None,
    }
}
