//! Programs in Rust and C that are built for the tests, once: cargo and the file's age see to that.

use super::fixture;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where they are built: beside the tests' own build.
fn folder() -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("native");
    fs::create_dir_all(&folder).expect("a folder");
    folder
}

/// `fixtures/hangs/rust`, in a cargo profile.
pub(crate) fn rust_hangs(profile: &str) -> PathBuf {
    let target = folder().join("rust");
    let built = Command::new(env!("CARGO"))
        .args(["build", "--locked", "--quiet", "--profile", profile])
        .arg("--manifest-path")
        .arg(fixture("hangs/rust/Cargo.toml"))
        .arg("--target-dir")
        .arg(&target)
        .env_remove("RUSTFLAGS")
        .status()
        .expect("cargo");
    assert!(built.success(), "fixtures/hangs/rust does not build");
    let folder = if profile == "dev" { "debug" } else { profile };
    target.join(folder).join("hangs")
}

/// A C program of `fixtures/`, as most are built: with some optimization and debug information.
pub(crate) fn c_program(path: &str) -> PathBuf {
    let name = fixture(path).file_stem().expect("a name").to_owned();
    compile(path, Path::new(&name), &["-pthread"])
}

/// The same as a library to load, `libNAME.so`.
pub(crate) fn c_library(path: &str) -> PathBuf {
    let name = fixture(path).file_stem().expect("a name").to_owned();
    let file = format!("lib{}.so", name.to_string_lossy());
    compile(path, Path::new(&file), &["-pthread", "-shared", "-fPIC"])
}

fn compile(path: &str, file: &Path, options: &[&str]) -> PathBuf {
    let source = fixture(path);
    let program = folder().join(file);
    let age = |path: &Path| fs::metadata(path).and_then(|meta| meta.modified()).ok();
    if age(&program) > age(&source) {
        return program;
    }
    // Tests of other processes may build it, too.
    let fresh = tempfile::Builder::new()
        .tempfile_in(folder())
        .expect("a file")
        .into_temp_path();
    let built = Command::new("cc")
        .args(["-g", "-O1", "-Wall", "-Wextra", "-Werror"])
        .args(options)
        .arg("-o")
        .args([fresh.as_os_str(), source.as_os_str()])
        .status()
        .expect("cc");
    assert!(built.success(), "{path} does not build");
    fresh.persist(&program).expect("in place");
    program
}
