//! Which cause it is, by what the root of a trail waits for.

use super::circle::of_circle;
use super::files::of_files;
use super::locks::{holds_file_lock_itself, is_bare_lock, of_lock};
use super::said::{
    DRAIN, LOOP_AT_REST, SEMAPHORE, STARVED, STREAM, Said, TO_THREAD, by_call, said,
};
use super::{event_loop, native, swallowed, verbs};
use crate::analysis::case::Case;
use crate::analysis::language::Language;
use crate::analysis::native_trail;
use crate::analysis::pools::{is_at_work, is_future_call, is_pool_call, is_worker};
use crate::analysis::streams::{is_stream, is_stream_writer};
use crate::analysis::trail::{How, Node, Trail, fact};
use crate::analysis::wording;
use crate::model::{Certainty, Foreign, Grade, Process, Task, Thread, WaitKind};

/// What is told of the root of a trail.
pub(super) struct Root {
    pub(super) id: &'static str,
    /// What it does, as a predicate, and why that does not end.
    pub(super) phrase: String,
    /// More facts.
    pub(super) facts: Vec<(Grade, String)>,
    pub(super) ceiling: Certainty,
    pub(super) refuted_if: Foreign,
    pub(super) remedy: Foreign,
}

impl Root {
    pub(super) fn of(case: &Case<'_>, trail: &Trail<'_>) -> Option<Self> {
        let last = trail.root()?;
        if let Some(circle) = of_circle(trail) {
            return Some(circle);
        }
        match last {
            Node::Thread(process, thread) => of_thread(case, trail, process, thread),
            Node::Task(process, task) => of_task(process, task, last),
        }
    }

    pub(super) fn new(said: &Said, node: Node<'_>, phrase: String) -> Self {
        Self {
            id: said.id,
            phrase,
            facts: Vec::new(),
            ceiling: Certainty::Certain,
            refuted_if: match Language::of(node.process()) {
                Language::Python => "native code, a debugger or another process does it",
                _ => "a debugger or another process does it",
            }
            .into(),
            remedy: said.remedy.into(),
        }
    }
}

pub(super) fn simple(said: &Said, node: Node<'_>) -> Root {
    let phrase = format!("{}, {}", verbs::waits(node), said.why);
    Root::new(said, node, phrase)
}

/// Whether it gets from a queue of `multiprocessing`, which is a pipe.
pub(super) fn reads_a_queue(node: Node<'_>) -> bool {
    node.frames().iter().any(|frame| {
        frame.is("Queue.get", "multiprocessing/queues.py")
            || frame.is("SimpleQueue.get", "multiprocessing/queues.py")
    })
}

fn of_thread(
    case: &Case<'_>,
    trail: &Trail<'_>,
    process: &Process,
    thread: &Thread,
) -> Option<Root> {
    let node = Node::Thread(process, thread);
    let wait = thread.wait.as_ref()?;
    if let Some(root) = event_loop::of(case, process, thread, node) {
        return Some(root);
    }
    let type_name = wait
        .object
        .as_ref()
        .map_or("", |object| object.type_name.untrusted());
    let call = node.call();
    if wait.kind == WaitKind::FileLock && holds_file_lock_itself(process, wait) {
        return Some(simple(
            &said(
                "file-lock-deadlock",
                "which the same process holds by another open file",
                "open the file once and lock that, or release the first lock: flock() locks belong to the open file, not to the process",
            ),
            node,
        ));
    }
    // An event loop's thread polls for what its tasks wait for.
    if wait.kind == WaitKind::Poll
        && let Some(native) = native::cause(call)
    {
        return Some(simple(&native, node));
    }
    let on_files = matches!(wait.kind, WaitKind::Read | WaitKind::Write | WaitKind::Poll);
    if on_files && !type_name.ends_with("Queue") {
        return Some(of_files(node, wait));
    }
    if let Some(root) = of_exit(process, thread, node) {
        return Some(root);
    }
    // What a task's thread waits for is rather to be done by the event loop than by the pool.
    let for_loop = trail.hows.contains(&How::Worker);
    if is_future_call(call) && for_loop {
        let mut root = Root::new(
            &TO_THREAD,
            node,
            format!(
                "{}, and that is to run on the same event loop",
                verbs::waits(node)
            ),
        );
        root.ceiling = Certainty::Probable;
        return Some(root);
    }
    let for_pool = is_future_call(call) || is_pool_call(call, type_name);
    if is_worker(thread) && for_pool && no_worker_is_free(process, thread) {
        let mut root = simple(&STARVED, node);
        let busy = process
            .threads
            .iter()
            .filter(|other| is_worker(other))
            .count();
        root.facts.push((
            Grade::Derived,
            format!(
                "{} is a worker of a pool itself, and none of its {busy} workers is idle",
                wording::name(thread)
            ),
        ));
        return Some(root);
    }
    if matches!(
        wait.kind,
        WaitKind::Lock | WaitKind::RLock | WaitKind::SharedFutex
    ) && is_bare_lock(type_name)
        && (!type_name.is_empty() || by_call(call, "").is_none())
    {
        return Some(of_lock(case, process, node, wait));
    }
    let before_locks = trail.hows.iter().rfind(|how| **how != How::Lock);
    let is_workers = trail.hows.last() == Some(&How::Pool) || native_trail::is_worker(thread);
    if before_locks == Some(&How::Pool) && is_workers {
        return Some(simple(&native::BLOCKED_POOL, node));
    }
    if let Some(native) = native::cause(call) {
        let mut root = simple(&native, node);
        // Much of the library parks, and by whom that was called for is not known.
        if call == "thread::park" && node.is_guessed() && wording::place(thread).is_none() {
            root.ceiling = Certainty::Possible;
        }
        return Some(root);
    }
    let object = wait.object.as_ref();
    let rests = object.is_some_and(|object| fact(object, "event_loop") == Some("not running"));
    let cause = if rests {
        Some(&LOOP_AT_REST)
    } else {
        by_call(call, type_name)
    };
    let Some(cause) = cause else {
        return Some(unknown(node));
    };
    let mut root = simple(cause, node);
    let serves = thread
        .frames()
        .any(|frame| frame.is("BaseServer.serve_forever", "socketserver.py"));
    if call == "BaseServer.shutdown" && serves {
        root.facts.push((
            Grade::Read,
            "shutdown() waits for serve_forever() to return, which is on the stack of the same thread".to_owned(),
        ));
        root.remedy = "call shutdown() from another thread than the one that serves: Thread(target=server.shutdown).start()".into();
    }
    if cause.id == SEMAPHORE.id
        && let Some(value) = wait
            .object
            .as_ref()
            .and_then(|object| fact(object, "value"))
        && value != "0"
    {
        root.ceiling = Certainty::Possible;
    }
    Some(root)
}

