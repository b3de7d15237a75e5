//! Programs in C and Rust, compiled once for all tests.

use super::{fixture, repository};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where what is compiled is kept: within `target/`.
fn folder() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR"))
}

/// A program of `fixtures/programs/native`.
pub(crate) fn c_program(name: &str) -> PathBuf {
    compile(name, name, ["-O1", "-g", "-pthread"])
}

/// The same as a library.
pub(crate) fn c_library(name: &str) -> PathBuf {
    compile(name, &format!("lib{name}.so"), ["-O1", "-shared", "-fPIC"])
}

/// Tests of other processes may do the same at the same time: each puts a whole file into place.
fn compile<S: AsRef<OsStr>>(
    name: &str,
    result: &str,
    options: impl IntoIterator<Item = S>,
) -> PathBuf {
    let source = fixture("programs/native").join(format!("{name}.c"));
    let target = folder().join(result);
    let changed = |path: &Path| path.metadata().and_then(|data| data.modified()).ok();
    if changed(&target) > changed(&source) {
        return target;
    }
    let made = tempfile::tempdir_in(folder()).expect("a folder");
    let fresh = made.path().join(result);
    let mut command = Command::new("cc");
    command.args(options).arg("-o").arg(&fresh).arg(&source);
    let output = command.output().expect("there is a C compiler");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
    std::fs::rename(&fresh, &target).expect("put into place");
    target
}

/// The program of `fixtures/hangs/rust`, of the profile `dev` or `release`.
pub(crate) fn rust_hangs(profile: &str) -> PathBuf {
    let target = folder().join("hangs-rust");
    let manifest = repository("fixtures/hangs/rust/Cargo.toml");
    let mut command = Command::new(env!("CARGO"));
    command
        .args(["build", "--quiet", "--locked", "--profile", profile])
        .arg("--manifest-path")
        .arg(manifest)
        .arg("--target-dir")
        .arg(&target);
    let output = command.output().expect("cargo starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
    let folder = if profile == "dev" { "debug" } else { profile };
    target.join(folder).join("hangs")
}
