//! A thread is inside one native call and keeps the GIL all the while, with others waiting for it. See
//! `docs/detectors/gil-held-in-native-call.md`.

use super::{Cause, Detector, Meta, Outcome, outcome};
use crate::analysis::case::{Case, Standing};
use crate::analysis::{signature, wording};
use crate::model::{Certainty, Evidence, Finding, Gil, Grade, Key, Motion, Process, Thread};
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
                    findings.push(finding(case, waiter, stuck));
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

fn finding(case: &Case<'_>, waiter: &Thread, stuck: StuckGil<'_>) -> Finding {
    let holder = stuck.holder;
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
    Finding {
        id: "gil-held-in-native-call".to_owned(),
        title: format!(
            "{} keeps the GIL {}; {}{others} cannot run.",
            wording::name(holder),
            stuck.doing,
            wording::name(waiter)
        )
        .into(),
        certainty: stuck.certainty,
        waiter: waiter.key.clone(),
        blockers: vec![holder.key.clone()],
        affected,
        evidence,
        refuted_if: "the native call returns: it may be slow rather than stuck".into(),
        remedy: format!(
            "make the call release the GIL (ctypes: CDLL instead of PyDLL; C: Py_BEGIN_ALLOW_THREADS; pyo3: detach), bound \
             it by a timeout, or run it in another process; it is made at {}",
            wording::place(holder).unwrap_or_else(|| "no Python frame".to_owned())
        )
        .into(),
        site: String::new(),
        signature: signature::signature("gil-held-in-native-call", &[holder]),
    }
}
