//! What a process is to a run of cargo or nextest: by its program, its arguments, and what it is below of.

use super::Seen;
use super::environment::{Environment, NextestTest, binary};
use super::libtests::Libtests;
use crate::capture::facts::read_bounded;
use crate::model::{Foreign, Pid};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Most files beside a binary of doctests that are looked at.
const MAX_ENTRIES: usize = 1_000;

/// What a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// cargo; what it starts are compilers, build scripts, and tests.
    Cargo,
    /// cargo's nextest.
    CargoNextest,
    /// Something between cargo and a test: a runner of the user's, a shell.
    BelowCargo,
    /// rustdoc, testing.
    Doctests,
    /// A binary of all doctests.
    MergedDoctests,
    /// A doctest.
    Doctest,
    /// A libtest binary.
    Libtest,
    /// A test of nextest's.
    Nextest,
    /// Below a test.
    Foreign,
    /// None of these.
    Other,
}

impl Kind {
    pub(super) fn is_test(self) -> bool {
        matches!(self, Self::Libtest | Self::Nextest | Self::Doctest)
    }

    pub(super) fn is_cargo(self) -> bool {
        matches!(self, Self::Cargo | Self::CargoNextest)
    }

    fn is_below_cargo(self) -> bool {
        self.is_cargo() || self == Self::BelowCargo
    }
}

/// What is known of a process from the program that it runs.
#[derive(Debug)]
pub(super) struct Program {
    exe: Option<PathBuf>,
    comm: Foreign,
    /// `--test` in the arguments.
    tests: bool,
    /// `--list` or `--bench` in the arguments: no tests are run.
    runs_none: bool,
    /// A compiler, a wrapper around one, or a build script.
    pub(super) builds: bool,
    /// It is told where it is, so that it can start itself for each doctest.
    merged: bool,
    /// It holds several doctests, and runs them itself if it is not told where it is.
    holds_doctests: bool,
    pub(super) nextest: Option<NextestTest>,
    /// libtest is in its file, if that was looked at.
    has_libtest: Option<bool>,
    /// The name of its binary.
    pub(super) binary: Foreign,
}

impl Program {
    /// The program of a process. What is known of it is good until it runs another.
    pub(super) fn of(known: Option<Self>, seen: &Seen, own_test: bool) -> Self {
        let exe = fs::read_link(format!("/proc/{}/exe", seen.pid)).ok();
        if let Some(known) = known
            && known.exe == exe
            && known.comm == seen.name
        {
            return known;
        }
        let arguments = read_bounded(&format!("/proc/{}/cmdline", seen.pid));
        let arguments: Vec<&[u8]> = arguments.split(|&byte| byte == 0).collect();
        let environment = Environment::new(read_bounded(&format!("/proc/{}/environ", seen.pid)));
        // nextest starts itself first, and that the test.
        let is_itself = arguments.get(1) == Some(&&b"__double-spawn"[..])
            || matches!(seen.name.untrusted(), "cargo-nextest" | "hangscope");
        let nextest = environment
            .nextest(&arguments)
            .filter(|_| !is_itself && (own_test || !environment.is_ours()));
        let binary = binary(exe.as_deref(), &environment);
        let has = |option: &str| arguments.contains(&option.as_bytes());
        Self {
            tests: has("--test"),
            runs_none: has("--list") || has("--bench"),
            holds_doctests: exe
                .as_deref()
                .is_some_and(|exe| holds_doctests(&from_here(seen.pid, exe))),
            builds: builds(exe.as_deref(), &arguments),
            has_libtest: None,
            merged: environment.get("RUSTDOC_DOCTEST_BIN_PATH").is_some(),
            exe,
            comm: seen.name.clone(),
            nextest,
            binary,
        }
    }

