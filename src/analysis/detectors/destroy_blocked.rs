//! An interpreter cannot be ended: `_interpreters.destroy`, `Interpreter.close()` or the exit of the process waits inside
//! `Py_EndInterpreter` for something that does not come. Ids by cause, see `docs/detectors/destroy-blocked-by-*.md`.
//!
//! In order, ending an interpreter takes its GIL, runs its `threading._shutdown` (first the callbacks that executors
//! registered, then a join of each non-daemon thread), runs its atexit callbacks, and tears it down. It does not wait
//! for its list of thread states, so a pool thread that ran code there once and idles elsewhere is never the cause.

use super::super::case::{Case, Closure, Standing, destroyers};
use super::super::{signature, wording};
use super::{Cause, Detector, Meta, Outcome, outcome};
use crate::model::{
    Certainty, Evidence, Finding, Frame, Grade, Interpreter, Key, Motion, Process, Reference,
    Thread, ThreadState, WaitKind,
};
use std::collections::BTreeSet;

static META: Meta = Meta {
    name: "destroy_blocked",
    causes: &[
        Cause {
            id: "destroy-blocked-by-idle-thread",
            summary: "Ending an interpreter waits for a non-daemon thread of it that idles.",
            page: include_str!("../../../docs/detectors/destroy-blocked-by-idle-thread.md"),
        },
        Cause {
            id: "destroy-blocked-by-busy-thread",
            summary: "Ending an interpreter waits for a non-daemon thread of it that goes round in a loop.",
            page: include_str!("../../../docs/detectors/destroy-blocked-by-busy-thread.md"),
        },
        Cause {
            id: "destroy-blocked-by-executor",
            summary: "Ending an interpreter waits for an executor of it whose worker is stuck in a task.",
            page: include_str!("../../../docs/detectors/destroy-blocked-by-executor.md"),
        },
        Cause {
            id: "destroy-blocked-by-atexit",
            summary: "Ending an interpreter waits in an exit callback of it.",
            page: include_str!("../../../docs/detectors/destroy-blocked-by-atexit.md"),
        },
        Cause {
            id: "destroy-blocked-by-gil",
            summary: "Ending an interpreter waits for a GIL that another thread keeps.",
            page: include_str!("../../../docs/detectors/destroy-blocked-by-gil.md"),
        },
        Cause {
            id: "destroy-blocked-by-unknown",
            summary: "Ending an interpreter stands still in a place that hangscope cannot name.",
            page: include_str!("../../../docs/detectors/destroy-blocked-by-unknown.md"),
        },
    ],
};

/// The detector.
pub(super) struct DestroyBlocked;

impl Detector for DestroyBlocked {
    fn meta(&self) -> &'static Meta {
        &META
    }

    fn detect(&self, case: &Case<'_>) -> Outcome {
        let mut findings: Vec<Finding> = Vec::new();
        for process in case.judgeable() {
            for (interpreter, waiter, state) in destroyers(process) {
                let scene = Scene {
                    case,
                    process,
                    interpreter,
                    waiter,
                    state,
                };
                let Some(finding) = scene.judge() else {
                    continue;
                };
                // Two threads that end the same interpreter wait for the same thing.
                let known = findings
                    .iter_mut()
                    .find(|other| other.id == finding.id && other.blockers == finding.blockers);
                match known {
                    Some(other) => other.affected.push(finding.waiter),
                    None => findings.push(finding),
                }
            }
        }
        outcome(case, findings)
    }
}

/// A thread that ends an interpreter.
struct Scene<'c, 'a> {
    case: &'c Case<'a>,
    process: &'c Process,
    interpreter: &'c Interpreter,
    waiter: &'c Thread,
    state: &'c ThreadState,
}

/// What a cause adds to the common parts of a finding.
struct Verdict<'c> {
    id: &'static str,
    certainty: Certainty,
    /// Completes "MainThread in … waits ".
    reason: String,
    blockers: Vec<&'c Thread>,
    evidence: Vec<Evidence>,
    refuted_if: String,
    remedy: String,
}

