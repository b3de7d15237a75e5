//! Which cause it is, where waits go round.

use super::cause::{Root, reads_a_queue};
use super::native::BLOCKED_POOL;
use super::said::{FED, TO_THREAD, said};
use super::verbs;
use crate::analysis::language::Language;
use crate::analysis::trail::{How, Node, Trail};
use crate::model::{Descriptor, Wait, WaitKind};

/// Waits that go round over pipes, sockets, children or tasks.
pub(super) fn of_circle(trail: &Trail<'_>) -> Option<Root> {
    let (nodes, hows) = trail.circle()?;
    let last = trail.root()?;
    let (from, how, to) = trail.steps().last()?;
    let phrase = format!("{} in turn", verbs::step(from, how, to));
    let has = |wanted: How| hows.contains(&wanted);
    let said = if has(How::Room) {
        said(
            "pipe-full",
            "",
            language_of_end(trail, How::Room).pick(
                "read the pipe while the other side writes: Popen.communicate(), a thread that reads, or a file instead of a pipe; read a multiprocessing queue before joining its writers",
                "read the pipe while the other side writes, before waiting for its end: Command::output() or \
                 Child::wait_with_output(), a thread that reads, or a file or Stdio::null() instead of a pipe",
                "read the pipe to its end while the other side writes, before waiting for it (waitpid): poll() where there are \
                 several pipes, a thread that reads, or a file instead of a pipe",
            ),
        )
    } else if has(How::Worker) {
        TO_THREAD
    } else if has(How::Lock) && nodes.iter().any(|node| is_on_file_lock(*node)) {
        said(
            "file-lock-deadlock",
            "",
            "do not wait for a process with a file lock held that it needs; take file locks without waiting (LOCK_NB) and say who holds them",
        )
    } else if has(How::Lock) && nodes.len() == 1 {
        said(
            "lock-self-deadlock",
            "",
            "do not take the lock again where it is held: split the function into one that takes it and one that expects it taken",
        )
    } else if has(How::Lock) {
        said(
            "lock-order-cycle",
            "",
            "take the locks in one order everywhere",
        )
    } else if has(How::Data) {
        if nodes.iter().any(|node| reads_a_queue(*node)) {
            FED
        } else if is_on_socket(last) {
            said(
                "socket-peer-silent",
                "",
                "agree on who speaks first, send what is expected before waiting for the answer, and set a timeout on sockets",
            )
        } else {
            said(
                "pipe-never-fed",
                "",
                language_of_end(trail, How::Data).pick(
                    "close the pipe's writing end when all is written (Popen.communicate() does), or do not wait for the answer before",
                    "close the pipe's writing end when all is written (drop(child.stdin.take()); Child::wait() and \
                     wait_with_output() do so first), or do not wait for the answer before",
                    "close the pipe's writing end when all is written (close, fclose or pclose, in each process that has it), or do not \
                     wait for the answer before",
                ),
            )
        }
    } else if has(How::Pool) {
        BLOCKED_POOL
    } else if hows.iter().all(|how| *how == How::Task) {
        said(
            "await-cycle",
            "",
            "order the tasks so that none awaits one that awaits it: resolve dependencies before starting the tasks, and refuse \
             circles there",
        )
    } else {
        said(
            "stuck-cause-unknown",
            "",
            "break the circle: one of these must not wait for the next",
        )
    };
    Some(Root::new(&said, last, phrase))
}

/// The language of who has the other end of the pipe, and is to be changed; of several the one that is best known.
fn language_of_end(trail: &Trail<'_>, wanted: How) -> Language {
    let ends = trail.steps().filter(|(_, how, _)| *how == wanted);
    ends.map(|(.., to)| Language::of(to.process()))
        .max()
        .unwrap_or(Language::C)
}

fn is_on_file_lock(node: Node<'_>) -> bool {
    let Node::Thread(_, thread) = node else {
        return false;
    };
    thread
        .wait
        .as_ref()
        .is_some_and(|wait| wait.kind == WaitKind::FileLock)
}

fn is_on_socket(node: Node<'_>) -> bool {
    let Node::Thread(_, thread) = node else {
        return false;
    };
    let wait = thread.wait.as_ref();
    let mut files = wait.into_iter().flat_map(Wait::all_files);
    files.any(Descriptor::is_socket)
}
