//! Which cause it is, where the root waits for a pipe or socket.

use super::cause::{Root, reads_a_queue, simple};
use super::said::{FED, said};
use crate::analysis::language::Language;
use crate::analysis::trail::Node;
use crate::model::{Access, Descriptor, Grade, Wait, WaitKind};

/// Pipes and sockets that lead to nobody else.
pub(super) fn of_files(node: Node<'_>, wait: &Wait) -> Root {
    let language = Language::of(node.process());
    let file = wait.descriptor.as_ref().or_else(|| wait.files.first());
    let is_socket = file.is_some_and(Descriptor::is_socket);
    if wait.kind == WaitKind::Write {
        return simple(
            &said(
                "pipe-full",
                "and nobody reads what it writes",
                "read the pipe while the other side writes",
            ),
            node,
        );
    }
    if reads_a_queue(node) {
        return simple(&FED, node);
    }
    let queued = file
        .and_then(|file| file.peer.as_ref())
        .filter(|peer| peer.unaccepted);
    if let Some(peer) = queued.filter(|_| is_socket) {
        let mut root = simple(
            &said(
                "socket-peer-silent",
                "and nobody is left who could accept its connection",
                language.pick(
                    "let the server handle each connection in a thread of its own (ThreadingHTTPServer, ThreadingMixIn), and do not call a server from its own handler",
                    "let the server handle each connection in a thread or task of its own, and do not call a server from its own handler",
                    "let the server handle each connection in a thread of its own, or all by poll(), and do not call a server from its own \
                     handler",
                ),
            ),
            node,
        );
        if let Some(own) = peer.own.first() {
            root.facts.push((
                Grade::Read,
                format!("the connection is in the queue of the listening socket, fd {own} of the same process, and has not been accepted"),
            ));
        }
        return root;
    }
    if is_socket {
        return simple(
            &said(
                "socket-peer-silent",
                "and the other end is not going to send",
                "agree on who speaks first, and set a timeout on sockets",
            ),
            node,
        );
    }
    let has_writer = |file: &Descriptor| {
        file.access != Some(Access::Write)
            && file.peer.as_ref().is_some_and(|peer| !peer.own.is_empty())
    };
    if file.is_some_and(has_writer) {
        let mut root = simple(
            &said(
                "pipe-end-left-open",
                "and has the writing end open itself, so the end of file never comes",
                language.pick(
                    "close the writing end in the process that reads (os.close after the fork; pass_fds and close_fds of subprocess)",
                    "drop the writing end in the process that reads before it reads: the PipeWriter, or the Command that it was given to",
                    "close() the writing end in the process that reads, right after the fork, and open pipes by pipe2(O_CLOEXEC)",
                ),
            ),
            node,
        );
        if let Some(own) = file
            .and_then(|file| file.peer.as_ref())
            .and_then(|peer| peer.own.first())
        {
            root.facts.push((
                Grade::Read,
                format!("fd {own} of the same process is the writing end of that pipe"),
            ));
        }
        return root;
    }
    let remedy = language.pick(
        "close the pipe's writing end when all is written (Popen.communicate() does)",
        "drop the pipe's writing end (ChildStdin, PipeWriter) when all is written, in every process and thread that has it",
        "close the pipe's writing end when all is written, in every process and thread that has it",
    );
    simple(
        &said(
            "pipe-never-fed",
            "and the other end is neither going to write nor to close",
            remedy,
        ),
        node,
    )
}
