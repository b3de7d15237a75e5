//! One bundle.

use super::folder::Folder;
use super::name::Name;
use super::retention::{self, UNFINISHED};
use super::{ArchiveError, Manifest};
use crate::model::{Outcome, Report, RunRecord, TestSource};
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

    /// Removes it: there was nothing to tell after all. What cannot be removed stays.
    pub fn discard(self) {
        let (Some(archive), Some(name)) = (self.path.parent(), self.path.file_name()) else {
            return;
        };
        if let (Ok(root), Some(name)) = (Folder::open(archive), name.to_str()) {
            let _ = root.remove_flat_folder(name);
            // It pointed to this one, if it points to nothing now.
            if !archive.join("latest").exists() {
                let _ = root.remove("latest");
            }
        }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Replaces the report by one with more samples, and adds it as `report.md`.
    ///
    /// # Errors
    /// When a file cannot be written. The older one then stays.
    pub fn update(&mut self, report: &Report) -> Result<(), ArchiveError> {
        self.write(Some(report))?;
        self.write_more(Some(report), Vec::new())
    }

    /// Adds what is known of the tests of the run: `junit.xml`, `events.jsonl` and `inventory.json` (if anything was
    /// counted). With a report, the one that this bundle holds, the test that hung has its verdict in `junit.xml`, and
    /// `report.md` is written, too.
    ///
    /// # Errors
    /// When a file cannot be written (for one because the run has deleted the folder). What was there stays.
    pub fn set_record(
        &mut self,
        record: &RunRecord,
        report: Option<&Report>,
    ) -> Result<(), ArchiveError> {
        let place = self.path.to_string_lossy();
        let mut files = Vec::new();
        // A run that is none of tests has no results.
        if record.run.source != TestSource::None {
            files.push(("junit.xml", report::junit(record, report, Some(&place))));
            files.push(("events.jsonl", report::events(record)));
        }
        if let Some(inventory) = &record.run.inventory {
            files.push(("inventory.json", report::inventory_json(inventory)));
        }
        self.write_more(report, files)
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

    /// The report and the manifest, and no more: a run that is being ended may leave time for no more than that.
    fn write(&mut self, report: Option<&Report>) -> Result<(), ArchiveError> {
        if let Some(report) = report {
            self.write_report("dump.json", Format::Json, report)?;
            // The file has room for all stacks, where the terminal has not.
            let mut full = report.clone();
            full.options.all = true;
            self.write_report("report.txt", Format::Text, &full)?;
            self.manifest.verdict = Some(report.analysis.verdict);
        }
        self.write_manifest()
    }

    /// What a bundle is whole without.
    fn write_more(
        &mut self,
        report: Option<&Report>,
        files: Vec<(&'static str, Vec<u8>)>,
    ) -> Result<(), ArchiveError> {
        let known = self.manifest.files.len();
        if let Some(report) = report {
            self.write_report("report.md", Format::Markdown, report)?;
        }
        for (file, content) in files {
            self.write_file(file, &content)?;
        }
        if self.manifest.files.len() > known {
            self.write_manifest()?;
        }
        Ok(())
    }

    fn write_report(
        &mut self,
        file: &str,
        format: Format,
        report: &Report,
    ) -> Result<(), ArchiveError> {
        let mut content = Vec::new();
        report::render(format, report, Style::plain(), &mut content)
            .map_err(|source| self.failed(file, source))?;
        self.write_file(file, &content)
    }

    fn write_file(&mut self, file: &str, content: &[u8]) -> Result<(), ArchiveError> {
        self.folder
            .replace(file, content)
            .map_err(|source| self.failed(file, source))?;
        if !self.manifest.files.iter().any(|known| known == file) {
            self.manifest.files.push(file.to_owned());
        }
        Ok(())
    }

    fn write_manifest(&self) -> Result<(), ArchiveError> {
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
