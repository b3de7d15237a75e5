//! Which program files have libtest in them, Rust's test harness.

use crate::model::Pid;
use memchr::memmem::Finder;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::linux::fs::MetadataExt;
use std::path::Path;

/// A variable that libtest reads, since ever; in the files of nothing else, but for rustdoc, which has libtest in it.
const SIGN: &[u8] = b"RUST_TEST_NOCAPTURE";
/// Bytes that are read at a time.
const PIECE: usize = 1 << 20;
/// Most of a file that is read. A linker puts such text before the code and all that is larger.
const MOST: u64 = 256 << 20;
/// Most files that are remembered; past it all are read anew.
const MAX_FILES: usize = 10_000;
/// Where programs come from that were installed; none of them is a test.
const INSTALLED: [&str; 6] = ["/bin", "/lib", "/nix", "/opt", "/sbin", "/usr"];

/// What is known of files, by device, inode, and time of change.
#[derive(Debug, Default)]
pub(super) struct Libtests {
    known: BTreeMap<(u64, u64, i64), bool>,
}

impl Libtests {
    /// Whether the program of a process is one. `exe` is its path as the process sees it.
    pub(super) fn contain(&mut self, pid: Pid, exe: &Path) -> bool {
        if INSTALLED.iter().any(|folder| exe.starts_with(folder)) {
            return false;
        }
        let Ok(file) = File::open(format!("/proc/{pid}/exe")) else {
            return false;
        };
        let Ok(about) = file.metadata() else {
            return false;
        };
        let identity = (about.st_dev(), about.st_ino(), about.st_ctime());
        if let Some(known) = self.known.get(&identity) {
            return *known;
        }
        if self.known.len() >= MAX_FILES {
            self.known.clear();
        }
        let found = has_sign(file.take(MOST)).unwrap_or(false);
        self.known.insert(identity, found);
        found
    }
}

/// Whether the sign is in what is read.
fn has_sign(mut source: impl Read) -> io::Result<bool> {
    let finder = Finder::new(SIGN);
    let mut piece = Vec::with_capacity(PIECE + SIGN.len());
    loop {
        let read = source.by_ref().take(PIECE as u64).read_to_end(&mut piece)?;
        if finder.find(&piece).is_some() {
            return Ok(true);
        }
        if read == 0 {
            return Ok(false);
        }
        // It may begin in this piece and end in the next.
        let kept = piece.len().min(SIGN.len() - 1);
        piece.drain(..piece.len() - kept);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn this_test_is_one() {
        let own = i32::try_from(std::process::id()).expect("a pid");
        let exe = std::env::current_exe().expect("a path");
        let mut files = Libtests::default();
        assert!(files.contain(own, &exe));
        assert!(files.contain(own, &exe), "as it is remembered");
        assert!(!files.contain(own, Path::new("/usr/bin/it")));
    }

    proptest! {
        #[test]
        fn the_sign_is_found_wherever_it_is(before in 0..3 * PIECE, after in 0..3 * PIECE, there: bool) {
            let sign = if there { SIGN } else { &SIGN[1..] };
            let bytes = [&vec![b'T'; before][..], sign, &vec![0; after]].concat();
            prop_assert_eq!(has_sign(&bytes[..]).expect("readable"), there);
        }
    }
}
