//! Calls of Rust's std that read all that a child writes, and ask for its end afterwards.

use crate::model::Thread;

/// The call, in a program's own words.
pub(super) fn call(thread: &Thread) -> Option<&'static str> {
    let stack = thread.native.as_ref().filter(|stack| !stack.moved)?;
    stack.frames.iter().find_map(|frame| {
        // The two manglings write a type's path as `<a::B>` and as `a::B`.
        match frame.function_name().replace(['<', '>'], "").as_str() {
            "std::process::Command::output" => Some("Command::output"),
            "std::process::Child::wait_with_output" => Some("Child::wait_with_output"),
            _ => None,
        }
    })
}
