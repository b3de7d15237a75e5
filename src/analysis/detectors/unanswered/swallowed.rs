//! A task that was to end, and waits on.

use super::cause::Root;
use crate::analysis::wording;
use crate::model::{Grade, Task};

/// Says so where asyncio has counted a `cancel()` that the task did not end by.
pub(super) fn add(root: &mut Root, task: &Task) {
    if task.cancel_requests == 0 {
        return;
    }
    let times = match task.cancel_requests {
        1 => "1 time".to_owned(),
        times => format!("{times} times"),
    };
    root.phrase = format!(
        "was asked to end (cancel() {times}) and waits on: it {}",
        root.phrase
    );
    root.facts.push((
        Grade::Read,
        format!(
            "cancel() was called {times} on {} and not taken back, so it has got a CancelledError and has not ended by it",
            wording::task(task)
        ),
    ));
    root.remedy = "let CancelledError pass: catch Exception, not BaseException, or raise it again after cleaning up".into();
}
