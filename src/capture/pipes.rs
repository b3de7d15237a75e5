//! Which processes have a pipe open: what nobody else has, nobody else can feed.

use crate::model::Pid;
use std::collections::BTreeMap;
use std::fs;
use std::sync::OnceLock;

/// Most open files that are looked at, over all processes.
const MAX_FILES: usize = 200_000;

/// The pipes that are open in any process that we may look into. Listed once a sample, and only if a thread waits on
/// one: it takes a look at every open file of the machine.
#[derive(Debug, Default)]
pub(super) struct PipeHolders(OnceLock<Option<BTreeMap<String, Vec<Pid>>>>);

impl PipeHolders {
    /// Other processes than `own` that have `pipe` (as `/proc/PID/fd/N` shows it) open. `None`: that could not be found
    /// out, since some process may not be looked into.
    pub(super) fn others(&self, pipe: &str, own: Pid) -> Option<Vec<Pid>> {
        let holders = self.0.get_or_init(list).as_ref()?;
        let pids = holders.get(pipe).map_or(&[][..], Vec::as_slice);
        Some(pids.iter().copied().filter(|pid| *pid != own).collect())
    }
}

fn list() -> Option<BTreeMap<String, Vec<Pid>>> {
    let mut holders: BTreeMap<String, Vec<Pid>> = BTreeMap::new();
    let mut seen = 0;
    // hangscope itself may have inherited the pipe, but will not write into it.
    let ourselves = Pid::try_from(std::process::id()).unwrap_or(0);
    for entry in fs::read_dir("/proc").ok()?.flatten() {
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
            Err(_) => return None,
        };
        for file in files.flatten() {
            seen += 1;
            if seen > MAX_FILES {
                return None;
            }
            let Ok(target) = fs::read_link(file.path()) else {
                continue;
            };
            let Some(name) = target.to_str().filter(|name| name.starts_with("pipe:[")) else {
                continue;
            };
            let pids = holders.entry(name.to_owned()).or_default();
            if pids.last() != Some(&pid) {
                pids.push(pid);
            }
        }
    }
    Some(holders)
}
