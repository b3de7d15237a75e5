//! File operations relative to an open folder, so that renaming a parent or planting a link changes nothing.

use rustix::fs::{self, AtFlags, CWD, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// An open folder.
#[derive(Debug)]
pub(super) struct Folder(OwnedFd);

impl Folder {
    /// Opens a folder. A link as the last part of `path` is refused (`ELOOP` or `ENOTDIR`).
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        Self::open_at(CWD, path)
    }

    /// Opens a folder in this one.
    pub(super) fn open_in(&self, name: &str) -> io::Result<Self> {
        Self::open_at(self.0.as_fd(), Path::new(name))
    }

    fn open_at(base: BorrowedFd<'_>, path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(Self(fs::openat(base, path, flags, Mode::empty())?))
    }

    /// Makes a folder in this one that only its owner can enter. Fails if anything of that name exists.
    pub(super) fn make(&self, name: &str) -> io::Result<()> {
        Ok(fs::mkdirat(&self.0, name, Mode::RWXU)?)
    }

    /// Marks this folder as one whose writer lives, for as long as it stays open. Says whether it is still there.
    ///
    /// A lock, since it goes with its holder however that ends, and counts in all pid namespaces.
    pub(super) fn hold(&self) -> io::Result<bool> {
        // Where there are no locks, retention cannot take one either, and leaves the folder alone.
        let _ = fs::flock(&self.0, FlockOperation::LockExclusive);
        Ok(fs::fstat(&self.0)?.st_nlink > 0)
    }

    /// Whether a writer holds this folder. If none does, it is held from now on.
    ///
    /// # Errors
    /// When the file system has no locks, so that it cannot be told.
    pub(super) fn is_held(&self) -> io::Result<bool> {
        match fs::flock(&self.0, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(false),
            Err(Errno::WOULDBLOCK) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes a file that must not exist yet and waits until it is on disk.
    pub(super) fn create(&self, name: &str, content: &[u8]) -> io::Result<()> {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = File::from(fs::openat(&self.0, name, flags, Mode::RUSR | Mode::WUSR)?);
        let written = file.write_all(content).and_then(|()| file.sync_all());
        if written.is_err() {
            // A half-written file (disk full) must not be taken for a report.
            let _ = self.remove(name);
        }
        written
    }

    /// Writes a file, or puts a new one in its place at once, and waits until it is on disk.
    pub(super) fn replace(&self, name: &str, content: &[u8]) -> io::Result<()> {
        let scratch = format!(".tmp-{name}");
        match self.remove(&scratch) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        self.create(&scratch, content)?;
        let renamed = fs::renameat(&self.0, scratch.as_str(), &self.0, name);
        if renamed.is_err() {
            let _ = self.remove(&scratch);
        }
        renamed?;
        self.sync()
    }

    /// Renames an entry; fails if `to` exists and is not empty.
    pub(super) fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        Ok(fs::renameat(&self.0, from, &self.0, to)?)
    }

    /// Makes the link `name` point to `target`, in one step if it was there before.
    pub(super) fn link(&self, target: &str, name: &str) -> io::Result<()> {
        let scratch = format!(".tmp-{name}-{}", std::process::id());
        let _ = self.remove(&scratch);
        fs::symlinkat(target, &self.0, scratch.as_str())?;
        let renamed = fs::renameat(&self.0, scratch.as_str(), &self.0, name);
        if renamed.is_err() {
            let _ = self.remove(&scratch);
        }
        Ok(renamed?)
    }

    /// Removes a file or link; a folder is not removed.
    pub(super) fn remove(&self, name: &str) -> io::Result<()> {
        Ok(fs::unlinkat(&self.0, name, AtFlags::empty())?)
    }

    /// Removes a folder of plain files. One that has a folder in it is not ours and stays as far as it goes.
    pub(super) fn remove_flat_folder(&self, name: &str) -> io::Result<()> {
        let folder = self.open_in(name)?;
        for entry in folder.entries()? {
            folder.remove(&entry)?;
        }
        Ok(fs::unlinkat(&self.0, name, AtFlags::REMOVEDIR)?)
    }

    /// The names in this folder, those that are UTF-8, in no order.
    pub(super) fn entries(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::Dir::read_from(&self.0)? {
            if let Ok(name) = entry?.file_name().to_str()
                && name != "."
                && name != ".."
            {
                names.push(name.to_owned());
            }
        }
        Ok(names)
    }

    /// Waits until the folder's own entries are on disk. Some file systems cannot, and say so with EINVAL.
    pub(super) fn sync(&self) -> io::Result<()> {
        match fs::fsync(&self.0) {
            Ok(()) | Err(Errno::INVAL) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}
