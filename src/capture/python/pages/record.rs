//! Making recordings, from real processes.

use super::{Head, Recording};
use crate::capture::kernel::{self, SyscallLine, Task, Tasks};
use crate::capture::maps::{self, Maps};
use crate::capture::memory::recorded::Recorder;
use crate::capture::memory::{CachedMemory, ProcessMemory};
use crate::capture::python::{
    BlockedThread, Located, PythonProcess, Runtime, Stacks, ThreadStack, locate,
};
use crate::capture::syscall;
use crate::model::{Key, Pid};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Where the interpreters seem to be installed.
const PREFIX: &str = "/tmp/hangscope-pages";
/// How long the program may take to come to rest.
const WITHIN: Duration = Duration::from_secs(30);

/// The program, killed and unlinked in the end.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
        let _ = std::fs::remove_file(PREFIX);
    }
}

/// Runs `fixtures/programs/recorded_program.py` on a version and records one sample.
pub(super) fn record(minor: u8) -> Recording {
    let python = python(minor);
    let (running, pid) = start(&python);
    let began = Instant::now();
    loop {
        assert!(began.elapsed() < WITHIN, "3.{minor} does not come to rest");
        std::thread::sleep(Duration::from_millis(100));
        if let Some(recording) = sample(pid) {
            drop(running);
            let recording = anonymous(recording, &python);
            check_anonymous(&recording);
            return recording;
        }
    }
}

fn python(minor: u8) -> PathBuf {
    let file = std::env::var_os("HANGSCOPE_TEST_PYTHONS").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/test-env/pythons.json"),
        PathBuf::from,
    );
    let text = std::fs::read_to_string(file).expect("tests/provision was run");
    let paths: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let path = paths[format!("3.{minor}")].as_str();
    PathBuf::from(path.unwrap_or_else(|| panic!("no Python 3.{minor}")))
}

/// `bin/..` of an interpreter.
fn installation(python: &Path) -> &Path {
    let folder = python.parent().and_then(Path::parent);
    folder.expect("bin/python below a folder")
}

/// Through a link, so that the paths in its code objects are not those of this machine; with an environment that says nothing.
fn start(python: &Path) -> (Running, Pid) {
    let _ = std::fs::remove_file(PREFIX);
    std::os::unix::fs::symlink(installation(python), PREFIX).expect("a link");
    let name = python.file_name().expect("a name");
    let script = include_str!("../../../../fixtures/programs/recorded_program.py");
    let mut child = Command::new(Path::new(PREFIX).join("bin").join(name))
        .args(["-I", "-S", "-B", "-c", script])
        .env_clear()
        .env(
            "PYTEST_CURRENT_TEST",
            "tests/test_recorded.py::test_it (call)",
        )
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("a pipe"))
        .read_line(&mut line)
        .expect("a line");
    assert_eq!(line, "READY\n");
    let pid = Pid::try_from(child.id()).expect("a pid");
    (Running(child), pid)
}

/// One sample; `None` while a thread runs.
fn sample(pid: Pid) -> Option<Recording> {
    let tids = kernel::thread_ids(pid).expect("threads");
    let folder = Tasks::of(pid);
    let mut tasks: Vec<Task> = tids.iter().map(|tid| Task::new(&folder, *tid)).collect();
    let first: Vec<_> = tasks.iter_mut().map(|task| task.first_look(true)).collect();
    let memory = ProcessMemory::new(pid);
    let recorder = Recorder::new(&memory);
    let cached = CachedMemory::new(&recorder);
    let maps = Maps::read(pid, pid).expect("a map");
    let Located::Python(runtime) = locate(&maps, &cached) else {
        panic!("not Python");
    };
    let process = PythonProcess::new(pid, Runtime::clone(&runtime), &maps);
    let mut waiters = Vec::new();
    let mut threads = Vec::new();
    for (tid, look) in tids.iter().zip(&first) {
        let SyscallLine::In(call) = &look.syscall else {
            return None;
        };
        let futex = syscall::meaning(call, None, None).futex;
        waiters.extend(futex.map(|address| (*tid, address)));
        threads.push((*tid, Some(call.stack_pointer.0), *tid == pid));
    }
    let waiting: Vec<BlockedThread> = waiters
        .iter()
        .map(|(tid, address)| BlockedThread {
            native_id: *tid,
            tid: *tid,
            futex: Some(*address),
        })
        .collect();
    let stacks: Vec<ThreadStack> = threads
        .iter()
        .map(|(tid, pointer, is_first)| ThreadStack {
            native_id: *tid,
            stack_pointer: *pointer,
            is_first: *is_first,
        })
        .collect();
    let regions = maps::regions(pid, pid);
    let stacks = Stacks {
        threads: &stacks,
        regions: &|| regions.clone(),
    };
    let part = process.read(pid, &Key::process(1, 1), &recorder, &waiting, &stacks, true);
    let _ = process.running_test(&cached, b"");
    let settled = tasks
        .iter_mut()
        .zip(&first)
        .all(|(task, first)| first.settled_until(&task.last_look()));
    if !settled || !part.gaps.is_empty() {
        return None;
    }
    let regions: Vec<(u64, u64, bool)> = regions
        .iter()
        .filter(|region| {
            let mut pointers = threads.iter().filter_map(|(_, pointer, _)| *pointer);
            pointers.any(|pointer| (region.start..region.end).contains(&pointer))
        })
        .map(|region| (region.start, region.end, region.first_stack))
        .collect();
    let environ = process.environ;
    drop(cached);
    let pages = recorder.into_pages();
    Some(Recording {
        head: Head {
            minor: runtime.minor,
            rest: runtime.rest.clone(),
            runtime: runtime.address.expect("an address"),
            environ,
            waiters,
            threads,
            regions,
            pages: pages.pages.keys().copied().collect(),
        },
        pages,
    })
}

/// Parts of texts that name this machine or its user.
fn machine(python: &Path) -> Vec<String> {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let mut names = vec![host.trim().to_owned()];
    names.extend(std::env::var("HOME"));
    names.push(env!("CARGO_MANIFEST_DIR").to_owned());
    names.push(installation(python).to_string_lossy().into_owned());
    // A path may have begun on the page before.
    let ends: Vec<String> = names
        .iter()
        .flat_map(|name| name.match_indices('/').map(|(at, _)| name[at..].to_owned()))
        .filter(|end| end.matches('/').count() > 1)
        .collect();
    names.extend(ends);
    // A shorter one is part of other words.
    names.retain(|name| name.len() > 3);
    names
}

/// Paths that the dynamic linker left beside what was read are overwritten, each as a whole within its page.
fn anonymous(mut recording: Recording, python: &Path) -> Recording {
    for page in recording.pages.pages.values_mut() {
        for name in machine(python) {
            let name = name.as_bytes();
            for at in 0..=page.len().saturating_sub(name.len()) {
                if page[at..].starts_with(name) {
                    page[at + 1..at + name.len()].fill(b'x');
                }
            }
        }
    }
    recording
}

/// Fails if a recording holds a path of somebody's machine.
pub(super) fn check_anonymous(recording: &Recording) {
    for (address, page) in &recording.pages.pages {
        for place in [&b"/home/"[..], b"/root/", b"/work/", b"/.pyenv"] {
            let found = page.windows(place.len()).any(|bytes| bytes == place);
            let place = String::from_utf8_lossy(place);
            assert!(!found, "{place:?} is in page {address:#x}");
        }
    }
}
