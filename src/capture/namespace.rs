//! Processes of other pid namespaces.

use super::facts::{last_number, read_bounded};
use crate::model::{Pid, Tid};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;

/// Thread ids as the target knows them: different from ours when it lives in another pid namespace.
pub(super) struct NamespaceIds(Option<BTreeMap<Tid, Tid>>);

impl NamespaceIds {
    pub(super) fn of(pid: Pid, alive: Tid, tids: &[Tid]) -> Self {
        let inode = |path: &str| fs::metadata(path).ok().map(|meta| meta.ino());
        let theirs = inode(&format!("/proc/{pid}/task/{alive}/ns/pid"));
        if theirs.is_none() || theirs == inode("/proc/self/ns/pid") {
            return Self(None);
        }
        let inner = tids
            .iter()
            .filter_map(|tid| {
                let status = read_bounded(&format!("/proc/{pid}/task/{tid}/status"));
                let inner = last_number(&String::from_utf8_lossy(&status), "NSpid:")?;
                Some((*tid, inner))
            })
            .collect();
        Self(Some(inner))
    }

    /// The target counts processes as we do.
    pub(super) fn is_ours(&self) -> bool {
        self.0.is_none()
    }

    pub(super) fn inner(&self, tid: Tid) -> Tid {
        match &self.0 {
            Some(map) => map.get(&tid).copied().unwrap_or(tid),
            None => tid,
        }
    }
}
