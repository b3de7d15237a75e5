//! How cargo tells of its test binaries: by a *runner* of ours, a program that cargo starts with the binary's path
//! (`CARGO_TARGET_<TRIPLE>_RUNNER`). It notes its process in the run folder, and becomes the binary.
//!
//! So the end of the build is known exactly, and so is a binary below a runner of the user's. Where the variable does not
//! arrive, or cargo was given a runner on its command line, binaries are known by the process tree.

mod config;
mod runner;

use super::processes::Process;
use crate::inspect::Marked;
use crate::model::Pid;
pub use runner::{CARGO_RUNNER, cargo_runner};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// The folder of the run folder that the runner notes binaries in.
pub(super) const MARKS: &str = "cargo";
/// The link in the run folder to hangscope, for a path that cargo would take apart at its spaces.
const LINK: &str = "hangscope";
/// Most notes that are read in one look.
const MOST_MARKS: usize = 10_000;
/// Longest path in a note.
const LONGEST: u64 = 4096;

/// The targets whose programs run here without an emulator, and that are in use.
fn triples() -> [String; 2] {
    let arch = std::env::consts::ARCH;
    ["gnu", "musl"].map(|library| format!("{arch}-unknown-linux-{library}"))
}

/// The variable that names the runner for a target.
fn variable(triple: &str) -> String {
    let triple = triple.replace('-', "_").to_ascii_uppercase();
    format!("CARGO_TARGET_{triple}_RUNNER")
}

/// Variables for the command so that cargo starts our runner, with the user's own after it; and what the user should
/// know, a sentence.
pub(super) fn environment(
    run: &Path,
    command: &[OsString],
    user: &dyn Fn(&str) -> Option<OsString>,
) -> (Vec<(OsString, OsString)>, Option<String>) {
    // nextest names each test to its process, and tells of a runner in its output.
    let is_nextest = |word: &OsString| {
        let name = Path::new(word).file_name().unwrap_or(word);
        name == "nextest" || name == "cargo-nextest"
    };
    if command.iter().any(is_nextest) || runs_python(command) {
        return (Vec::new(), None);
    }
    match own_path(run) {
        Some(program) => (variables(&program, user), None),
        None => {
            let note = "cargo does not tell of its test binaries: hangscope's own path cannot be given to it.";
            (Vec::new(), Some(note.to_owned()))
        }
    }
}

/// Whether the command is a test run of Python: its tests are not to see variables that are for cargo.
fn runs_python(command: &[OsString]) -> bool {
    const RUNNERS: [&str; 6] = ["coverage", "nox", "py.test", "pytest", "tox", "uv"];
    let program = command
        .first()
        .and_then(|word| Path::new(word).file_name()?.to_str());
    program.is_some_and(|name| name.starts_with("python") || RUNNERS.contains(&name))
}

fn variables(program: &Path, user: &dyn Fn(&str) -> Option<OsString>) -> Vec<(OsString, OsString)> {
    let one = |triple: &str| {
        let name = variable(triple);
        let mut value = program.as_os_str().to_owned();
        value.push(format!(" {CARGO_RUNNER} {triple}"));
        if let Some(theirs) = user(&name) {
            value.push(" ");
            value.push(theirs);
        }
        (OsString::from(name), value)
    };
    triples().iter().map(|triple| one(triple)).collect()
}

/// Our program, by a path without spaces. None when there is none.
fn own_path(run: &Path) -> Option<PathBuf> {
    let own = std::env::current_exe().ok().filter(|own| own.exists())?;
    if !has_space(own.as_os_str()) {
        return Some(own);
    }
    let link = run.join(LINK);
    std::os::unix::fs::symlink(own, &link).ok()?;
    Some(link).filter(|link| !has_space(link.as_os_str()))
}

fn has_space(text: &OsStr) -> bool {
    // cargo splits at what Unicode takes for white space.
    text.to_str()
        .is_none_or(|text| text.contains(char::is_whitespace))
}

