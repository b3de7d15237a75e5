//! A thread that runs Python code of an interpreter that has been destroyed under it. See `docs/detectors/orphan-thread.md`.

use super::Notice;
use crate::analysis::case::Case;
use crate::analysis::detectors::Cause;
use crate::analysis::{signature, wording};
use crate::model::{
    Certainty, Evidence, Finding, Grade, Motion, NativeFrame, Process, PythonReader, Thread,
};

pub(super) const NOTICE: Notice = Notice {
    causes: &[Cause {
        id: "orphan-thread",
        summary: "A thread is left of an interpreter that has been destroyed.",
        page: include_str!("../../../docs/detectors/orphan-thread.md"),
    }],
    look,
};

/// CPython's evaluation of Python code (`Python/ceval.c`), which needs a thread state.
const EVALUATION: &str = "_PyEval_EvalFrameDefault";
/// Where CPython 3.14+ leaves a thread that asks for the GIL of an interpreter that has ended (`Python/pylifecycle.c`).
const PARKED: &str = "PyThread_hang_thread";
/// Calls within CPython that no thread of CPython's own comes to (faulthandler's watchdog has four, of a stripped build all without
/// names), and a thread that runs Python code does.
const DEEP: usize = 8;
/// First version that parks such a thread instead of ending it.
const PARKS_SINCE: u8 = 14;

fn look(case: &Case<'_>) -> Vec<Finding> {
    let all_read = |process: &&Process| {
        let own = |reader: PythonReader| reader == PythonReader::Own;
        process.python.as_ref().is_some_and(|it| own(it.reader))
            && !process.interpreters.is_empty()
            && case.last.gaps.iter().all(|gap| {
                gap.subject
                    .as_ref()
                    .is_none_or(|subject| subject.of_process() != process.key)
            })
    };
    let found = case.judgeable().filter(all_read).flat_map(|process| {
        let threads = process.threads.iter();
        threads.filter_map(|thread| judge(case, process, thread))
    });
    found.collect()
}

/// How a thread without a thread state is known to have had one.
enum Sign<'t> {
    /// It is in the middle of an evaluation.
    Evaluates(&'t NativeFrame),
    /// It is so many calls deep in CPython.
    IsDeep(usize),
    /// CPython has parked it.
    Parked(&'t NativeFrame),
    /// It waits for ever in pause(2), as such a thread does, and its stack is not known.
    Pauses,
}

fn sign<'t>(process: &Process, thread: &'t Thread) -> Option<Sign<'t>> {
    let minor = process.python.as_ref()?.minor;
    if let Some(stack) = &thread.native {
        let of = |name: &str| {
            let mut frames = stack.frames.iter();
            frames.find(|frame| frame.function_name().starts_with(name) && !frame.guessed)
        };
        let in_cpython = stack.frames.iter().filter(|frame| frame.is_in_cpython());
        return match (of(PARKED), of(EVALUATION), in_cpython.count()) {
            (Some(frame), ..) => Some(Sign::Parked(frame)),
            (None, Some(frame), _) => Some(Sign::Evaluates(frame)),
            (None, None, depth) => (depth >= DEEP).then_some(Sign::IsDeep(depth)),
        };
    }
    let call = thread.kernel.syscall.as_ref()?.name.as_deref();
    (call == Some("pause") && minor >= PARKS_SINCE).then_some(Sign::Pauses)
}

fn judge(case: &Case<'_>, process: &Process, thread: &Thread) -> Option<Finding> {
    // One that begins or ends is without a thread state for a moment.
    let always_without = case.has_motion()
        && case.views(&thread.key).count() == case.samples.len()
        && case.views(&thread.key).all(|view| view.python.is_empty());
    if !always_without || case.motion(&thread.key) != Motion::Still {
        return None;
    }
    let sign = sign(process, thread)?;
    let name = wording::who(thread);
    let mut evidence = vec![case.fact(
        Grade::Read,
        format!(
            "{name} has no thread state in any of the {} interpreter(s) of process {}",
            process.interpreters.len(),
            process.pid
        ),
        &[(&thread.key, "python")],
    )];
    let seen = |frame: &NativeFrame, what: &str| -> Evidence {
        let text = format!("its native stack is in {} {what}", frame.function_name());
        case.fact(Grade::Read, text, &[(&thread.key, "native")])
    };
    let (certainty, evident) = match sign {
        Sign::Parked(frame) => (
            Certainty::Certain,
            seen(frame, "(CPython has parked it for good: its interpreter is gone)"),
        ),
        Sign::Evaluates(frame) => (
            Certainty::Certain,
            seen(frame, "(it is in the middle of Python code, which needs a thread state)"),
        ),
        Sign::IsDeep(depth) => (
            Certainty::Probable,
            case.fact(
                Grade::Derived,
                format!("its native stack has {depth} calls of CPython, as threads have that run Python code"),
                &[(&thread.key, "native")],
            ),
        ),
        Sign::Pauses => (
            Certainty::Probable,
            case.fact(
                Grade::Derived,
                "it waits in pause(2), where CPython 3.14+ parks a thread whose interpreter is gone; its stack was not read \
                 (--native)"
                    .to_owned(),
                &[(&thread.key, "kernel.syscall")],
            ),
        ),
    };
    evidence.push(evident);
    if let Some(wait) = &thread.wait {
        let text = format!("it {}", wording::waits(wait));
        evidence.push(case.fact(wait.grade, text, &[(&thread.key, "wait")]));
    }
    Some(Finding {
        id: "orphan-thread".to_owned(),
        title: format!(
            "{} is left of an interpreter that has been destroyed: it never runs Python code again and never ends.",
            wording::name(thread)
        )
        .into(),
        certainty,
        waiter: thread.key.clone(),
        blockers: Vec::new(),
        affected: Vec::new(),
        evidence,
        refuted_if: "a C extension runs Python code on that thread by a thread state that CPython does not list".into(),
        remedy: "end and join all threads of a sub-interpreter before it is destroyed: daemon threads and the idle workers of \
                 a pool, too (trio keeps its own for 10 s)"
            .into(),
        site: String::new(),
        signature: signature::signature("orphan-thread", &[thread]),
    })
}
