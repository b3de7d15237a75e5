//! The runner: becomes the test binary, or the user's own runner for it.

use super::super::testrun::RUN_VARIABLE;
use super::{MARKS, config, mark, triples, variable};
use crate::inspect::holds_doctests;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The hidden subcommand that makes hangscope cargo's runner: `hangscope __cargo-runner TRIPLE [RUNNER…] BINARY [ARG…]`.
pub const CARGO_RUNNER: &str = "__cargo-runner";
/// By which rustdoc tells a binary of doctests where it is (`run_test` in `src/librustdoc/doctest.rs`).
const DOCTESTS: &str = "RUSTDOC_DOCTEST_BIN_PATH";
/// How many processes up cargo is looked for; between are rustdoc, and programs that are started for several tools.
const LEVELS: usize = 8;

/// Becomes the test binary. Returns only when that fails: with an exit code, and what to say.
#[must_use]
pub fn cargo_runner(mut arguments: impl Iterator<Item = OsString>) -> (u8, String) {
    let triple = arguments.next().unwrap_or_default();
    let words: Vec<OsString> = arguments.collect();
    let own = own_value(&triple, &|name| std::env::var_os(name));
    let theirs = own.as_deref().map_or(0, |value| split(value).count());
    let mut command = words.clone();
    if own.is_none() {
        // The user's runner stands in a file, which our variable takes the place of.
        let from_file = config::runner(&triple.to_string_lossy(), &cargo_folder());
        command.splice(0..0, from_file.unwrap_or_default());
    }
    let binary = words.get(theirs);
    let lists = words.iter().any(|word| word == "--list");
    if let (Some(binary), Some(run), false) = (binary, std::env::var_os(RUN_VARIABLE), lists) {
        // Without a note the binary is known by the process tree.
        let _ = mark(&Path::new(&run).join(MARKS), binary);
    }
    let Some((program, arguments)) = command.split_first() else {
        return (125, "it was started without a program".to_owned());
    };
    let mut exec = Command::new(program);
    exec.args(arguments);
    // For what the binary starts all is as the user had it.
    for triple in triples() {
        match own_value(OsStr::new(&triple), &|name| std::env::var_os(name)) {
            Some(value) => exec.env(variable(&triple), value),
            None => exec.env_remove(variable(&triple)),
        };
    }
    if let Some(binary) = binary.filter(|binary| command.first() == Some(binary)) {
        // A binary of several doctests is told by rustdoc where it is, but not where a runner is asked for; it then
        // warns, and runs its tests in one process. Without us it would have been told.
        if holds_doctests(Path::new(binary)) && std::env::var_os(DOCTESTS).is_none() {
            exec.env(DOCTESTS, binary);
        }
    }
    let error = exec.exec();
    let code = if error.kind() == std::io::ErrorKind::NotFound {
        127
    } else {
        126
    };
    (
        code,
        format!("failed to run {}: {error}", program.display()),
    )
}

/// The user's own value of the variable for a target: what follows our three words.
fn own_value(triple: &OsStr, get: &dyn Fn(&str) -> Option<OsString>) -> Option<OsString> {
    let value = get(&variable(&triple.to_string_lossy()))?;
    let ours = format!(" {CARGO_RUNNER} {}", triple.to_string_lossy());
    let bytes = value.as_bytes();
    let Some(at) = find(bytes, ours.as_bytes()) else {
        // It is not ours at all.
        return Some(value);
    };
    let rest = bytes.get(at + ours.len()..)?.strip_prefix(b" ")?;
    Some(OsString::from_vec(rest.to_vec()))
}

fn find(text: &[u8], part: &[u8]) -> Option<usize> {
    text.windows(part.len()).position(|window| window == part)
}

/// As cargo takes a runner apart.
pub(super) fn split(value: &OsStr) -> impl Iterator<Item = OsString> {
    let text = value.to_string_lossy().into_owned();
    let words: Vec<OsString> = text.split_whitespace().map(OsString::from).collect();
    words.into_iter()
}

/// The folder that cargo looks for its files from: its current one.
fn cargo_folder() -> PathBuf {
    let mut pid = super::super::processes::own_pid();
    for _ in 0..LEVELS {
        let Some(parent) = super::Process::read(pid)
            .map(|it| it.parent)
            .filter(|&it| it > 0)
        else {
            break;
        };
        pid = parent;
        let name = super::Process::read(pid).map(|it| it.name);
        let is_cargo = name.is_some_and(|it| matches!(it.untrusted(), "cargo" | "cargo-nextest"));
        if is_cargo && let Ok(folder) = fs::read_link(format!("/proc/{pid}/cwd")) {
            return folder;
        }
    }
    std::env::current_dir().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::own_value;
    use std::ffi::{OsStr, OsString};

    #[test]
    fn the_users_value_is_what_follows_ours() {
        let with = |value: Option<&str>| {
            let value = value.map(OsString::from);
            own_value(OsStr::new("t-u"), &|_| value.clone())
        };
        assert_eq!(with(Some("/a b/hangscope __cargo-runner t-u")), None);
        assert_eq!(
            with(Some("/h __cargo-runner t-u qemu -x")),
            Some("qemu -x".into())
        );
        assert_eq!(
            with(Some("qemu -x")),
            Some("qemu -x".into()),
            "it was set anew"
        );
        let nested = "/h __cargo-runner t-u /g __cargo-runner t-u qemu";
        assert_eq!(
            with(Some(nested)),
            Some("/g __cargo-runner t-u qemu".into())
        );
        assert_eq!(with(None), None);
    }
}
