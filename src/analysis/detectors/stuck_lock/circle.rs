//! `lock-order-cycle`.

use super::hold::{self, Hold};
use crate::analysis::case::{Case, Closure};
use crate::analysis::chain::{Chain, Link};
use crate::analysis::signature;
use crate::analysis::wording::{self, LockName};
use crate::model::{Certainty, Evidence, Finding, Key, Process, Thread, Wait};
use std::collections::BTreeSet;

pub(super) const ID: &str = "lock-order-cycle";

/// Threads of a circle that the sentence names.
const NAMED: usize = 4;
/// Threads of a circle that have evidence of their own.
const SHOWN: usize = 16;

/// A step of the circle.
struct Step<'c> {
    from: &'c Thread,
    to: &'c Thread,
    wait: &'c Wait,
    /// Absent for a join.
    hold: Option<Hold<'c>>,
    lock: LockName,
}

pub(super) fn judge(case: &Case<'_>, process: &Process, circle: &Chain<'_>) -> Option<Finding> {
    let steps = steps(case, circle)?;
    let known: BTreeSet<&Key> = circle.threads.iter().map(|thread| &thread.key).collect();
    let closure = case.closure(process, &known);
    let plain: Vec<&Step<'_>> = steps
        .iter()
        .filter(|step| step.hold.is_some_and(|hold| !hold.is_owned()))
        .collect();
    let certainty = certainty(case, process, &steps, &closure, !plain.is_empty())?;
    let mut evidence: Vec<Evidence> = Vec::new();
    for step in steps.iter().take(SHOWN) {
        evidence.push(step.waits(case));
        evidence.extend(step.hold.map(|hold| hold.fact(case, &step.lock.short)));
    }
    evidence.extend(hold::stillness(case, &circle.threads));
    if !plain.is_empty() {
        let mut holds = plain.iter().filter_map(|step| step.hold);
        let of_blocks = holds.all(|hold| hold.is_of_block());
        evidence.push(hold::closure_fact(case, process, &closure, of_blocks));
    }
    let (first, others) = circle.threads.split_first()?;
    let targets: Vec<&Key> = circle.threads.iter().map(|thread| &thread.key).collect();
    Some(Finding {
        id: ID.to_owned(),
        title: title(&steps).into(),
        certainty,
        waiter: first.key.clone(),
        blockers: others.iter().map(|thread| thread.key.clone()).collect(),
        affected: case.affected_by(&targets, &targets),
        evidence,
        refuted_if: refuted_if(&steps, !plain.is_empty()).into(),
        remedy: remedy(&steps).into(),
        site: String::new(),
        signature: signature::of_circle(ID, &circle.threads),
    })
}

fn steps<'c>(case: &Case<'_>, circle: &Chain<'c>) -> Option<Vec<Step<'c>>> {
    let waits: Vec<&Wait> = circle
        .threads
        .iter()
        .map(|thread| thread.wait.as_ref())
        .collect::<Option<_>>()?;
    let locks = wording::locks(&waits);
    let mut steps = Vec::new();
    for (((from, link, to), wait), lock) in circle.steps().zip(waits).zip(locks) {
        let hold = match link {
            Link::Join => None,
            Link::Lock(_) => Some(Hold::of(case, from, to)?),
        };
        steps.push(Step {
            from,
            to,
            wait,
            hold,
            lock,
        });
    }
    Some(steps)
}

