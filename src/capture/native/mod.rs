//! The stacks of compiled code: from a thread's registers and stack bytes to its frames, and from addresses to functions.
//!
//! Nothing is stopped here, and nothing is asked of the process but its map, its files and, where the copy of a stack is not
//! enough, its memory. All of these are hostile.

mod ahead;
mod arch;
mod cleanup;
mod guess;
mod headers;
mod images;
mod landing;
#[cfg(test)]
mod live;
mod object_file;
mod paths;
mod stack;
mod step;
mod symbols;
#[cfg(test)]
mod synthetic;
mod unwind;
mod unwind_table;

pub(crate) use ahead::named as named_ahead;
pub(crate) use arch::{Architecture, Registers};
pub(crate) use cleanup::{Call, Cleanup, cleanup};
pub(crate) use images::Images;
pub(crate) use object_file::ObjectCache;
pub(crate) use stack::{StackBytes, WORD, read};
pub(crate) use symbols::{Symbol, Symbolizer};
pub(crate) use unwind::{NativeFrame, Unwinder, Walk, WalkEnd};
