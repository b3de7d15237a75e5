//! An interpreter that has outlived the test that made it. See `docs/detectors/interpreter-left-behind.md`.

use super::Notice;
use crate::analysis::case::Case;
use crate::analysis::detectors::Cause;
use crate::analysis::{signature, wording};
use crate::model::{
    Certainty, Finding, Foreign, Grade, Interpreter, LeftKind, Motion, Process, Thread,
};

pub(super) const NOTICE: Notice = Notice {
    causes: &[Cause {
        id: "interpreter-left-behind",
        summary: "A sub-interpreter has outlived the test that made it.",
        page: include_str!("../../../docs/detectors/interpreter-left-behind.md"),
    }],
    look,
};

fn look(case: &Case<'_>) -> Vec<Finding> {
    let found = case.judgeable().flat_map(|process| {
        let interpreters = process.interpreters.iter();
        interpreters.filter_map(|interpreter| judge(case, process, interpreter))
    });
    found.collect()
}

fn judge(case: &Case<'_>, process: &Process, interpreter: &Interpreter) -> Option<Finding> {
    let run = case.run()?.process(&process.key)?;
    let birth = run.birth(LeftKind::Interpreter, interpreter.id)?;
    // One that is being ended is on its way, or a hang that is told as such.
    if birth.tests_ago == 0 || interpreter.finalizing {
        return None;
    }
    let test = birth.test.as_ref().map(Foreign::untrusted)?;
    let in_it = |thread: &&Thread| {
        let mut states = thread.python.iter();
        states.any(|state| state.interpreter == interpreter.key)
    };
    let threads: Vec<&Thread> = process.threads.iter().filter(in_it).collect();
    let s = if birth.tests_ago == 1 { "" } else { "s" };
    let mut evidence = vec![case.fact(
        Grade::Read,
        format!(
            "interpreter {} of process {} first appeared in {test}; {} test{s} began since",
            interpreter.id, process.pid, birth.tests_ago
        ),
        &[(&interpreter.key, "id")],
    )];
    for thread in &threads {
        let place = wording::at(thread);
        let does = thread.wait.as_ref().map_or_else(
            || "runs in it".to_owned(),
            |wait| format!("is in it and {}", wording::waits(wait)),
        );
        let still = match case.motion(&thread.key) {
            Motion::Still => ", and has not moved",
            _ => "",
        };
        evidence.push(case.fact(
            Grade::Read,
            format!("{} {does}{place}{still}", wording::who(thread)),
            &[(&thread.key, "python")],
        ));
    }
    let state = match threads.first() {
        Some(thread) => format!("abandoned: {} is still in it", wording::name(thread)),
        None => "leaked: no thread is in it".to_owned(),
    };
    Some(Finding {
        id: "interpreter-left-behind".to_owned(),
        title: format!(
            "Interpreter {} has outlived {test}, which made it, and is {state}.",
            interpreter.id
        )
        .into(),
        certainty: Certainty::Probable,
        waiter: threads
            .first()
            .map_or_else(|| interpreter.key.clone(), |thread| thread.key.clone()),
        blockers: Vec::new(),
        affected: Vec::new(),
        evidence,
        refuted_if: "a fixture of a wider scope, or a pool, keeps it on purpose".into(),
        remedy: "close it where it was made, in a `finally` or an exit stack: tell its thread to stop, join that, then destroy the \
                 interpreter"
            .into(),
        site: String::new(),
        signature: signature::signature("interpreter-left-behind", &threads),
    })
}