    /// What a process with this program is, below one of that kind.
    pub(super) fn kind(&self, above: Kind, marked: Option<&PathBuf>) -> Kind {
        let file = self.exe.as_deref().and_then(Path::file_name);
        let is_called = |name: &str| file == Some(OsStr::new(name));
        let name = self.comm.untrusted();
        if self.nextest.is_some() {
            return Kind::Nextest;
        }
        if name == "cargo-nextest" || is_called("cargo-nextest") {
            return Kind::CargoNextest;
        }
        if name == "cargo" && above != Kind::Doctests {
            return Kind::Cargo;
        }
        if is_called("rustdoc") && self.tests {
            return Kind::Doctests;
        }
        match above {
            // By rustdoc itself, before it runs the tests that it could not put together with others.
            Kind::Doctests if is_called("rust_out") && self.merged => Kind::MergedDoctests,
            Kind::Doctests if is_called("rust_out") && self.holds_doctests => Kind::Libtest,
            Kind::Doctests | Kind::MergedDoctests if is_called("rust_out") => Kind::Doctest,
            Kind::Doctests | Kind::MergedDoctests => Kind::Other,
            _ if self.runs_none => Kind::Other,
            // The runner may have been started for a program of the user's own, by `cargo run`.
            _ if marked.is_some() && self.is_in("deps") => Kind::Libtest,
            _ if above.is_below_cargo() && self.is_in("deps") => Kind::Libtest,
            _ if above.is_below_cargo() => Kind::BelowCargo,
            // One that was built before, and is run by itself, by a script or by another build tool.
            _ if self.has_libtest == Some(true) && !is_called("rustdoc") => Kind::Libtest,
            _ => Kind::Other,
        }
    }

    /// The same of one that is below nothing of cargo's: where nothing else tells what it is, its file may.
    pub(super) fn kind_by_file(
        &mut self,
        marked: Option<&PathBuf>,
        pid: Pid,
        files: &mut Libtests,
    ) -> Kind {
        let kind = self.kind(Kind::Other, marked);
        if kind != Kind::Other {
            return kind;
        }
        let exe = self.exe.as_deref();
        self.has_libtest
            .get_or_insert_with(|| exe.is_some_and(|exe| files.contain(pid, exe)));
        self.kind(Kind::Other, marked)
    }

    fn is_in(&self, folder: &str) -> bool {
        let parent = self.exe.as_deref().and_then(Path::parent);
        parent.and_then(Path::file_name) == Some(OsStr::new(folder))
    }
}

/// Whether rustdoc has put several doctests into this binary: the source of its main function is beside it.
#[must_use]
pub fn holds_doctests(binary: &Path) -> bool {
    let folder = binary.parent().filter(|_| binary.ends_with("rust_out"));
    let entries = folder.and_then(|folder| fs::read_dir(folder).ok());
    let mut entries = entries.into_iter().flatten().take(MAX_ENTRIES).flatten();
    entries.any(|entry| entry.file_name().as_bytes().starts_with(b"doctest_runner_"))
}

/// A file of a process as we can open it.
fn from_here(pid: Pid, path: &Path) -> PathBuf {
    let path = path.strip_prefix("/").unwrap_or(path);
    Path::new(&format!("/proc/{pid}/root")).join(path)
}

/// Whether cargo starts this to build something. Wrappers (`RUSTC_WRAPPER`) get the compiler as their first argument.
fn builds(exe: Option<&Path>, arguments: &[&[u8]]) -> bool {
    let called = arguments
        .get(1)
        .map(|path| Path::new(OsStr::from_bytes(path)));
    [exe, called].into_iter().flatten().any(|path| {
        let name = path.file_name().unwrap_or_default().as_bytes();
        matches!(name, b"rustc" | b"clippy-driver" | b"rustdoc")
            || name.starts_with(b"build-script-")
    })
}

#[cfg(test)]
mod tests {
    use super::{Kind, Program, builds, holds_doctests};
    use crate::model::Foreign;
    use std::path::{Path, PathBuf};

