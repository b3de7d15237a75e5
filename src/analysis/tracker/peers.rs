//! Who has the other end of a pipe, socket or connection.

use super::Tracker;
use crate::analysis::roles;
use crate::analysis::trail::{How, Node};
use crate::model::{Descriptor, Frame, Process, Thread, Wait, WaitKind};

impl<'c> Tracker<'c> {
    /// Who has the other end of a pipe or socket, and is stuck.
    pub(super) fn other_end(
        &self,
        process: &'c Process,
        thread: &'c Thread,
        wait: &'c Wait,
    ) -> Option<(How, Node<'c>)> {
        let files = wait.all_files();
        files
            .filter_map(|file| self.peer(process, Some(thread), file))
            .map(|node| {
                let how = match wait.kind {
                    WaitKind::Write => How::Room,
                    _ => How::Data,
                };
                (how, node)
            })
            .next()
    }

    pub(super) fn peer(
        &self,
        process: &'c Process,
        except: Option<&Thread>,
        file: &'c Descriptor,
    ) -> Option<Node<'c>> {
        let peer = file.peer.as_ref()?;
        let others = peer.processes.iter().filter(|pid| **pid != process.pid);
        for pid in others {
            let mut all = self.case.last.processes.iter();
            let Some(other) = all.find(|other| other.pid == *pid) else {
                continue;
            };
            // A manager's thread that does what a client asked for does not read from it meanwhile.
            let works = |candidate: &&Thread| {
                let wait = candidate.wait.as_ref();
                roles::serves_client(candidate)
                    && self.is_stuck(candidate)
                    && wait.is_some_and(|wait| wait.descriptor.is_none())
            };
            if let Some(thread) = other.threads.iter().find(works) {
                return Some(Node::Thread(other, thread));
            }
            // The thread that is busy with the other end tells more than the main thread.
            let answers = |candidate: &&Thread| {
                let back = candidate
                    .wait
                    .as_ref()
                    .and_then(|wait| wait.descriptor.as_ref());
                let back = back.and_then(|file| file.peer.as_ref());
                self.is_stuck(candidate)
                    && back.is_some_and(|peer| peer.processes.contains(&process.pid))
            };
            if let Some(thread) = other.threads.iter().find(answers) {
                return Some(Node::Thread(other, thread));
            }
            if let Some(node) = self.leader(other) {
                return Some(node);
            }
        }
        let own = process.threads.iter().find(|other| {
            let file = other
                .wait
                .as_ref()
                .and_then(|wait| wait.descriptor.as_ref());
            file.is_some_and(|file| peer.own.contains(&file.number))
                && except.is_none_or(|except| except.key != other.key)
        });
        own.map(|other| Node::Thread(process, other))
    }

    /// Where a connection leads back into the process: the one thread that is stuck in the program's own code and may serve it.
    pub(super) fn server_thread(
        &self,
        process: &'c Process,
        client: &Thread,
        wait: &Wait,
    ) -> Option<Node<'c>> {
        let files = wait.all_files();
        let mut own = files.filter_map(|file| file.peer.as_ref());
        let own = own.find(|peer| !peer.own.is_empty())?;
        if own.unaccepted {
            let serves = |other: &&Thread| {
                let mut frames = other.frames();
                other.key != client.key
                    && self.is_stuck(other)
                    && frames.any(|frame| frame.is("BaseServer.serve_forever", "socketserver.py"))
            };
            let server = process.threads.iter().find(serves)?;
            return Some(Node::Thread(process, server));
        }
        let mut others = process.threads.iter().filter(|other| {
            let own = |frame: &Frame| !frame.is_library();
            other.key != client.key
                && self.is_stuck(other)
                && !roles::is_bystander(other)
                && other.frames().any(own)
        });
        let first = others.next()?;
        others
            .next()
            .is_none()
            .then_some(Node::Thread(process, first))
    }
}
