//! The user's own JUnit file, made whole after a run that did not get to its end.

use super::ArchiveError;
use crate::model::{Report, RunRecord};
use crate::report;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::time::SystemTime;

/// Longest file that is read.
const MAX_FILE: u64 = 256 << 20;

/// Makes the JUnit file at `path` whole: what pytest wrote is kept and completed; if it wrote none, or one that cannot
/// be read, or is older than the run, it is written from the record. The old file stays until the new one is on disk.
///
/// # Errors
/// When it cannot be written.
pub fn mend_junit(
    path: &Path,
    record: &RunRecord,
    report: Option<&Report>,
    bundle: Option<&Path>,
    began: SystemTime,
) -> Result<(), ArchiveError> {
    let failed = |source| ArchiveError::File {
        path: path.to_owned(),
        source,
    };
    let bundle = bundle.map(|bundle| bundle.display().to_string());
    let bundle = bundle.as_deref();
    let content = match read(path, began) {
        Ok(existing) => report::repair_junit(&existing, record, report, bundle)
            .unwrap_or_else(|_| report::junit(record, report, bundle)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            report::junit(record, report, bundle)
        }
        Err(error) => return Err(failed(error)),
    };
    replace(path, &content).map_err(failed)
}

/// Reads what was written since the run began; an older file is another run's.
fn read(path: &Path, began: SystemTime) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    if file.metadata()?.modified()? < began {
        return Err(io::ErrorKind::NotFound.into());
    }
    let mut content = Vec::new();
    file.take(MAX_FILE).read_to_end(&mut content)?;
    Ok(content)
}

/// In one step, and with the rights that a file of the user's would have: the next step of a CI job reads it.
fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    std::fs::create_dir_all(folder)?;
    let mut scratch = OsString::from(format!(".hangscope-{}-", std::process::id()));
    scratch.push(name);
    let scratch = folder.join(scratch);
    let written = File::create_new(&scratch)
        .and_then(|mut file| file.write_all(content).and_then(|()| file.sync_all()))
        .and_then(|()| std::fs::rename(&scratch, path));
    if written.is_err() {
        let _ = std::fs::remove_file(&scratch);
    }
    written
}
