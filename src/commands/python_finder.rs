//! Finding the Pythons of a machine.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Minor versions looked for, the best first.
const MINORS: std::ops::RangeInclusive<u8> = 9..=15;

/// A Python that runs.
#[derive(Clone, Debug)]
pub(super) struct FoundPython {
    pub(super) program: PathBuf,
    pub(super) minor: u8,
    pub(super) version: String,
}

/// All CPythons 3.9–3.15 with a GIL that are found on PATH, under pyenv and by uv, newest first.
pub(super) fn find() -> Vec<FoundPython> {
    let mut found: Vec<FoundPython> = Vec::new();
    let mut seen = BTreeSet::new();
    for candidate in candidates() {
        if let Some(python) = ask(&candidate)
            && seen.insert(python.program.clone())
        {
            found.push(python);
        }
    }
    found.sort_by_key(|python| std::cmp::Reverse(python.minor));
    found
}

fn candidates() -> Vec<PathBuf> {
    let mut names: Vec<String> = MINORS
        .rev()
        .map(|minor| format!("python3.{minor}"))
        .collect();
    names.extend(["python3".to_owned(), "python".to_owned()]);
    let mut folders: Vec<PathBuf> = std::env::var_os("PATH")
        .map(|path| std::env::split_paths(&path).collect())
        .unwrap_or_default();
    folders.extend(pyenv_folders());
    let mut out: Vec<PathBuf> = names
        .iter()
        .flat_map(|name| folders.iter().map(move |folder| folder.join(name)))
        .filter(|path| path.is_file())
        .collect();
    out.extend(MINORS.rev().filter_map(uv_python));
    out
}

/// The `bin` folders of pyenv's versions.
fn pyenv_folders() -> Vec<PathBuf> {
    let root = std::env::var_os("PYENV_ROOT")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".pyenv")));
    let versions = root.and_then(|root| std::fs::read_dir(root.join("versions")).ok());
    versions
        .into_iter()
        .flatten()
        .filter_map(Result::ok)
        .map(|entry| entry.path().join("bin"))
        .collect()
}

fn uv_python(minor: u8) -> Option<PathBuf> {
    let output = Command::new("uv")
        .args([
            "python",
            "find",
            "--no-python-downloads",
            "--system",
            &format!("3.{minor}"),
        ])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    let path = PathBuf::from(String::from_utf8(output.stdout).ok()?.trim());
    (output.status.success() && path.is_file()).then_some(path)
}

/// Runs a candidate: a shim may exist without the version behind it.
pub(super) fn ask(program: &Path) -> Option<FoundPython> {
    const QUESTION: &str = "import sys, os, platform, sysconfig\n\
        print(os.path.realpath(sys.executable)); print(sys.version_info[1]); print(platform.python_version())\n\
        print(int(sys.implementation.name == 'cpython' and not sysconfig.get_config_var('Py_GIL_DISABLED')))";
    let output = Command::new(program)
        .args(["-I", "-S", "-c", QUESTION])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let mut lines = text.lines();
    let real = PathBuf::from(lines.next()?);
    let minor = lines.next()?.parse().ok()?;
    let version = lines.next()?.to_owned();
    (lines.next()? == "1" && MINORS.contains(&minor)).then_some(FoundPython {
        program: real,
        minor,
        version,
    })
}
