//! Names of signals.

/// A signal's name, such as `SIGTERM`; `signal 34` for one that has none.
#[must_use]
pub fn signal_name(number: i32) -> String {
    nix::sys::signal::Signal::try_from(number).map_or_else(
        |_| format!("signal {number}"),
        |signal| signal.as_str().to_owned(),
    )
}
