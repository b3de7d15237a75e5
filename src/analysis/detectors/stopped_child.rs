//! A process waits for one that is stopped, and nobody is left who could let that go on. See `docs/detectors/child-stopped.md`.

use super::{Cause, Detector, Meta, Outcome, outcome};
use crate::analysis::case::{Case, Standing};
use crate::analysis::language::Language;
use crate::analysis::roles;
use crate::analysis::{signature, wording};
use crate::model::{
    Certainty, Descriptor, Finding, Grade, Key, Motion, Pid, Process, Thread, Wait, WaitKind,
};

static META: Meta = Meta {
    name: "stopped_child",
    causes: &[Cause {
        id: "child-stopped",
        summary: "A process waits for a child that a signal has stopped (SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU).",
        page: include_str!("../../../docs/detectors/child-stopped.md"),
    }],
};

/// The detector.
pub(super) struct StoppedChild;

impl Detector for StoppedChild {
    fn meta(&self) -> &'static Meta {
        &META
    }

    fn detect(&self, case: &Case<'_>) -> Outcome {
        let findings = case
            .judgeable()
            .filter(|process| !is_stopped(process))
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
    let rests = case.motion(&thread.key) == Motion::Still;
    if !rests || wait.timed == Some(true) || case.standing(thread) != Standing::External {
        return None;
    }
    let child = awaited(case, wait).filter(|child| {
        let throughout = case.samples.iter().all(|sample| {
            let then = sample.process(&child.key);
            then.is_some_and(is_stopped)
        });
        throughout && case.ancestors(child.pid).any(|above| above == process.pid)
    })?;
    let others_go_on = case.last.processes.iter().any(|other| {
        !is_stopped(other)
            && other
                .threads
                .iter()
                .any(|other| other.key != thread.key && goes_on(case, other))
    });
    if others_go_on && !case.overdue {
        return None;
    }
    let no_input = Language::of(process).pick(
        "stdin=DEVNULL",
        "Stdio::null() as its stdin",
        "/dev/null as its stdin",
    );
    let (name, pid) = (child.name.untrusted(), child.pid);
    let place = wording::at(thread);
    let at: [(&Key, &str); 1] = [(&thread.key, "wait")];
    Some(Finding {
        id: "child-stopped".to_owned(),
        title: format!(
            "{} {}{place}, for which it needs `{name}` (pid {pid}), and that is stopped.",
            wording::name(thread),
            wording::waits(wait)
        )
        .into(),
        // Whoever stopped it by hand means to let it go on; a test's own processes nobody stops.
        certainty: match process.test.is_some() || case.overdue {
            true if !others_go_on => Certainty::Probable,
            _ => Certainty::Possible,
        },
        waiter: thread.key.clone(),
        blockers: child.threads.iter().take(1).map(|first| first.key.clone()).collect(),
        affected: case.affected_by(&[&thread.key], &[&thread.key]),
        evidence: vec![
            case.fact(
                wait.grade,
                format!("{} {}{place}, without a deadline", wording::who(thread), wording::waits(wait)),
                &at,
            ),
            case.fact(
                Grade::Read,
                format!(
                    "process {pid} is in state T (stopped) in {} samples over {}, and no debugger has it",
                    case.samples.len(),
                    wording::duration(case.span_ms())
                ),
                &[(&child.key, "state")],
            ),
        ],
        refuted_if: "a process outside of this tree is about to continue it (SIGCONT): a shell, a person".into(),
        remedy: format!(
            "kill -CONT {pid} lets it go on. Find out who stopped it: a kill(), Ctrl-Z, or the kernel, as a process in the background read \
             from the terminal or wrote to it (SIGTTIN, SIGTTOU); then give it {no_input} or a session of its own (setsid)"
        )
        .into(),
        site: String::new(),
        signature: signature::signature("child-stopped", &[thread]),
    })
}

fn is_stopped(process: &Process) -> bool {
    process.state == "T" && process.tracer.is_none()
}

/// The stopped process that alone can end a wait: the child that is waited for, or who has the other ends of what is read.
fn awaited<'c>(case: &'c Case<'_>, wait: &Wait) -> Option<&'c Process> {
    let pids: Vec<Pid> = match wait.kind {
        WaitKind::Child => {
            let children = &wait.child.as_ref()?.children;
            children
                .iter()
                .map(|child| child.pid)
                .collect::<Option<_>>()?
        }
        WaitKind::Read | WaitKind::Poll if wait.files_in_all.is_none() => {
            let files = wait.all_files();
            let of_file = |file: &Descriptor| {
                let peer = file.peer.as_ref()?;
                (peer.own.is_empty() && !peer.processes.is_empty()).then(|| peer.processes.clone())
            };
            let polled = files.filter(|file| wait.kind == WaitKind::Read || file.peer.is_some());
            let all: Option<Vec<Vec<Pid>>> = polled.map(of_file).collect();
            all?.into_iter().flatten().collect()
        }
        _ => return None,
    };
    let mut stopped = pids.iter().map(|pid| {
        let mut all = case.last.processes.iter();
        all.find(|process| process.pid == *pid && is_stopped(process))
    });
    let first = stopped.next()??;
    stopped.all(|other| other.is_some()).then_some(first)
}

/// Whether a thread may do something by itself.
fn goes_on(case: &Case<'_>, thread: &Thread) -> bool {
    !roles::is_bystander(thread)
        && matches!(
            case.standing(thread),
            Standing::Active | Standing::Starved | Standing::Timed | Standing::FarOff(_)
        )
}
