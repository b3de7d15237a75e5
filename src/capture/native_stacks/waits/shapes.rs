//! What a thread is doing, by the functions on its native stack: which primitive it waits in, and how the program would call
//! that.

use super::names::{ends, plain};
use super::shape_table::SHAPES;
use crate::model::NativeFrame;

/// Most frames from the innermost one that can be of the waiting itself.
const DEPTH: usize = 40;

/// What a thread waits in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Primitive {
    /// `pthread_mutex_t`.
    PthreadMutex,
    /// `pthread_rwlock_t`.
    PthreadRwLock,
    /// `std::sync::Mutex`.
    StdMutex,
    /// `std::sync::RwLock`, for reading.
    StdRead,
    /// The same, for writing.
    StdWrite,
    /// `std::sync::Once`, `OnceLock`, `LazyLock`, `pthread_once_t`: another thread, or this one, initialises it.
    StdOnce,
    /// `parking_lot::Mutex`.
    ParkingLotMutex,
    /// `parking_lot::RwLock`.
    ParkingLotRwLock,
    /// The end of a thread.
    ThreadExit,
    /// Something that another thread has to do: a message, a notification, an unpark.
    Signal,
}

/// What a stack shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) primitive: Primitive,
    /// How the program would call it.
    pub(super) call: &'static str,
    /// The type that is waited on; empty where there is none.
    pub(super) type_name: &'static str,
    /// Number of frames, from the innermost, that are of the primitive: the next one is its user's.
    pub(super) frames: usize,
}

impl Shape {
    /// Of std's channels, and crossbeam's.
    pub(super) fn is_of_channel(&self) -> bool {
        ["mpsc::", "crossbeam_channel::"]
            .iter()
            .any(|library| self.call.starts_with(library))
    }

    /// Whether it waits for a message, rather than for room for one.
    pub(super) fn receives(&self) -> bool {
        ends(self.call, "recv")
    }
}

/// The functions of frames, without what varies.
pub(super) fn paths<'f>(
    frames: impl Iterator<Item = &'f NativeFrame>,
) -> impl Iterator<Item = String> {
    frames.map(path)
}

/// What a thread waits in, by its frames; `None` if nothing on its stack is known.
pub(super) fn shape(frames: &[NativeFrame]) -> Option<Shape> {
    let near: Vec<String> = frames
        .iter()
        .take(DEPTH)
        .take_while(|frame| frame.is_library() || frame.function.is_none())
        .map(path)
        .collect();
    for (name, primitive, call, type_name) in SHAPES {
        let fits = |path: &String| name.fits(path);
        let at = match primitive {
            // One that is initialised further out is another call, and so is what the initialiser waits for.
            Primitive::StdOnce => near
                .iter()
                .position(fits)
                .filter(|at| near.iter().take(*at).all(is_of_once)),
            _ => near.iter().rposition(fits),
        };
        let Some(at) = at else {
            continue;
        };
        // A pool's thread that runs a job waits within that.
        let inner = near.iter().take(at);
        if is_of_pool(call) && inner.clone().any(|path| runs_a_job(path)) {
            continue;
        }
        return Some(Shape {
            primitive: *primitive,
            call: idle_or_waiting(call, &near),
            type_name,
            frames: at + 1,
        });
    }
    None
}

/// Whether a function is of the wait for a `Once` itself.
fn is_of_once(path: &String) -> bool {
    path.is_empty()
        || path == "syscall"
        || path.contains("futex")
        || path.starts_with("std::sys") && path.contains("::once::")
}

fn is_of_pool(call: &str) -> bool {
    call.starts_with("idle ") || call == "rayon job" || call == "tokio block_on"
}

/// What a pool's own frames call to run a job: rayon's jobs, tokio's tasks, libtest's tests.
fn runs_a_job(path: &str) -> bool {
    (path.starts_with("rayon_core::") && ends(path, "execute"))
        || path.contains("tokio::runtime::task::")
        || path.contains("__rust_begin_short_backtrace")
}

/// A function's plain path. Debug information of lines only has inlined functions without it; their files tell it.
fn path(frame: &NativeFrame) -> String {
    let name = plain(c_name(frame.function_name()));
    let file = frame.file.as_ref().map_or("", |file| file.untrusted());
    match module_of(file) {
        Some(module) if !name.contains("::") => format!("{module}::{name}"),
        _ => name,
    }
}

