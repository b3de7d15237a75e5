//! All tests against the built binary, as one program: one link, one harness.

mod support_watch;

mod archive;
mod watch;
mod watch_signals;
mod watch_terminal;
mod watch_tree;