impl<'c> Scene<'c, '_> {
    fn judge(&self) -> Option<Finding> {
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
    fn in_shutdown(&self) -> bool {
        self.state
            .frames
            .iter()
            .any(|frame| frame.is("_shutdown", "threading.py"))
    }

    fn shutdown(&self) -> Option<Verdict<'c>> {
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
    fn shutdown_callback(&self) -> Option<&'c Frame> {
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
    fn awaited_thread(&self) -> Option<&'c Thread> {
        let wait = self.waiter.wait.as_ref()?;
        if wait.kind != WaitKind::ThreadExit {
            return None;
        }
        self.process.thread(wait.target.as_ref()?)
    }

    fn thread(&self, culprit: &'c Thread, executor: bool) -> Option<Verdict<'c>> {
        let standing = self.case.standing(culprit);
        let busy = standing == Standing::Active;
        if busy && !self.runs_in_circles(culprit) {
            return None;
        }
        if matches!(standing, Standing::Starved) {
            return None;
        }
        if standing == Standing::Gil {
            return self.gil(culprit);
        }
        let certainty = self.certainty(&[self.waiter, culprit], culprit, standing)?;
        let n = self.interpreter.id;
        let name = wording::who(culprit);
        let doing = self.doing(culprit);
        let (id, noun) = match (executor, busy) {
            (true, _) => ("destroy-blocked-by-executor", "executor worker"),
            (false, true) => ("destroy-blocked-by-busy-thread", "non-daemon thread"),
            (false, false) => ("destroy-blocked-by-idle-thread", "non-daemon thread"),
        };
        let mut evidence = vec![
            self.fact(
                Grade::Read,
                format!(
                    "{} joins {name} in the interpreter's own thread shutdown",
                    wording::who(self.waiter)
                ),
                &[(&self.waiter.key, "wait")],
            ),
            self.fact(
                Grade::Read,
                format!(
                    "{name} has a thread state in interpreter {n}{}",
                    made_by(culprit, n)
                ),
                &[(&culprit.key, "python")],
            ),
            self.fact(
                self.grade_of_wait(culprit),
                format!("{name} {doing}"),
                &[(&culprit.key, "wait")],
            ),
        ];
        evidence.extend(self.stillness(culprit));
        evidence.extend(self.others(&[self.waiter, culprit], standing));
        evidence.extend(self.blocked_signals());
        let mut blockers = vec![culprit];
        let owner = self.owner_of_awaited_lock(culprit);
        if let Some(owner) = owner {
            evidence.push(self.fact(
                Grade::Derived,
                format!(
                    "the owner field of that RLock names {}, which {}",
                    wording::who(owner),
                    self.doing(owner)
                ),
                &[(&culprit.key, "wait"), (&owner.key, "wait")],
            ));
            blockers.push(owner);
        }
        let remedy = if let Some(owner) = owner {
            format!(
                "free {} first: it waits for an RLock that {} owns; then have both end before interpreter {n} is ended",
                wording::name(culprit),
                wording::name(owner)
            )
        } else if executor {
            format!(
                "end the task that runs in {}, or call shutdown(cancel_futures=True) and make the task stop, before \
                 interpreter {n} is ended",
                wording::name(culprit)
            )
        } else if self.interpreter.own_gil && n != 0 {
            format!(
                "tell {} to stop and join it before interpreter {n} is ended (an isolated interpreter refuses daemon \
                 threads, so that is the only way)",
                wording::name(culprit)
            )
        } else {
            format!(
                "tell {} to stop and join it before interpreter {n} is ended, or start it with daemon=True; whether a \
                 thread is a daemon is inherited from the thread that starts it, so say it at the call",
                wording::name(culprit)
            )
        };
        Some(Verdict {
            id,
            certainty,
            reason: format!("for its {noun} {}, which {doing}", wording::name(culprit)),
            blockers,
            evidence,
            refuted_if: self.refutation(culprit, standing),
            remedy,
        })
    }

    /// How sure it is that a thread that stands so keeps the interpreter from ending; `None`: it had better not be said.
    /// `known` are the threads that are part of the picture; any other may be about to help.
    fn certainty(
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
                    Closure::Unclear | Closure::OpenSignal(_) => Certainty::Probable,
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

    /// Who else may help, if anybody.
    fn others(&self, known: &[&Thread], standing: Standing) -> Option<Evidence> {
        if standing != Standing::Internal {
            return None;
        }
        let known: BTreeSet<&Key> = known.iter().map(|thread| &thread.key).collect();
        let text = match self.case.closure(self.process, &known) {
            Closure::Closed => "no other thread of the process could help: all wait, without a deadline, for things of the \
                                same process"
                .to_owned(),
            Closure::OpenThread(key) => {
                let thread = self.process.thread(&key)?;
                format!("{} goes on or waits for events, and may help", wording::who(thread))
            }
            Closure::OpenSignal(signal) => {
                format!("the process catches {}, and that handler may help", wording::signal(signal))
            }
            Closure::Unclear => "some threads of the process could not be judged".to_owned(),
        };
        Some(self.fact(Grade::Derived, text, &[(&self.process.key, "threads")]))
    }

    /// The thread that the owner field of the RLock names that `thread` waits for.
    fn owner_of_awaited_lock(&self, thread: &Thread) -> Option<&'c Thread> {
        let owner = thread.wait.as_ref()?.owner.as_ref()?;
        self.process.thread(owner.thread.as_ref()?)
    }

    fn refutation(&self, culprit: &Thread, standing: Standing) -> String {
        let name = wording::name(culprit);
        match standing {
            Standing::Internal => {
                format!("another thread, or native code, wakes {name} and it returns")
            }
            Standing::External => {
                format!("what {name} waits for arrives from outside, and it returns")
            }
            Standing::FarOff(_) | Standing::Timed => {
                format!("the time that {name} waits for is meant to be waited out")
            }
            _ => format!("{name} comes to its end by itself: it may be slow rather than stuck"),
        }
    }

    fn doing(&self, culprit: &Thread) -> String {
        let place =
            wording::place(culprit).map_or_else(String::new, |place| format!(" at {place}"));
        match (&culprit.wait, self.case.standing(culprit)) {
            (_, Standing::Active) => {
                let cpu = self
                    .case
                    .cpu_percent(&culprit.key)
                    .map_or_else(String::new, |percent| format!(" ({percent} % CPU)"));
                format!("goes round in a loop{place}{cpu}")
            }
            (Some(wait), _) => format!("{}{place}", wording::waits(wait)),
            (None, _) => format!("stands still{place}"),
        }
    }

    fn runs_in_circles(&self, thread: &Thread) -> bool {
        match self.case.motion(&thread.key) {
            Motion::Looping | Motion::Busy | Motion::Unknown => true,
            // It may work off one short job after the other, which is no news unless the run is overdue.
            Motion::Stirring => self.case.overdue,
            Motion::Still | Motion::Moving | Motion::Starved => false,
        }
    }

    /// The GIL that `waiting` needs is kept by a thread that does not move.
    fn gil(&self, waiting: &'c Thread) -> Option<Verdict<'c>> {
        let stuck = super::gil_held_in_native_call::stuck_gil(self.case, self.process, waiting)?;
        let holder = stuck.holder;
        let mut evidence = vec![self.fact(
            Grade::Read,
            format!("{} waits for the GIL", wording::who(waiting)),
            &[(&waiting.key, "wait")],
        )];
        evidence.extend(stuck.evidence);
        Some(Verdict {
            id: "destroy-blocked-by-gil",
            certainty: stuck.certainty,
            reason: format!(
                "for the GIL, which {} keeps {}",
                wording::name(holder),
                stuck.doing
            ),
            blockers: vec![holder],
            evidence,
            refuted_if: format!(
                "the native call of {} returns: it may be slow rather than stuck",
                wording::name(holder)
            ),
            remedy: format!(
                "make the native call of {} release the GIL or shorten it, or give the interpreter a GIL of its own \
                 (an isolated configuration)",
                wording::name(holder)
            ),
        })
    }

    fn callback_or_teardown(&self) -> Option<Verdict<'c>> {
        match self.state.frames.last() {
            // Past the callbacks, Python code is a finalizer.
            Some(frame) if self.interpreter.torn_down_by.is_some() => self.unknown(&format!(
                "in {}, run while the interpreter is torn down",
                wording::at(frame)
            )),
            Some(callback) if self.interpreter.finalizing => self.callback(callback),
            _ => self.unknown("in native code"),
        }
    }

    fn callback(&self, callback: &'c Frame) -> Option<Verdict<'c>> {
        let standing = self.case.standing(self.waiter);
        if standing == Standing::Active {
            return None;
        }
        let certainty = self.certainty(&[self.waiter], self.waiter, standing)?;
        let wait = self.waiter.wait.as_ref();
        let waits = wait.map_or_else(|| "stands still".to_owned(), wording::waits);
        let inner = self.state.frames.first().unwrap_or(callback);
        let mut evidence = vec![
            self.fact(
                Grade::Derived,
                format!(
                    "interpreter {} ends, its thread shutdown is over or runs callbacks, its teardown has not begun: what \
                     runs is the exit callback {}",
                    self.interpreter.id,
                    wording::at(callback)
                ),
                &[(&self.interpreter.key, "finalizing"), (&self.waiter.key, "python")],
            ),
            self.fact(
                self.grade_of_wait(self.waiter),
                format!("it {waits} at {}", wording::at(inner)),
                &[(&self.waiter.key, "wait")],
            ),
        ];
        let mut blockers = Vec::new();
        let mut held = String::new();
        if let Some(owner) = wait.and_then(|wait| wait.owner.as_ref()) {
            match owner
                .thread
                .as_ref()
                .and_then(|key| self.process.thread(key))
            {
                Some(thread) => {
                    held = format!(", whose owner is {}", wording::name(thread));
                    let place = wording::place(thread).unwrap_or_default();
                    evidence.push(self.fact(
                        owner.grade,
                        format!(
                            "the lock's owner field names {}, now at {place}",
                            wording::who(thread)
                        ),
                        &[(&self.waiter.key, "wait"), (&thread.key, "python")],
                    ));
                    blockers.push(thread);
                }
                None => evidence.push(self.fact(
                    owner.grade,
                    format!(
                        "the lock's owner field names {}, which is no live Python thread",
                        owner.ident
                    ),
                    &[(&self.waiter.key, "wait")],
                )),
            }
        }
        if let Some(thread) = self.awaited_thread() {
            held = format!(": {}", wording::name(thread));
            evidence.push(self.fact(
                Grade::Read,
                format!(
                    "that thread is {}, which {}",
                    wording::who(thread),
                    self.doing(thread)
                ),
                &[(&self.waiter.key, "wait"), (&thread.key, "wait")],
            ));
            blockers.push(thread);
        }
        evidence.extend(self.stillness(self.waiter));
        evidence.extend(self.others(&[self.waiter], standing));
        evidence.extend(self.blocked_signals());
        Some(Verdict {
            id: "destroy-blocked-by-atexit",
            certainty,
            reason: format!(
                "in its exit callback {}, which {waits}{held}",
                wording::at(callback)
            ),
            blockers,
            evidence,
            refuted_if: "something still wakes the callback and it returns".to_owned(),
            remedy: format!(
                "make the callback {} bounded (a timeout), or undo what it waits for before the interpreter is ended",
                callback.function.untrusted()
            ),
        })
    }

    fn unknown(&self, place: &str) -> Option<Verdict<'c>> {
        let blocked = matches!(
            self.case.standing(self.waiter),
            Standing::Internal | Standing::External | Standing::FarOff(_)
        );
        if !blocked || !self.case.has_motion() {
            return None;
        }
        let wait = self.waiter.wait.as_ref()?;
        let mut evidence = vec![self.fact(
            Grade::Read,
            format!("{} {}", wording::who(self.waiter), wording::waits(wait)),
            &[(&self.waiter.key, "wait")],
        )];
        evidence.extend(self.stillness(self.waiter));
        Some(Verdict {
            id: "destroy-blocked-by-unknown",
            certainty: Certainty::Probable,
            reason: format!(
                "{place}: none of the threads and callbacks that hangscope sees explains it"
            ),
            blockers: Vec::new(),
            evidence,
            refuted_if: "what it waits for happens".to_owned(),
            remedy: format!(
                "look at the native stack: gdb -p {} -batch -ex 'thread apply all bt'",
                self.process.pid
            ),
        })
    }

    fn finding(&self, verdict: Verdict<'_>) -> Finding {
        let n = self.interpreter.id;
        let keys: Vec<&Key> = verdict.blockers.iter().map(|thread| &thread.key).collect();
        let mut involved = vec![self.waiter];
        involved.extend(&verdict.blockers);
        let mut targets = keys.clone();
        targets.push(&self.waiter.key);
        Finding {
            id: verdict.id.to_owned(),
            title: format!(
                "{} in {} waits {}.",
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
                let mut evidence = vec![self.fact(
                    Grade::Read,
                    format!(
                        "interpreter {n} is being ended by {}: it has a thread state of kind \"fini\" there",
                        wording::who(self.waiter)
                    ),
                    &[(&self.interpreter.key, "finalizing"), (&self.waiter.key, "python")],
                )];
                if self.state.whence.is_none() {
                    evidence[0].text = format!(
                        "interpreter {n} is being ended and {} runs its thread shutdown",
                        wording::who(self.waiter)
                    )
                    .into();
                    evidence[0].grade = Grade::Derived;
                }
                evidence.extend(verdict.evidence);
                evidence
            },
            refuted_if: verdict.refuted_if.into(),
            remedy: verdict.remedy.into(),
            signature: signature::signature(verdict.id, &involved),
        }
    }

    /// What the waiter does, in the program's own terms.
    fn operation(&self) -> String {
        let n = self.interpreter.id;
        let outer: Vec<&Frame> = self
            .waiter
            .python
            .iter()
            .filter(|state| state.interpreter_id != n)
            .flat_map(|state| &state.frames)
            .collect();
        let Some(caller) = outer.first() else {
            return format!("the exit of the process, which ends interpreter {n} and");
        };
        let call = if caller.in_file("concurrent/interpreters/__init__.py")
            || caller.in_file("interpreters/__init__.py")
        {
            format!("Interpreter.close() of interpreter {n}")
        } else {
            format!("destroy({n})")
        };
        let spot = outer
            .iter()
            .find(|frame| !frame.is_library())
            .unwrap_or(caller);
        format!("{call} at {}", wording::at(spot))
    }

    fn grade_of_wait(&self, thread: &Thread) -> Grade {
        thread
            .wait
            .as_ref()
            .map_or(Grade::Derived, |wait| wait.grade)
    }

    /// "unmoved in 3 samples over 1.0 s", if so.
    fn stillness(&self, thread: &Thread) -> Option<Evidence> {
        if !self.case.has_motion() || self.case.motion(&thread.key) != Motion::Still {
            return None;
        }
        let views = self.case.views(&thread.key).count();
        Some(self.fact(
            Grade::Derived,
            format!(
                "{} has not moved in {views} samples over {}",
                wording::who(thread),
                wording::duration(self.case.span_ms())
            ),
            &[(&thread.key, "python")],
        ))
    }

    /// Signals that have arrived and cannot be served, since the main thread is the one that waits.
    fn blocked_signals(&self) -> Option<Evidence> {
        let pending = &self.process.python.as_ref()?.signals.as_ref()?.pending;
        let is_main = self.waiter.tid == self.process.namespace_pid.unwrap_or(self.process.pid)
            || self.waiter.tid == self.process.pid;
        if pending.is_empty() || !is_main {
            return None;
        }
        let names: Vec<String> = pending
            .iter()
            .map(|signal| wording::signal(*signal))
            .collect();
        Some(self.fact(
            Grade::Read,
            format!(
                "{} arrived and cannot be served: the main thread runs as interpreter {} and does not return to Python",
                names.join(", "),
                self.interpreter.id
            ),
            &[(&self.process.key, "python.signals")],
        ))
    }

    fn fact(&self, grade: Grade, text: String, at: &[(&Key, &str)]) -> Evidence {
        Evidence {
            text: text.into(),
            grade,
            at: at
                .iter()
                .map(|(key, field)| Reference {
                    sample: self.case.samples.len() - 1,
                    key: (*key).clone(),
                    field: (*field).to_owned(),
                })
                .collect(),
        }
    }
}

/// ", made by threading, not a daemon": what is known of a thread's state in an interpreter.
fn made_by(thread: &Thread, interpreter: i64) -> String {
    let Some(state) = thread.state_of(interpreter) else {
        return String::new();
    };
    let mut text = String::new();
    if state.whence.as_deref() == Some("threading") {
        text.push_str(", made by threading");
    }
    match state.daemon {
        Some(false) => text.push_str(", daemon=False"),
        Some(true) => text.push_str(", daemon=True"),
        None => {}
    }
    text
}
