//! What an event loop runs for, and whether that waits for data on a connection.

use crate::model::{EventLoop, Task, TaskState, WaitObject};

/// Most tasks that wait for one another.
const MAX_STEPS: usize = 200;

/// Whether what a loop runs for waits for data on a connection: then a new connection does not help.
pub(super) fn awaits_a_stream(event_loop: &EventLoop) -> bool {
    let mut at = entry(event_loop);
    let mut left = MAX_STEPS;
    while let Some(task) = at.filter(|_| left > 0) {
        left -= 1;
        let Some(awaits) = &task.awaits else {
            return false;
        };
        let mut awaited = awaits.tasks.iter().filter_map(|key| event_loop.task(key));
        match awaited.find(|next| next.state == TaskState::Waiting) {
            Some(next) => at = Some(next),
            None => {
                let object = awaits.object.as_ref();
                return is_stream(object) || is_stream_writer(object);
            }
        }
    }
    false
}

/// Whether it is an object that data comes from by a socket.
pub(super) fn is_stream(object: Option<&WaitObject>) -> bool {
    let class = object.map_or("", |object| object.type_name.untrusted());
    matches!(
        class.rsplit('.').next().unwrap_or(class),
        "StreamReader" | "SocketStream" | "_SocketType"
    )
}

/// Whether it is an object that a task writes to by a socket, and waits for the other end to read.
pub(super) fn is_stream_writer(object: Option<&WaitObject>) -> bool {
    object.is_some_and(|object| object.type_name.untrusted().ends_with("StreamWriter"))
}

/// The task that a loop runs for: the one that it ends with, unless that is a library's own (anyio's pytest plugin hands tests to
/// another task); else the first that no other one waits for, rather one in the program's own code.
pub(super) fn entry(event_loop: &EventLoop) -> Option<&Task> {
    let own = || event_loop.tasks.iter().filter(|task| !task.system);
    let is_awaited = |task: &Task| {
        own().any(|other| {
            let awaits = other.awaits.as_ref();
            other.key != task.key && awaits.is_some_and(|awaits| awaits.tasks.contains(&task.key))
        })
    };
    let is_in_own_code = |task: &Task| task.frames.iter().any(|frame| !frame.is_library());
    let waiting = || own().filter(|task| task.state == TaskState::Waiting);
    let main = event_loop.main.as_ref();
    waiting()
        .find(|task| Some(&task.key) == main && is_in_own_code(task))
        .or_else(|| waiting().find(|task| is_in_own_code(task) && !is_awaited(task)))
        .or_else(|| waiting().find(|task| !is_awaited(task)))
        .or_else(|| waiting().next())
        .map(AsRef::as_ref)
}