    #[test]
    fn compilers_wrappers_and_build_scripts_build() {
        let of = |exe: &str, arguments: &[&str]| {
            let arguments: Vec<&[u8]> = arguments.iter().map(|it| it.as_bytes()).collect();
            builds(Some(Path::new(exe)), &arguments)
        };
        assert!(of("/r/bin/rustc", &["/r/bin/rustc", "-vV"]));
        assert!(of(
            "/bin/sccache",
            &["sccache", "/r/bin/rustc", "--crate-name"]
        ));
        assert!(of(
            "/t/build/demo-1/build-script-build",
            &["/t/build/demo-1/build-script-build"]
        ));
        assert!(
            !of("/t/debug/demo", &["/t/debug/demo", "serve"]),
            "cargo run"
        );
    }

    #[test]
    fn a_binary_of_several_doctests_is_known_by_its_source() {
        let folder = tempfile::tempdir().expect("a folder");
        let binary = folder.path().join("rust_out");
        assert!(!holds_doctests(&binary));
        std::fs::write(folder.path().join("doctest_runner_2024.rs"), "").expect("a file");
        assert!(holds_doctests(&binary));
        assert!(!holds_doctests(&folder.path().join("demo-1")));
    }

    fn program(comm: &str, exe: &str, tests: bool, runs_none: bool, merged: bool) -> Program {
        Program {
            exe: Some(PathBuf::from(exe)),
            comm: Foreign::from(comm),
            tests,
            runs_none,
            builds: false,
            holds_doctests: false,
            merged,
            nextest: None,
            has_libtest: None,
            binary: Foreign::default(),
        }
    }

    #[test]
    fn what_a_process_is_depends_on_what_it_is_below() {
        let plain = |comm, exe| program(comm, exe, false, false, false);
        let bare = Program {
            has_libtest: Some(true),
            ..plain("it", "/p/it")
        };
        assert_eq!(bare.kind(Kind::Other, None), Kind::Libtest);
        assert_eq!(bare.kind(Kind::Cargo, None), Kind::BelowCargo, "cargo run");
        let binary = plain("it-1", "/p/target/debug/deps/it-1");
        assert_eq!(binary.kind(Kind::Cargo, None), Kind::Libtest);
        assert_eq!(binary.kind(Kind::BelowCargo, None), Kind::Libtest);
        assert_eq!(binary.kind(Kind::Other, None), Kind::Other);
        let mark = PathBuf::from("/p/target/debug/deps/it-1");
        assert_eq!(binary.kind(Kind::Other, Some(&mark)), Kind::Libtest);
        let own = plain("demo", "/p/target/debug/demo");
        assert_eq!(
            own.kind(Kind::Cargo, Some(&mark)),
            Kind::BelowCargo,
            "cargo run"
        );
        let list = program("it-1", "/p/target/debug/deps/it-1", false, true, false);
        assert_eq!(list.kind(Kind::CargoNextest, Some(&mark)), Kind::Other);
        assert_eq!(
            plain("rustc", "/r/bin/rustc").kind(Kind::Cargo, None),
            Kind::BelowCargo
        );
        assert_eq!(
            plain("cargo", "/r/bin/cargo").kind(Kind::Other, None),
            Kind::Cargo
        );
        let rustdoc = program("rustdoc", "/r/bin/rustdoc", true, false, false);
        assert_eq!(rustdoc.kind(Kind::Cargo, None), Kind::Doctests);
        let alone = plain("rust_out", "/tmp/rustdoctestX/rust_out");
        assert_eq!(alone.kind(Kind::Doctests, None), Kind::Doctest);
        let merged = program("rust_out", "/tmp/rustdoctestX/rust_out", false, false, true);
        assert_eq!(merged.kind(Kind::Doctests, None), Kind::MergedDoctests);
        assert_eq!(alone.kind(Kind::MergedDoctests, None), Kind::Doctest);
    }
}
