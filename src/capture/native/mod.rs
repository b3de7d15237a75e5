//! The stacks of compiled code: from a thread's registers and stack bytes to its frames, and from addresses to functions.
//!
//! Nothing is stopped here, and nothing is asked of the process but its map, its files and, where the copy of a stack is not
//! enough, its memory. All of these are hostile.

mod arch;
mod guess;
mod headers;
mod images;
mod landing;
#[cfg(test)]
mod live;
mod object_file;
mod stack;
mod step;
mod symbols;
#[cfg(test)]
mod synthetic;
mod unwind;
mod unwind_table;

pub(crate) use arch::Registers;
pub(crate) use images::Images;
pub(crate) use landing::{Cleanup, cleanup};
pub(crate) use object_file::ObjectCache;
pub(crate) use stack::StackBytes;
pub(crate) use symbols::{Symbol, Symbolizer};
pub(crate) use unwind::{Unwinder, Walk, WalkEnd};
