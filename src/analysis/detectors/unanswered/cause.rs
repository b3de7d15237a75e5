//! Which cause it is, by what the root of a trail waits for.

use super::locks::{holds_file_lock_itself, is_bare_lock, of_lock};
use super::said::{
    DRAIN, FED, LOOP_AT_REST, SEMAPHORE, STARVED, STREAM, Said, TO_THREAD, by_call, said,
};
use super::{event_loop, native, swallowed, verbs};
use crate::analysis::case::Case;
use crate::analysis::pools::{is_at_work, is_future_call, is_pool_call, is_worker};
use crate::analysis::streams::{is_stream, is_stream_writer};
use crate::analysis::trail::{How, Node, Trail, fact};
use crate::analysis::wording;
use crate::model::{
    Access, Certainty, Descriptor, FileKind, Foreign, Grade, Process, Task, Thread, Wait, WaitKind,
};

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

    pub(super) fn new(said: &Said, phrase: String) -> Self {
        Self {
            id: said.id,
            phrase,
            facts: Vec::new(),
            ceiling: Certainty::Certain,
            refuted_if: "native code, a debugger or another process does it".into(),
            remedy: said.remedy.into(),
        }
    }
}

fn simple(said: &Said, node: Node<'_>) -> Root {
    Root::new(said, format!("{}, {}", verbs::waits(node), said.why))
}

/// Waits that go round over pipes, sockets, children or tasks.
fn of_circle(trail: &Trail<'_>) -> Option<Root> {
    let (nodes, hows) = trail.circle()?;
    let last = trail.root()?;
    let (from, how, to) = trail.steps().last()?;
    let phrase = format!("{} in turn", verbs::step(from, how, to));
    let has = |wanted: How| hows.contains(&wanted);
    let said = if has(How::Room) {
        said(
            "pipe-full",
            "",
            "read the pipe while the other side writes: Popen.communicate(), a thread that reads, or a file instead of a pipe; read a multiprocessing queue before joining its writers",
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
                "close the pipe's writing end when all is written (Popen.communicate() does), or do not wait for the answer before",
            )
        }
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
    Some(Root::new(&said, phrase))
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

/// Whether it gets from a queue of `multiprocessing`, which is a pipe.
fn reads_a_queue(node: Node<'_>) -> bool {
    node.frames().iter().any(|frame| {
        frame.is("Queue.get", "multiprocessing/queues.py")
            || frame.is("SimpleQueue.get", "multiprocessing/queues.py")
    })
}

fn is_on_socket(node: Node<'_>) -> bool {
    let Node::Thread(_, thread) = node else {
        return false;
    };
    let wait = thread.wait.as_ref();
    let mut files = wait
        .into_iter()
        .flat_map(|wait| wait.descriptor.iter().chain(&wait.files));
    files.any(|file| matches!(file.kind, Some(FileKind::TcpSocket | FileKind::UnixSocket)))
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
    if trail.hows.last() == Some(&How::Pool) {
        return Some(simple(&native::BLOCKED_POOL, node));
    }
    if let Some(native) = native::cause(call) {
        return Some(simple(&native, node));
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
        format!(
            "{}; nothing is left that could end that, and the cause is unknown",
            verbs::waits(node)
        ),
    );
    root.ceiling = Certainty::Possible;
    root
}

/// Pipes and sockets that lead to nobody else.
fn of_files(node: Node<'_>, wait: &Wait) -> Root {
    let file = wait.descriptor.as_ref().or_else(|| wait.files.first());
    let is_socket = file
        .is_some_and(|file| matches!(file.kind, Some(FileKind::TcpSocket | FileKind::UnixSocket)));
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
                "let the server handle each connection in a thread of its own (ThreadingHTTPServer, ThreadingMixIn), and do not call a server from its own handler",
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
                "close the writing end in the process that reads (os.close after the fork; pass_fds and close_fds of subprocess)",
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
    let remedy = match node.process().python {
        Some(_) => "close the pipe's writing end when all is written (Popen.communicate() does)",
        None => {
            "close the pipe's writing end when all is written, in every process and thread that has it"
        }
    };
    simple(
        &said(
            "pipe-never-fed",
            "and the other end is neither going to write nor to close",
            remedy,
        ),
        node,
    )
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
