//! Words for threads, places and waits, shared by the detectors.

use super::case::Closure;
use crate::model::{Addr, Foreign, Frame, HolderEvidence, Process, Thread, Wait, WaitKind};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// A thread's name with its id: "`idle-nd` (tid 7)".
pub(super) fn who(thread: &Thread) -> String {
    format!("{} (tid {})", name(thread), thread.tid)
}

/// A thread's name: "MainThread", "`idle-nd`".
pub(super) fn name(thread: &Thread) -> String {
    let name = thread.display_name().untrusted();
    if name == "MainThread" {
        name.to_owned()
    } else {
        format!("`{name}`")
    }
}

/// Where the thread is in the project's own code; in the library's if it runs nothing of the project.
pub(super) fn place(thread: &Thread) -> Option<String> {
    let own = thread.frames().find(|frame| !frame.is_library());
    let shown = own.or_else(|| {
        let call = thread.wait.as_ref()?.call.as_ref()?;
        thread.frames().find(|frame| &frame.function == call)
    });
    shown.or_else(|| thread.frames().next()).map(Frame::place)
}

/// What a thread does, as a predicate: "waits in Event.wait", "sleeps (12 days left)", "waits for data on fd 7 (pipe:[5])".
pub(super) fn waits(wait: &Wait) -> String {
    let call = wait.call.as_ref().map(Foreign::untrusted);
    let in_call = call.map_or_else(String::new, |call| format!(" in {call}"));
    let mut text = match wait.kind {
        WaitKind::Gil => "waits for the GIL".to_owned(),
        WaitKind::ThreadExit => "waits for a thread's end".to_owned(),
        WaitKind::RLock => format!("waits for an RLock{in_call}"),
        WaitKind::Lock | WaitKind::Futex => match call {
            Some(call) if call.starts_with("idle ") => format!("is an {call}"),
            Some(call) => format!("waits in {call}"),
            None if wait.kind == WaitKind::Lock => "waits for a Lock".to_owned(),
            None => "waits for a lock or semaphore".to_owned(),
        },
        WaitKind::SharedFutex => format!("waits for a lock shared with other processes{in_call}"),
        WaitKind::Sleep => "sleeps".to_owned(),
        WaitKind::Read => format!("waits for data{}{in_call}", on_file(wait)),
        WaitKind::Write => format!("waits for room to write{}{in_call}", on_file(wait)),
        WaitKind::Poll => format!("waits for events{}{in_call}", on_file(wait)),
        WaitKind::Connection => format!("waits for a connection{}{in_call}", on_file(wait)),
        WaitKind::Child => format!("waits for a child process's end{in_call}"),
        WaitKind::Signal => "waits for a signal".to_owned(),
        WaitKind::FileLock => format!("waits for a file lock{}{in_call}", on_file(wait)),
        WaitKind::Syscall => format!("waits in a system call{in_call}"),
    };
    if let Some(left) = wait.remaining_ms {
        text.push_str(&format!(" ({} left)", duration(left)));
    } else if let Some(length) = wait.length_ms {
        text.push_str(&format!(" ({} in all)", duration(length)));
    }
    text
}

/// The lock that is waited for: "`account.lock` (a _thread.lock)", "an RLock".
pub(super) fn lock(wait: &Wait) -> String {
    let Some(object) = &wait.object else {
        return match wait.kind {
            WaitKind::RLock => "an RLock",
            WaitKind::Lock => "a Lock",
            WaitKind::SharedFutex => "a lock between processes",
            _ => "a lock",
        }
        .to_owned();
    };
    let type_name = object.type_name.untrusted();
    let short = type_name.rsplit('.').next().unwrap_or(type_name);
    let article = if type_name == short && short == "RLock" {
        "an"
    } else {
        "a"
    };
    match &object.name {
        Some(name) => format!("`{}` ({article} {type_name})", name.untrusted()),
        None => format!("{article} {type_name}"),
    }
}

/// The locks that several threads wait for. Two threads may call different locks by one name (`target.lock`): these get
/// their addresses, too.
pub(super) fn locks(waits: &[&Wait]) -> Vec<String> {
    let named: Vec<String> = waits.iter().map(|wait| lock(wait)).collect();
    let mut meant: BTreeMap<&str, BTreeSet<Option<Addr>>> = BTreeMap::new();
    for (wait, name) in waits.iter().zip(&named) {
        meant.entry(name).or_default().insert(wait.address);
    }
    waits
        .iter()
        .zip(&named)
        .map(
            |(wait, name)| match (meant.get(name.as_str()), wait.address) {
                (Some(several), Some(address)) if several.len() > 1 => {
                    format!("{name} at {address}")
                }
                _ => name.clone(),
            },
        )
        .collect()
}

/// What says that a thread holds a lock.
pub(super) fn holds_by(by: HolderEvidence) -> &'static str {
    match by {
        HolderEvidence::WithBlock => "it is in a `with` block of it",
        HolderEvidence::SuspendedWithBlock => {
            "a suspended generator or coroutine of it is in a `with` block of it"
        }
        HolderEvidence::OwnerField => "the lock's owner field names it",
        HolderEvidence::ImportLock => "the import system has noted it as the one that imports",
        HolderEvidence::ProcessLock => "the lock's own note says so",
        HolderEvidence::BareOwnerField => {
            "the lock's owner field may name it, or a thread that has ended"
        }
        HolderEvidence::Reference => {
            "its frames reach the lock, which does not mean that it holds it"
        }
    }
}

fn on_file(wait: &Wait) -> String {
    let Some(descriptor) = &wait.descriptor else {
        return String::new();
    };
    match &descriptor.file {
        Some(file) => format!(" on fd {} ({})", descriptor.number, file.untrusted()),
        None => format!(" on fd {}", descriptor.number),
    }
}

/// "1.5 s", "12 min", "11 days".
pub(super) fn duration(ms: u64) -> String {
    let seconds = Duration::from_millis(ms).as_secs_f64();
    match seconds {
        s if s < 100.0 => format!("{s:.1} s"),
        s if s < 6000.0 => format!("{:.0} min", s / 60.0),
        s if s < 172_800.0 => format!("{:.0} h", s / 3600.0),
        s => format!("{:.0} days", s / 86_400.0),
    }
}

/// A signal's name.
pub(super) fn signal(number: i32) -> String {
    nix::sys::signal::Signal::try_from(number).map_or_else(
        |_| format!("signal {number}"),
        |signal| signal.as_str().to_owned(),
    )
}

/// Who else could end a wait.
pub(super) fn closure(process: &Process, closure: &Closure) -> String {
    match closure {
        Closure::Closed => "no other thread of the process could end that wait: all wait, without a deadline, for things \
                            of the same process"
            .to_owned(),
        Closure::OpenThread(key) => {
            let thread = process
                .thread(key)
                .map_or_else(|| "another thread".to_owned(), who);
            format!("{thread} goes on or waits for events, and may end that wait")
        }
        Closure::OpenSignal(number) => format!(
            "the process catches {}, and that handler may end that wait",
            signal(*number)
        ),
        Closure::Unclear => "some threads of the process could not be judged".to_owned(),
    }
}
