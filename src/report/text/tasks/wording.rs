//! What a line of a tree says of a task.

use crate::model::{Await, ObjectFact, Task, TaskLibrary};
use crate::report::{clean, clean_word};

/// Tasks that are named in one line.
const MAX_NAMED: usize = 3;

/// How it stands with the cancellation of a task.
pub(super) fn cancellation(task: &Task, library: TaskLibrary) -> Option<String> {
    if task.cancelled {
        let ends_tasks = task
            .awaits
            .as_ref()
            .is_some_and(|awaits| !awaits.tasks.is_empty());
        let text = match (library, task.uncancellable) {
            (TaskLibrary::Asyncio, _) => "cancel() was called",
            (TaskLibrary::Trio, true) if ends_tasks => "cancelled, waits for its tasks to end",
            (TaskLibrary::Trio, true) => "cancelled, but this wait cannot be",
            (TaskLibrary::Trio, false) => "cancelled",
        };
        return Some(text.to_owned());
    }
    let shield = task.scopes.iter().position(|scope| scope.shield)?;
    let outside = task.scopes.get(shield + 1..)?;
    if !outside.iter().any(|scope| scope.cancelled) {
        return None;
    }
    let place = task.scopes.get(shield)?.place.as_ref();
    let by = place.map_or_else(String::new, |place| format!(" (in {})", clean(place)));
    Some(format!("cancelled from outside, but shielded{by}"))
}

/// What is worth telling of the object: what goes without saying is left out.
pub(super) fn state_of(awaits: &Await) -> Vec<String> {
    let said = |fact: &&ObjectFact| {
        !matches!(
            (fact.name.as_str(), fact.value.untrusted()),
            ("set", "false")
                | ("state", "running")
                | (
                    "locked" | "futures" | "tasks" | "closed" | "unfinished_tasks",
                    _
                )
        )
    };
    let facts = awaits.object.iter().flat_map(|object| &object.state);
    facts
        .filter(said)
        .map(|fact| format!("{} {}", clean_word(&fact.name), clean(&fact.value)))
        .collect()
}

/// A few names, and how many more.
pub(super) fn some_of(names: impl Iterator<Item = String>) -> String {
    let names: Vec<String> = names.collect();
    let more = names.len().saturating_sub(MAX_NAMED);
    let mut text = names[..names.len() - more].join(", ");
    if more > 0 {
        text.push_str(&format!(" and {more} more"));
    }
    text
}

fn seconds(milliseconds: u64) -> String {
    match milliseconds {
        0..10_000 => format!("{}.{} s", milliseconds / 1000, milliseconds % 1000 / 100),
        _ => format!("{} s", milliseconds / 1000),
    }
}

pub(super) fn left_of(milliseconds: i64) -> String {
    let time = seconds(milliseconds.unsigned_abs());
    if milliseconds < 0 {
        format!("{time} overdue")
    } else {
        format!("{time} left")
    }
}

pub(super) fn within(milliseconds: i64) -> String {
    let time = seconds(milliseconds.unsigned_abs());
    if milliseconds < 0 {
        format!("{time} overdue")
    } else {
        format!("in {time}")
    }
}
