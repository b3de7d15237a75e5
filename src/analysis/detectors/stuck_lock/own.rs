//! `lock-self-deadlock`.

use super::hold::{self, Hold};
use crate::analysis::case::{Case, Closure};
use crate::analysis::{signature, wording};
use crate::model::{
    Certainty, Finding, Foreign, Frame, Grade, HolderEvidence, Process, Thread, WaitKind,
};
use std::collections::BTreeSet;

pub(super) const ID: &str = "lock-self-deadlock";

const SUSPENDED_REMEDY: &str = "do not yield within the `with` block: who takes the generator's values runs while the lock is held \
     (so does each test with a fixture that yields there); or end the generator before, by close() or contextlib.closing()";

pub(super) fn judge(case: &Case<'_>, process: &Process, thread: &Thread) -> Option<Finding> {
    let held = Hold::of(case, thread, thread)?;
    let recursive = held.wait.kind == WaitKind::RLock
        || held
            .wait
            .object
            .as_ref()
            .is_some_and(|object| object.type_name.untrusted().ends_with("RLock"));
    // A condition's wait gives its lock up within the block, and then waits to have it back.
    let gave_up = thread
        .frames()
        .any(|frame| frame.is("Condition.wait", "threading.py"));
    if recursive || gave_up {
        return None;
    }
    let known = BTreeSet::from([&thread.key]);
    let closure = case.closure(process, &known);
    let owned = held.by.by.is_native();
    let open = !owned && matches!(closure, Closure::OpenThread(_) | Closure::OpenSignal(_));
    let others = process
        .threads
        .iter()
        .any(|other| other.key != thread.key && !other.python.is_empty());
    let mut certainty = hold::wait_ceiling(case, thread)?.min(held.ceiling(case));
    if !owned && (others || closure != Closure::Closed) {
        certainty = certainty.min(Certainty::Probable);
    }
    if open && may_take_back(thread, held.by.place.as_ref()) {
        if !case.overdue {
            return None;
        }
        certainty = certainty.min(Certainty::Possible);
    }
    // Others that use the lock may have it, or release it.
    if open && !held.wait.suspects.is_empty() {
        certainty = certainty.min(Certainty::Possible);
    }
    // What a mutex notes is who locked it last, and another thread may be there to unlock it.
    let noted = held.by.by == HolderEvidence::PthreadMutex && process.python.is_none();
    if noted && matches!(closure, Closure::OpenThread(_)) {
        if !case.overdue {
            return None;
        }
        certainty = certainty.min(Certainty::Possible);
    }
    let lock = wording::lock(held.wait);
    let mut evidence = vec![
        hold::waits_fact(case, thread, held.wait, &lock.full),
        held.fact(case, &lock.short),
    ];
    if let Some(way) = way(thread) {
        evidence.push(case.fact(
            Grade::Derived,
            format!("in between, {way}"),
            &[(&thread.key, "python.frames")],
        ));
    }
    evidence.extend(hold::stillness(case, &[thread]));
    if closure != Closure::Closed || others {
        evidence.push(hold::closure_fact(case, process, &closure, false));
    }
    let place = wording::at(thread);
    let since = held.since();
    let name = wording::name(thread);
    Some(Finding {
        id: ID.to_owned(),
        title: format!("{name} waits{place} for {}, which it holds itself{since}.", lock.short).into(),
        certainty,
        waiter: thread.key.clone(),
        blockers: vec![thread.key.clone()],
        affected: case.affected_by(&[&thread.key], &[&thread.key]),
        evidence,
        refuted_if: if owned {
            held.native_doubt().to_owned()
        } else {
            format!(
            "another thread or native code releases it (any thread may release a plain lock), or {name} has given it up \
             within the `with` block and only takes it back"
        )
        }
        .into(),
        remedy: if owned {
            native_remedy(thread)
        } else if held.by.by == HolderEvidence::SuspendedWithBlock {
            SUSPENDED_REMEDY.to_owned()
        } else {
            remedy(thread)
        }
        .into(),
        site: String::new(),
        signature: signature::signature(ID, &[thread]),
    })
}

/// Whether this may be a lock that was released for a while within its own block, and is now taken back: the same call of
/// one function that took it, or the exit of an inner block.
fn may_take_back(thread: &Thread, took: Option<&Foreign>) -> bool {
    let Some((took, _)) = took.and_then(|place| place.untrusted().rsplit_once(" (")) else {
        return true;
    };
    let calls: Vec<&Frame> = thread
        .frames()
        .filter(|frame| frame.function.untrusted() == took)
        .collect();
    let inner: Vec<&Frame> = thread
        .frames()
        .take_while(|frame| frame.function.untrusted() != took)
        .collect();
    let exits = inner.iter().any(|frame| {
        let function = frame.function.untrusted();
        matches!(function.rsplit('.').next(), Some("__exit__" | "__aexit__"))
    });
    exits || (inner.is_empty() && calls.len() < 2)
}

/// How the thread came to run code that takes a lock while it holds it, where that is not by a plain call.
enum Way {
    Finalizer(String),
    Logging,
}

fn way_of(thread: &Thread) -> Option<Way> {
    thread.frames().find_map(|frame| {
        let function = frame.function.untrusted();
        if function.rsplit('.').next() == Some("__del__") {
            return Some(Way::Finalizer(frame.place()));
        }
        frame
            .is("Handler.handle", "logging/__init__.py")
            .then_some(Way::Logging)
    })
}

fn way(thread: &Thread) -> Option<String> {
    match way_of(thread)? {
        Way::Finalizer(place) => Some(format!("the finalizer {place} was run")),
        Way::Logging => Some("a logging handler was called".to_owned()),
    }
}

fn remedy(thread: &Thread) -> String {
    match way_of(thread) {
        Some(Way::Finalizer(_)) => "take no lock in `__del__` or a weakref callback: they run at any allocation, inside any \
             block; put the object on a `queue.SimpleQueue` (its `put` may be called there) and clean up elsewhere"
            .to_owned(),
        _ => format!(
            "split {}: one function that takes the lock and calls another that expects it to be held, which the code inside \
             may call, too. An RLock helps where the inner code may see what the outer has left half done. A signal \
             handler must not take a lock at all",
            wording::place(thread).unwrap_or_else(|| "the inner code".to_owned())
        ),
    }
}

fn native_remedy(thread: &Thread) -> String {
    let place = wording::place(thread).unwrap_or_else(|| "the inner code".to_owned());
    format!(
        "split {place}: one function that takes the lock and calls another that expects it to be held, which the code inside \
         calls, too; or let the guard go (drop, a block of its own, pthread_mutex_unlock) before. A lock for reading cannot be \
         turned into one for writing: release it first, or take it for writing at once. A signal handler must not take a lock \
         at all"
    )
}
