//! Children that have ended and that nobody has asked for. See `docs/detectors/child-never-reaped.md`.

use super::Notice;
use crate::analysis::case::Case;
use crate::analysis::detectors::Cause;
use crate::analysis::language::Language;
use crate::analysis::{outputs, signature, wording};
use crate::model::{Certainty, Finding, Grade, Process, Thread, WaitKind, Zombie};

pub(super) const NOTICE: Notice = Notice {
    causes: &[Cause {
        id: "child-never-reaped",
        summary: "A child has ended, and its parent does not ask for its exit status.",
        page: include_str!("../../../docs/detectors/child-never-reaped.md"),
    }],
    look,
};

/// Most children that are named.
const MAX_NAMED: usize = 3;

fn look(case: &Case<'_>) -> Vec<Finding> {
    let parents = case.last.processes.iter();
    parents.filter_map(|parent| judge(case, parent)).collect()
}

fn judge(case: &Case<'_>, parent: &Process) -> Option<Finding> {
    let waits_for_child = |thread: &Thread| {
        let wait = thread.wait.as_ref();
        wait.is_some_and(|wait| wait.kind == WaitKind::Child) || outputs::call(thread).is_some()
    };
    if !case.has_motion() || parent.threads.iter().any(waits_for_child) {
        return None;
    }
    let in_all = |zombie: &&Zombie| {
        let mut samples = case.samples.iter();
        zombie.parent == parent.pid && samples.all(|sample| sample.zombies.contains(zombie))
    };
    let zombies: Vec<&Zombie> = case.last.zombies.iter().filter(in_all).collect();
    let first = zombies.first()?;
    let named: Vec<String> = zombies
        .iter()
        .take(MAX_NAMED)
        .map(|zombie| format!("`{}` (pid {})", zombie.name.untrusted(), zombie.pid))
        .collect();
    let more = match zombies.len().saturating_sub(MAX_NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let have = if zombies.len() == 1 { "has" } else { "have" };
    let keys: Vec<_> = zombies
        .iter()
        .map(|zombie| (&zombie.process, "zombies"))
        .collect();
    let language = Language::of(parent);
    Some(Finding {
        id: "child-never-reaped".to_owned(),
        title: format!(
            "{}{more} {have} ended, and process {} has not asked for the exit status.",
            named.join(", "),
            parent.pid
        )
        .into(),
        certainty: Certainty::Possible,
        waiter: first.process.clone(),
        blockers: vec![parent.key.clone()],
        affected: Vec::new(),
        evidence: vec![case.fact(
            Grade::Read,
            format!(
                "state Z (zombie) in {} samples over {}; no thread of process {} waits for a child",
                case.samples.len(),
                wording::duration(case.span_ms()),
                parent.pid
            ),
            &keys,
        )],
        refuted_if: language
            .pick(
                "the parent comes to ask for it later: wait(), poll(), or the next Popen",
                "the parent comes to ask for it later: wait() or try_wait()",
                "the parent comes to ask for it later: wait() or waitpid()",
            )
            .into(),
        remedy: language
            .pick(
                "wait for each child that is started: `with Popen(...)`, wait() or communicate() in a `finally`; what waits until \
                 a pid is gone (os.kill(pid, 0)) waits for ever, as a zombie keeps its pid",
                "wait for each child that is started: Child::wait() on every path (dropping a Child does not); what waits until a \
                 pid is gone (kill(pid, 0)) waits for ever, as a zombie keeps its pid",
                "wait for each child that is started: waitpid() on every path, or ignore SIGCHLD where no exit status is wanted; what \
                 waits until a pid is gone (kill(pid, 0)) waits for ever, as a zombie keeps its pid",
            )
            .into(),
        site: String::new(),
        signature: signature::signature("child-never-reaped", &[]),
    })
}
