//! A pipe that a child has left to others: its reader waits for an end of file that comes only when the last of them has gone. See
//! `docs/detectors/pipe-held-by-orphan.md`.

use super::{Cause, Detector, Meta, Outcome, outcome};
use crate::analysis::case::{Case, Standing};
use crate::analysis::language::Language;
use crate::analysis::trail::fact;
use crate::analysis::{outputs, signature, wording};
use crate::model::{
    Certainty, Child, ChildState, Descriptor, FileKind, Finding, Grade, Motion, Pid, Process,
    Thread, Wait, WaitKind,
};
use std::collections::BTreeSet;

static META: Meta = Meta {
    name: "orphaned_pipe",
    causes: &[Cause {
        id: "pipe-held-by-orphan",
        summary: "The output of a child that has ended is read on, as a process it left behind holds the pipe.",
        page: include_str!("../../../docs/detectors/pipe-held-by-orphan.md"),
    }],
};

/// The detector.
pub(super) struct OrphanedPipe;

impl Detector for OrphanedPipe {
    fn meta(&self) -> &'static Meta {
        &META
    }

    fn detect(&self, case: &Case<'_>) -> Outcome {
        let findings = case
            .judgeable()
            .flat_map(|process| {
                let threads = process.threads.iter();
                threads.filter_map(move |thread| judge(case, process, thread))
            })
            .collect();
        outcome(case, findings)
    }
}

fn judge(case: &Case<'_>, process: &Process, thread: &Thread) -> Option<Finding> {
    let wait = thread.wait.as_ref()?;
    let reads = matches!(wait.kind, WaitKind::Read | WaitKind::Poll);
    if !reads || wait.timed == Some(true) || case.standing(thread) != Standing::External {
        return None;
    }
    let native = outputs::call(thread);
    let child = match native {
        Some(_) => child_left(case, process, thread, wait)?,
        None => ended_child(case, process, wait)?,
    };
    let mut files = wait.all_files();
    let (file, holder) = files.find_map(|file| Some((file, orphan(case, process, file)?)))?;
    let certainty = if case.motion(&thread.key) == Motion::Still {
        Certainty::Probable
    } else {
        Certainty::Possible
    };
    let place = wording::at(thread);
    let name = holder
        .name
        .as_ref()
        .map_or("a process", |name| name.untrusted());
    let pid = holder.pid?;
    let call = wait.call.as_ref().map(|call| call.untrusted());
    let call = native.or(call).unwrap_or("a read");
    let peer = match wait.descriptor {
        Some(_) => "wait.descriptor.peer",
        None => "wait.files",
    };
    let mut evidence = vec![
        case.fact(
            wait.grade,
            format!("{} {}{place}, without a deadline", wording::who(thread), wording::waits(wait)),
            &[(&thread.key, "wait")],
        ),
        case.fact(
            Grade::Derived,
            match native {
                Some(call) => format!(
                    "child {child}, whose pipe it was, is a zombie, for whose end {call} asks when all is read"
                ),
                None => {
                    format!("child {child}, whose pipe it was, is no process any more, or a zombie")
                }
            },
            &[(&process.key, "pid")],
        ),
        case.fact(
            Grade::Read,
            format!("`{name}` (pid {pid}), which is no descendant of process {}, has the other end of fd {}", process.pid, file.number),
            &[(&thread.key, peer)],
        ),
    ];
    if native.is_some() && case.has_motion() {
        evidence.push(case.fact(
            Grade::Read,
            format!("`{name}` has used no processor time meanwhile"),
            &[(&thread.key, peer)],
        ));
    }
    if case.has_motion() {
        evidence.push(case.fact(
            Grade::Derived,
            format!(
                "{} has not moved in {} samples over {}",
                wording::who(thread),
                case.samples.len(),
                wording::duration(case.span_ms())
            ),
            &[(&thread.key, "python")],
        ));
    }
    Some(Finding {
        id: "pipe-held-by-orphan".to_owned(),
        title: format!(
            "{} waits in {call}{place} for the end of the output of child {child}, which has ended; `{name}` (pid {pid}), \
             left behind by it, holds the pipe open.",
            wording::name(thread)
        )
        .into(),
        certainty,
        waiter: thread.key.clone(),
        blockers: Vec::new(),
        affected: case.affected_by(&[&thread.key], &[&thread.key]),
        evidence,
        refuted_if: format!("`{name}` (pid {pid}) is about to end or to close its output").into(),
        remedy: Language::of(process)
            .pick(
                "let the child start its daemons with their output elsewhere (`>/dev/null 2>&1`, stdout=DEVNULL), or write the \
                 output to a file instead of a pipe; communicate(timeout=...) ends the wait but not the daemon",
                "let the child start its daemons with their output elsewhere (`>/dev/null 2>&1`, Stdio::null()), or give the child \
                 a file for its output instead of a pipe (Stdio::from(File)), and ask for its end only (status())",
                "let the child start its daemons with their output elsewhere (`>/dev/null 2>&1`), or give the child a file for its \
                 output instead of a pipe",
            )
            .into(),
        site: String::new(),
        signature: signature::signature("pipe-held-by-orphan", &[thread]),
    })
}

