//! What a thread waits on in its program's words, and who holds it, or may.

use super::super::{clean, clean_word};
use crate::model::{Holder, HolderEvidence, Snapshot, Thread, Wait, WaitKind};

/// "Lock `account.lock`": a kind of lock, and its name in the program.
pub(super) fn named(kind: &str, wait: &Wait) -> String {
    let name = wait.object.as_ref().and_then(|object| object.name.as_ref());
    name.map_or_else(
        || kind.to_owned(),
        |name| format!("{kind} {}", clean_word(name.untrusted())),
    )
}

/// Lines about what a thread waits on; none where its program has no word for it.
pub(super) fn lines(sample: &Snapshot, thread: &Thread) -> Vec<String> {
    let Some(wait) = &thread.wait else {
        return Vec::new();
    };
    let mut lines: Vec<String> = wait
        .holders
        .iter()
        .map(|holder| format!("{}, held by {}", what(wait), who(sample, holder)))
        .collect();
    if let Some(reason) = &wait.holder_unknown {
        lines.push(format!("{}, holder unknown: {}", what(wait), clean(reason)));
    }
    if lines.is_empty()
        && let Some(object) = &wait.object
    {
        let state = object
            .state_words()
            .map_or_else(String::new, |state| format!(": {}", clean(&state)));
        lines.push(format!("{}{state}", what(wait)));
    }
    if let Some(call) = wait.native_call.as_ref().filter(|call| call.is_telling()) {
        lines.push(format!("is in the C function {}", clean(&call.function)));
    }
    let may = if is_lock(wait) {
        "may hold it"
    } else {
        "refers to it, too"
    };
    let suspects = wait.suspects.iter();
    lines.extend(suspects.map(|suspect| format!("{may}: {}", who(sample, suspect))));
    lines
}

/// Whether the program waits for a lock itself, not for something that is made of one.
fn is_lock(wait: &Wait) -> bool {
    let itself = wait.object.as_ref().map(|object| object.address) == wait.address;
    matches!(wait.kind, WaitKind::Lock | WaitKind::RLock) && itself
}

/// "waits for `account.lock` (_thread.lock)".
fn what(wait: &Wait) -> String {
    let Some(object) = &wait.object else {
        return "waits for a lock".to_owned();
    };
    match &object.name {
        Some(name) => format!("waits for `{}` ({})", clean(name), clean(&object.type_name)),
        None => format!("waits for a {}", clean(&object.type_name)),
    }
}

/// "transfer-2 (tid 7) since transfer (bank.py:12) (by a `with` block)".
fn who(sample: &Snapshot, holder: &Holder) -> String {
    let thread = holder.thread.as_ref().and_then(|key| sample.thread(key));
    let name = match (thread, holder.by) {
        (Some(thread), _) => format!("{} (tid {})", clean(thread.display_name()), thread.tid),
        (None, HolderEvidence::ProcessLock) => "a thread of another process".to_owned(),
        (None, _) => "a thread that has ended".to_owned(),
    };
    // Blocks are known by where they were entered, others by where the thread refers to the lock.
    let word = match holder.by {
        HolderEvidence::WithBlock | HolderEvidence::SuspendedWithBlock => "since",
        _ => "at",
    };
    let place = holder
        .place
        .as_ref()
        .map_or_else(String::new, |place| format!(" {word} {}", clean(place)));
    format!("{name}{place} ({})", holder.by.in_words())
}
