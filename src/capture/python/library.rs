//! What is known of functions of the standard library.

use crate::model::Frame;

/// Library code that runs the program's code rather than being called by it.
pub(crate) fn starts_a_task(frame: &Frame) -> bool {
    let function = frame.function.untrusted();
    let name = function.rsplit('.').next().unwrap_or(function);
    (frame.in_file("threading.py") && matches!(name, "run" | "_bootstrap_inner" | "_bootstrap"))
        || (frame.in_file("concurrent/futures/thread.py") && matches!(name, "run" | "_worker"))
}
