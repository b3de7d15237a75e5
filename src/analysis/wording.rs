//! Words for threads, places and waits, shared by the detectors.

use super::case::Closure;
use crate::model::{
    Addr, Foreign, Frame, Key, Process, Task, Thread, Wait, WaitKind, WaitObject, signal_name,
};
use std::collections::BTreeMap;
use std::time::Duration;

/// The type that capture gives to the lock of a module that is imported.
const IMPORT_LOCK: &str = "import lock";

/// A thread's name with its id: "`idle-nd` (tid 7)".
pub(super) fn who(thread: &Thread) -> String {
    format!("{} (tid {})", name(thread), thread.tid)
}

/// A thread's name: "MainThread", "`idle-nd`".
pub(super) fn name(thread: &Thread) -> String {
    match bare_name(thread) {
        MAIN => MAIN.to_owned(),
        name => format!("`{name}`"),
    }
}

/// The name of Python's main thread.
const MAIN: &str = "MainThread";

fn bare_name(thread: &Thread) -> &str {
    let has_name = thread.python.iter().any(|state| state.name.is_some());
    // A program that never imports threading has not named its main thread.
    let is_main = !thread.python.is_empty() && !has_name && thread.key.is_leader();
    match is_main {
        true => MAIN,
        false => thread.display_name().untrusted(),
    }
}

/// The names of two threads, with their ids where these are the same: libtest names a test's threads like the test.
pub(super) fn names(one: &Thread, other: &Thread) -> (String, String) {
    let both = || [one, other].into_iter();
    (name_among(one, both()), name_among(other, both()))
}

/// A thread's name, with its id where another of these threads has the same.
pub(super) fn name_among<'t>(
    thread: &Thread,
    mut threads: impl Iterator<Item = &'t Thread>,
) -> String {
    let own = bare_name(thread);
    match threads.any(|other| bare_name(other) == own && other.key != thread.key) {
        true => who(thread),
        false => name(thread),
    }
}

/// "task `worker`".
pub(super) fn task(task: &Task) -> String {
    format!("task `{}`", task.name.untrusted())
}

/// Where the task is in the project's own code; in the library's if it runs nothing of the project.
pub(super) fn task_place(task: &Task) -> Option<String> {
    let own = task.frames.iter().find(|frame| !frame.is_library());
    own.or(task.frames.first()).map(Frame::place)
}

/// What the methods of a manager's proxies call; these are made by exec(), and nobody's code.
fn is_proxys_call(frame: &Frame) -> bool {
    frame.is("BaseProxy._callmethod", "multiprocessing/managers.py")
}

/// Where the thread is in the project's own code; in the library's if it runs nothing of the project.
pub(super) fn place(thread: &Thread) -> Option<String> {
    let inner = std::iter::once(None).chain(thread.frames().map(Some));
    let own = thread.frames().zip(inner).find_map(|(frame, inner)| {
        let of_proxy = inner.is_some_and(is_proxys_call);
        (!frame.is_library() && !of_proxy).then_some(frame)
    });
    let shown = own.or_else(|| {
        let call = thread.wait.as_ref()?.call.as_ref()?;
        thread.frames().find(|frame| &frame.function == call)
    });
    let python = shown.or_else(|| thread.frames().next()).map(Frame::place);
    python.or_else(|| Some(thread.native.as_ref()?.own_frame()?.place()))
}

/// " at update (cache.py:7)", or nothing.
pub(super) fn at(thread: &Thread) -> String {
    said_at(place(thread))
}

/// The same for a task.
pub(super) fn task_at(task: &Task) -> String {
    said_at(task_place(task))
}

fn said_at(place: Option<String>) -> String {
    place.map_or_else(String::new, |place| format!(" at {place}"))
}

/// ", on `jobs` (qsize 0, maxsize 2)".
pub(super) fn on_object(object: &WaitObject) -> String {
    let state = object
        .state_words()
        .map(|words| format!(" ({})", words.untrusted()))
        .unwrap_or_default();
    match object.name.as_ref().map(Foreign::untrusted) {
        Some(name) => format!(", on `{name}`{state}"),
        None => state,
    }
}

