//! A thread is inside one native call and keeps the GIL all the while, with others waiting for it. See
//! `docs/detectors/gil-held-in-native-call.md`.

use super::{Cause, Detector, Meta, Outcome, outcome};
use crate::analysis::case::{Case, Standing};
use crate::analysis::{signature, wording};
use crate::model::{
    Certainty, Evidence, Finding, Gil, Grade, Holder, HolderEvidence, Key, Motion, Process, Thread,
};
use std::collections::BTreeSet;

static META: Meta = Meta {
    name: "gil_held_in_native_call",
    causes: &[Cause {
        id: "gil-held-in-native-call",
        summary: "A native call keeps the GIL while other threads wait for it.",
        page: include_str!("../../../docs/detectors/gil-held-in-native-call.md"),
    }],
};

/// The detector.
pub(super) struct GilHeldInNativeCall;

impl Detector for GilHeldInNativeCall {
    fn meta(&self) -> &'static Meta {
        &META
    }

    fn detect(&self, case: &Case<'_>) -> Outcome {
        let mut findings = Vec::new();
        for process in case.judgeable() {
            let mut judged = BTreeSet::new();
            for waiter in &process.threads {
                let Some(stuck) = stuck_gil(case, process, waiter) else {
                    continue;
                };
                if judged.insert(stuck.holder.key.clone()) {
                    findings.push(finding(case, process, waiter, stuck));
                }
            }
        }
        outcome(case, findings)
    }
}

/// A GIL that did not change hands over all samples while `waiter` waited for it.
pub(super) struct StuckGil<'c> {
    pub(super) holder: &'c Thread,
    pub(super) certainty: Certainty,
    /// Completes "`x` keeps the GIL ".
    pub(super) doing: String,
    pub(super) evidence: Vec<Evidence>,
}

/// Judges the GIL that `waiter` waits for. `None`: it waits for none, or the GIL goes round.
pub(super) fn stuck_gil<'c>(
    case: &Case<'_>,
    process: &'c Process,
    waiter: &Thread,
) -> Option<StuckGil<'c>> {
    if !case.has_motion() {
        return None;
    }
    let gil = gil_of(process, case.gil_wanted_by(&waiter.key)?)?;
    let holder = process.thread(gil.holder_thread.as_ref()?)?;
    let unchanged = case.samples.iter().all(|sample| {
        sample
            .process(&process.key)
            .and_then(|process| gil_of(process, &gil.key))
            .is_some_and(|then| {
                then.locked && then.holder == gil.holder && then.switches == gil.switches
            })
    });
    let motion = case.motion(&holder.key);
    if !unchanged || !matches!(motion, Motion::Still | Motion::Busy | Motion::Stirring) {
        return None;
    }
    if case.standing(holder) == Standing::Starved {
        return None;
    }
    let sleeping = motion == Motion::Still && holder.settled && holder.wait.is_some();
    let place = wording::place(holder).unwrap_or_else(|| "native code".to_owned());
    let span = wording::duration(case.span_ms());
    let inside = match (&holder.kernel.syscall, sleeping) {
        (Some(call), true) => match &call.name {
            Some(name) => format!("system call {name}"),
            None => format!("system call {}", call.number),
        },
        _ => {
            let cpu = case.cpu_percent(&holder.key).unwrap_or(0);
            format!("computing, {cpu} % CPU")
        }
    };
    let name = wording::who(holder);
    let native = holder.native.as_ref();
    let called = native.and_then(|stack| Some((stack, stack.called_by_python()?)));
    let within = match &called {
        Some((_, function)) => format!(", in {function}"),
        None => String::new(),
    };
    let mut evidence = vec![
        case.fact(
            Grade::Read,
            format!(
                "{name} holds the GIL, which has not changed hands for {span} ({} samples)",
                case.samples.len()
            ),
            &[(&holder.key, "python.holds_gil")],
        ),
        case.fact(
            if sleeping {
                Grade::Read
            } else {
                Grade::Derived
            },
            format!(
                "{name} is in a native call made at {place}, same instruction in all samples ({inside})"
            ),
            &[
                (&holder.key, "python.frames"),
                (&holder.key, "kernel.syscall"),
            ],
        ),
    ];
    if let Some((stack, function)) = called {
        evidence.push(case.fact(
            stack.grade,
            format!("by its native stack {name} is in {function}, called by that Python code"),
            &[(&holder.key, "native.frames")],
        ));
    }
    let certainty = match case.standing(holder) {
        Standing::FarOff(_) => Certainty::Certain,
        // What ends by itself soon is slow, not stuck.
        Standing::Timed if !case.overdue => return None,
        Standing::Internal | Standing::External => Certainty::Probable,
        // A long computation ends some time; from outside it cannot be told from one that does not.
        _ => Certainty::Possible,
    };
    Some(StuckGil {
        holder,
        certainty,
        doing: format!("in a native call made at {place}{within} ({inside})"),
        evidence,
    })
}

