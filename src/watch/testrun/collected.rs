//! The list of collected tests: a file of the run folder with one node id a line.

use crate::model::Foreign;
use rustix::fs::{FileType, Mode, OFlags};
use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;

/// Most bytes of a list that are read.
const MOST_BYTES: u64 = 64 * 1024 * 1024;
/// Most tests of a list that are kept.
const MOST_TESTS: usize = 1_000_000;

/// Whether this can be the name of a list, and of nothing outside of the folder.
pub(super) fn is_list(name: &str) -> bool {
    name.len() <= 128
        && name.strip_prefix("collected-").is_some_and(|uid| {
            !uid.is_empty()
                && uid
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
        })
}

/// Reads a list of the folder, as far as it is written. `None` when there is none that we read.
pub(super) fn read(folder: impl AsFd, name: &str) -> Option<Vec<Foreign>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = File::from(rustix::fs::openat(folder, name, flags, Mode::empty()).ok()?);
    let stat = rustix::fs::fstat(&file).ok()?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return None;
    }
    let mut bytes = Vec::new();
    file.take(MOST_BYTES).read_to_end(&mut bytes).ok()?;
    Some(parse(&bytes))
}

/// The ids of a list. A last line without its end is still being written.
fn parse(bytes: &[u8]) -> Vec<Foreign> {
    let whole = bytes.iter().rposition(|&byte| byte == b'\n');
    bytes
        .get(..whole.unwrap_or(0))
        .filter(|whole| !whole.is_empty())
        .into_iter()
        .flat_map(|whole| whole.split(|&byte| byte == b'\n'))
        .take(MOST_TESTS)
        .map(|line| unescape(&String::from_utf8_lossy(line)).into())
        .collect()
}

fn unescape(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let mut rest = line.chars();
    while let Some(character) = rest.next() {
        match (character, rest.clone().next()) {
            ('\\', Some('n')) => out.push('\n'),
            ('\\', Some('\\')) => out.push('\\'),
            _ => {
                out.push(character);
                continue;
            }
        }
        rest.next();
    }
    out
}

#[cfg(test)]
mod tests {
    use super::{is_list, parse, read};
    use crate::model::Foreign;
    use std::fs;

    #[test]
    fn only_plain_names_are_lists() {
        for good in ["collected-1", "collected-0a-9_Z"] {
            assert!(is_list(good), "{good}");
        }
        for bad in [
            "",
            "collected-",
            "collected-..",
            "collected-a/b",
            "other",
            "/collected-1",
        ] {
            assert!(!is_list(bad), "{bad}");
        }
    }

    #[test]
    fn ids_are_unescaped_and_a_line_in_the_making_waits() {
        let ids = parse(b"a.py::t\nb.py::u[x\\ny\\\\n\\z]\nc.py::ha");
        let expected: [Foreign; 2] = ["a.py::t".into(), "b.py::u[x\ny\\n\\z]".into()];
        assert_eq!(ids, expected);
        assert!(parse(b"").is_empty() && parse(b"half").is_empty());
    }

    #[test]
    fn links_and_folders_are_not_read() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("collected-1"), "a\nb\n").expect("a list");
        fs::create_dir(folder.path().join("collected-2")).expect("a folder");
        std::os::unix::fs::symlink("collected-1", folder.path().join("collected-3"))
            .expect("a link");
        let open = fs::File::open(folder.path()).expect("the folder");
        let list = |name| read(&open, name).map(|list| list.len());
        assert_eq!(list("collected-1"), Some(2));
        assert_eq!(
            (
                list("collected-2"),
                list("collected-3"),
                list("collected-4")
            ),
            (None, None, None)
        );
    }
}
