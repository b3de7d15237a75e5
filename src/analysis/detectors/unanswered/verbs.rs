//! Words for the steps of a trail.

use crate::analysis::trail::{How, Node};
use crate::analysis::wording;
use crate::model::{Grade, Key};

/// "MainThread", "`worker`", "task `fetch`", with an id where threads of the process have one name; of the first thread of a
/// process that is not Python, "`cat` (pid 7)".
pub(super) fn subject(node: Node<'_>) -> String {
    match node {
        Node::Thread(process, thread) if process.python.is_none() && process.is_led_by(thread) => {
            format!("{} (pid {})", wording::name(thread), process.pid)
        }
        Node::Thread(process, thread) => wording::name_among(thread, process.threads.iter()),
        Node::Task(_, task) => wording::task(task),
    }
}

/// The same with ids.
pub(super) fn full_subject(node: Node<'_>) -> String {
    match node {
        Node::Thread(process, thread) if process.python.is_none() && process.is_led_by(thread) => {
            format!("{} (pid {})", wording::name(thread), process.pid)
        }
        Node::Thread(_, thread) => wording::who(thread),
        Node::Task(..) => subject(node),
    }
}

/// " at pay (shop.py:7)"; nothing where there is no frame.
pub(super) fn at(node: Node<'_>) -> String {
    match node {
        Node::Thread(_, thread) => wording::at(thread),
        Node::Task(_, task) => wording::task_at(task),
    }
}

/// How one waits for the next: "joins `worker`", "waits for process 7 to end".
pub(super) fn step(from: Node<'_>, how: How, to: Node<'_>) -> String {
    let (next, here) = (subject_seen_from(from, to), at(from));
    match how {
        How::Join => format!("waits{here} for the end of {next}"),
        How::Asks => format!("asks{here} again and again for the end of {next}"),
        How::Lock => format!("waits{here} for a lock that {next} holds"),
        How::Child => format!("waits{here} for its child to end, where {next}"),
        How::Data => format!("waits{here} for data or the end of file from {next}"),
        How::Room => format!("writes{here} to a full pipe that {next} should read"),
        How::Runs => format!("idles in its event loop for {next}"),
        How::Task => format!("awaits{here} {next}"),
        How::Worker => format!("awaits{here} the thread {next}"),
        How::Future => format!("waits in {}{here} for the work of {next}", call(from)),
        How::Scope => format!("waits in thread::scope{here} for {next} to end"),
        How::Pool => format!(
            "waits in {}{here} for workers of which {next} is one",
            call(from)
        ),
        How::Might => format!("{}, for which it may need {next}", waits(from)),
    }
}

/// The same as a sentence's end.
pub(super) fn step_alone(from: Node<'_>, how: How, to: Node<'_>) -> String {
    match how {
        How::Asks if from.process().key != to.process().key => format!(
            "asks{} again and again whether its child, process {}, has ended",
            at(from),
            to.process().pid
        ),
        How::Child => format!(
            "waits{} for its child, process {}, to end",
            at(from),
            to.process().pid
        ),
        _ => step(from, how, to),
    }
}

/// With the process, where that is another one.
fn subject_seen_from(from: Node<'_>, to: Node<'_>) -> String {
    let process = to.process();
    if from.process().key == process.key || process.python.is_none() {
        return subject(to);
    }
    format!("{} of process {}", subject(to), process.pid)
}

fn call(node: Node<'_>) -> String {
    let call = node.call();
    if call.is_empty() {
        "a call".to_owned()
    } else {
        call.to_owned()
    }
}

/// What a node does, as a predicate: "waits in Queue.get at work (jobs.py:7) for `jobs` (qsize 0)".
pub(super) fn waits(node: Node<'_>) -> String {
    let here = at(node);
    let on = node.object().map_or_else(String::new, wording::on_object);
    match node {
        Node::Thread(_, thread) => match &thread.wait {
            Some(wait) => format!("{}{here}{on}", wording::waits(wait)),
            None => format!("stands still{here}"),
        },
        Node::Task(_, task) => {
            let call = task.awaits.as_ref().and_then(|awaits| awaits.call.as_ref());
            match (call, node.object()) {
                (Some(call), _) => format!("awaits {}{here}{on}", call.untrusted()),
                (None, Some(object)) => {
                    let kind = object.type_name.untrusted();
                    format!("awaits a {}{here}", kind.rsplit('.').next().unwrap_or(kind))
                }
                (None, None) => format!("is parked{here}"),
            }
        }
    }
}

/// How surely it is known what a node waits for.
pub(super) fn grade(node: Node<'_>) -> Grade {
    match node {
        Node::Thread(_, thread) => thread
            .wait
            .as_ref()
            .map_or(Grade::Derived, |wait| wait.grade),
        Node::Task(_, task) => task
            .awaits
            .as_ref()
            .map_or(Grade::Derived, |awaits| awaits.grade),
    }
}

/// The object of the sample that shows it.
pub(super) fn place_key(node: Node<'_>) -> &Key {
    node.key()
}
