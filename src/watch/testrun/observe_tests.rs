//! Runs that are only seen from outside.

use super::news::{News, What, Who};
use super::record::{Body, Record, Session};
use super::{Observation, Tracker};
use crate::model::{Counted, Counts, LeftKind, Role, TestOutcome, TestPhase, TestSource};

const WHO: Who = Who {
    start_ticks: 9,
    pid: 50,
};

fn seen(at: u64, test: Option<(&str, TestPhase)>, threads: &[(i32, u64)]) -> Observation {
    let mut all = vec![(WHO.pid, 9)];
    all.extend(threads);
    Observation {
        who: WHO,
        at,
        worker: None,
        test: test.map(|(name, phase)| (name.into(), phase)),
        counts: Counts {
            os_threads: u32::try_from(all.len()).ok(),
            ..Counts::default()
        },
        threads: all,
        children: Vec::new(),
    }
}

#[test]
fn a_test_is_what_the_environment_names() {
    let mut tracker = Tracker::new(0);
    tracker.observe(&seen(10, None, &[(51, 10)]));
    tracker.observe(&seen(20, Some(("a", TestPhase::Setup)), &[(51, 10)]));
    tracker.observe(&seen(
        30,
        Some(("a", TestPhase::Call)),
        &[(51, 10), (52, 25)],
    ));
    let running = tracker.running();
    assert_eq!(running[0].test, Some("a".into()));
    assert_eq!((running[0].since_ns, running[0].test_since_ns), (30, 20));
    assert_eq!(
        (running[0].source, running[0].signal),
        (TestSource::Environ, None)
    );
    tracker.observe(&seen(
        40,
        Some(("a", TestPhase::Call)),
        &[(51, 10), (52, 25)],
    ));
    assert_eq!(tracker.last_event_ns(), 30, "nothing happened since");
    tracker.observe(&seen(
        50,
        Some(("b", TestPhase::Setup)),
        &[(51, 10), (52, 25), (53, 45)],
    ));
    tracker.observe(&seen(
        60,
        Some(("b", TestPhase::Call)),
        &[(51, 10), (52, 55)],
    ));
    let run = tracker.run(60);
    assert_eq!((run.source, run.finished), (TestSource::Environ, 1));
    let births = &run.processes[0].births;
    let birth = |id| {
        let birth = births.iter().find(|birth| birth.id == id)?;
        assert_eq!(
            (birth.how, birth.kind),
            (Counted::Sampled, LeftKind::OsThread)
        );
        Some((
            birth.test.clone().map(|test| test.untrusted().to_owned()),
            birth.tests_ago,
        ))
    };
    assert_eq!(birth(50), None, "its main thread is not born");
    assert_eq!(birth(51), Some((None, 2)));
    assert_eq!(
        birth(52),
        Some((Some("b".to_owned()), 0)),
        "the id was used again"
    );
    assert_eq!(
        birth(53),
        Some((Some("a".to_owned()), 1)),
        "new when `a` was seen to have ended"
    );
    let inventory = run.inventory.expect("counted");
    assert_eq!((inventory.how, inventory.tests), (Counted::Sampled, 1));
    let row = &inventory.changed[0];
    assert_eq!(
        (
            row.before.os_threads,
            row.after.and_then(|after| after.os_threads)
        ),
        (Some(2), Some(4))
    );
    // How `a` ended nobody saw.
    let record = tracker.record(60, String::new());
    assert_eq!(record.tests.len(), 1);
    assert_eq!(record.tests[0].outcome, TestOutcome::Running);
    tracker.mark_hung(WHO);
    tracker.ended(WHO, 70);
    assert_eq!(
        tracker.record(70, String::new()).tests[0].outcome,
        TestOutcome::Hung
    );
}

#[test]
fn a_phase_that_goes_back_is_another_run_of_the_test() {
    let mut tracker = Tracker::new(0);
    tracker.observe(&seen(10, Some(("a", TestPhase::Call)), &[]));
    tracker.observe(&seen(20, Some(("a", TestPhase::Setup)), &[]));
    assert_eq!(
        (tracker.run(20).finished, tracker.running()[0].test_since_ns),
        (1, 20)
    );
    tracker.observe(&seen(30, None, &[]));
    let run = tracker.run(30);
    assert_eq!(
        (run.finished, run.processes[0].phase),
        (2, TestPhase::Between)
    );
}

#[test]
fn a_ring_knows_better() {
    let mut tracker = Tracker::new(0);
    tracker.observe(&seen(10, Some(("a", TestPhase::Call)), &[]));
    let record = Record {
        seq: 0,
        at: 20,
        serial: 0,
        counts: Counts::default(),
        body: Body::Session(Session {
            worker: Some("gw0".to_owned()),
            ..Session::default()
        }),
    };
    tracker.hear(&News {
        who: WHO,
        at: 20,
        what: What::Record(Box::new(record)),
    });
    tracker.observe(&seen(30, Some(("b", TestPhase::Call)), &[(51, 10)]));
    let run = tracker.run(30);
    assert_eq!((run.source, run.processes.len()), (TestSource::Plugin, 1));
    assert_eq!(
        (run.processes[0].role, run.processes[0].phase),
        (Role::Worker, TestPhase::Start)
    );
    assert!(run.processes[0].births.is_empty());
}
