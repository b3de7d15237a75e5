//! All tests against the built binary and the public pipeline, as one program: one link, one harness.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    missing_docs,
    reason = "a test fails by panicking and says on stdout what it skips"
)]

mod support;
mod support_watch;

mod architecture;
mod archive;
mod capture;
mod ci_cancel;
mod ci_recipes;
mod cli;
mod cross_checks;
mod debug_files;
mod detectors;
mod environments;
mod inventory;
mod junit;
mod kernel_waits;
mod lock_rules;
mod native_extensions;
mod native_harm;
mod native_scoreboard;
mod native_stacks;
mod offline;
mod old_interpreters;
mod reports;
mod same_verdict;
mod scoreboard;
mod signatures;
mod spawn;
mod stop;
mod tasks;
mod traced;
mod waits;
mod watch;
mod watch_abuse;
mod watch_cargo;
mod watch_cargo_threads;
mod watch_job_control;
mod watch_killed;
mod watch_signals;
mod watch_terminal;
mod watch_tests;
mod watch_tree;
