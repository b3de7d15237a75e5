//! Cheap looks at the run's processes, on a thread of their own: a slow `/proc` must not delay a signal.

use super::cargo;
use crate::inspect::{Survey, Surveyor};
use crate::model::Pid;
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Between two looks, for the idle limit and the status line.
const EVERY: Duration = Duration::from_secs(1);
/// The same while no process tells of its tests: their names and the inventory come from the looks then.
const CLOSELY: Duration = Duration::from_millis(500);
/// The same where cargo is, or a test of Rust: what is not seen to begin and to end is not known of at all.
const TESTS: Duration = Duration::from_millis(100);

/// A pause is at least so many times as long as the look before it.
const PAUSE_OF_LOOK: u32 = 10;

/// What the looks are at.
#[derive(Clone, Debug, Default)]
pub(super) struct Scope {
    pub(super) root: Pid,
    pub(super) guardian: Pid,
    /// Processes that tell of their tests themselves.
    pub(super) telling: BTreeSet<Pid>,
    /// The folder in which cargo's runner notes test binaries.
    pub(super) marks: Option<PathBuf>,
}

/// Looks under way.
#[derive(Debug)]
pub(super) struct Surveying {
    said: Receiver<Survey>,
    scope: Arc<Mutex<Scope>>,
    /// Dropped to end the thread.
    _stop: Sender<()>,
}

impl Surveying {
    /// Begins to look. `own_test`: nextest has started hangscope for the test that is to be found. `None` when there can be no thread; then the run is watched less closely.
    pub(super) fn start(scope: Scope, own_test: bool) -> Option<Self> {
        let (say, said) = channel();
        let (stop, stopped) = channel::<()>();
        let scope = Arc::new(Mutex::new(scope));
        let theirs = Arc::clone(&scope);
        let body = move || {
            // Should it fail, the run goes on without.
            let _ = catch_unwind(AssertUnwindSafe(|| look(&theirs, &say, &stopped, own_test)));
        };
        std::thread::Builder::new()
            .name("survey".to_owned())
            .spawn(body)
            .ok()?;
        Some(Self {
            said,
            scope,
            _stop: stop,
        })
    }

    /// Says what the next looks are at.
    pub(super) fn set_scope(&self, scope: Scope) {
        if let Ok(mut now) = self.scope.lock() {
            *now = scope;
        }
    }

    /// What was seen since the last call.
    pub(super) fn read(&self) -> Vec<Survey> {
        self.said.try_iter().collect()
    }
}

fn look(scope: &Mutex<Scope>, say: &Sender<Survey>, stopped: &Receiver<()>, own_test: bool) {
    let mut surveyor = Surveyor::with_own_test(own_test);
    let mut pause = TESTS;
    while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(pause) {
        let Ok(now) = scope.lock().map(|scope| scope.clone()) else {
            return;
        };
        let marked = now.marks.as_deref().map(cargo::marks).unwrap_or_default();
        let began = Instant::now();
        let survey = surveyor.look(now.root, &[now.root, now.guardian], &now.telling, &marked);
        pause = if survey.rust.cargo || !survey.rust.tests.is_empty() {
            TESTS
        } else if now.telling.is_empty() {
            CLOSELY
        } else {
            EVERY
        };
        // Thousands of threads are looked at less often.
        pause = pause.max(began.elapsed().saturating_mul(PAUSE_OF_LOOK));
        if say.send(survey).is_err() {
            return;
        }
    }
}
