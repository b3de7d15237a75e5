//! Where and how Python may run: roots and namespaces of its own, other builds, inside of other programs, its files gone.
//! Each runs the program with locks of all kinds, and what is said of that must be the same truth.

use crate::support::program::Program;
use crate::support::{pythons, repository, skip};
use crate::waits;
use nix::unistd::Uid;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn script() -> PathBuf {
    repository("fixtures/programs/locks_program.py")
}

fn check(what: &str, command: &mut Command) {
    let mut program = Program::start(command);
    let lines = program.wait_for("READY");
    waits::check_program(&program, &lines, what);
}

fn is_root(why: &str) -> bool {
    let root = Uid::effective().is_root();
    if !root {
        skip(&format!("{why} needs root"));
    }
    root
}

fn scratch() -> tempfile::TempDir {
    // Beside what is provisioned, so that files can be linked.
    let folder = repository("target");
    tempfile::Builder::new()
        .prefix("environment-")
        .tempdir_in(folder)
        .expect("a folder")
}

fn shell(text: &str, args: &[&Path]) -> Command {
    let mut command = Command::new("sh");
    command.args(["-ec", text, "sh"]).args(args);
    command
}

fn done(command: &mut Command) {
    let output = command.output().expect("it starts");
    assert!(output.status.success(), "{command:?}: {output:?}");
}

/// A folder to be a root, with Python 3.14 under `/py` and the program under `/p`; only a provisioned one brings all its libraries.
fn new_root() -> Option<tempfile::TempDir> {
    let python = pythons::python("3.14")?;
    let prefix = python.ancestors().nth(3)?.to_owned();
    if !prefix.join("usr/lib64").is_dir() || !prefix.join("stamp").exists() {
        println!("not checked: Python 3.14 is the machine's own and has its libraries elsewhere");
        return None;
    }
    let root = scratch();
    let build = "
        mkdir -p $3/dev/shm $3/proc $3/old $3/tmp $3/p $3$(dirname $1)
        : > $3/dev/null
        cp -al $1 $3/py 2> $3/tmp/why || { rm -rf $3/py; cp -a $1 $3/py; }
        cp $2 $3/p/program.py
        ln -s /py $3$1";
    done(&mut shell(build, &[&prefix, &script(), root.path()]));
    Some(root)
}

const LIBRARIES: &str =
    "LD_LIBRARY_PATH=/py/usr/lib/x86_64-linux-gnu:/py/usr/lib/aarch64-linux-gnu";

#[test]
fn another_root() {
    if !is_root("a chroot") {
        return;
    }
    let Some(root) = new_root() else { return };
    let run = format!("{LIBRARIES} exec chroot $1 /py/usr/bin/python3.14 /p/program.py");
    check("chroot", &mut shell(&run, &[root.path()]));
    // The program is the loader then, and Python one of its files.
    let run = format!(
        "loader=$(basename $1/py/usr/lib64/ld-linux*)
        {LIBRARIES} exec chroot $1 /py/usr/lib64/$loader /py/usr/bin/python3.14 /p/program.py"
    );
    check("loader", &mut shell(&run, &[root.path()]));
}

