//! `hangscope doctor`: what can be read here, and what would help.

use super::{print, python_finder};
use crate::capture;
use crate::exit_code::ExitCode;
use crate::target::yama_scope;
use nix::unistd::Uid;
use std::fs;

pub(super) fn run() -> ExitCode {
    let mut lines = vec![format!("hangscope {}", env!("CARGO_PKG_VERSION"))];
    lines.push(String::new());
    lines.push("Reading other processes".to_owned());
    for check in [ptrace(), thread_files(), process_memory()] {
        let (good, text) = check;
        lines.push(format!("  {} {text}", if good { "ok  " } else { "note" }));
    }
    lines.push(String::new());
    lines.push("Pythons found here".to_owned());
    let pythons = python_finder::find();
    if pythons.is_empty() {
        lines.push("  none of 3.9 to 3.15 on PATH, under pyenv or known to uv".to_owned());
    }
    for python in pythons {
        lines.push(format!(
            "  {:<9} {}",
            python.version,
            python.program.display()
        ));
    }
    lines.push(String::new());
    lines.push("What this version reads".to_owned());
    lines.push("  CPython 3.9–3.15 with a GIL: interpreters, thread states, frames, joins, GIL, locks and who holds them".to_owned());
    lines.push(
        "  CPython 3.8 and older, and free-threaded builds where py-spy can: frames".to_owned(),
    );
    lines.push(
        "  any process: threads, system calls, what they wait for as the kernel sees it".to_owned(),
    );
    lines.push(match capture::unwinds_here() {
        true => {
            "  Rust, C and C++, and Python with --native: native stacks, waits, and who holds locks"
                .to_owned()
        }
        false => format!(
            "  no native stacks: they are read on x86_64 and aarch64, and this is {}",
            std::env::consts::ARCH
        ),
    });
    lines.push("  not the code that other runtimes run (Java, Go, Node.js)".to_owned());
    lines.push(String::new());
    print(&lines.join("\n"))
}

fn ptrace() -> (bool, String) {
    if Uid::effective().is_root() {
        return (true, "you are root: every process of this pid namespace may be read (CAP_SYS_PTRACE permitting)".to_owned());
    }
    match yama_scope() {
        None => (true, "no Yama: processes of your own user may be read".to_owned()),
        Some(0) => (true, "Yama ptrace_scope 0: processes of your own user may be read".to_owned()),
        Some(1) => (
            false,
            "Yama ptrace_scope 1: only descendants may be read. Use hangscope watch -- CMD, or sudo hangscope dump PID"
                .to_owned(),
        ),
        Some(2) => (false, "Yama ptrace_scope 2: only root may read other processes. Use sudo".to_owned()),
        Some(scope) => (
            false,
            format!("Yama ptrace_scope {scope}: no process may read another until the next boot"),
        ),
    }
}

fn thread_files() -> (bool, String) {
    let syscall = fs::read_to_string("/proc/thread-self/syscall").is_ok();
    let schedstat = fs::read_to_string("/proc/thread-self/schedstat").is_ok();
    if syscall && schedstat {
        (
            true,
            "/proc shows system calls and run counts: standing still is told from running"
                .to_owned(),
        )
    } else {
        (
            false,
            "/proc/PID/task/TID/syscall or schedstat is missing (gVisor?): waits are not known, verdicts are less sure".to_owned(),
        )
    }
}

/// Reads a page of our own through the call that is used on others.
fn process_memory() -> (bool, String) {
    use crate::capture::memory::{Memory, ProcessMemory, Range, ReadError};
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    let probe = ProcessMemory::new(own).read_many(&[Range {
        address: 4096,
        length: 1,
    }]);
    match probe.first() {
        Some(Err(ReadError::Unmapped(_)) | Ok(_)) => (true, "process_vm_readv works".to_owned()),
        _ => (
            false,
            "process_vm_readv is refused (a seccomp filter?): run the container with --cap-add=SYS_PTRACE".to_owned(),
        ),
    }
}
