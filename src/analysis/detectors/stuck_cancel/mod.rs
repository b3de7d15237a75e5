//! A cancelled task of an event loop that does not end: its cancel is kept from it by a shield, or it waits for a thread
//! that cannot be cancelled. Ids by cause, see `docs/detectors/cancel-*.md`.

mod shield;
mod thread;

use super::{Cause, Detector, Meta, Outcome, outcome};
use crate::analysis::case::Case;
use crate::analysis::loops::{SleepingLoops, waiting_tasks};
use crate::model::{EventLoop, Finding, Process, Task, TaskLibrary, Thread};

static META: Meta = Meta {
    name: "stuck_cancel",
    causes: &[
        Cause {
            id: "cancel-waits-for-thread",
            summary: "A cancelled task waits for a thread that does not end, and cannot be made to leave it.",
            page: include_str!("../../../../docs/detectors/cancel-waits-for-thread.md"),
        },
        Cause {
            id: "cancel-stopped-by-shield",
            summary: "A cancelled task waits under a shield without a deadline, for something that nobody will do.",
            page: include_str!("../../../../docs/detectors/cancel-stopped-by-shield.md"),
        },
    ],
};

/// The detector.
pub(super) struct StuckCancel;

impl Detector for StuckCancel {
    fn meta(&self) -> &'static Meta {
        &META
    }

    fn detect(&self, case: &Case<'_>) -> Outcome {
        let mut findings: Vec<Finding> = Vec::new();
        for process in case.judgeable() {
            let sleeping = SleepingLoops::of(case, process);
            for event_loop in &process.event_loops {
                let thread = event_loop.thread.as_ref();
                let Some(thread) = thread.and_then(|key| process.thread(key)) else {
                    continue;
                };
                if event_loop.library != TaskLibrary::Trio || event_loop.moving {
                    continue;
                }
                for task in waiting_tasks(event_loop) {
                    let scene = Scene {
                        case,
                        process,
                        sleeping: &sleeping,
                        event_loop,
                        thread,
                        task,
                    };
                    let Some(finding) = scene.on_thread().or_else(|| scene.in_shield()) else {
                        continue;
                    };
                    // Children that are torn down in the same way are one hang.
                    if !findings
                        .iter()
                        .any(|known| known.signature == finding.signature)
                    {
                        findings.push(finding);
                    }
                }
            }
        }
        outcome(case, findings)
    }
}

/// A task that waits.
struct Scene<'c, 's> {
    case: &'s Case<'c>,
    process: &'c Process,
    sleeping: &'s SleepingLoops<'c>,
    event_loop: &'c EventLoop,
    /// The thread that runs the loop.
    thread: &'c Thread,
    task: &'c Task,
}