#[test]
fn a_container() {
    if !is_root("a container") {
        return;
    }
    let Some(root) = new_root() else { return };
    // The old root is let go of by Python, as there is no shell in the new one.
    let run = r#"exec unshare --mount --pid --fork --kill-child sh -ec '
        mount --bind $1 $1; cd $1; mount --bind /dev dev; mount -t proc proc proc
        pivot_root . old
        exec /py/usr/bin/python3.14 -c "import ctypes, sys
assert ctypes.CDLL(None).umount2(b\"/old\", 2) == 0
__file__ = \"/p/program.py\"; exec(compile(open(__file__).read(), __file__, \"exec\"))"' sh $1"#;
    check("pivot_root", &mut shell(run, &[root.path()]));
}

#[test]
fn a_distribution_s_python() {
    let python = Path::new("/usr/bin/python3");
    let version = Command::new(python)
        .args(["-c", "import sys; print(sys.version_info[1])"])
        .output();
    let minor = version.map(|output| String::from_utf8_lossy(&output.stdout).trim().parse());
    if !matches!(minor, Ok(Ok(9..=15))) {
        skip("this distribution has no Python of a version that is read");
        return;
    }
    check("distribution", Command::new(python).arg(script()));
}

#[test]
fn virtual_environments() {
    for version in ["3.11", "3.14"] {
        if let Some(python) = pythons::python_with_packages(version) {
            check("venv", Command::new(python).arg(script()));
        }
    }
}

#[test]
fn uv_run() {
    let provisioned = pythons::python("3.14").and_then(|python| {
        let tools = python.ancestors().nth(4)?.join("tools/uv/bin/uv");
        tools.exists().then_some(tools)
    });
    let uv = provisioned.unwrap_or_else(|| PathBuf::from("uv"));
    let Some(python) = pythons::python_with_packages("3.13") else {
        return;
    };
    if Command::new(&uv).arg("--version").output().is_err() {
        skip("there is no uv");
        return;
    }
    let options = [
        "run",
        "--no-project",
        "--no-config",
        "--offline",
        "--python",
    ];
    let mut run = Command::new(uv);
    run.args(options).arg(python).arg("python").arg(script());
    check("uv run", &mut run);
}

/// Python on a thread that is not the first of its program, linked or loaded.
const EMBEDDED: &str = r#"
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
static char **arguments;
static void *run(void *unused) {
    void *library = dlopen(arguments[1], RTLD_NOW | RTLD_GLOBAL);
    if (!library) { puts(dlerror()); exit(1); }
    int (*python)(int, char **) = (int (*)(int, char **))dlsym(library, "Py_BytesMain");
    exit(python(2, arguments + 1));
}
int main(int count, char **all) {
    pthread_t thread;
    arguments = all;
    pthread_create(&thread, NULL, run, NULL);
    pthread_join(thread, NULL);
}
"#;

/// The shared library of a Python, with the prefix that it belongs to.
fn library(version: &str) -> Option<(PathBuf, PathBuf)> {
    let python = pythons::python(version)?;
    let code = "import sys, sysconfig as s; print(sys.base_prefix); print(s.get_config_var('LIBDIR') + '/' + s.get_config_var('INSTSONAME'))";
    let output = Command::new(&python).args(["-c", code]).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let mut lines = text.lines().map(PathBuf::from);
    let (prefix, library) = (lines.next()?, lines.next()?);
    let found = library.exists() && library.to_str()?.contains(".so");
    if !found {
        println!("not checked: Python {version} has no shared library");
    }
    found.then_some((prefix, library))
}

#[test]
fn embedded() {
    let Some((prefix, library)) = library("3.11") else {
        return;
    };
    if Command::new("cc").arg("--version").output().is_err() {
        skip("there is no C compiler");
        return;
    }
    let folder = scratch();
    let source = folder.path().join("host.c");
    fs::write(&source, EMBEDDED).expect("the source");
    let host = folder.path().join("host");
    let mut compiler = Command::new("cc");
    compiler
        .arg("-o")
        .args([&host, &source])
        .args(["-pthread", "-ldl"]);
    done(&mut compiler);
    let mut run = Command::new(host);
    run.arg(library).arg(script()).env("PYTHONHOME", prefix);
    check("embedded", &mut run);
}

#[test]
fn files_that_are_gone_or_others() {
    if !is_root("a deleted library can be opened by root only, which") {
        return;
    }
    let (Some((prefix, old)), Some((_, newer))) = (library("3.11"), library("3.12")) else {
        return;
    };
    for replaced in [false, true] {
        let folder = scratch();
        let name = |path: &Path| folder.path().join(path.file_name().expect("a name"));
        let copy = name(&old);
        fs::copy(&old, &copy).expect("a copy");
        let python = folder.path().join("python3");
        fs::copy(prefix.join("bin/python3.11"), &python).expect("a copy");
        let mut run = Command::new(&python);
        run.arg(script());
        run.env("LD_LIBRARY_PATH", folder.path())
            .env("PYTHONHOME", &prefix);
        let mut program = Program::start(&mut run);
        let lines = program.wait_for("READY");
        for (gone, other) in [(&copy, &newer), (&python, &PathBuf::from("/bin/sh"))] {
            fs::remove_file(gone).expect("it is there");
            if replaced {
                fs::copy(other, gone).expect("a copy");
            }
        }
        waits::check_program(&program, &lines, &format!("gone, replaced: {replaced}"));
    }
}

#[test]
fn a_user_without_rights_and_a_namespace_of_its_own() {
    let python = Path::new("/usr/bin/python3");
    let mut probe = Command::new("unshare");
    let usable = probe.args(["--user", "--map-root-user", "true"]).output();
    if !usable.is_ok_and(|output| output.status.success()) || !python.exists() {
        skip("there are no user namespaces, or no Python for all users");
        return;
    }
    let mut run = Command::new("unshare");
    run.args([
        "--user",
        "--map-root-user",
        "--pid",
        "--mount-proc",
        "--fork",
        "--kill-child",
    ]);
    check("user namespace", run.arg(python).arg(script()));
}