/// What a thread does, as a predicate: "waits in Event.wait", "sleeps (12 days left)", "waits for data on fd 7 (pipe from pid 5)".
pub(super) fn waits(wait: &Wait) -> String {
    let call = wait.call.as_ref().map(Foreign::untrusted);
    let in_call = call.map_or_else(String::new, |call| format!(" in {call}"));
    let mut text = match wait.kind {
        WaitKind::Gil => "waits for the GIL".to_owned(),
        WaitKind::ThreadExit => "waits for a thread's end".to_owned(),
        WaitKind::RLock => format!("waits for an RLock{in_call}"),
        WaitKind::Lock | WaitKind::Futex => match call {
            Some(call) if call.starts_with("idle ") => format!("is an {call}"),
            Some(call) if call.starts_with("import of ") => format!("waits for the {call}"),
            Some(call) => format!("waits in {call}"),
            None if wait.kind == WaitKind::Lock => "waits for a Lock".to_owned(),
            None => wait.native_call.as_ref().map_or_else(
                || "waits for a lock or semaphore".to_owned(),
                |call| format!("waits in {}", call.function.untrusted()),
            ),
        },
        WaitKind::SharedFutex => format!("waits for a lock shared with other processes{in_call}"),
        WaitKind::Sleep => "sleeps".to_owned(),
        WaitKind::Read => format!("waits for data{}{in_call}", on_file(wait)),
        WaitKind::Write => format!("waits for room to write{}{in_call}", on_file(wait)),
        // A runtime polls for all of its tasks; what it polls says little.
        WaitKind::Poll if call.is_some_and(|call| call.ends_with(" block_on")) => {
            format!("waits{in_call}")
        }
        WaitKind::Poll => match wait.files_words() {
            Some(files) => format!("waits for events on {}{in_call}", files.untrusted()),
            None => format!("waits for events{}{in_call}", on_file(wait)),
        },
        WaitKind::Connection => format!("waits for a connection{}{in_call}", on_file(wait)),
        WaitKind::Child => match &wait.child {
            Some(child) => format!("waits for {}{in_call}", child.words().untrusted()),
            None => format!("waits for a child process's end{in_call}"),
        },
        WaitKind::Signal => "waits for a signal".to_owned(),
        WaitKind::FileLock => format!("waits for a file lock{}{in_call}", on_file(wait)),
        WaitKind::Syscall => format!("waits in a system call{in_call}"),
    };
    if wait.kind != WaitKind::Futex
        && let Some(call) = wait.native_call.as_ref().filter(|call| call.is_telling())
    {
        text.push_str(&format!(" in {}", call.function.untrusted()));
    }
    if let Some(left) = wait.remaining_ms {
        text.push_str(&format!(" ({} left)", duration(left)));
    } else if let Some(length) = wait.length_ms {
        text.push_str(&format!(" ({} in all)", duration(length)));
    }
    text
}

/// A lock that is waited for, in the program's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LockName {
    /// "`account.lock`", "the RLock", "the import of `settings`".
    pub(super) short: String,
    /// "`account.lock` (a _thread.lock)", "an RLock", "the import lock of `settings`".
    pub(super) full: String,
}

/// The name of one lock.
pub(super) fn lock(wait: &Wait) -> LockName {
    let (kind, article) = match wait.kind {
        WaitKind::RLock => ("RLock", "an"),
        WaitKind::Lock => ("lock", "a"),
        WaitKind::SharedFutex => ("lock between processes", "a"),
        _ => ("lock or semaphore", "a"),
    };
    let Some(object) = &wait.object else {
        return LockName {
            short: format!("the {kind}"),
            full: format!("{article} {kind}"),
        };
    };
    let type_name = object.type_name.untrusted();
    match &object.name {
        Some(name) if type_name == IMPORT_LOCK => LockName {
            short: format!("the import of `{}`", name.untrusted()),
            full: format!("the import lock of `{}`", name.untrusted()),
        },
        Some(name) => LockName {
            short: format!("`{}`", name.untrusted()),
            full: format!("`{}` (a {type_name})", name.untrusted()),
        },
        None if type_name.starts_with("_thread.") => LockName {
            short: format!("the {kind}"),
            full: format!("{article} {kind}"),
        },
        None => LockName {
            short: format!("the {}", type_name.rsplit('.').next().unwrap_or(type_name)),
            full: format!("a {type_name}"),
        },
    }
}

/// The names of the locks that several threads wait for. Two threads may call different locks by one name
/// (`target.lock`): these are numbered, and have their addresses.
pub(super) fn locks(waits: &[&Wait]) -> Vec<LockName> {
    let names: Vec<LockName> = waits.iter().map(|wait| lock(wait)).collect();
    let mut meant: BTreeMap<String, Vec<Option<Addr>>> = BTreeMap::new();
    for (wait, name) in waits.iter().zip(&names) {
        let addresses = meant.entry(name.short.clone()).or_default();
        if !addresses.contains(&wait.address) {
            addresses.push(wait.address);
        }
    }
    waits
        .iter()
        .zip(names)
        .map(|(wait, name)| {
            let several = meant.get(&name.short).filter(|meant| meant.len() > 1);
            let number = several.and_then(|all| all.iter().position(|it| *it == wait.address));
            match (number, wait.address) {
                (Some(number), Some(address)) => {
                    let short = format!("{} #{}", name.short, number + 1);
                    let object = wait.object.as_ref();
                    let kind = object.map_or("lock", |object| object.type_name.untrusted());
                    LockName {
                        full: format!("{short} (a {kind} at {address})"),
                        short,
                    }
                }
                _ => name,
            }
        })
        .collect()
}

fn on_file(wait: &Wait) -> String {
    wait.descriptor.as_ref().map_or_else(String::new, |file| {
        format!(" on {}", file.words().untrusted())
    })
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

/// Whether it was followed what a thread's code refers to, and not only that others have to end a wait.
pub(super) fn is_followed(process: &Process, thread: &Key) -> bool {
    let mut waits = process
        .threads
        .iter()
        .filter_map(|other| other.wait.as_ref());
    process.python.is_some() || waits.any(|wait| wait.out_of_reach.contains(thread))
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
        Closure::OutOfReach(key) => {
            let thread = process
                .thread(key)
                .map_or_else(|| "another thread".to_owned(), who);
            match is_followed(process, key) {
                true => format!(
                    "{thread} goes on, but nothing that its code does or refers to leads to what is waited for"
                ),
                false => format!("{thread} goes on, but is not who has to end that wait"),
            }
        }
        Closure::OpenSignal(number) => format!(
            "the process catches {}, and that handler may end that wait",
            signal_name(*number)
        ),
        Closure::Unclear => "some threads of the process could not be judged".to_owned(),
    }
}
