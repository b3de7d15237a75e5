//! That one thread holds what another waits for: how firm that is, and how to say it.

use crate::analysis::case::{Case, Closure, Standing};
use crate::analysis::{polling, wait_graph, wording};
use crate::model::{
    Certainty, Evidence, Grade, Holder, HolderEvidence, Key, Motion, Process, Thread, Wait,
    WaitKind,
};

/// Most threads that one fact refers to.
const MAX_REFERENCES: usize = 16;
/// A deadline further off than that helps nobody: ten minutes.
const AS_GOOD_AS_FOREVER_MS: u64 = 600_000;

/// A lock that `waiter` waits for and `holder` holds.
#[derive(Clone, Copy)]
pub(super) struct Hold<'c> {
    pub(super) waiter: &'c Thread,
    pub(super) wait: &'c Wait,
    pub(super) holder: &'c Thread,
    pub(super) by: &'c Holder,
}

impl<'c> Hold<'c> {
    /// `None` where it is not known on good evidence, or where the samples do not agree.
    pub(super) fn of(case: &Case<'_>, waiter: &'c Thread, holder: &'c Thread) -> Option<Self> {
        let wait = waiter.wait.as_ref()?;
        let by = wait_graph::holder(wait)?;
        let hold = Self {
            waiter,
            wait,
            holder,
            by,
        };
        let names_it = by.thread.as_ref() == Some(&holder.key);
        (names_it && hold.agreement(case) != Agreement::No).then_some(hold)
    }

    /// The most that this evidence is good for.
    pub(super) fn ceiling(&self, case: &Case<'_>) -> Certainty {
        let exact = matches!(
            self.by.by,
            HolderEvidence::WithBlock | HolderEvidence::OwnerField | HolderEvidence::ImportLock
        );
        // Guards were looked for without a stop.
        let guessed = self.by.by.is_native() && self.by.grade == Grade::Guessed;
        if !case.has_motion() || guessed {
            Certainty::Possible
        } else if exact && self.by.grade == Grade::Read && self.agreement(case) == Agreement::Full {
            Certainty::Certain
        } else {
            Certainty::Probable
        }
    }

    /// Whether no other thread can release it: such a lock knows its owner. A plain lock does not.
    pub(super) fn is_owned(&self) -> bool {
        self.wait.kind == WaitKind::RLock
            || matches!(
                self.by.by,
                HolderEvidence::OwnerField | HolderEvidence::ImportLock
            )
            // A pthread mutex is its owner's to unlock, and a guard is not sent to other threads.
            || self.by.by.is_native()
    }

    /// Whether the lock was taken by a `with` block, without a doubt.
    pub(super) fn is_of_block(&self) -> bool {
        self.by.by == HolderEvidence::WithBlock && self.by.grade == Grade::Read
    }

    /// " since transfer (bank.py:12)": where it was taken. Of a lock's owner it is only known where the thread uses it.
    pub(super) fn since(&self) -> String {
        let word = match self.by.by {
            HolderEvidence::WithBlock | HolderEvidence::SuspendedWithBlock => "since",
            _ => "in",
        };
        let place = self.by.place.as_ref();
        place.map_or_else(String::new, |place| {
            format!(" {word} {}", place.untrusted())
        })
    }

