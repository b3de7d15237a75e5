//! One bundle.

use super::folder::Folder;
use super::name::Name;
use super::retention::{self, UNFINISHED};
use super::{ArchiveError, Manifest};
use crate::model::{Outcome, Report};
use crate::report::{self, Format, Style};
use std::io;
use std::path::{Path, PathBuf};

/// Most bundles that one process begins in one second.
const MAX_NUMBER: u32 = 1000;

/// A bundle on disk. It is complete and readable from the moment it is made; later samples and the end of
/// the run replace its files one by one, each in one step.
#[derive(Debug)]
pub struct Bundle {
    folder: Folder,
    path: PathBuf,
    manifest: Manifest,
}

impl Bundle {
    /// Makes a bundle in the folder `archive`, which is made if it is missing. It is on disk on return.
    ///
    /// Without a report the bundle is its manifest alone, which then says what failed.
    ///
    /// # Errors
    /// When the folder cannot be used or a file cannot be written. Nothing is left behind then.
    pub fn create(
        archive: &Path,
        manifest: Manifest,
        report: Option<&Report>,
    ) -> Result<Self, ArchiveError> {
        let root = open_archive(archive)?;
        let (name, unfinished, folder) =
            make_folder(&root).map_err(|source| ArchiveError::Folder {
                path: archive.to_owned(),
                source,
            })?;
        let mut bundle = Self {
            folder,
            path: archive.join(name.text()),
            manifest,
        };
        let filled = bundle.write(report).and_then(|()| {
            root.rename(&unfinished, &name.text())
                .and_then(|()| root.sync())
                .map_err(|source| ArchiveError::File {
                    path: bundle.path.clone(),
                    source,
                })?;
            Ok(bundle)
        });
        if filled.is_err() {
            let _ = root.remove_flat_folder(&unfinished);
        } else {
            // Conveniences: a bundle without them is still a bundle.
            let _ = root.link(&name.text(), "latest");
            retention::clean(&root);
        }
        filled
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Replaces the report by one with more samples.
    ///
    /// # Errors
    /// When a file cannot be written. The older one then stays.
    pub fn update(&mut self, report: &Report) -> Result<(), ArchiveError> {
        self.write(Some(report))
    }

    /// Notes why the capture failed or is not complete.
    ///
    /// # Errors
    /// When the manifest cannot be written. The older one then stays.
    pub fn set_failure(&mut self, why: String) -> Result<(), ArchiveError> {
        self.manifest.failure = Some(why);
        self.write(None)
    }

    /// Notes how the run ended.
    ///
    /// # Errors
    /// When the manifest cannot be written (for one because the run has deleted the folder). The older one
    /// then stays.
    pub fn set_outcome(&mut self, outcome: Outcome) -> Result<(), ArchiveError> {
        self.manifest.outcome = outcome;
        self.write(None)
    }

    fn write(&mut self, report: Option<&Report>) -> Result<(), ArchiveError> {
        if let Some(report) = report {
            for (file, format) in [("dump.json", Format::Json), ("report.txt", Format::Text)] {
                let mut content = Vec::new();
                report::render(format, report, Style::plain(), &mut content)
                    .and_then(|()| self.folder.replace(file, &content))
                    .map_err(|source| self.failed(file, source))?;
                if !self.manifest.files.iter().any(|known| known == file) {
                    self.manifest.files.push(file.to_owned());
                }
            }
            self.manifest.verdict = Some(report.analysis.verdict);
        }
        let mut content = serde_json::to_vec_pretty(&self.manifest)
            .map_err(|error| self.failed("manifest.json", error.into()))?;
        content.push(b'\n');
        self.folder
            .replace("manifest.json", &content)
            .map_err(|source| self.failed("manifest.json", source))
    }

    fn failed(&self, file: &str, source: io::Error) -> ArchiveError {
        ArchiveError::File {
            path: self.path.join(file),
            source,
        }
    }
}

fn open_archive(path: &Path) -> Result<Folder, ArchiveError> {
    let fail = |source| ArchiveError::Folder {
        path: path.to_owned(),
        source,
    };
    // Looked at first for the message only; opening it is what decides.
    if let Ok(meta) = path.symlink_metadata()
        && !meta.is_dir()
    {
        let what = if meta.is_symlink() {
            "a symbolic link"
        } else {
            "a file"
        };
        return Err(ArchiveError::InTheWay {
            path: path.to_owned(),
            what,
        });
    }
    let is_new = path.symlink_metadata().is_err();
    std::fs::create_dir_all(path).map_err(fail)?;
    let root = Folder::open(path).map_err(fail)?;
    // Not into a folder that was there before: it may be one of the user's, with files under version control.
    if is_new {
        match root.create(".gitignore", b"*\n") {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(fail(error)),
            _ => {}
        }
    }
    Ok(root)
}

/// Makes the folder under its unfinished name. A name that is taken in either form is passed over.
fn make_folder(root: &Folder) -> io::Result<(Name, String, Folder)> {
    for number in 1..=MAX_NUMBER {
        let name = Name::new(number);
        if root.open_in(&name.text()).is_ok() {
            continue;
        }
        let unfinished = format!("{UNFINISHED}{}", name.text());
        match root.make(&unfinished) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
            made => made?,
        }
        match root.open_in(&unfinished) {
            Ok(folder) if folder.hold()? => return Ok((name, unfinished, folder)),
            // Another process that cleans up took it for a dead writer's, before we held it.
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}
