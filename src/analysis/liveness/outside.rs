//! Waits that something outside of the process may end: another process of the tree, or the world.

use super::look::Look;
use super::{Enders, Others};
use crate::analysis::roles;
use crate::analysis::streams;
use crate::model::{
    ChildState, Descriptor, FileKind, Key, Peer, Pid, Process, SocketState, Thread, Wait, WaitKind,
};
use std::collections::BTreeSet;

/// The other end, if somebody was found there. Who may have it as well out of our sight is of another user, and got it from one
/// of these: that is rare enough.
fn known_peer(file: &Descriptor) -> Option<&Peer> {
    let peer = file.peer.as_ref()?;
    let anybody = !peer.processes.is_empty() || !peer.own.is_empty();
    anybody.then_some(peer)
}

impl<'a> Look<'a, '_> {
    /// Whether a thread accepts connections, and only from other threads of its process: that runs a test, or its main thread is
    /// such a client, and it has no children that might be.
    pub(super) fn serves_own(&self, process: &Process, thread: &Thread) -> bool {
        let is_own = |file: &Descriptor| {
            let peer = file.peer.as_ref();
            peer.is_some_and(|peer| !peer.own.is_empty() && !peer.closed)
        };
        let is_client = |thread: &Thread| {
            let files = thread.wait.iter().flat_map(Wait::all_files);
            process.is_led_by(thread) && files.into_iter().any(is_own)
        };
        let mut all = self.case.last.processes.iter();
        let childless = all.all(|other| other.ppid != process.pid);
        // It is about to accept one.
        let queued = |file: &Descriptor| file.peer.as_ref().is_some_and(|peer| peer.unaccepted);
        let waits = process
            .threads
            .iter()
            .filter_map(|thread| thread.wait.as_ref());
        let mut files = waits.flat_map(Wait::all_files);
        roles::accepts(thread)
            && !files.any(queued)
            && childless
            && (process.test.is_some() || process.threads.iter().any(is_client))
    }

    /// A wait that something outside of the process may end.
    pub(super) fn outside(
        &self,
        process: &'a Process,
        thread: &'a Thread,
        wait: &'a Wait,
    ) -> Enders<'a> {
        let mut files: Vec<&Descriptor> = Vec::new();
        let mut processes = Vec::new();
        match wait.kind {
            WaitKind::Read | WaitKind::Write => files.extend(wait.descriptor.as_ref()),
            WaitKind::Poll if wait.files_in_all.is_none() => files.extend(&wait.files),
            WaitKind::FileLock => {
                let holder = wait.descriptor.as_ref().and_then(|file| file.peer.as_ref());
                let holder = holder.and_then(|peer| peer.processes.first());
                return match holder.and_then(|pid| self.by_pid.get(pid)) {
                    Some(key) => Enders::Any(Others {
                        processes: vec![*key],
                        ..Others::default()
                    }),
                    None => Enders::World,
                };
            }
            WaitKind::SharedFutex
                if wait.timed == Some(false)
                    && process.python.is_some()
                    && wait.shared_with.is_empty() =>
            {
                return Enders::Any(Others {
                    processes: self.pythons.clone(),
                    own: true,
                    ..Others::default()
                });
            }
            WaitKind::Child => {
                let Some(child) = &wait.child else {
                    return Enders::World;
                };
                for child in &child.children {
                    match (child.state, child.pid.and_then(|pid| self.by_pid.get(&pid))) {
                        (ChildState::Alive, Some(key)) => processes.push(*key),
                        _ => return Enders::World,
                    }
                }
                if processes.is_empty() {
                    return Enders::World;
                }
                return Enders::Any(Others {
                    processes,
                    own: true,
                    except: self.out_of_reach(process, thread, wait),
                    ..Others::default()
                });
            }
            _ => return Enders::World,
        }
        // A server's socket in the set wakes the loop, but a task that reads from its own process waits on.
        let listens = |file: &&Descriptor| file.state == Some(SocketState::Listen);
        let connected = files.iter().any(|file| known_peer(file).is_some());
        let reads = roles::idle_loop_of(process, thread).is_some_and(streams::awaits_a_stream);
        if connected && reads {
            files.retain(|file| !listens(file));
        }
        if files.is_empty() {
            return Enders::World;
        }
        let mut except = BTreeSet::new();
        for file in files {
            match self.at_other_end(process, file) {
                Some(more) => processes.extend(more),
                None => return Enders::World,
            }
            // Who waits for new connections has accepted this one already, and does no more about it.
            let accepted = file.peer.as_ref().is_some_and(|peer| !peer.unaccepted);
            if file.is_socket() && accepted {
                let accepting = process.threads.iter().filter(|other| roles::accepts(other));
                except.extend(accepting.map(|other| &other.key));
            }
        }
        for key in &processes {
            except.extend(self.strangers_to(key, process));
        }
        Enders::Any(Others {
            processes,
            own: true,
            except,
            ..Others::default()
        })
    }

    /// Threads of a parent that cannot come to the object by which it knows this child, and so not to its pipes.
    pub(super) fn strangers_to(&self, parent: &Key, child: &Process) -> BTreeSet<&'a Key> {
        let Some(parent) = self.case.last.process(parent) else {
            return BTreeSet::new();
        };
        let waits_for_it = |wait: &&Wait| {
            let children = wait.child.iter().flat_map(|child| &child.children);
            wait.kind == WaitKind::Child
                && children.into_iter().any(|one| one.pid == Some(child.pid))
        };
        let waiter = parent.threads.iter().find_map(|thread| {
            let wait = thread.wait.as_ref().filter(waits_for_it)?;
            Some((thread, wait))
        });
        waiter.map_or_else(BTreeSet::new, |(thread, wait)| {
            self.out_of_reach(parent, thread, wait)
        })
    }

    /// The other processes that can make something happen on a file; `None` where that may be one that is not known.
    pub(super) fn at_other_end(
        &self,
        process: &Process,
        file: &Descriptor,
    ) -> Option<Vec<&'a Key>> {
        if file.is_internal() {
            return Some(Vec::new());
        }
        if file.state == Some(SocketState::Listen) {
            return None;
        }
        let pids: Vec<Pid> = match file.kind? {
            FileKind::Pipe => known_peer(file)?.processes.clone(),
            FileKind::UnixSocket | FileKind::TcpSocket => {
                let peer = known_peer(file)?;
                let also = file.also_open_in.iter().flatten();
                peer.processes.iter().chain(also).copied().collect()
            }
            FileKind::Pidfd => {
                let child = file.process.as_ref()?;
                vec![child.pid.filter(|_| child.state == ChildState::Alive)?]
            }
            FileKind::Eventfd => file.also_open_in.clone()?,
            _ => return None,
        };
        if file.peer.as_ref().is_some_and(|peer| peer.closed) {
            return None;
        }
        pids.into_iter()
            .filter(|pid| *pid != process.pid)
            .map(|pid| self.by_pid.get(&pid).copied())
            .collect()
    }
}
