//! Which processes cannot be judged without native stacks. To take them a process is stopped for a moment, which may
//! interrupt calls of its program; so it is done only where it tells something.

use crate::model::{Analysis, Key, Process, RuntimeKind, Snapshot, Thread, ThreadKind, WaitKind};
use std::collections::BTreeSet;

/// Findings that name a Python call and not what it does inside.
const INSIDE_NATIVE_CODE: [&str; 2] = ["gil-held-in-native-call", "destroy-blocked-by-gil"];

/// Processes whose native stacks are worth a stop: programs other than Python, but for shells that wait for their children,
/// and Python processes that hang inside native code.
#[must_use]
pub fn in_need_of_native_stacks(last: &Snapshot, analysis: &Analysis) -> BTreeSet<Key> {
    let hung_inside = analysis
        .findings
        .iter()
        .filter(|finding| INSIDE_NATIVE_CODE.contains(&finding.id.as_str()))
        .map(|finding| finding.waiter.of_process());
    let others = last
        .processes
        .iter()
        .filter(|process| process.runtime != RuntimeKind::Python && is_of_interest(process))
        .map(|process| process.key.clone());
    hung_inside.chain(others).collect()
}

/// What waits for its children by trade: nothing is wrong with such a process that is not wrong with those.
const WAITS_BY_TRADE: [&str; 18] = [
    "bash",
    "busybox",
    "cargo",
    "cargo-nextest",
    "dash",
    "env",
    "fish",
    "gmake",
    "hangscope",
    "make",
    "ninja",
    "sh",
    "su",
    "sudo",
    "timeout",
    "tox",
    "uv",
    "zsh",
];

fn is_of_interest(process: &Process) -> bool {
    let by_trade = WAITS_BY_TRADE.contains(&process.name.untrusted());
    let only_waits_for_a_child = |thread: &Thread| {
        thread
            .wait
            .as_ref()
            .is_some_and(|wait| wait.kind == WaitKind::Child)
    };
    let stopped = matches!(process.state.as_str(), "T" | "t");
    let mut alive = process
        .threads
        .iter()
        .filter(|thread| thread.kind != ThreadKind::Exited)
        .peekable();
    !stopped && alive.peek().is_some() && !(by_trade && alive.all(only_waits_for_a_child))
}
