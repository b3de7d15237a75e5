//! Roots that wait for a lock.

use super::cause::Root;
use super::said::{LOCK, SEMAPHORE, said};
use super::verbs;
use crate::analysis::case::{self, Case};
use crate::analysis::language::Language;
use crate::analysis::pools::idles_between_tasks;
use crate::analysis::trail::{Node, fact};
use crate::analysis::wording;
use crate::model::{Certainty, Foreign, Grade, Process, Wait, WaitKind};

/// A lock without a known holder.
pub(super) fn of_lock(case: &Case<'_>, process: &Process, node: Node<'_>, wait: &Wait) -> Root {
    let lock = wording::lock(wait);
    let language = Language::of(process);
    let here = verbs::at(node);
    if wait.kind == WaitKind::SharedFutex {
        return match language {
            Language::Python => of_shared_lock(case, node, wait, &lock.short),
            _ => of_native_shared_lock(node, &lock.short),
        };
    }
    if let Some(parent) = case.forked_from(process) {
        let said = said(
            "lock-held-at-fork",
            "",
            language.pick(
                "start processes before threads; use the spawn or forkserver start method, or re-initialize the lock in the child (os.register_at_fork)",
                "start programs by std::process::Command, with nothing in pre_exec() that takes a lock or allocates; where it must be \
                 fork(), do so before there are threads",
                "call nothing but async-signal-safe functions between fork and exec, or start programs by posix_spawn(); where the child \
                 goes on without exec, fork before there are threads, or take the lock around the fork (pthread_atfork)",
            ),
        );
        let mut root = Root::new(
            &said,
            node,
            format!(
                "waits{here} for {}, which is held in this process by nobody: it was, when process {} forked it",
                lock.short, parent.pid
            ),
        );
        root.facts.push((
            Grade::Derived,
            format!(
                "process {} is a fork of process {} (same command line, no exec)",
                process.pid, parent.pid
            ),
        ));
        if let Some(holder) = case::owner_in(parent, wait) {
            root.facts.push((
                Grade::Derived,
                format!(
                    "its owner field names a thread that only the parent has: {} of process {}",
                    wording::who(holder),
                    parent.pid
                ),
            ));
        }
        root.ceiling = Certainty::Probable;
        root.refuted_if = Foreign::from("the child itself took the lock and did not release it");
        return root;
    }
    let mut root = Root::new(
        &LOCK,
        node,
        format!(
            "waits{here} for {}, and nobody is left who could release it",
            lock.short
        ),
    );
    if language != Language::Python {
        root.remedy = "release the lock on every path out of the function that takes it, also where that fails; in a thread that reads \
                       by a read-write lock, do not take it again to write"
            .into();
    }
    root.ceiling = Certainty::Probable;
    root.facts.extend(may_have_it(process, wait));
    if language != Language::Python && node.is_guessed() {
        root.facts.push((
            Grade::Guessed,
            "the process was not stopped, and who holds such a lock may show in registers only: it may be one of the threads that \
             wait for something else"
                .to_owned(),
        ));
    }
    root
}

/// Threads that refer to the lock and wait for something else: one of them may have taken it, and would give it back.
fn may_have_it(process: &Process, wait: &Wait) -> Vec<(Grade, String)> {
    const MOST: usize = 2;
    let suspects = wait.suspects.iter().filter_map(|suspect| {
        let thread = process.thread(suspect.thread.as_ref()?)?;
        let other = thread.wait.as_ref()?;
        (other.address != wait.address).then_some((thread, other))
    });
    let told = suspects.take(MOST).map(|(thread, other)| {
        let text = format!(
            "{} refers to it, too, and {}{}: if it has taken the lock, that wait is the cause",
            wording::who(thread),
            wording::waits(other),
            wording::at(thread)
        );
        (Grade::Guessed, text)
    });
    told.collect()
}

/// The same between processes that are not Python, of which it is not known who holds it.
fn of_native_shared_lock(node: Node<'_>, lock: &str) -> Root {
    let said = said(
        LOCK.id,
        "",
        "release the lock on every path, also where the process that has it fails or is killed; a robust mutex \
         (PTHREAD_MUTEX_ROBUST) tells the next one that its owner has died",
    );
    let here = verbs::at(node);
    let phrase = format!("waits{here} for {lock}, and no process that is left is seen to hold it");
    let mut root = Root::new(&said, node, phrase);
    root.ceiling = Certainty::Probable;
    root.refuted_if = Foreign::from("a process outside of this tree has it");
    root
}

/// A lock or semaphore of `multiprocessing` that no process of the tree is seen to hold.
fn of_shared_lock(case: &Case<'_>, node: Node<'_>, wait: &Wait, lock: &str) -> Root {
    let here = verbs::at(node);
    let permits = wait
        .object
        .as_ref()
        .and_then(|object| fact(object, "maxvalue"));
    let (said, why) = if permits.is_some_and(|permits| permits != "1") {
        (
            SEMAPHORE,
            "and no process that is left is seen to have a permit",
        )
    } else if case.last.processes.iter().any(idles_between_tasks) {
        // It may have taken it, and raised before it came to the release.
        (
            LOCK,
            "and no process that is left is seen in a `with` block of it",
        )
    } else {
        let said = said(
            "lock-holder-ended",
            "",
            "take locks between processes by `with`, and do not kill a process that may hold one",
        );
        (said, "which no process that is left is seen to hold")
    };
    let mut root = Root::new(&said, node, format!("waits{here} for {lock}, {why}"));
    root.ceiling = Certainty::Probable;
    root.refuted_if = Foreign::from("a process outside of this tree has it");
    root
}

/// Whether the lock that is waited for is the process's own, by another descriptor.
pub(super) fn holds_file_lock_itself(process: &Process, wait: &Wait) -> bool {
    let peer = wait.descriptor.as_ref().and_then(|file| file.peer.as_ref());
    peer.is_some_and(|peer| peer.processes.contains(&process.pid) || !peer.own.is_empty())
}

pub(super) fn is_bare_lock(type_name: &str) -> bool {
    matches!(
        type_name,
        "" | "_thread.lock"
            | "_thread.RLock"
            | "_multiprocessing.SemLock"
            | "multiprocessing.synchronize.Lock"
            | "multiprocessing.synchronize.RLock"
            | "pthread_mutex_t"
            | "pthread_rwlock_t"
            | "std::sync::Mutex"
            | "std::sync::RwLock"
            | "parking_lot::Mutex"
            | "parking_lot::RwLock"
    )
}