/// The binaries that runners have noted and that live. Notes of others are removed.
pub(super) fn marks(folder: &Path) -> Marked {
    let mut marked = Marked::new();
    for entry in fs::read_dir(folder)
        .into_iter()
        .flatten()
        .take(MOST_MARKS)
        .flatten()
    {
        let name = entry.file_name();
        let Some((pid, start)) = name.to_str().and_then(parse_name) else {
            continue;
        };
        if Process::read(pid).is_none_or(|process| process.start != start) {
            let _ = fs::remove_file(entry.path());
            continue;
        }
        let mut path = Vec::new();
        let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
        let file = is_file.then(|| fs::File::open(entry.path()).ok()).flatten();
        if file.is_some_and(|file| file.take(LONGEST).read_to_end(&mut path).is_ok()) {
            marked.insert((pid, start), PathBuf::from(OsString::from_vec(path)));
        }
    }
    marked
}

/// Notes that this process is about to become a test binary.
fn mark(folder: &Path, binary: &OsStr) -> std::io::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let own = Process::read(super::processes::own_pid()).ok_or(std::io::ErrorKind::NotFound)?;
    let mut options = fs::File::options();
    options.write(true).create_new(true).mode(0o600);
    let path = folder.join(format!("{}-{}", own.pid, own.start));
    options.open(path)?.write_all(binary.as_bytes())
}

/// `<pid>-<start ticks>`.
fn parse_name(name: &str) -> Option<(Pid, u64)> {
    let (pid, start) = name.split_once('-')?;
    Some((
        pid.parse().ok().filter(|&pid| pid > 0)?,
        start.parse().ok()?,
    ))
}

#[cfg(test)]
mod tests {
    use super::{environment, has_space, mark, marks, variable, variables};
    use crate::watch::processes::{Process, own_pid};
    use std::ffi::{OsStr, OsString};
    use std::fs;
    use std::path::Path;

    #[test]
    fn the_users_own_runner_comes_after_ours() {
        let user = |name: &str| {
            (name == variable("x86_64-unknown-linux-musl")).then(|| OsString::from("qemu -cpu max"))
        };
        let all = variables(Path::new("/bin/hangscope"), &user);
        let of = |triple: &str| {
            let found = all.iter().find(|(name, _)| *name == *variable(triple));
            found.map(|(_, value)| value.to_string_lossy().into_owned())
        };
        if cfg!(target_arch = "x86_64") {
            let gnu = "/bin/hangscope __cargo-runner x86_64-unknown-linux-gnu";
            assert_eq!(of("x86_64-unknown-linux-gnu").as_deref(), Some(gnu));
            let musl = "/bin/hangscope __cargo-runner x86_64-unknown-linux-musl qemu -cpu max";
            assert_eq!(of("x86_64-unknown-linux-musl").as_deref(), Some(musl));
        }
        assert_eq!(variable("a-b.c"), "CARGO_TARGET_A_B.C_RUNNER");
        assert!(has_space(OsStr::new("/my tools/hangscope")) && !has_space(OsStr::new("/é/h")));
    }

    #[test]
    fn nextest_and_python_get_no_runner() {
        let of = |words: &[&str]| {
            let command: Vec<OsString> = words.iter().map(OsString::from).collect();
            environment(Path::new("/run"), &command, &|_| None).0.len()
        };
        assert_eq!(of(&["cargo", "test"]), 2);
        assert_eq!(of(&["cargo", "+nightly", "nextest", "run"]), 0);
        assert_eq!(of(&["/bin/cargo-nextest", "nextest", "run"]), 0);
        assert_eq!(of(&["/v/bin/python3.14", "-m", "pytest"]), 0);
        assert_eq!(of(&["make", "test"]), 2);
    }

    #[test]
    fn notes_count_while_their_process_lives() {
        let folder = tempfile::tempdir().expect("a folder");
        mark(folder.path(), OsStr::new("/t/deps/it-1")).expect("a note");
        fs::write(folder.path().join(format!("{}-1", own_pid())), "/old").expect("a note");
        fs::write(folder.path().join("other"), "x").expect("a file");
        let own = Process::read(own_pid()).expect("ourselves");
        let found = marks(folder.path());
        let path = found.get(&(own.pid, own.start)).expect("ours");
        assert_eq!(
            (found.len(), path.as_path()),
            (1, Path::new("/t/deps/it-1"))
        );
        assert!(!folder.path().join(format!("{}-1", own_pid())).exists());
        assert!(
            mark(folder.path(), OsStr::new("again")).is_err(),
            "it is noted once"
        );
    }
}
