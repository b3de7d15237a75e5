//! A thread that ends an interpreter, and which part of that it is in.

use crate::analysis::case::{Case, Closure, Standing};
use crate::analysis::{signature, wording};
use crate::model::{
    Certainty, Evidence, Finding, Frame, Grade, Interpreter, Key, Process, Thread, ThreadState,
    WaitKind,
};
use std::collections::BTreeSet;

/// A thread that ends an interpreter.
pub(super) struct Scene<'c, 'a> {
    pub(super) case: &'c Case<'a>,
    pub(super) process: &'c Process,
    pub(super) interpreter: &'c Interpreter,
    pub(super) waiter: &'c Thread,
    pub(super) state: &'c ThreadState,
}

/// What a cause adds to the common parts of a finding.
pub(super) struct Verdict<'c> {
    pub(super) id: &'static str,
    pub(super) certainty: Certainty,
    /// Completes "MainThread in … waits ".
    pub(super) reason: String,
    pub(super) blockers: Vec<&'c Thread>,
    pub(super) evidence: Vec<Evidence>,
    pub(super) refuted_if: String,
    pub(super) remedy: String,
}

impl<'c> Scene<'c, '_> {
    pub(super) fn judge(&self) -> Option<Finding> {
        let verdict = if self.case.gil_wanted_by(&self.waiter.key).is_some() {
            self.gil(self.waiter)?
        } else if self.in_shutdown() {
            self.shutdown()?
        } else {
            self.callback_or_teardown()?
        };
        Some(self.finding(verdict))
    }

    /// Whether the waiter is in the interpreter's `threading._shutdown`.
    pub(super) fn in_shutdown(&self) -> bool {
        self.state
            .frames
            .iter()
            .any(|frame| frame.is("_shutdown", "threading.py"))
    }

    pub(super) fn shutdown(&self) -> Option<Verdict<'c>> {
        let callback = self.shutdown_callback();
        let awaited = self.awaited_thread();
        let in_executor = self
            .state
            .frames
            .iter()
            .any(|frame| frame.is("_python_exit", "concurrent/futures/thread.py"));
        match (awaited, callback) {
            (Some(thread), _) if in_executor => self.thread(thread, true),
            (Some(thread), None) => self.thread(thread, false),
            (_, Some(callback)) => self.callback(callback),
            (None, None) => self.unknown("in the thread shutdown of the interpreter"),
        }
    }

    /// The outermost frame above `_shutdown`: a callback registered with `threading._register_atexit`.
    pub(super) fn shutdown_callback(&self) -> Option<&'c Frame> {
        let frames = &self.state.frames;
        let shutdown = frames
            .iter()
            .position(|frame| frame.is("_shutdown", "threading.py"))?;
        let inner = frames.get(..shutdown)?;
        let called = inner.last()?;
        // 3.13+ wraps each callback; a callback in C leaves no frame inside of the wrapper.
        if called.function.untrusted().starts_with("_register_atexit.") {
            return Some(inner.iter().nth_back(1).unwrap_or(called));
        }
        // Before, `_shutdown` calls it directly; frames of `threading` are its own joins then.
        (!called.in_file("threading.py")).then_some(called)
    }

    /// The thread that the waiter joins.
    pub(super) fn awaited_thread(&self) -> Option<&'c Thread> {
        let wait = self.waiter.wait.as_ref()?;
        if wait.kind != WaitKind::ThreadExit {
            return None;
        }
        self.process.thread(wait.target.as_ref()?)
    }

    /// How sure it is that a thread that stands so keeps the interpreter from ending; `None`: it had better not be said.
    /// `known` are the threads that are part of the picture; any other may be about to help.
    pub(super) fn certainty(
        &self,
        known: &[&Thread],
        stuck: &Thread,
        standing: Standing,
    ) -> Option<Certainty> {
        let open = if self.case.overdue {
            Certainty::Probable
        } else {
            Certainty::Possible
        };
        let certainty = match standing {
            // What ends by itself soon is slow, not stuck.
            Standing::Timed if !self.case.overdue => return None,
            Standing::Starved => return None,
            _ if !self.case.has_motion() => Certainty::Possible,
            Standing::Internal => {
                let known: BTreeSet<&Key> = known.iter().map(|thread| &thread.key).collect();
                match self.case.closure(self.process, &known) {
                    Closure::Closed => Certainty::Certain,
                    Closure::Unclear | Closure::OutOfReach(_) | Closure::OpenSignal(_) => {
                        Certainty::Probable
                    }
                    Closure::OpenThread(_) => open,
                }
            }
            // Nothing but time ends a sleep.
            Standing::FarOff(_)
                if stuck
                    .wait
                    .as_ref()
                    .is_some_and(|wait| wait.kind == WaitKind::Sleep) =>
            {
                Certainty::Probable
            }
            Standing::FarOff(_) | Standing::External => open,
            Standing::Active | Standing::Timed | Standing::Unclear | Standing::Gil => {
                Certainty::Possible
            }
        };
        Some(certainty)
    }

    pub(super) fn finding(&self, verdict: Verdict<'_>) -> Finding {
        let n = self.interpreter.id;
        let keys: Vec<&Key> = verdict.blockers.iter().map(|thread| &thread.key).collect();
        let mut involved = vec![self.waiter];
        involved.extend(&verdict.blockers);
        let mut targets = keys.clone();
        targets.push(&self.waiter.key);
        Finding {
            id: verdict.id.to_owned(),
            title: format!(
                "{} {} and waits {}.",
                wording::name(self.waiter),
                self.operation(),
                verdict.reason
            )
            .into(),
            certainty: verdict.certainty,
            waiter: self.waiter.key.clone(),
            blockers: keys.iter().map(|key| (*key).clone()).collect(),
            affected: self.case.affected_by(&targets, &targets),
            evidence: {
                let mut evidence = vec![self.case.fact(
                    Grade::Read,
                    format!(
                        "interpreter {n} is being ended by {}: it has a thread state of kind \"fini\" there",
                        wording::who(self.waiter)
                    ),
                    &[(&self.waiter.key, "python")],
                )];
                evidence.extend(verdict.evidence);
                evidence
            },
            refuted_if: verdict.refuted_if.into(),
            remedy: verdict.remedy.into(),
            site: String::new(),
            signature: signature::signature(verdict.id, &involved),
        }
    }

    /// What the waiter does, in the program's own terms.
    pub(super) fn operation(&self) -> String {
        let n = self.interpreter.id;
        let outer: Vec<&Frame> = self
            .waiter
            .python
            .iter()
            .filter(|state| state.interpreter_id != n)
            .flat_map(|state| &state.frames)
            .collect();
        let Some(caller) = outer.first() else {
            return format!("is ending sub-interpreter {n} at the exit of the process");
        };
        let call = if caller.in_file("concurrent/interpreters/__init__.py")
            || caller.in_file("interpreters/__init__.py")
        {
            "Interpreter.close"
        } else {
            "destroy"
        };
        let spot = outer
            .iter()
            .find(|frame| !frame.is_library())
            .unwrap_or(caller);
        format!("is ending sub-interpreter {n} ({call} in {})", spot.place())
    }
}
