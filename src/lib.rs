//! hangscope says why a test run hangs: it reads a Python (later also Rust) process tree from outside,
//! works out who waits for whom and who holds it, and names the cause with evidence and a remedy.
//!
//! The modules are the pipeline, in order; each may import only what stands before it (`docs/design.md`
//! has the table, a test enforces it). Only the command line, the JSON schema and the exit codes are
//! stable interfaces; this library is not.
//!
//! ```text
//! target -> capture -> model -> analysis -> report        inspect = capture x n + analysis -> Report
//!                                                          watch, archive and commands use inspect
//! ```

// A blank line after each keeps rustfmt from sorting them out of the pipeline's order.

pub mod model;

pub mod target;

pub mod capture;

pub mod analysis;

pub mod report;

pub mod inspect;

pub mod archive;

pub mod watch;

pub mod cli;

pub mod commands;

pub mod exit_code;