fn gil_of<'p>(process: &'p Process, key: &Key) -> Option<&'p Gil> {
    process
        .interpreters
        .iter()
        .filter_map(|interpreter| interpreter.gil.as_ref())
        .find(|gil| &gil.key == key)
}

/// The thread that has the mutex which the GIL's holder waits for, and that waits for the same GIL as `waiter`.
fn inverted<'c>(
    case: &Case<'_>,
    process: &'c Process,
    holder: &Thread,
    waiter: &Thread,
) -> Option<&'c Thread> {
    let wait = holder.wait.as_ref()?;
    let noted = |by: &&Holder| by.by == HolderEvidence::PthreadMutex;
    let owner = wait.holders.iter().find(noted)?.thread.as_ref()?;
    let wants_it = |owner: &&Thread| {
        let wanted = case.gil_wanted_by(&owner.key);
        wanted.is_some() && wanted == case.gil_wanted_by(&waiter.key)
    };
    process.thread(owner).filter(wants_it)
}

fn finding(case: &Case<'_>, process: &Process, waiter: &Thread, stuck: StuckGil<'_>) -> Finding {
    let holder = stuck.holder;
    let inverted = inverted(case, process, holder, waiter);
    let targets = [&holder.key, &waiter.key];
    let affected = case.affected_by(&[&holder.key], &targets);
    let others = match affected.len() {
        0 => String::new(),
        count => format!(" and {count} more"),
    };
    let mut evidence = stuck.evidence;
    evidence.push(case.fact(
        Grade::Read,
        format!("{} waits for that GIL", wording::who(waiter)),
        &[(&waiter.key, "wait")],
    ));
    let mut title = format!(
        "{} keeps the GIL {}; {}{others} cannot run",
        wording::name(holder),
        stuck.doing,
        wording::name(waiter)
    );
    let mut remedy = format!(
        "make the call release the GIL (ctypes: CDLL instead of PyDLL; C: Py_BEGIN_ALLOW_THREADS; pyo3: detach), bound it by a \
         timeout, or run it in another process; it is made at {}",
        wording::place(holder).unwrap_or_else(|| "no Python frame".to_owned())
    );
    let mut refuted_if = "the native call returns: it may be slow rather than stuck";
    let mut certainty = stuck.certainty;
    if let Some(owner) = inverted {
        title.push_str(&format!(
            ", and {} has the mutex that the call waits for, and waits for the GIL in turn",
            wording::name(owner)
        ));
        evidence.push(case.fact(
            Grade::Derived,
            format!(
                "the mutex that {} waits for notes {} as its owner, which waits for the GIL",
                wording::who(holder),
                wording::who(owner)
            ),
            &[(&holder.key, "wait.holders"), (&owner.key, "wait")],
        ));
        remedy = format!(
            "never wait for a native mutex with the GIL held where its owner may need the GIL: release the GIL around the lock \
             (CDLL instead of PyDLL, Py_BEGIN_ALLOW_THREADS, pyo3: detach) in the call made at {}, or give the mutex back before Python code \
             runs",
            wording::place(holder).unwrap_or_else(|| "no Python frame".to_owned())
        );
        refuted_if = "the mutex was unlocked by another thread, so that its note is not true";
        certainty = certainty.max(Certainty::Probable);
    }
    title.push('.');
    Finding {
        id: "gil-held-in-native-call".to_owned(),
        title: title.into(),
        certainty,
        waiter: waiter.key.clone(),
        blockers: vec![holder.key.clone()],
        affected,
        evidence,
        refuted_if: refuted_if.into(),
        remedy: remedy.into(),
        site: String::new(),
        signature: signature::signature("gil-held-in-native-call", &[holder]),
    }
}