    /// What else would show that it is not held, as a clause to add to another; empty if there is nothing.
    pub(super) fn doubt(&self) -> &'static str {
        match self.by.by {
            HolderEvidence::OwnerField => {
                ", or the owner field names a thread that has ended and whose id was given to this one"
            }
            HolderEvidence::SuspendedWithBlock => {
                ", or another thread is to resume what is suspended"
            }
            _ => "",
        }
    }

    /// What would show that a native lock is not held as it seems.
    pub(super) fn native_doubt(&self) -> &'static str {
        match self.by.by {
            HolderEvidence::PthreadMutex => {
                "the lock was initialized anew or unlocked by another thread, so that its note is not true"
            }
            HolderEvidence::OnlyThread => "the lock was left locked by a thread that has ended",
            HolderEvidence::OnlyReference => {
                "the guard is kept in another object, such as a suspended future, and no stack shows it"
            }
            _ => "the guard that the function drops is another lock's of the same kind",
        }
    }

    fn agreement(&self, case: &Case<'_>) -> Agreement {
        if self.by.by.is_native() {
            return self.native_agreement(case);
        }
        let mut agreement = Agreement::Full;
        for view in case.views(&self.waiter.key) {
            let Some(then) = &view.wait else {
                agreement = Agreement::Part;
                continue;
            };
            if then.address != self.wait.address || then.target != self.wait.target {
                return Agreement::No;
            }
            match wait_graph::holder(then).map(|by| &by.thread) {
                Some(thread) if *thread == self.by.thread => {}
                Some(_) => return Agreement::No,
                None => agreement = Agreement::Part,
            }
        }
        agreement
    }

    /// Native stacks are read but once, after the last sample. What they show holds for the others if the waiter has been in one
    /// call and the holder has not run in between.
    fn native_agreement(&self, case: &Case<'_>) -> Agreement {
        let call = |thread: &Thread| thread.kernel.syscall.clone();
        let same_call = case
            .views(&self.waiter.key)
            .all(|view| call(view) == call(self.waiter));
        let still = |thread: &Thread| case.motion(&thread.key) == Motion::Still;
        match (same_call, still(self.waiter) && still(self.holder)) {
            (false, _) => Agreement::No,
            (true, true) => Agreement::Full,
            (true, false) => Agreement::Part,
        }
    }

    /// That the holder holds it, and since where.
    pub(super) fn fact(&self, case: &Case<'_>, lock: &str) -> Evidence {
        let since = self.since();
        case.fact(
            self.by.grade,
            format!(
                "{} holds {lock}{since} {}",
                wording::who(self.holder),
                self.by.by.in_words()
            ),
            &[
                (&self.waiter.key, "wait.holders"),
                (&self.holder.key, "python.frames"),
            ],
        )
    }
}

/// Whether the samples say the same of a lock and its holder.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Agreement {
    /// All do.
    Full,
    /// None says otherwise; in some it could not be read.
    Part,
    /// One says otherwise.
    No,
}

/// That a thread waits for a lock, and where.
pub(super) fn waits_fact(case: &Case<'_>, thread: &Thread, wait: &Wait, lock: &str) -> Evidence {
    let place = wording::at(thread);
    case.fact(
        wait.grade,
        format!(
            "{} waits for {lock}{place}{}",
            wording::who(thread),
            until(wait)
        ),
        &[(&thread.key, "wait")],
    )
}

fn until(wait: &Wait) -> String {
    match (wait.remaining_ms, wait.timed) {
        (Some(left), _) => format!(", {} more at most", wording::duration(left)),
        (None, Some(false)) => ", without a deadline".to_owned(),
        (None, _) => String::new(),
    }
}

/// That threads have not moved over the samples.
pub(super) fn stillness(case: &Case<'_>, threads: &[&Thread]) -> Option<Evidence> {
    let at: Vec<(&Key, &str)> = threads
        .iter()
        .take(MAX_REFERENCES)
        .map(|thread| (&thread.key, "python"))
        .collect();
    let text = polling::stillness(case, threads)?;
    Some(case.fact(Grade::Derived, text, &at))
}

/// Whether somebody else could end these waits, where only locks that are `released_by_holder` are waited for: those are given
/// back by who has taken them, whatever other code refers to them.
pub(super) fn closure_fact(
    case: &Case<'_>,
    process: &Process,
    closure: &Closure,
    released_by_holder: bool,
) -> Evidence {
    let text = match closure {
        Closure::OutOfReach(key) if released_by_holder => {
            let other = process
                .thread(key)
                .map_or_else(|| "another thread".to_owned(), wording::who);
            format!(
                "{other} goes on, but what was taken by `with` is given back by who has taken it"
            )
        }
        closure => wording::closure(process, closure),
    };
    case.fact(Grade::Derived, text, &[(&process.key, "threads")])
}

/// How sure it can be that a thread which waits for a lock does so for good; `None`: it moves, or its wait ends soon by
/// itself and nobody has complained.
pub(super) fn wait_ceiling(case: &Case<'_>, thread: &Thread) -> Option<Certainty> {
    match case.standing(thread) {
        Standing::Internal => Some(Certainty::Certain),
        Standing::FarOff(left) if left >= AS_GOOD_AS_FOREVER_MS => Some(Certainty::Probable),
        // Whoever gives a deadline has thought of what comes after it.
        Standing::FarOff(_) | Standing::Timed => case.overdue.then_some(Certainty::Possible),
        // A lock between processes: whoever holds it is known here.
        Standing::External if waits_for_shared_lock(thread) => Some(Certainty::Probable),
        _ => None,
    }
}

fn waits_for_shared_lock(thread: &Thread) -> bool {
    let untimed = |wait: &&Wait| wait.kind == WaitKind::SharedFutex && wait.timed == Some(false);
    thread.wait.as_ref().filter(untimed).is_some()
}