/// The weakest link decides. Who owns a lock that knows its owner must release it itself, and it waits. A plain lock may
/// be released by any thread, though a program that does this to a lock in use is rare.
fn certainty(
    case: &Case<'_>,
    process: &Process,
    steps: &[Step<'_>],
    closure: &Closure,
    any_plain: bool,
) -> Option<Certainty> {
    let mut certainty = Certainty::Certain;
    for step in steps {
        certainty = certainty.min(hold::wait_ceiling(case, step.from)?);
        let evidence = match step.hold {
            Some(hold) => hold.ceiling(case),
            None if case.has_motion() => Certainty::Certain,
            None => Certainty::Possible,
        };
        certainty = certainty.min(evidence);
    }
    // A handler runs in the main thread, and may raise out of its wait there.
    let by_signal = matches!(closure, Closure::OpenSignal(_))
        && steps.iter().any(|step| process.is_led_by(step.from));
    if by_signal || (any_plain && *closure != Closure::Closed) {
        certainty = certainty.min(Certainty::Probable);
    }
    // Who holds a lock is not read but derived, and somebody goes on who may be the one that has it.
    let derived = steps
        .iter()
        .filter_map(|step| step.hold)
        .any(|hold| hold.ceiling(case) < Certainty::Certain);
    if derived && matches!(closure, Closure::OpenThread(_) | Closure::OpenSignal(_)) {
        if !case.overdue {
            return None;
        }
        certainty = certainty.min(Certainty::Possible);
    }
    Some(certainty)
}

fn title(steps: &[Step<'_>]) -> String {
    let threads: Vec<&Thread> = steps.iter().map(|step| step.from).collect();
    let name = |thread| wording::name_among(thread, threads.iter().copied());
    let clauses: Vec<String> = steps
        .iter()
        .take(if steps.len() > NAMED {
            NAMED - 1
        } else {
            NAMED
        })
        .map(|step| {
            let (from, to) = (name(step.from), name(step.to));
            match step.hold {
                Some(_) => format!("{from} waits for {}, which {to} holds", step.lock.short),
                None => format!("{from} waits for the end of {to}"),
            }
        })
        .collect();
    let text = clauses.join("; ");
    match steps.len().checked_sub(NAMED) {
        Some(1..) => format!(
            "{text}; and so on through {} threads, back to the first.",
            steps.len()
        ),
        _ => format!("{text}."),
    }
}

fn refuted_if(steps: &[Step<'_>], any_plain: bool) -> String {
    let mut holds = steps.iter().filter_map(|step| step.hold.as_ref());
    // The weakest link.
    if let Some(native) = holds.find(|hold| hold.by.by.is_native()) {
        return native.native_doubt().to_owned();
    }
    if !any_plain {
        return "native code takes one of these threads out of its wait".to_owned();
    }
    let one = if steps.len() == 2 { "either" } else { "one" };
    format!(
        "another thread or native code releases {one} of the locks (any thread may release a plain lock), or a holder has \
         given its lock up within the `with` block"
    )
}

fn remedy(steps: &[Step<'_>]) -> String {
    if let Some(step) = steps.iter().find(|step| step.hold.is_none()) {
        let held = steps.iter().find(|other| other.to.key == step.from.key);
        let lock = held.map_or("the lock", |held| held.lock.short.as_str());
        let by_native = held
            .and_then(|held| held.hold)
            .is_some_and(|hold| hold.by.by.is_native());
        return format!(
            "let {} release {lock} before it waits for the end of {}{}{}",
            wording::name(step.from),
            wording::name(step.to),
            wording::at(step.from),
            // Neither std nor POSIX has such a join.
            if by_native {
                ""
            } else {
                ", or join with a timeout"
            }
        );
    }
    let places: BTreeSet<String> = steps.iter().map(|step| wording::at(step.from)).collect();
    if let (1, Some(place)) = (places.len(), places.first()) {
        let mut holds = steps.iter().filter_map(|step| step.hold.as_ref());
        let (order, try_it) = match holds.any(|hold| hold.by.by.is_native()) {
            true => ("by their addresses", "a try-lock"),
            false => ("by `id()`", "`acquire(timeout=...)`"),
        };
        return format!(
            "all of them take a second lock{place} while they hold a first: take both in one order whoever comes (sort them, \
             say {order}), or take the second by {try_it} and give the first back if that fails"
        );
    }
    let takes: Vec<String> = steps
        .iter()
        .take(NAMED)
        .filter_map(|step| {
            let held = steps.iter().find(|other| other.to.key == step.from.key)?;
            Some(format!(
                "{} is taken{} with {} held",
                step.lock.short,
                wording::at(step.from),
                held.lock.short
            ))
        })
        .collect();
    format!(
        "take the locks in one order everywhere. Here {}",
        takes.join(", and ")
    )
}

impl Step<'_> {
    fn waits(&self, case: &Case<'_>) -> Evidence {
        if self.hold.is_some() {
            return hold::waits_fact(case, self.from, self.wait, &self.lock.full);
        }
        case.fact(
            self.wait.grade,
            format!(
                "{} waits for the end of {}{}",
                wording::who(self.from),
                wording::who(self.to),
                wording::at(self.from)
            ),
            &[(&self.from.key, "wait"), (&self.to.key, "python")],
        )
    }
}