/// The child that the waiting call is about, if it has ended.
fn ended_child(case: &Case<'_>, process: &Process, wait: &Wait) -> Option<Pid> {
    let object = wait.object.as_ref()?;
    if object.type_name.untrusted() != "subprocess.Popen" {
        return None;
    }
    let pid: Pid = fact(object, "pid")?.parse().ok()?;
    let mut all = case.last.processes.iter();
    let lives = all.any(|other| {
        other.pid == pid && other.ppid == process.pid && !matches!(other.state.as_str(), "Z" | "X")
    });
    (process.namespace_pid.is_none() && !lives).then_some(pid)
}

/// The child whose output is read to its end, if it has ended and all that it has left behind is at rest: such a call asks for its
/// child's end afterwards, so that it is a zombie.
fn child_left(case: &Case<'_>, process: &Process, thread: &Thread, wait: &Wait) -> Option<Pid> {
    let files = |wait: &'_ Wait| -> Vec<Descriptor> { wait.all_files().cloned().collect() };
    let now = files(wait);
    let left = |file: &Descriptor| {
        let complete = file.peer.as_ref().is_some_and(|peer| peer.complete);
        complete && orphan(case, process, file).is_some()
    };
    // Whoever has a part of the output and works, or comes and goes, may be about to end.
    let holders = |files: &[Descriptor]| -> Option<BTreeSet<(Pid, u64)>> {
        let peers = files.iter().filter_map(|file| file.peer.as_ref());
        let who = peers.flat_map(|peer| &peer.who);
        who.map(|one| Some((one.pid?, one.cpu_ticks?))).collect()
    };
    let at_rest = holders(&now)?;
    let mut views = case.views(&thread.key);
    let same = views.all(|view| {
        let then = view.wait.as_ref().map(files);
        then.and_then(|then| holders(&then)).as_ref() == Some(&at_rest)
    });
    let moves = case.has_motion() && case.motion(&thread.key) != Motion::Still;
    if !now.iter().all(left) || !same || moves {
        return None;
    }
    // Of several that have ended it is not known whose output it is.
    let zombies = case.last.zombies.iter();
    let mut zombies = zombies.filter(|zombie| zombie.parent == process.pid);
    match (zombies.next(), zombies.next()) {
        (Some(one), None) => Some(one.pid),
        _ => None,
    }
}

/// A live process at the other end of a pipe, if no descendant of the reader has it. In a watched run an orphan becomes a child of
/// hangscope, and is in the sample.
fn orphan<'c>(case: &Case<'_>, reader: &Process, file: &'c Descriptor) -> Option<&'c Child> {
    let peer = file.peer.as_ref()?;
    let descends = |pid: &Pid| case.ancestors(*pid).any(|above| above == reader.pid);
    if file.kind != Some(FileKind::Pipe)
        || !peer.own.is_empty()
        || peer.processes.iter().any(descends)
    {
        return None;
    }
    peer.who
        .iter()
        .find(|child| child.state == ChildState::Alive)
}