/// The module of a source file of Rust's library or of a crate from a registry: `std::sync::mpsc` of
/// `/rustc/HASH/library/std/src/sync/mpsc.rs`, `rayon_core::latch` of `…/registry/src/INDEX/rayon-core-1.13.0/src/latch.rs`.
fn module_of(file: &str) -> Option<String> {
    let (head, rest) = file.rsplit_once("/src/")?;
    let folder = head.rsplit('/').next()?;
    let known = head.contains("/library/") || head.contains("/registry/");
    // A version follows the last dash before a digit.
    let name = folder
        .match_indices('-')
        .find(|(at, _)| folder[at + 1..].starts_with(|next: char| next.is_ascii_digit()))
        .map_or(folder, |(at, _)| &folder[..at]);
    let inner = rest.strip_suffix(".rs")?;
    let inner = inner.strip_suffix("/mod").unwrap_or(inner);
    let inner = if inner == "lib" { "" } else { inner };
    let module = format!("{name}/{inner}")
        .replace('-', "_")
        .replace('/', "::");
    known.then(|| module.trim_end_matches(':').to_owned())
}

/// A rayon worker waits for work, or within a job for one that it has given away.
fn idle_or_waiting(call: &'static str, near: &[String]) -> &'static str {
    let outermost = near.iter().any(|path| {
        path.starts_with("rayon_core::") && ends(path, "main_loop")
            || path.starts_with("rayon_core::")
                && ends(path, "WorkerThread::wait_until_out_of_work")
    });
    match call {
        "rayon job" if outermost => "idle rayon worker",
        call => call,
    }
}

/// glibc's own names of what it exports: `___pthread_mutex_lock`, `__GI___pthread_mutex_lock`, `sem_wait@@GLIBC_2.34`.
pub(super) fn c_name(name: &str) -> &str {
    let name = name.split('@').next().unwrap_or(name);
    let trimmed = name.strip_prefix("__GI_").unwrap_or(name);
    let bare = trimmed.trim_start_matches('_');
    match bare {
        _ if bare.starts_with("new_sem_wait") => "sem_wait",
        _ if bare.starts_with("new_sem_clockwait") => "sem_clockwait",
        _ if bare.starts_with("pthread_") => bare.split("64").next().unwrap_or(bare),
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stack(functions: &[&str]) -> Vec<NativeFrame> {
        let frame = |function: &&str| {
            let module = match function.contains("::") {
                true => "bin",
                false => "libc.so.6",
            };
            let frame = NativeFrame::of(function, module);
            NativeFrame {
                function: frame.function.filter(|name| !name.is_empty()),
                ..frame
            }
        };
        functions.iter().map(frame).collect()
    }

    #[test]
    fn the_program_s_word_for_a_wait() {
        for (functions, call, frames) in [
            (
                &[
                    "syscall",
                    "std::sys::sync::mutex::futex::Mutex::lock_contended",
                    "std::sync::poison::mutex::Mutex<T>::lock",
                    "hang::go",
                ][..],
                "Mutex::lock",
                2,
            ),
            (
                &[
                    "syscall",
                    "std::thread::park",
                    "std::sync::mpmc::context::Context::wait_until",
                    "std::sync::mpmc::list::Channel<T>::recv",
                    "std::sync::mpsc::Receiver<T>::recv",
                    "hang::go",
                ],
                "mpsc::Receiver::recv",
                4,
            ),
            (
                &["__futex_abstimed_wait_common", "___pthread_mutex_lock"],
                "pthread_mutex_lock",
                2,
            ),
            (
                &["", "pthread_cond_wait@@GLIBC_2.3.2"],
                "pthread_cond_wait",
                2,
            ),
        ] {
            let shape = shape(&stack(functions)).expect("known");
            assert_eq!((shape.call, shape.frames), (call, frames));
        }
    }

    #[test]
    fn modules_by_their_files() {
        for (file, module) in [
            (
                "/rustc/1ab/library/std/src/sync/mpsc.rs",
                Some("std::sync::mpsc"),
            ),
            (
                "/rustc/1ab/library/std/src/sync/mpmc/mod.rs",
                Some("std::sync::mpmc"),
            ),
            (
                "/h/.cargo/registry/src/index-1/rayon-core-1.13.0/src/latch.rs",
                Some("rayon_core::latch"),
            ),
            (
                "/h/.cargo/registry/src/index-1/flume-0.11.1/src/lib.rs",
                Some("flume"),
            ),
            ("/work/mine/src/latch.rs", None),
            ("latch.c", None),
        ] {
            assert_eq!(module_of(file).as_deref(), module, "{file}");
        }
    }

    #[test]
    fn what_the_project_calls_alike_is_its_own() {
        let own = stack(&[
            "syscall",
            "hang::Mutex::lock_contended",
            "std::thread::park",
        ]);
        assert_eq!(shape(&own), None);
    }
}
