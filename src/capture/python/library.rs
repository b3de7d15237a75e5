//! What is known of functions of the standard library.

use crate::model::{Foreign, Frame};

/// Library code that runs the program's code rather than being called by it.
pub(crate) fn starts_a_task(frame: &Frame) -> bool {
    let function = frame.function.untrusted();
    let name = function.rsplit('.').next().unwrap_or(function);
    (frame.in_file("threading.py") && matches!(name, "run" | "_bootstrap_inner" | "_bootstrap"))
        || (frame.in_file("concurrent/futures/thread.py") && matches!(name, "run" | "_worker"))
        || (frame.in_file("multiprocessing/managers.py")
            && matches!(name, "serve_client" | "handle_request" | "_handle_request"))
}

/// Whether a code object's file is of the standard library: what that releases is its own affair.
pub(crate) fn is_in_library(file: &Foreign) -> bool {
    let file = file.untrusted();
    file.starts_with("<frozen ") || (file.contains("/lib/python3") && !file.contains("-packages/"))
}
