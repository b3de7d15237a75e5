//! Who: the process asked for, its descendants, and whether we may read them.

mod access;
mod process_tree;

pub use access::{AccessDenied, explain_denied, yama_scope};
pub use process_tree::descendants;