fn unknown(node: Node<'_>) -> Root {
    let said = said(
        "stuck-cause-unknown",
        "",
        "look at what it waits for: who was to end that wait, and where is he now?",
    );
    let mut root = Root::new(
        &said,
        node,
        format!(
            "{}; nothing is left that could end that, and the cause is unknown",
            verbs::waits(node)
        ),
    );
    root.ceiling = Certainty::Possible;
    root
}

/// Callbacks of `atexit` run after the main module's code has ended: it is on no stack any more.
fn of_exit(process: &Process, thread: &Thread, node: Node<'_>) -> Option<Root> {
    let frames = node.frames();
    let outermost = frames.last()?;
    let function = outermost.function.untrusted();
    let in_main =
        function.starts_with('<') || function.starts_with("_run_module") || function == "_shutdown";
    let forked = function.starts_with("_bootstrap") || outermost.is_library();
    if !process.is_led_by(thread) || in_main || forked {
        return None;
    }
    let said = said(
        "exit-blocked-by-atexit",
        "",
        "do not wait without a timeout in an atexit callback: daemon threads that might answer may have failed by then",
    );
    let mut root = Root::new(
        &said,
        node,
        format!(
            "is at its exit, where the atexit callback {} {}",
            outermost.place(),
            verbs::waits(node)
        ),
    );
    root.facts.push((
        Grade::Derived,
        "no module's code is below it on the stack, so the interpreter called it after the program's end".to_owned(),
    ));
    Some(root)
}

/// Whether no worker of the same pool is idle: workers are named after their pool.
fn no_worker_is_free(process: &Process, thread: &Thread) -> bool {
    let pool = |thread: &Thread| -> Option<String> {
        let name = thread.display_name().untrusted();
        name.rsplit_once('_').map(|(pool, _)| pool.to_owned())
    };
    let own = pool(thread);
    !process
        .threads
        .iter()
        .any(|other| is_worker(other) && !is_at_work(other) && pool(other) == own)
}

/// A task that waits, with a lock held that another task waits for: as a rule the other is the one that would help.
fn holds_what_is_needed(process: &Process, task: &Task, node: Node<'_>) -> Option<Root> {
    let mut tasks = process.event_loops.iter().flat_map(|it| &it.tasks);
    let (other, awaits, held) = tasks.find_map(|other| {
        let awaits = other.awaits.as_ref()?;
        let mut holders = awaits.holders.iter();
        let held = holders.find(|holder| holder.task.as_ref() == Some(&task.key))?;
        (other.key != task.key).then_some((other, awaits, held))
    })?;
    let object = awaits.object.as_ref();
    let kind = object.map_or("lock", |object| object.type_name.untrusted());
    let kind = kind.rsplit('.').next().unwrap_or(kind);
    let lock = match object.and_then(|object| object.name.as_ref()) {
        Some(name) => format!("`{}`", name.untrusted()),
        None => format!("the {kind}"),
    };
    let said = said(
        "lock-held-by-blocked-thread",
        "",
        "do not await anything but the lock's own work with the lock held: take what is needed out of the block, or let go of the \
         lock before waiting for what another task does",
    );
    let mut root = Root::new(
        &said,
        node,
        format!(
            "{}, and holds {lock} all the while, which {} waits for{}",
            verbs::waits(node),
            wording::task(other),
            wording::task_at(other)
        ),
    );
    let taken = held.place.as_ref().map_or_else(String::new, |place| {
        format!(" (in a `with` block of {})", place.untrusted())
    });
    root.facts.push((
        held.grade,
        format!("{} holds {lock}{taken}", wording::task(task)),
    ));
    root.ceiling = Certainty::Probable;
    root.refuted_if = "the other task would not help either".into();
    Some(root)
}

fn of_task(process: &Process, task: &Task, node: Node<'_>) -> Option<Root> {
    if let Some(root) = holds_what_is_needed(process, task, node) {
        return Some(root);
    }
    let awaits = task.awaits.as_ref();
    // It rests until it is cancelled, and was made for that.
    if node.call().ends_with("sleep_forever") {
        return None;
    }
    let object = awaits.and_then(|awaits| awaits.object.as_ref());
    let type_name = object.map_or("", |object| object.type_name.untrusted());
    let stream = match is_stream_writer(object) {
        true => Some(&DRAIN),
        false => is_stream(object).then_some(&STREAM),
    };
    let Some(cause) = stream.or_else(|| by_call(node.call(), type_name)) else {
        return Some(unknown(node));
    };
    let mut root = simple(cause, node);
    root.refuted_if =
        "native code, a signal handler or another process wakes the event loop and does it".into();
    swallowed::add(&mut root, task);
    Some(root)
}
