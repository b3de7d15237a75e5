//! The runner that cargo's configuration files name for a target, as cargo finds it: in `.cargo/config.toml` of its folder
//! and of those above, and in `$CARGO_HOME`; the nearest file goes first, and `target.<triple>` before `target.'cfg(…)'`.
//!
//! What is not looked at: `include`, and lists that continue over several files. The `--config` option needs no look: it
//! goes before our variable, so that then we are not asked.

use super::runner::split;
use cargo_platform::{Cfg, CfgExpr};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use toml::{Table, Value};

/// Longest file that is read.
const LONGEST: u64 = 1 << 20;

/// The words of the runner for a target, for a cargo that runs in this folder.
pub(super) fn runner(triple: &str, folder: &Path) -> Option<Vec<OsString>> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(std::env::home_dir()?.join(".cargo")));
    runner_in(&files(folder, home.as_deref()), triple, &|| {
        cfgs(triple, folder)
    })
}

/// The files that can name one, the nearest first, each with the folder that its paths are relative to.
fn files(folder: &Path, home: Option<&Path>) -> Vec<(PathBuf, Table)> {
    let mut folders: Vec<PathBuf> = folder
        .ancestors()
        .map(|above| above.join(".cargo"))
        .collect();
    if let Some(home) = home
        && !folders.iter().any(|known| known == home)
    {
        folders.push(home.to_owned());
    }
    let file = |folder: PathBuf| {
        let text = ["config", "config.toml"].iter().find_map(|name| {
            let file = fs::File::open(folder.join(name)).ok()?;
            let mut text = String::new();
            file.take(LONGEST).read_to_string(&mut text).ok()?;
            Some(text)
        })?;
        Some((folder.parent()?.to_owned(), text.parse::<Table>().ok()?))
    };
    folders.into_iter().filter_map(file).collect()
}

fn runner_in(
    files: &[(PathBuf, Table)],
    triple: &str,
    cfgs: &dyn Fn() -> Vec<Cfg>,
) -> Option<Vec<OsString>> {
    let of = |key: &dyn Fn(&str) -> bool| {
        files.iter().find_map(|(folder, file)| {
            let targets = file.get("target")?.as_table()?;
            targets
                .iter()
                .filter(|(name, _)| key(name))
                .find_map(|(_, target)| words(target.as_table()?.get("runner")?, folder))
        })
    };
    if let Some(words) = of(&|name| name == triple) {
        return Some(words);
    }
    let is_cfg = |name: &str| name.starts_with("cfg(");
    of(&is_cfg)?;
    let cfgs = cfgs();
    of(&|name| {
        let expression = name
            .strip_prefix("cfg(")
            .and_then(|rest| rest.strip_suffix(')'));
        let expression = expression.and_then(|text| text.parse::<CfgExpr>().ok());
        expression.is_some_and(|expression| expression.matches(&cfgs))
    })
}

/// A text that is split at spaces, or a list. The program is relative to the file's folder if it is a path.
fn words(value: &Value, folder: &Path) -> Option<Vec<OsString>> {
    let mut words: Vec<OsString> = match value {
        Value::String(text) => split(OsStr::new(text)).collect(),
        Value::Array(list) => list
            .iter()
            .filter_map(Value::as_str)
            .map(OsString::from)
            .collect(),
        _ => return None,
    };
    let program = words.first_mut()?;
    if program.to_string_lossy().contains('/') {
        *program = folder.join(&*program).into_os_string();
    }
    Some(words)
}

/// What holds for a target, as its compiler says; without flags of the user's own.
fn cfgs(triple: &str, folder: &Path) -> Vec<Cfg> {
    let compiler = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let out = Command::new(compiler)
        .args(["--print", "cfg", "--target", triple])
        .current_dir(folder)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output();
    let text = out.map(|out| out.stdout).unwrap_or_default();
    let text = String::from_utf8_lossy(&text).into_owned();
    text.lines().filter_map(|line| line.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::{files, runner_in};
    use std::fs;
    use std::path::Path;

    const TRIPLE: &str = "x86_64-unknown-linux-gnu";

    fn found(near: &str, far: &str) -> Option<Vec<String>> {
        let place = tempfile::tempdir().expect("a folder");
        let (inner, outer) = (place.path().join("a/b"), place.path().join("a"));
        for (folder, text) in [(&inner, near), (&outer, far)] {
            fs::create_dir_all(folder.join(".cargo")).expect("a folder");
            fs::write(folder.join(".cargo/config.toml"), text).expect("a file");
        }
        let cfgs = || {
            ["unix", "target_os=\"linux\""]
                .iter()
                .filter_map(|it| it.parse().ok())
                .collect()
        };
        let home = place.path().join("home");
        let words = runner_in(&files(&inner.join("c"), Some(&home)), TRIPLE, &cfgs)?;
        let strip = |word: &std::ffi::OsString| {
            let path = Path::new(word);
            let path = path.strip_prefix(place.path()).unwrap_or(path);
            path.display().to_string()
        };
        Some(words.iter().map(strip).collect())
    }

    #[test]
    fn the_nearest_file_goes_first_and_paths_are_relative_to_it() {
        let triple = |runner: &str| format!("[target.{TRIPLE}]\nrunner = {runner}\n");
        let of = |near: &str, far: &str| found(near, far).map(|words| words.join("|"));
        assert_eq!(of("", "").as_deref(), None);
        let near = triple("\"tools/run -v\"");
        assert_eq!(
            of(&near, &triple("\"far\"")).as_deref(),
            Some("a/b/tools/run|-v")
        );
        assert_eq!(
            of("not toml [", &triple("[\"far\", \"a b\"]")).as_deref(),
            Some("far|a b")
        );
        let cfg = "[target.'cfg(all(unix, not(windows)))']\nrunner = \"by-cfg\"\n";
        assert_eq!(of(cfg, "").as_deref(), Some("by-cfg"));
        assert_eq!(
            of(cfg, &triple("\"far\"")).as_deref(),
            Some("far"),
            "the target goes before a cfg"
        );
        let other = "[target.'cfg(windows)']\nrunner = \"wine\"\n";
        assert_eq!(of(other, "[target.other]\nrunner = \"x\"\n"), None);
    }
}
