//! The folder of a run: the plugin in it, the rings, and what the command is told of it.

use crate::watch::processes::{Process, own_pid};
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// What the name of a run folder begins with.
const PREFIX: &str = "hangscope-";
/// The variable that names the run folder to the plugin.
pub(crate) const RUN_VARIABLE: &str = "HANGSCOPE_RUN";
/// The folder that Python finds the plugin in.
const PROBE: &str = "probe";
/// The folder of the rings.
const RINGS: &str = "rings";
/// The folder by which Python finds the plugin without being told its name.
const METADATA: &str = "probe/hangscope_probe-0.dist-info";
/// The files of the plugin.
const FILES: [(&str, &str); 3] = [
    (
        "probe/_hangscope_probe.py",
        include_str!("../probe/_hangscope_probe.py"),
    ),
    (
        "probe/hangscope_probe-0.dist-info/METADATA",
        include_str!("../probe/METADATA"),
    ),
    (
        "probe/hangscope_probe-0.dist-info/entry_points.txt",
        include_str!("../probe/entry_points.txt"),
    ),
];

/// The folder of a run. It is removed when this is dropped.
#[derive(Debug)]
pub(crate) struct RunFolder {
    path: PathBuf,
    /// Locked: no other hangscope takes it for one that was left behind, not even from another pid namespace.
    _lock: OwnedFd,
}

impl RunFolder {
    /// Makes the folder of this process in the first place that takes it: memory, if there is any.
    ///
    /// # Errors
    /// When no place does; what the last one said.
    pub(crate) fn make() -> io::Result<Self> {
        Self::make_in(&candidates())
    }

    fn make_in(candidates: &[PathBuf]) -> io::Result<Self> {
        let own = Process::read(own_pid()).ok_or(io::ErrorKind::NotFound)?;
        let name = format!("{PREFIX}{}-{}", own.pid, own.start);
        let mut failure = io::Error::from(io::ErrorKind::NotFound);
        for parent in candidates {
            remove_stale(parent);
            match Self::make_one(&parent.join(&name)) {
                Ok(folder) => return Ok(folder),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    fn make_one(path: &Path) -> io::Result<Self> {
        // Python takes the variable apart at colons, and so cannot be told of such a folder.
        if !path.is_absolute() || path.as_os_str().as_bytes().contains(&b':') {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        // Fails if anything is there, a link that was planted, too.
        rustix::fs::mkdir(path, Mode::RWXU)?;
        let made = Self::fill(path);
        if made.is_err() {
            let _ = fs::remove_dir_all(path);
        }
        made
    }

    fn fill(path: &Path) -> io::Result<Self> {
        let lock = open_own(path)?;
        // Where a lock cannot be had, process ids must do.
        let _ = rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive);
        for folder in [PROBE, RINGS, METADATA] {
            rustix::fs::mkdirat(&lock, folder, Mode::RWXU)?;
        }
        for (name, text) in FILES {
            let mut options = File::options();
            options.write(true).create_new(true).mode(0o600);
            options.open(path.join(name))?.write_all(text.as_bytes())?;
        }
        Ok(Self {
            path: path.to_owned(),
            _lock: lock,
        })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for RunFolder {
    fn drop(&mut self) {
        // Nothing is lost if that fails: the next run removes it.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Removes the run folder of a hangscope that was killed.
pub(crate) fn remove_folder(path: &Path) {
    let name = path.file_name().and_then(OsStr::to_str);
    if name.and_then(parse_name).is_some() && open_own(path).is_ok() {
        let _ = fs::remove_dir_all(path);
    }
}

/// Where a run folder may be, the best place first: in memory, and gone when the user is.
fn candidates() -> Vec<PathBuf> {
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").filter(|folder| !folder.is_empty());
    let owned = |folder: &PathBuf| {
        // Under sudo it is the other user's.
        fs::metadata(folder).is_ok_and(|meta| meta.uid() == own_uid())
    };
    let runtime = runtime.map(PathBuf::from).filter(owned);
    let others = [PathBuf::from("/dev/shm"), std::env::temp_dir()];
    runtime.into_iter().chain(others).collect()
}

/// Opens a folder, if it is one, and ours alone.
fn open_own(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = rustix::fs::open(path, flags, Mode::empty())?;
    let stat = rustix::fs::fstat(&folder)?;
    if stat.st_uid != own_uid() || stat.st_mode & 0o077 != 0 {
        return Err(Errno::PERM.into());
    }
    Ok(folder)
}

fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Removes run folders of ours whose hangscope is gone.
fn remove_stale(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some((pid, start)) = name.to_str().and_then(parse_name) else {
            continue;
        };
        if Process::read(pid).is_some_and(|process| process.start == start) {
            continue;
        }
        let path = entry.path();
        let Ok(folder) = open_own(&path) else {
            continue;
        };
        // In another pid namespace its hangscope may live; then it holds the lock.
        if rustix::fs::flock(folder.as_fd(), FlockOperation::NonBlockingLockExclusive).is_ok() {
            let _ = fs::remove_dir_all(&path);
        }
    }
}

/// `hangscope-<pid>-<start ticks>`, exactly as we make it.
fn parse_name(name: &str) -> Option<(i32, u64)> {
    let (pid, start) = name.strip_prefix(PREFIX)?.split_once('-')?;
    let (pid, start) = (pid.parse::<i32>().ok()?, start.parse::<u64>().ok()?);
    (pid > 0 && format!("{PREFIX}{pid}-{start}") == name).then_some((pid, start))
}

/// What the command's environment needs so that pytest finds the plugin.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Environment {
    /// Variables to set.
    pub(crate) set: Vec<(OsString, OsString)>,
    /// What the user should know; sentences.
    pub(crate) notes: Vec<String>,
}

/// The changes to the user's environment for a run in this folder.
pub(crate) fn environment(run: &Path, user: &dyn Fn(&str) -> Option<OsString>) -> Environment {
    // Python takes an empty variable for none, but an empty part of one for the current folder.
    let theirs = user("PYTHONPATH").filter(|path| !path.is_empty());
    // Below another hangscope: the innermost one names the tests.
    let outer = user(RUN_VARIABLE).map(|outer| Path::new(&outer).join(PROBE));
    let mut path = run.join(PROBE).into_os_string();
    for part in theirs.iter().flat_map(|path| split(path)) {
        if outer
            .as_deref()
            .is_none_or(|outer| Path::new(part) != outer)
        {
            path.push(":");
            path.push(part);
        }
    }
    let mut set = vec![
        (OsString::from("PYTHONPATH"), path),
        (OsString::from(RUN_VARIABLE), run.as_os_str().to_owned()),
    ];
    // tox passes on what it is told to. With a path of the user's that would let in what tox keeps out.
    if theirs.is_none() && user("TOX_OVERRIDE").is_none() {
        let pass = "testenv.pass_env+=PYTHONPATH,HANGSCOPE_*";
        set.push(("TOX_OVERRIDE".into(), pass.into()));
    }
    let mut notes = Vec::new();
    if user("PYTEST_DISABLE_PLUGIN_AUTOLOAD").is_some_and(|value| !value.is_empty()) {
        notes.push(
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD is set: tests are named from the environment of the processes; \
             their inventory is sampled."
                .to_owned(),
        );
    }
    Environment { set, notes }
}

fn split(path: &OsStr) -> impl Iterator<Item = &OsStr> {
    path.as_bytes()
        .split(|&byte| byte == b':')
        .map(OsStr::from_bytes)
}
