//! An interpreter cannot be ended: `_interpreters.destroy`, `Interpreter.close()` or the exit of the process waits inside
//! `Py_EndInterpreter` for something that does not come. Ids by cause, see `docs/detectors/destroy-blocked-by-*.md`.
//!
//! In order, ending an interpreter takes its GIL, runs its `threading._shutdown` (first the callbacks that executors
//! registered, then a join of each non-daemon thread), runs its atexit callbacks, and tears it down. It does not wait
//! for its list of thread states, so a pool thread that ran code there once and idles elsewhere is never the cause.

mod callback;
mod evidence;
mod gil;
mod scene;
mod thread;

use super::{Cause, Detector, Meta, Outcome, outcome};
use crate::analysis::case::{Case, destroyers};
use crate::model::Finding;
use scene::Scene;

static META: Meta = Meta {
    name: "destroy_blocked",
    causes: &[
        Cause {
            id: "destroy-blocked-by-idle-thread",
            summary: "Ending an interpreter waits for a non-daemon thread of it that idles.",
            page: include_str!("../../../../docs/detectors/destroy-blocked-by-idle-thread.md"),
        },
        Cause {
            id: "destroy-blocked-by-busy-thread",
            summary: "Ending an interpreter waits for a non-daemon thread of it that goes round in a loop.",
            page: include_str!("../../../../docs/detectors/destroy-blocked-by-busy-thread.md"),
        },
        Cause {
            id: "destroy-blocked-by-executor",
            summary: "Ending an interpreter waits for an executor of it whose worker is stuck in a task.",
            page: include_str!("../../../../docs/detectors/destroy-blocked-by-executor.md"),
        },
        Cause {
            id: "destroy-blocked-by-atexit",
            summary: "Ending an interpreter waits in an exit callback of it.",
            page: include_str!("../../../../docs/detectors/destroy-blocked-by-atexit.md"),
        },
        Cause {
            id: "destroy-blocked-by-gil",
            summary: "Ending an interpreter waits for a GIL that another thread keeps.",
            page: include_str!("../../../../docs/detectors/destroy-blocked-by-gil.md"),
        },
        Cause {
            id: "destroy-blocked-by-unknown",
            summary: "Ending an interpreter stands still in a place that hangscope cannot name.",
            page: include_str!("../../../../docs/detectors/destroy-blocked-by-unknown.md"),
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
