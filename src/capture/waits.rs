//! What a system call waits for, beyond its own arguments: files with their other ends, children.

use super::children::{self, Waited};
use super::files::{Files, wants};
use super::sets::{Asked, FileSet};
use super::syscall::Meaning;
use crate::model::{ChildSet, FileKind, Pid, Tid, Wait, WaitKind, Want};

/// Where the waits of a process are looked up.
pub(super) struct Surroundings<'i> {
    pub(super) pid: Pid,
    pub(super) tids: Vec<Tid>,
    /// The process counts pids as we do.
    pub(super) same_namespace: bool,
    pub(super) files: Files<'i>,
}

impl Surroundings<'_> {
    /// Adds files and children to a wait.
    pub(super) fn complete(&self, wait: &mut Wait, meaning: &Meaning) {
        wait.descriptor = meaning
            .descriptor
            .map(|number| self.files.describe(number, Vec::new()));
        if wait.kind == WaitKind::FileLock {
            wait.descriptor = meaning.descriptor.map(|number| self.files.locked(number));
        }
        let watched = meaning
            .descriptor
            .filter(|_| wait.kind == WaitKind::Poll)
            .map(|epoll| self.watched(epoll));
        if let Some(set) = watched.as_ref().or(meaning.files.as_ref()) {
            wait.files = set
                .files
                .iter()
                .map(|file| self.files.describe(file.number, file.wants.clone()))
                .collect();
            wait.files_in_all = (set.in_all > wait.files.len()).then_some(set.in_all);
            end_with_timer(wait);
        }
        if let Some(waited) = meaning.child {
            self.add_child(wait, waited);
        }
    }

    fn watched(&self, epoll: i32) -> FileSet {
        let watched = self.files.watched_by(epoll);
        FileSet::new(watched.into_iter().map(|file| Asked {
            number: file.number,
            wants: wants(file.events),
        }))
    }

    fn add_child(&self, wait: &mut Wait, waited: Waited) {
        let pidfd = |number| self.files.describe(number, Vec::new()).process;
        let found = children::find(self.pid, &self.tids, waited, self.same_namespace, pidfd);
        if let (ChildSet::One, [child]) = (found.any_of, found.children.as_slice()) {
            wait.target = child.process.clone();
        }
        if let Waited::Pidfd(number) = waited {
            wait.descriptor = Some(self.files.describe(number, Vec::new()));
        }
        wait.child = Some(found);
    }
}

/// An armed timerfd in the set is a deadline: the poll returns when it expires.
fn end_with_timer(wait: &mut Wait) {
    let first = wait
        .files
        .iter()
        .filter(|file| file.kind == Some(FileKind::Timerfd) && file.wants.contains(&Want::Read))
        .filter_map(|file| file.remaining_ms)
        .min();
    if let Some(left) = first {
        wait.timed = Some(true);
        wait.remaining_ms = Some(wait.remaining_ms.map_or(left, |other| other.min(left)));
    }
}
