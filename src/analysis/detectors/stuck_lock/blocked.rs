//! `lock-held-by-blocked-thread`.

use super::hold::{self, Hold};
use crate::analysis::case::{Case, Closure, Standing};
use crate::analysis::{signature, wording};
use crate::model::{Certainty, Finding, Key, Process, Thread, Wait};
use std::collections::BTreeSet;

pub(super) const ID: &str = "lock-held-by-blocked-thread";

/// Judges the lock that `waiter` waits for and `holder` holds, where the holder waits for no thread that is known.
pub(super) fn judge(
    case: &Case<'_>,
    process: &Process,
    waiter: &Thread,
    holder: &Thread,
) -> Option<Finding> {
    let held = Hold::of(case, waiter, holder)?;
    let root = holder.wait.as_ref()?;
    let known = BTreeSet::from([&waiter.key, &holder.key]);
    let closure = case.closure(process, &known);
    let by_closure = holder_ceiling(case, process, holder, &closure)?;
    let certainty = hold::wait_ceiling(case, waiter)?
        .min(held.ceiling(case))
        .min(by_closure);
    let lock = wording::lock(held.wait);
    let doing = doing(holder, root);
    let mut evidence = vec![
        hold::waits_fact(case, waiter, held.wait, &lock.full),
        held.fact(case, &lock.short),
        case.fact(
            root.grade,
            format!("{} {doing}", wording::who(holder)),
            &[(&holder.key, "wait")],
        ),
    ];
    evidence.extend(hold::stillness(case, &[waiter, holder]));
    let of_block = held.is_of_block();
    evidence.push(hold::closure_fact(case, process, &closure, of_block));
    let (waiter_name, holder_name) = wording::names(waiter, holder);
    let place = wording::at(waiter);
    let targets: Vec<&Key> = vec![&waiter.key, &holder.key];
    Some(Finding {
        id: ID.to_owned(),
        title: format!(
            "{waiter_name} waits{place} for {}, which {holder_name} holds while it {doing}.",
            lock.short
        )
        .into(),
        certainty,
        waiter: waiter.key.clone(),
        blockers: vec![holder.key.clone()],
        affected: case.affected_by(&targets, &targets),
        evidence,
        refuted_if: if held.by.by.is_native() {
            format!("a signal handler or another process ends the wait of {holder_name}, or {}", held.native_doubt())
        } else { format!(
            "a signal handler, native code or another process ends the wait of {holder_name}, or releases the lock in its \
             place{}",
            held.doubt()
        ) }
        .into(),
        remedy: remedy(held, &lock.short, &holder_name).into(),
        site: String::new(),
        signature: signature::signature(ID, &[waiter, holder]),
    })
}

/// How sure the holder's own wait lets us be.
fn holder_ceiling(
    case: &Case<'_>,
    process: &Process,
    holder: &Thread,
    closure: &Closure,
) -> Option<Certainty> {
    let complained = case.overdue.then_some(Certainty::Possible);
    let is_stuck = case.liveness.is_stuck(&holder.key);
    match case.standing(holder) {
        Standing::Internal => {}
        // A client and a server of one process: what the holder reads is to come from a thread that wants its lock.
        Standing::External if is_stuck && leads_back(holder) => {}
        // The cause is to be looked for at the other end.
        _ if is_stuck => return None,
        // What it waits for may come, and nobody has complained of how long that takes.
        Standing::External | Standing::FarOff(_) | Standing::Timed => return complained,
        _ => return None,
    }
    match closure {
        // Ctrl-C ends a wait of the main thread, and may be meant to.
        Closure::Closed if process.is_led_by(holder) && process.test.is_none() => {
            Some(Certainty::Probable)
        }
        Closure::Closed => Some(Certainty::Certain),
        Closure::Unclear | Closure::OutOfReach(_) => Some(Certainty::Probable),
        Closure::OpenThread(_) | Closure::OpenSignal(_) => complained,
    }
}

/// Whether the other end of the connection that a thread waits on is its own process's.
fn leads_back(thread: &Thread) -> bool {
    let files = thread.wait.iter().flat_map(Wait::all_files);
    let mut peers = files.filter_map(|file| file.peer.as_ref()).peekable();
    peers.peek().is_some() && peers.all(|peer| !peer.own.is_empty() && !peer.closed)
}

/// "waits in Event.wait at pay (shop.py:7)".
fn doing(holder: &Thread, wait: &Wait) -> String {
    let place = wording::at(holder);
    format!("{}{place}", wording::waits(wait))
}

fn remedy(held: Hold<'_>, lock: &str, holder: &str) -> String {
    let since = held.by.place.as_ref().map_or_else(String::new, |place| {
        format!(", taken at {},", place.untrusted())
    });
    if held.by.by.is_native() {
        return format!(
            "let {holder} give up {lock}{since} before it waits (drop the guard, or end its block; a Condvar's wait gives up the \
             lock that it is given); find out who was to wake it; and give its wait a timeout"
        );
    }
    format!(
        "let {holder} give up {lock}{since} before it waits (copy what is needed, leave the block, then wait; or wait on a \
         Condition of that lock, which gives it up); find out who was to wake it; and give its wait a timeout"
    )
}
