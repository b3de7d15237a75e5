//! Why: what the samples say about progress, who waits for whom, and which known cause fits.
//!
//! A pure function of the samples: the same samples give the same analysis, live or from a saved file.

mod case;
mod chain;
pub mod detectors;
mod language;
mod liveness;
mod loops;
mod native_need;
mod native_trail;
mod notices;
mod outputs;
mod polling;
mod pools;
mod progress;
mod roles;
mod roots;
mod signature;
mod streams;
mod task_liveness;
mod tracker;
mod trail;
mod wait_graph;
mod whole_graph;
mod wording;

use crate::model::{
    Analysis, Certainty, Finding, Inconclusive, Process, Run, RuntimeKind, Snapshot, Trigger,
    Verdict,
};
use case::Case;
use detectors::{DETECTORS, Outcome};
pub use native_need::in_need_of_native_stacks;

/// Analyzes the samples of one report. The trigger matters where a cause is only possible: it is worth telling when the
/// run is over its limit, and not when nobody complains. The run says what in the processes is hangscope's own.
#[must_use]
pub fn analyze(samples: &[Snapshot], trigger: &Trigger, run: Option<&Run>) -> Analysis {
    let Some(case) = Case::new(samples, trigger, run) else {
        return Analysis {
            verdict: Verdict::Unknown,
            ..Analysis::default()
        };
    };
    let mut findings = Vec::new();
    let mut inconclusive = Vec::new();
    for detector in DETECTORS {
        let span = tracing::trace_span!("detect", detector = detector.meta().name);
        let _entered = span.enter();
        match detector.detect(&case) {
            Outcome::NoMatch => {}
            Outcome::Match(found) => findings.extend(found),
            Outcome::Inconclusive(gaps) => inconclusive.push(Inconclusive {
                detector: detector.meta().name.to_owned(),
                gaps,
            }),
        }
    }
    // What keeps a main thread waiting, which is where a test runs, comes before what others were left with. Detectors come
    // most specific first; the sort keeps that order among equals.
    let mut findings = roots::one_each(roots::without_joins(roots::without_general(findings)));
    findings.sort_by_key(|finding| {
        let counts = finding.certainty > Certainty::Possible;
        let at_main = concerns_a_main_thread(&case, finding);
        std::cmp::Reverse((counts, at_main, finding.certainty))
    });
    let mut notices = notices::notice(&case);
    for finding in findings.iter_mut().chain(&mut notices) {
        finding.site = signature::site(&case, finding);
    }
    Analysis {
        verdict: verdict(&case, &findings),
        findings,
        notices,
        edges: whole_graph::edges(&case),
        progress: case.progress.values().cloned().collect(),
        inconclusive,
    }
}

fn concerns_a_main_thread(case: &Case<'_>, finding: &Finding) -> bool {
    let mut threads = finding
        .blockers
        .iter()
        .chain(&finding.affected)
        .chain([&finding.waiter]);
    threads.any(|key| {
        case.last
            .process(&key.of_process())
            .is_some_and(|process| *key == process.key.thread(process.pid))
    })
}

fn verdict(case: &Case<'_>, findings: &[Finding]) -> Verdict {
    match findings.iter().map(|finding| finding.certainty).max() {
        Some(Certainty::Certain | Certainty::Probable) => Verdict::Hang,
        Some(Certainty::Possible) => Verdict::PossibleHang,
        None if case
            .judgeable()
            .any(|process| case.is_at_a_standstill(process)) =>
        {
            Verdict::PossibleHang
        }
        None if case.has_stacks() => Verdict::NoHangSeen,
        None => Verdict::Unknown,
    }
}

/// Whether a first sample shows anything that only further ones can judge: a thread with a stack that waits,
/// several threads with stacks, of which one may keep the others from running, or what a notice may come of. Of programs other than Python the stacks
/// come last, and any thread that waits counts.
#[must_use]
pub fn worth_another_look(first: &Snapshot) -> bool {
    !first.zombies.is_empty() || first.processes.iter().any(worth_another_look_at)
}

fn worth_another_look_at(process: &Process) -> bool {
    let signals = process
        .python
        .as_ref()
        .and_then(|python| python.signals.as_ref());
    let unserved = signals.is_some_and(|it| !it.pending.is_empty() || it.wakeup_full == Some(true));
    let mut with_stacks = process
        .threads
        .iter()
        .filter(|thread| !thread.python.is_empty());
    let any_waits = with_stacks.clone().any(|thread| thread.wait.is_some());
    let native = process.runtime != RuntimeKind::Python
        && process
            .threads
            .iter()
            .any(|thread| thread.wait.is_some() || !thread.settled);
    // A loop that was just at work may be one that has only a timer left to do.
    let any_waits = any_waits || process.event_loops.iter().any(|it| it.parked() > 0);
    any_waits || with_stacks.nth(1).is_some() || native || unserved
}
