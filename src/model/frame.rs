//! Python stack frames.

use super::Foreign;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One Python frame (`_PyInterpreterFrame` and its code object).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct Frame {
    /// Qualified name (`co_qualname`; `co_name` where a version has none).
    pub function: Foreign,
    /// `co_filename`.
    pub file: Foreign,
    /// Line now being executed; absent where the code has no line there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<u32>,
    /// Offset of the current instruction in the code object, in bytes; -1 where the reader cannot tell.
    pub instruction: i64,
    /// Its local variables; only where they were asked for (`--locals`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub locals: Vec<Local>,
}

/// A local variable of a frame.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct Local {
    /// Its name.
    pub name: Foreign,
    /// Its value: simple values shortened, others by type and address.
    pub value: Foreign,
}

impl Frame {
    /// The last component of the file's path; with its folder where the name alone says nothing (`logging/__init__.py`).
    #[must_use]
    pub fn file_name(&self) -> &str {
        let file = self.file.untrusted();
        let Some((folders, name)) = file.rsplit_once('/') else {
            return file;
        };
        if !name.starts_with("__") {
            return name;
        }
        let folder = folders.rsplit('/').next().unwrap_or(folders);
        &file[file.len() - name.len() - folder.len() - 1..]
    }

    /// Function, file and line in a few words: `worker (pool.py:7)`. It is foreign text.
    #[must_use]
    pub fn place(&self) -> String {
        let function = self.function.untrusted();
        match self.line {
            Some(line) => format!("{function} ({}:{line})", self.file_name()),
            None => format!("{function} ({})", self.file_name()),
        }
    }

    /// Whether the file's path ends in `suffix`, on a component boundary (`threading.py`,
    /// `concurrent/futures/thread.py`).
    #[must_use]
    pub fn in_file(&self, suffix: &str) -> bool {
        self.file
            .untrusted()
            .strip_suffix(suffix)
            .is_some_and(|head| head.is_empty() || head.ends_with('/'))
    }

    /// Whether this is `function` of the standard library's `suffix`.
    #[must_use]
    pub fn is(&self, function: &str, suffix: &str) -> bool {
        self.function.untrusted() == function && self.in_file(suffix) && self.is_library()
    }

    /// Whether the file belongs to the standard library (judged by its path).
    #[must_use]
    pub fn is_stdlib(&self) -> bool {
        let file = self.file.untrusted();
        file.starts_with("<frozen ")
            || file.find("/lib/python3").is_some_and(|at| {
                !file[at..].contains("/site-packages/") && !file[at..].contains("/dist-packages/")
            })
    }

    /// Whether the frame is of pytest's machinery: its own packages, pluggy, xdist, execnet.
    #[must_use]
    pub fn is_test_runner(&self) -> bool {
        let file = self.file.untrusted();
        ["/_pytest/", "/pluggy/", "/pytest/", "/xdist/", "/execnet/"]
            .iter()
            .any(|package| file.contains(package))
            && self.is_library()
    }

    /// Whether the file belongs to the standard library or an installed package, not to the user's project.
    #[must_use]
    pub fn is_library(&self) -> bool {
        is_library_file(self.file.untrusted())
    }
}

/// Whether a Python source file belongs to the standard library or an installed package (judged by its path).
#[must_use]
pub fn is_library_file(file: &str) -> bool {
    file.starts_with("<frozen ")
        || ["/lib/python3", "/site-packages/", "/dist-packages/"]
            .iter()
            .any(|folder| file.contains(folder))
}
