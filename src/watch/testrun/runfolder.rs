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
/// The file by which the plugin knows that it may be asked to fail a test.
const INTERRUPTS: &str = "interrupts";
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
        for folder in [PROBE, RINGS, METADATA, crate::watch::cargo::MARKS] {
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

    /// Tells the plugin that it may be asked to fail a test.
    ///
    /// # Errors
    /// When that cannot be written down.
    pub(crate) fn allow_interrupts(&self) -> io::Result<()> {
        File::create_new(self.path.join(INTERRUPTS)).map(drop)
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

#[cfg(test)]
mod tests {
    use super::{Environment, RunFolder, environment, parse_name, remove_stale};
    use crate::watch::processes::{Process, own_pid};
    use rustix::fs::{FlockOperation, flock};
    use std::ffi::OsString;
    use std::fs::{self, File};
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt, symlink};
    use std::path::{Path, PathBuf};

    fn place() -> tempfile::TempDir {
        tempfile::tempdir().expect("a folder")
    }

    fn own_name() -> String {
        let own = Process::read(own_pid()).expect("ourselves");
        format!("hangscope-{}-{}", own.pid, own.start)
    }

    #[test]
    fn the_folder_is_ours_alone_and_goes_with_the_run() {
        let parent = place();
        let folder = RunFolder::make_in(&[parent.path().to_owned()]).expect("a run folder");
        let path = folder.path().to_owned();
        assert_eq!(path, parent.path().join(own_name()));
        let mode = |name: &str| {
            let meta = fs::symlink_metadata(path.join(name)).expect(name);
            meta.permissions().mode() & 0o7777
        };
        for name in ["", "rings", "probe", "probe/hangscope_probe-0.dist-info"] {
            assert_eq!(mode(name), 0o700, "{name}");
        }
        assert_eq!(mode("probe/_hangscope_probe.py"), 0o600);
        let points = path.join("probe/hangscope_probe-0.dist-info/entry_points.txt");
        let points = fs::read_to_string(points).expect("entry points");
        assert!(points.contains("[pytest11]") && points.contains("= _hangscope_probe"));
        // What Python and the processes leave in it goes, too; what a link points to does not.
        let other = place();
        fs::write(other.path().join("kept"), "").expect("a file");
        fs::create_dir(path.join("probe/__pycache__")).expect("a folder");
        symlink(other.path(), path.join("rings/link")).expect("a link");
        drop(folder);
        assert!(!path.exists() && other.path().join("kept").exists());
    }

    #[test]
    fn what_is_in_the_way_is_not_used() {
        let (taken, linked, target) = (place(), place(), place());
        fs::create_dir(taken.path().join(own_name())).expect("a folder");
        symlink(target.path(), linked.path().join(own_name())).expect("a link");
        let colon = target.path().join("a:b");
        fs::create_dir(&colon).expect("a folder");
        let bad = [
            taken.path(),
            linked.path(),
            &colon,
            Path::new("relative"),
            Path::new("/missing"),
        ];
        let mut candidates: Vec<PathBuf> = bad.iter().map(|path| (*path).to_owned()).collect();
        assert!(RunFolder::make_in(&candidates).is_err());
        let good = place();
        candidates.push(good.path().to_owned());
        let folder = RunFolder::make_in(&candidates).expect("a run folder");
        assert!(folder.path().starts_with(good.path()));
        drop(folder);
        assert!(
            taken.path().join(own_name()).exists(),
            "what is not ours stays"
        );
        assert_eq!(fs::read_dir(target.path()).expect("the target").count(), 1);
    }

    #[test]
    fn folders_of_dead_runs_are_removed_and_no_others() {
        let parent = place();
        let at = |name: &str| parent.path().join(name);
        let private = |name: &str| {
            let mut builder = fs::DirBuilder::new();
            builder.recursive(true).mode(0o700);
            builder.create(at(name).join("rings")).expect("a folder");
            fs::set_permissions(at(name), fs::Permissions::from_mode(0o700)).expect("a mode");
        };
        let dead = format!("hangscope-{}-1", own_pid());
        let (alive, locked, open) = (own_name(), "hangscope-1-2", "hangscope-1-3");
        for name in [
            &dead,
            &alive,
            locked,
            open,
            "hangscope-x-1",
            "hangscope-1-3-4",
            "other",
        ] {
            private(name);
        }
        fs::set_permissions(at(open), fs::Permissions::from_mode(0o755)).expect("a mode");
        let target = place();
        symlink(target.path(), at("hangscope-1-5")).expect("a link");
        fs::write(at("hangscope-1-6"), "").expect("a file");
        let lock = File::open(at(locked)).expect("a folder");
        flock(&lock, FlockOperation::NonBlockingLockExclusive).expect("a lock");
        remove_stale(parent.path());
        assert!(!at(&dead).exists());
        let mut kept: Vec<String> = fs::read_dir(parent.path())
            .expect("the folder")
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        kept.sort();
        let mut expected = vec![
            alive.as_str(),
            locked,
            open,
            "hangscope-1-5",
            "hangscope-1-6",
            "hangscope-x-1",
            "hangscope-1-3-4",
            "other",
        ];
        expected.sort_unstable();
        assert_eq!(kept, expected);
        drop(lock);
        remove_stale(parent.path());
        assert!(!at(locked).exists(), "its hangscope has gone");
    }

    #[test]
    fn only_our_own_names_are_taken_apart() {
        assert_eq!(parse_name("hangscope-12-345"), Some((12, 345)));
        for bad in [
            "hangscope-",
            "hangscope-1",
            "hangscope-01-2",
            "hangscope-1-+2",
            "hangscope--1-2",
            "hangscope-0-2",
        ] {
            assert_eq!(parse_name(bad), None, "{bad}");
        }
    }

    fn with(user: &[(&str, &str)]) -> Environment {
        let own = |name: &str| {
            let mut all = user.iter();
            let found = all.find(|(known, _)| *known == name);
            found.map(|(_, value)| OsString::from(value))
        };
        environment(Path::new("/run/x"), &own)
    }

    fn variables(environment: &Environment) -> Vec<String> {
        let text = |(name, value): &(OsString, OsString)| {
            format!("{}={}", name.display(), value.display())
        };
        environment.set.iter().map(text).collect()
    }

    /// The user's variables, and what is set then.
    type Told<'a> = (&'a [(&'a str, &'a str)], &'a [&'a str]);

    #[test]
    fn the_command_is_told_where_the_plugin_is() {
        let run = "HANGSCOPE_RUN=/run/x";
        let tox = "TOX_OVERRIDE=testenv.pass_env+=PYTHONPATH,HANGSCOPE_*";
        let bare = with(&[]);
        assert_eq!(variables(&bare), ["PYTHONPATH=/run/x/probe", run, tox]);
        assert!(bare.notes.is_empty());
        let cases: [Told<'_>; 5] = [
            // An empty part would mean the current folder.
            (
                &[("PYTHONPATH", "")],
                &["PYTHONPATH=/run/x/probe", run, tox],
            ),
            (
                &[("PYTHONPATH", "/a:/b")],
                &["PYTHONPATH=/run/x/probe:/a:/b", run],
            ),
            // One that the user has stays.
            (
                &[("PYTHONPATH", "/a:")],
                &["PYTHONPATH=/run/x/probe:/a:", run],
            ),
            (
                &[("TOX_OVERRIDE", "x=y")],
                &["PYTHONPATH=/run/x/probe", run],
            ),
            (
                &[
                    ("PYTHONPATH", "/outer/probe:/a"),
                    ("HANGSCOPE_RUN", "/outer"),
                ],
                &["PYTHONPATH=/run/x/probe:/a", run],
            ),
        ];
        for (user, expected) in cases {
            assert_eq!(variables(&with(user)), expected, "{user:?}");
        }
    }

    #[test]
    fn it_is_said_when_the_plugin_will_not_be_loaded() {
        let notes = with(&[("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")]).notes;
        assert_eq!(notes.len(), 1);
        assert!(notes[0].starts_with("PYTEST_DISABLE_PLUGIN_AUTOLOAD is set: "));
        assert!(
            with(&[("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "")])
                .notes
                .is_empty()
        );
    }
}
