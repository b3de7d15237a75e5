//! The interpreters that `tests/provision` found or made.

use super::{repository, skip};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// All versions that hangscope reads.
pub(crate) const ALL: [&str; 7] = ["3.9", "3.10", "3.11", "3.12", "3.13", "3.14", "3.15"];

struct Pythons {
    plain: BTreeMap<String, PathBuf>,
    venvs: BTreeMap<String, PathBuf>,
}

fn pythons() -> Result<&'static Pythons, &'static str> {
    static FOUND: OnceLock<Result<Pythons, String>> = OnceLock::new();
    FOUND.get_or_init(read).as_ref().map_err(String::as_str)
}

fn read() -> Result<Pythons, String> {
    let path = std::env::var_os("HANGSCOPE_TEST_PYTHONS")
        .map_or_else(|| repository("target/test-env/pythons.json"), PathBuf::from);
    let text = std::fs::read_to_string(&path)
        .map_err(|error| format!("{}: {error}; run tests/provision", path.display()))?;
    let json: serde_json::Value =
        serde_json::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))?;
    let paths = |value: &serde_json::Value| -> BTreeMap<String, PathBuf> {
        let entries = value.as_object().into_iter().flatten();
        entries
            .filter_map(|(version, path)| Some((version.clone(), PathBuf::from(path.as_str()?))))
            .collect()
    };
    Ok(Pythons {
        plain: paths(&json),
        venvs: paths(&json["venvs"]),
    })
}

/// The interpreter of this version; `None` after saying that the test is skipped.
pub(crate) fn python(version: &str) -> Option<PathBuf> {
    pick(version, |pythons| &pythons.plain, "Python")
}

/// The same with trio and pytest.
pub(crate) fn python_with_packages(version: &str) -> Option<PathBuf> {
    pick(
        version,
        |pythons| &pythons.venvs,
        "environment with trio and pytest for Python",
    )
}

/// The one that a fixture needs. Only what imports packages gets them: start-up is faster without.
pub(crate) fn python_for(version: &str, script: &Path) -> Option<PathBuf> {
    let text = std::fs::read_to_string(script).unwrap_or_default();
    if text.contains("import trio") {
        python_with_packages(version)
    } else {
        python(version)
    }
}

fn pick(
    version: &str,
    map: fn(&Pythons) -> &BTreeMap<String, PathBuf>,
    what: &str,
) -> Option<PathBuf> {
    match pythons() {
        Ok(pythons) => {
            let found = map(pythons).get(version).cloned();
            if found.is_none() {
                skip(&format!(
                    "there is no {what} {version}; see tests/provision"
                ));
            }
            found
        }
        Err(why) => {
            skip(why);
            None
        }
    }
}

/// A Python older than those that hangscope reads itself, if pyenv has it here: no test depends on it alone.
pub(crate) fn older(version: &str) -> Option<PathBuf> {
    let root = std::env::var_os("PYENV_ROOT")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".pyenv")))?;
    let folders = std::fs::read_dir(root.join("versions")).ok()?;
    folders
        .filter_map(Result::ok)
        .filter(|entry| {
            let name = entry.file_name();
            name.to_string_lossy().starts_with(&format!("{version}."))
        })
        .map(|entry| entry.path().join("bin").join(format!("python{version}")))
        .find(|path| path.is_file())
}

/// The minor version: 14 of "3.14".
pub(crate) fn minor(version: &str) -> u8 {
    version
        .strip_prefix("3.")
        .and_then(|minor| minor.parse().ok())
        .unwrap_or_else(|| panic!("not a version: {version}"))
}
