//! Bundles on disk: one folder for each capture of a watched run.
//!
//! `.hangscope/<UTC>Z-<pid>-<n>/` holds `manifest.json`, `dump.json` and `report.txt`, and in time
//! `report.md`, `junit.xml`, `events.jsonl` and `inventory.json`; `latest` is a relative link to the newest. The folder stands in a checkout that others may write to, and is written while a run
//! is being ended: so no link is ever followed, nothing that is not ours is ever replaced or deleted, and a
//! reader never sees a file half written.

mod bundle;
mod folder;
mod junit;
mod manifest;
mod name;
mod retention;

pub use bundle::Bundle;
pub use junit::mend_junit;
pub use manifest::{MANIFEST_SCHEMA, Manifest};

use std::io;
use std::path::PathBuf;

/// Why a bundle could not be written.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The archive folder cannot be made or opened.
    #[error("cannot use {} as the archive folder: {source}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Something is in the way that is no folder.
    #[error("cannot use {} as the archive folder: {what} is in the way", path.display())]
    InTheWay {
        /// The folder.
        path: PathBuf,
        /// What is there.
        what: &'static str,
    },
    /// A file of the bundle cannot be written.
    #[error("cannot write {}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}
