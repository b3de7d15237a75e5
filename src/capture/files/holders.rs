//! Which processes have a pipe, a socket or an eventfd open: what nobody else has, nobody else can feed.

use crate::model::Pid;
use std::collections::BTreeMap;
use std::fs;
use std::sync::OnceLock;

/// Most open files that are looked at, over all processes.
const MAX_FILES: usize = 200_000;

/// An open file of some process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Holder {
    pub(super) pid: Pid,
    pub(super) number: i32,
}

/// The pipes, sockets and eventfds that are open in any process that we may look into. Listed once a sample, and only if a
/// thread waits on one: it takes a look at every open file of the machine.
#[derive(Debug, Default)]
pub(super) struct Holders(OnceLock<List>);

#[derive(Debug, Default)]
struct List {
    by_link: BTreeMap<String, Vec<Holder>>,
    /// All files of all processes were seen.
    complete: bool,
}

impl Holders {
    /// Who has the file open that `/proc/PID/fd/N` shows as `link`, and whether these are all.
    pub(super) fn of(&self, link: &str) -> (&[Holder], bool) {
        let list = self.0.get_or_init(list);
        let holders = list.by_link.get(link).map_or(&[][..], Vec::as_slice);
        (holders, list.complete)
    }
}

/// Whether such a file is worth an entry: only for these is the link the same in all processes that have it.
fn is_listed(link: &str) -> bool {
    link.starts_with("pipe:[") || link.starts_with("socket:[") || link == "anon_inode:[eventfd]"
}

fn list() -> List {
    let mut list = List {
        complete: true,
        ..List::default()
    };
    let mut seen = 0;
    // hangscope itself may have inherited the pipe, but will not write into it.
    let ourselves = Pid::try_from(std::process::id()).unwrap_or(0);
    let Ok(processes) = fs::read_dir("/proc") else {
        return List::default();
    };
    for entry in processes.flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<Pid>().ok())
        else {
            continue;
        };
        if pid == ourselves {
            continue;
        }
        let files = match fs::read_dir(format!("/proc/{pid}/fd")) {
            Ok(files) => files,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(_) => {
                list.complete = false;
                continue;
            }
        };
        for file in files.flatten() {
            seen += 1;
            if seen > MAX_FILES {
                list.complete = false;
                return list;
            }
            let name = file.file_name();
            let Some(number) = name.to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            let Ok(target) = fs::read_link(file.path()) else {
                continue;
            };
            let Some(link) = target.to_str().filter(|link| is_listed(link)) else {
                continue;
            };
            let holder = Holder { pid, number };
            match list.by_link.get_mut(link) {
                Some(holders) => holders.push(holder),
                None => {
                    list.by_link.insert(link.to_owned(), vec![holder]);
                }
            }
        }
    }
    list
}
