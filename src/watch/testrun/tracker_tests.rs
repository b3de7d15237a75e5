//! Runs told record by record.

use super::births::Place;
use super::news::{News, What, Who};
use super::record::{Births, Body, Collected, PhaseReport, Record, Said, Session, Setup};
use super::runner::Apart;
use super::{Mark, TestLimit, Tracker};
use crate::model::{
    Counted, Counts, LeftKind, Role, RunRecord, TestOutcome, TestPhase, TestProcess, TestSource,
};
use proptest::prelude::*;

const MS: u64 = 1_000_000;
const MAIN: Who = who(100);
const PASSED: TestOutcome = TestOutcome::Passed;

const fn who(pid: i32) -> Who {
    Who {
        start_ticks: pid.unsigned_abs() as u64,
        pid,
    }
}

/// A run that is told: each record comes a millisecond after the one before.
struct Told {
    tracker: Tracker,
    now: u64,
    serials: std::collections::BTreeMap<Who, u32>,
    counts: Counts,
}

impl Told {
    fn new() -> Self {
        Self {
            tracker: Tracker::new(0),
            now: 0,
            serials: std::collections::BTreeMap::new(),
            counts: counts(1),
        }
    }

    fn what(&mut self, who: Who, what: What) {
        self.now += MS;
        let at = self.now;
        self.tracker.hear(&News { who, at, what });
    }

    fn say(&mut self, who: Who, body: Body) {
        let serial = self.serials.get(&who).copied().unwrap_or(0);
        let record = Record {
            seq: 0,
            at: self.now + MS,
            serial,
            counts: self.counts,
            body,
        };
        self.what(who, What::Record(Box::new(record)));
    }

    fn session(&mut self, who: Who, session: Session) {
        let above = vec![session.ppid];
        self.what(who, What::Opened(above));
        self.say(who, Body::Session(session));
    }

    /// A session with its tests collected.
    fn started(who: Who) -> Self {
        let mut told = Self::new();
        told.session(who, Session::default());
        told.collect(who, &[]);
        told
    }

    fn collect(&mut self, who: Who, tests: &[&str]) {
        let count = tests.len();
        let list = None;
        self.say(who, Body::Collected(Collected { count, list }));
        let tests = tests.iter().map(|&test| test.into()).collect();
        self.what(who, What::Collected(tests));
    }

    fn begin(&mut self, who: Who, test: &str) {
        *self.serials.entry(who).or_default() += 1;
        let setup = Setup {
            test: test.into(),
            file: "a.py".into(),
            line: Some(3),
            limit: TestLimit::Unsaid,
            no_time: None,
        };
        self.say(who, Body::Setup(setup));
    }

    fn call(&mut self, who: Who, test: &str) {
        self.begin(who, test);
        self.say(who, Body::Call);
    }

    fn end(&mut self, who: Who, outcome: TestOutcome) {
        self.say(who, Body::Teardown);
        self.say(who, Body::End(outcome));
    }

    fn test(&mut self, who: Who, test: &str, outcome: TestOutcome) {
        self.call(who, test);
        self.end(who, outcome);
    }

    fn born(&mut self, who: Who, threads: &[i64], gone: &[i64]) {
        let births = Births {
            threads: threads.iter().map(|&tid| (tid, "T".into())).collect(),
            gone_threads: gone.to_vec(),
            ..Births::default()
        };
        self.say(who, Body::Births(births));
    }

    fn record(&self) -> RunRecord {
        self.tracker.record(self.now, "then".to_owned())
    }

    fn outcomes(&self) -> Vec<(String, TestOutcome)> {
        let record = self.record();
        let tests = record.tests.into_iter();
        tests
            .map(|test| (test.test.untrusted().to_owned(), test.outcome))
            .collect()
    }

    fn process(&self, who: Who) -> TestProcess {
        let run = self.tracker.run(self.now);
        run.process(&who.key()).expect("the process").clone()
    }
}

fn counts(threads: u32) -> Counts {
    Counts {
        threads: Some(threads),
        os_threads: Some(threads),
        interpreters: Some(1),
        children: None,
        fds: Some(10),
    }
}

fn named(outcomes: &[(&str, TestOutcome)]) -> Vec<(String, TestOutcome)> {
    let own = |(test, outcome): &(&str, TestOutcome)| ((*test).to_owned(), *outcome);
    outcomes.iter().map(own).collect()
}

fn failed(phase: TestPhase, message: &str) -> Body {
    Body::Report(PhaseReport {
        phase,
        said: Said::Failed,
        message: message.into(),
    })
}

fn fork_of(parent: Who) -> Session {
    Session {
        forked: true,
        ppid: parent.pid,
        ..Session::default()
    }
}

fn worker(name: &str, controller: Who) -> Session {
    Session {
        worker: Some(name.to_owned()),
        run: Some("uid".to_owned()),
        ppid: controller.pid,
        ..Session::default()
    }
}

#[test]
fn phases_follow_the_records() {
    let mut told = Told::new();
    assert_eq!(told.tracker.run(0).source, TestSource::None);
    let session = Session {
        root: Some("/r".to_owned()),
        xmlpath: Some("/r/junit.xml".to_owned()),
        signal: Some(45),
        timeout: Some(2.0),
        timeout_active: true,
        ..Session::default()
    };
    told.session(MAIN, session);
    let at = |told: &Told| {
        let process = told.process(MAIN);
        let place = process.place().untrusted().to_owned();
        (process.phase, place)
    };
    assert_eq!(
        at(&told),
        (TestPhase::Start, "start of the session".to_owned())
    );
    told.say(MAIN, Body::Collect("a.py".into()));
    assert_eq!(
        at(&told),
        (TestPhase::Collection, "collection of a.py".to_owned())
    );
    told.say(MAIN, Body::Collect("".into()));
    assert_eq!(at(&told), (TestPhase::Collection, "collection".to_owned()));
    told.collect(MAIN, &["a.py::t", "a.py::u"]);
    assert_eq!(at(&told).0, TestPhase::Between);
    told.begin(MAIN, "a.py::t");
    assert_eq!(at(&told), (TestPhase::Setup, "a.py::t (setup)".to_owned()));
    told.say(MAIN, Body::Call);
    assert_eq!(at(&told), (TestPhase::Call, "a.py::t (call)".to_owned()));
    let running = told.tracker.running();
    assert_eq!(running.len(), 1);
    assert_eq!(running[0].serial, 1);
    assert_eq!(running[0].limit, TestLimit::After(Mark::Global, 2000));
    assert_eq!(
        (running[0].signal, running[0].timeout_active),
        (Some(45), true)
    );
    assert_eq!(running[0].test_since_ns + MS, running[0].since_ns);
    told.end(MAIN, PASSED);
    assert_eq!(at(&told), (TestPhase::Between, "after a.py::t".to_owned()));
    assert_eq!(told.tracker.running()[0].limit, TestLimit::Unsaid);
    told.say(MAIN, Body::Finish);
    assert_eq!(at(&told).0, TestPhase::SessionFinish);
    told.say(MAIN, Body::Unconfigure);
    assert_eq!(at(&told).0, TestPhase::InterpreterExit);
    let record = told.record();
    assert_eq!((record.run.finished, record.run.collected), (1, Some(2)));
    assert_eq!(record.not_run, ["a.py::u".into()]);
    assert_eq!(record.junit, Some("/r/junit.xml".into()));
    assert_eq!(record.tests[0].took_ms, 3);
    assert_eq!(
        (record.tests[0].line, record.tests[0].worker.clone()),
        (Some(3), None)
    );
    assert_eq!(record.run.slowest.map(|slow| slow.took_ms), Some(3));
    assert_eq!(told.tracker.last_event_ns(), told.now);
    told.tracker.ended(MAIN, told.now);
    assert!(told.tracker.running().is_empty() && !told.process(MAIN).alive);
}

#[test]
fn reports_tell_why() {
    let mut told = Told::started(MAIN);
    told.call(MAIN, "failing");
    told.say(MAIN, failed(TestPhase::Call, "first"));
    told.say(MAIN, failed(TestPhase::Teardown, "second"));
    told.end(MAIN, TestOutcome::Failed);
    told.begin(MAIN, "skipped");
    let skipped = PhaseReport {
        phase: TestPhase::Setup,
        said: Said::Skipped,
        message: "no network".into(),
    };
    told.say(MAIN, Body::Report(skipped));
    told.say(MAIN, failed(TestPhase::Teardown, "heavier"));
    told.end(MAIN, TestOutcome::Error);
    let tests = told.record().tests;
    assert_eq!(tests[0].message, Some("first".into()));
    assert_eq!(tests[1].message, Some("heavier".into()));
}

#[test]
fn a_process_that_dies_in_a_test_crashed_or_was_ended_as_hung() {
    let mut told = Told::started(MAIN);
    told.call(MAIN, "crash");
    assert_eq!(told.outcomes(), named(&[("crash", TestOutcome::Running)]));
    told.what(MAIN, What::Ended);
    assert_eq!(told.outcomes(), named(&[("crash", TestOutcome::Crashed)]));
    assert_eq!(told.record().tests[0].phase, TestPhase::Call);

    let mut told = Told::started(MAIN);
    told.call(MAIN, "hang");
    told.tracker.mark_hung(MAIN);
    assert_eq!(told.outcomes(), named(&[("hang", TestOutcome::Hung)]));
    told.what(MAIN, What::Ended);
    assert_eq!(told.outcomes(), named(&[("hang", TestOutcome::Hung)]));

    // One that was failed by a request has ended: it failed.
    let mut told = Told::started(MAIN);
    told.call(MAIN, "failed");
    told.tracker.mark_hung(MAIN);
    told.say(MAIN, Body::Interrupted(1));
    assert_eq!(told.tracker.running()[0].interrupted, 1);
    told.end(MAIN, TestOutcome::Failed);
    told.begin(MAIN, "next");
    assert_eq!(told.tracker.running()[0].interrupted, 0);
    assert_eq!(told.outcomes()[0].1, TestOutcome::Failed);
}

#[test]
fn an_interrupted_session_leaves_no_test_running() {
    let mut told = Told::started(MAIN);
    told.call(MAIN, "interrupted");
    told.say(MAIN, Body::Finish);
    let record = told.record();
    assert_eq!(record.tests[0].outcome, TestOutcome::Error);
    assert!(record.tests[0].message.is_some() && record.tests[0].after.is_none());
    assert_eq!(record.run.finished, 1);
}

#[test]
fn reruns_are_records_of_their_own() {
    let mut told = Told::started(MAIN);
    told.test(MAIN, "flaky", TestOutcome::Failed);
    told.test(MAIN, "flaky", PASSED);
    let expected = [("flaky", TestOutcome::Failed), ("flaky", PASSED)];
    assert_eq!(told.outcomes(), named(&expected));
    assert!(told.record().not_run.is_empty());
}

#[test]
fn a_debugger_stops_the_clocks() {
    let mut told = Told::started(MAIN);
    told.call(MAIN, "debugged");
    let since = told.tracker.running()[0].since_ns;
    told.say(MAIN, Body::PdbEnter);
    assert!(told.tracker.running()[0].standing);
    told.now += 60_000 * MS;
    assert_eq!(told.process(MAIN).phase_ms, 1);
    told.say(MAIN, Body::PdbLeave);
    let running = told.tracker.running().remove(0);
    assert!(!running.standing);
    assert_eq!(running.since_ns, since + 60_001 * MS);
    assert_eq!(running.test_since_ns, since + 60_000 * MS);
}

#[test]
fn workers_and_their_controller_are_one_run() {
    let mut told = Told::new();
    let controller = Session {
        controller: true,
        run: Some("uid".to_owned()),
        xmlpath: Some("/junit.xml".to_owned()),
        ..Session::default()
    };
    told.session(MAIN, controller);
    for (pid, name) in [(201, "gw0"), (202, "gw1")] {
        told.session(who(pid), worker(name, MAIN));
        told.collect(who(pid), &["a", "b", "c"]);
    }
    told.call(who(201), "a");
    told.test(who(202), "b", PASSED);
    told.what(who(201), What::Ended);
    told.session(who(203), worker("gw2", MAIN));
    told.collect(who(203), &["a", "b", "c"]);
    let record = told.record();
    assert_eq!((record.run.collected, record.run.finished), (Some(3), 2));
    assert_eq!(record.not_run, ["c".into()]);
    assert_eq!(
        told.outcomes(),
        named(&[("a", TestOutcome::Crashed), ("b", PASSED)])
    );
    assert_eq!(record.tests[0].worker, Some("gw0".into()));
    assert_eq!(record.junit, Some("/junit.xml".into()));
    let processes = &record.run.processes;
    let roles: Vec<(Role, bool)> = processes.iter().map(|one| (one.role, one.alive)).collect();
    let expected = [
        (Role::Controller, true),
        (Role::Worker, false),
        (Role::Worker, true),
        (Role::Worker, true),
    ];
    assert_eq!(roles, expected);
    assert!(told.tracker.running().iter().all(|one| one.apart.is_none()));
}

#[test]
fn a_process_forked_for_a_test_runs_it_for_its_parent() {
    let mut told = Told::started(MAIN);
    for pid in 300..310 {
        let child = who(pid);
        told.session(child, fork_of(MAIN));
        told.call(child, "forked");
        let parent = told.process(MAIN);
        assert_eq!(parent.place().untrusted(), "forked (call)");
        let running = told.tracker.running();
        assert_eq!((running.len(), running[0].runs_in), (2, Some(child)));
        assert_eq!(running[1].role, Role::Forked);
        told.counts = counts(2);
        if pid < 309 {
            told.end(child, PASSED);
        }
        told.counts = counts(1);
        told.what(child, What::Ended);
        assert_eq!(told.tracker.running()[0].runs_in, None);
    }
    let run = told.tracker.run(told.now);
    assert_eq!((run.finished, run.processes.len()), (10, 1));
    assert_eq!(run.processes[0].finished, 10);
    let inventory = run.inventory.expect("counted");
    assert_eq!(
        (inventory.tests, inventory.trends.len()),
        (0, 0),
        "it went with the processes"
    );
    assert_eq!(inventory.changed.len(), 1, "the one that crashed");
    assert_eq!(told.outcomes()[9].1, TestOutcome::Crashed);
}

#[test]
fn a_test_that_both_report_counts_once() {
    for (child_dies, hung, said, expected) in [
        (false, false, PASSED, PASSED),
        (false, false, TestOutcome::Failed, TestOutcome::Failed),
        (true, false, TestOutcome::Failed, TestOutcome::Crashed),
        (true, true, TestOutcome::Failed, TestOutcome::Hung),
        (true, false, PASSED, PASSED),
    ] {
        let mut told = Told::started(MAIN);
        let child = who(300);
        told.begin(MAIN, "t");
        told.session(child, fork_of(MAIN));
        told.call(child, "t");
        let running = told.tracker.running();
        assert_eq!(running[0].runs_in, Some(child));
        assert_eq!(running[1].test, Some("t".into()));
        assert_eq!(told.process(MAIN).phase, TestPhase::Call);
        if hung {
            told.tracker.mark_hung(child);
        }
        if !child_dies {
            told.end(child, PASSED);
        }
        told.what(child, What::Ended);
        assert_eq!(told.tracker.run(told.now).finished, 0, "its parent ends it");
        told.say(MAIN, Body::End(said));
        assert_eq!(told.outcomes(), named(&[("t", expected)]));
        assert_eq!(told.tracker.run(told.now).finished, 1);
    }
}

#[test]
fn an_escaped_fork_does_not_disturb_its_parent() {
    let mut told = Told::started(MAIN);
    told.collect(MAIN, &["t", "u"]);
    told.call(MAIN, "t");
    let child = who(300);
    told.session(child, fork_of(MAIN));
    // It says in which test it is, and runs on.
    told.begin(child, "t");
    assert_eq!(told.tracker.running()[1].phase, TestPhase::Call);
    told.end(child, TestOutcome::Failed);
    told.call(child, "u");
    let running = told.tracker.running();
    assert_eq!(running[0].test, Some("t".into()));
    assert_eq!((running[0].apart, running[0].runs_in), (None, None));
    assert_eq!(
        (running[1].apart, running[1].serial),
        (Some(Apart::Escaped), 2)
    );
    assert_eq!(told.outcomes(), named(&[("t", TestOutcome::Running)]));
    told.end(MAIN, PASSED);
    told.end(child, TestOutcome::Failed);
    told.say(child, Body::Finish);
    told.test(MAIN, "u", PASSED);
    told.what(child, What::Ended);
    assert_eq!(told.outcomes(), named(&[("t", PASSED), ("u", PASSED)]));
    assert_eq!(told.tracker.run(told.now).finished, 2);
}

#[test]
fn a_session_in_a_test_is_kept_apart() {
    let mut told = Told::started(MAIN);
    told.collect(MAIN, &["t"]);
    told.call(MAIN, "t");
    // Below a shell of the test.
    let (inner, forked) = (who(400), who(401));
    told.what(inner, What::Opened(vec![399, MAIN.pid, 1]));
    let session = Session {
        ppid: 399,
        xmlpath: Some("/inner.xml".to_owned()),
        ..Session::default()
    };
    told.say(inner, Body::Session(session));
    told.collect(inner, &["x", "y"]);
    told.test(inner, "x", TestOutcome::Failed);
    told.session(forked, fork_of(inner));
    told.call(forked, "y");
    let apart: Vec<Option<Apart>> = told.tracker.running().iter().map(|one| one.apart).collect();
    assert_eq!(apart, [None, Some(Apart::Nested), Some(Apart::Nested)]);
    told.what(forked, What::Ended);
    told.what(inner, What::Ended);
    told.end(MAIN, PASSED);
    let record = told.record();
    assert_eq!(told.outcomes(), named(&[("t", PASSED)]));
    assert_eq!((record.run.finished, record.run.collected), (1, Some(1)));
    assert_eq!((record.junit, record.not_run.len()), (None, 0));
    assert_eq!(record.run.processes.len(), 1);
}

#[test]
fn a_session_that_follows_another_is_not_nested() {
    let mut told = Told::started(MAIN);
    told.test(MAIN, "t", PASSED);
    told.say(MAIN, Body::Finish);
    told.session(
        who(500),
        Session {
            ppid: MAIN.pid,
            ..Session::default()
        },
    );
    told.test(who(500), "t", PASSED);
    assert_eq!(told.tracker.run(told.now).finished, 2);
}

/// In short phases the kernel is not asked for its numbers.
#[test]
fn what_only_the_kernel_counts_came_in_the_call_unless_it_was_asked_between() {
    let born = |told: &mut Told, child| {
        let births = Births {
            children: vec![child],
            ..Births::default()
        };
        told.say(MAIN, Body::Births(births));
    };
    let phase = |told: &Told, child| {
        let process = told.process(MAIN);
        process
            .birth(LeftKind::Child, child)
            .map(|birth| birth.phase)
    };
    let (all, pythons) = (
        counts(1),
        Counts {
            os_threads: None,
            ..counts(1)
        },
    );
    let mut told = Told::started(MAIN);
    told.begin(MAIN, "short");
    told.counts = pythons;
    told.say(MAIN, Body::Call);
    told.say(MAIN, Body::Teardown);
    told.counts = all;
    told.say(MAIN, Body::End(PASSED));
    born(&mut told, 1);
    told.begin(MAIN, "long setup");
    told.say(MAIN, Body::Call);
    born(&mut told, 2);
    told.counts = pythons;
    told.say(MAIN, Body::Teardown);
    told.counts = all;
    told.say(MAIN, Body::End(PASSED));
    told.begin(MAIN, "long teardown");
    told.say(MAIN, Body::Call);
    told.say(MAIN, Body::Teardown);
    told.say(MAIN, Body::End(PASSED));
    born(&mut told, 3);
    assert_eq!(phase(&told, 1), Some(TestPhase::Call));
    assert_eq!(phase(&told, 2), Some(TestPhase::Setup));
    assert_eq!(phase(&told, 3), Some(TestPhase::Teardown));
}

#[test]
fn births_belong_to_the_phase_before_the_record_that_they_follow() {
    let mut told = Told::started(MAIN);
    told.born(MAIN, &[100], &[]);
    told.begin(MAIN, "first");
    told.born(MAIN, &[1], &[]);
    told.say(MAIN, Body::Call);
    told.born(MAIN, &[2], &[]);
    told.say(MAIN, Body::Teardown);
    told.born(MAIN, &[3, 4], &[]);
    told.say(MAIN, Body::End(PASSED));
    told.born(MAIN, &[5], &[4]);
    told.begin(MAIN, "second");
    told.born(MAIN, &[], &[3]);
    told.say(MAIN, Body::Call);
    let process = told.process(MAIN);
    let birth = |tid| {
        let birth = process.birth(LeftKind::OsThread, tid)?;
        assert_eq!(
            (birth.how, birth.name.clone()),
            (Counted::Inside, Some("T".into()))
        );
        let test = birth.test.as_ref().map(|test| test.untrusted().to_owned());
        Some((birth.phase, test, birth.tests_ago))
    };
    let first = || Some("first".to_owned());
    assert_eq!(birth(1), Some((TestPhase::Between, None, 2)));
    assert_eq!(birth(2), Some((TestPhase::Setup, first(), 1)));
    assert_eq!(
        birth(3),
        Some((TestPhase::Call, first(), 1)),
        "gone, and outlived its test"
    );
    assert_eq!(birth(4), None, "gone within its test");
    assert_eq!(birth(5), Some((TestPhase::Teardown, first(), 1)));
    assert_eq!(birth(6), None, "born since, in the present phase");
    let inventory = told.tracker.inventory().expect("an inventory");
    let left: Vec<i64> = inventory.left.iter().map(|birth| birth.id).collect();
    assert_eq!(left, [2, 5]);
}

#[test]
fn the_inventory_lists_what_changed() {
    let mut told = Told::started(MAIN);
    let mut threads = 1;
    for test in 0..40_i64 {
        told.counts = counts(threads);
        told.begin(MAIN, &format!("t{test}"));
        told.say(MAIN, Body::Call);
        told.say(MAIN, Body::Teardown);
        if test % 4 == 0 {
            threads += 1;
            told.counts = counts(threads);
        }
        told.say(MAIN, Body::End(PASSED));
        if test % 4 == 0 {
            told.born(MAIN, &[1000 + test], &[]);
        }
    }
    told.call(MAIN, "running");
    let inventory = told.tracker.inventory().expect("an inventory");
    assert_eq!((inventory.how, inventory.tests), (Counted::Inside, 40));
    assert_eq!((inventory.changed.len(), inventory.left.len()), (11, 10));
    let row = &inventory.changed[1];
    assert_eq!(row.test, "t4".into());
    assert_eq!(
        (
            row.before.threads,
            row.after.and_then(|after| after.threads)
        ),
        (Some(2), Some(3))
    );
    assert_eq!(row.left[0].id, 1004);
    assert_eq!(inventory.changed[10].after, None);
    let trend = |kind| {
        let mut trends = inventory.trends.iter();
        trends.find(|trend| trend.kind == kind)
    };
    let threads = trend(LeftKind::Thread).expect("counted");
    assert_eq!((threads.per_1000_tests, threads.accumulates), (250, true));
    let fds = trend(LeftKind::Fd).expect("counted");
    assert_eq!(
        (fds.per_1000_tests, fds.uncertainty, fds.accumulates),
        (0, 0, false)
    );
    assert!(trend(LeftKind::Child).is_none(), "not counted");
}

#[test]
fn leaks_are_what_a_finished_session_left() {
    let mut told = Told::started(MAIN);
    told.born(MAIN, &[100], &[]);
    told.call(MAIN, "leaking");
    told.say(MAIN, Body::Teardown);
    told.born(MAIN, &[1, 2, 3], &[]);
    told.say(MAIN, Body::End(PASSED));
    assert!(
        told.tracker.leaks(&LeftKind::ALL).is_empty(),
        "not before its finish"
    );
    told.counts.fds = Some(14);
    told.say(MAIN, Body::Finish);
    told.born(MAIN, &[4], &[1]);
    told.say(MAIN, Body::Unconfigure);
    told.born(MAIN, &[], &[2]);
    told.what(MAIN, What::Ended);
    let ids = |kinds: &[LeftKind]| -> Vec<(i64, u32)> {
        let leaks = told.tracker.leaks(kinds).into_iter();
        leaks
            .map(|leak| (leak.birth.map_or(-1, |birth| birth.id), leak.count))
            .collect()
    };
    assert_eq!(ids(&[LeftKind::Thread]), [(2, 1), (3, 1)]);
    assert_eq!(
        ids(&[LeftKind::Thread, LeftKind::OsThread]),
        [(2, 1), (3, 1)]
    );
    assert_eq!(ids(&[LeftKind::Fd]), [(-1, 4)]);
    assert!(ids(&[LeftKind::Child, LeftKind::Interpreter]).is_empty());
}

#[test]
fn a_thread_that_becomes_known_later_stays_the_same() {
    let mut told = Told::started(MAIN);
    told.call(MAIN, "t");
    told.say(MAIN, Body::Teardown);
    let births = Births {
        os_threads: vec![7],
        ..Births::default()
    };
    told.say(MAIN, Body::Births(births));
    told.say(MAIN, Body::End(PASSED));
    told.begin(MAIN, "u");
    told.say(MAIN, Body::Call);
    told.born(MAIN, &[7], &[]);
    let process = told.process(MAIN);
    assert_eq!(process.births.len(), 1);
    let birth = process.birth(LeftKind::Thread, 7).expect("the thread");
    assert_eq!(
        (birth.test.clone(), birth.name.clone()),
        (Some("t".into()), Some("T".into()))
    );
}

#[test]
fn after_a_loss_the_next_test_is_right_again() {
    let mut told = Told::started(MAIN);
    told.collect(MAIN, &["a", "b", "c", "d", "e"]);
    told.call(MAIN, "a");
    told.what(MAIN, What::Lost(9));
    // In the call of a test that nobody saw begin.
    told.serials.insert(MAIN, 3);
    told.say(MAIN, Body::Call);
    let running = told.tracker.running().remove(0);
    assert_eq!(
        (running.phase, running.test, running.serial),
        (TestPhase::Call, None, 3)
    );
    assert_eq!(told.process(MAIN).place().untrusted(), "a test (call)");
    told.end(MAIN, PASSED);
    told.serials.insert(MAIN, 4);
    told.call(MAIN, "e");
    assert_eq!(told.tracker.running()[0].test, Some("e".into()));
    told.end(MAIN, PASSED);
    let record = told.record();
    assert_eq!(
        told.outcomes(),
        named(&[("e", PASSED)]),
        "how `a` ended nobody knows"
    );
    assert!(record.not_run.is_empty(), "`b` may have run");
    assert!(
        record
            .run
            .notes
            .iter()
            .any(|note| note.untrusted().starts_with("9 records"))
    );
}

#[test]
fn a_loss_of_whole_tests_is_seen_by_the_numbers() {
    let mut told = Told::started(MAIN);
    told.test(MAIN, "a", PASSED);
    told.what(MAIN, What::Lost(40));
    told.serials.insert(MAIN, 11);
    told.test(MAIN, "l", PASSED);
    assert_eq!(told.tracker.run(told.now).finished, 12);
    // A hostile number does not count more than was lost.
    told.what(MAIN, What::Lost(4));
    told.serials.insert(MAIN, u32::MAX - 1);
    told.test(MAIN, "z", PASSED);
    assert_eq!(told.tracker.run(told.now).finished, 15);
}

#[test]
fn a_mark_that_is_no_time_is_noted_once() {
    let mut told = Told::started(MAIN);
    for test in ["t", "u"] {
        told.say(
            MAIN,
            Body::Setup(Setup {
                test: test.into(),
                file: "a.py".into(),
                line: None,
                limit: TestLimit::After(Mark::Timeout, 2000),
                no_time: Some("'soon'".into()),
            }),
        );
        let running = told.tracker.running();
        assert_eq!(running[0].limit, TestLimit::After(Mark::Timeout, 2000));
        told.end(MAIN, PASSED);
    }
    let notes = told.tracker.run(told.now).notes;
    assert_eq!(notes.len(), 1);
    let expected = "The mark hangscope('soon') in a.py is no time and sets no limit: ";
    assert!(notes[0].untrusted().starts_with(expected), "{notes:?}");
}

#[test]
fn a_ring_that_makes_no_sense_takes_its_process_out() {
    let mut told = Told::started(MAIN);
    told.call(MAIN, "t");
    told.what(MAIN, What::Stopped("it holds what is no record"));
    assert!(told.tracker.running().is_empty());
    let record = told.record();
    assert!(record.tests.is_empty());
    assert!(record.run.notes[0].untrusted().contains("process 100"));
    told.what(MAIN, What::Ended);
}

#[test]
fn births_are_bounded() {
    let mut told = Told::started(MAIN);
    told.call(MAIN, "t");
    told.say(MAIN, Body::Teardown);
    for piece in 0..30 {
        let threads: Vec<i64> = (0..1000).map(|tid| piece * 1000 + tid).collect();
        told.born(MAIN, &threads, &[]);
    }
    told.say(MAIN, Body::End(PASSED));
    let run = told.tracker.run(told.now);
    assert_eq!(run.processes[0].births.len(), 2000);
    assert_eq!(run.processes[0].births[0].id, 19_999, "the newest first");
    assert_eq!(run.inventory.expect("counted").left.len(), 2000);
    assert_eq!(run.notes.len(), 1);
    // What lives goes before what is gone.
    let gone: Vec<i64> = (19_000..20_000).collect();
    told.begin(MAIN, "u");
    told.born(MAIN, &[], &gone);
    assert_eq!(told.process(MAIN).births[0].id, 18_999);
}

#[test]
fn ten_thousand_tests_on_sixteen_workers() {
    let mut told = Told::new();
    told.session(
        MAIN,
        Session {
            controller: true,
            run: Some("uid".to_owned()),
            ..Session::default()
        },
    );
    let names: Vec<String> = (0..10_000)
        .map(|test| format!("tests/test_a.py::test[{test}]"))
        .collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    for number in 0..16 {
        told.session(who(200 + number), worker(&format!("gw{number}"), MAIN));
        told.collect(who(200 + number), &names);
    }
    for (index, name) in names.iter().enumerate() {
        let worker = who(200 + i32::try_from(index % 16).expect("small"));
        told.call(worker, name);
        if index % 10 == 0 {
            told.say(worker, failed(TestPhase::Call, "message"));
        }
        told.end(worker, PASSED);
        told.born(worker, &[index.try_into().expect("small")], &[]);
    }
    let record = told.record();
    assert_eq!((record.run.finished, record.tests.len()), (10_000, 10_000));
    assert_eq!(
        (record.run.collected, record.not_run.len()),
        (Some(10_000), 0)
    );
    assert_eq!(record.run.inventory.expect("counted").tests, 10_000);
    assert_eq!(record.run.processes.len(), 17);
}

/// Something that a ring may tell, sensible or not.
fn any_what() -> impl Strategy<Value = What> {
    let pid = 0..6_i32;
    let test = prop_oneof!["a", "b", "c"];
    let outcome = prop_oneof![Just(TestOutcome::Passed), Just(TestOutcome::Failed)];
    let session = (any::<[bool; 4]>(), pid.clone()).prop_map(|(flags, ppid)| {
        Body::Session(Session {
            worker: flags[0].then(|| "gw0".to_owned()),
            controller: flags[1],
            forked: flags[2],
            run: flags[3].then(|| "uid".to_owned()),
            ppid,
            ..Session::default()
        })
    });
    let setup = test.prop_map(|test| {
        Body::Setup(Setup {
            test: test.into(),
            file: "a.py".into(),
            line: None,
            limit: TestLimit::Unsaid,
            no_time: None,
        })
    });
    let ids = || prop::collection::vec(0..5_i64, 0..4);
    let births =
        (ids(), ids(), ids(), ids()).prop_map(|(threads, os_threads, gone_threads, children)| {
            Body::Births(Births {
                threads: threads.into_iter().map(|tid| (tid, "T".into())).collect(),
                os_threads,
                children,
                gone_threads,
                ..Births::default()
            })
        });
    let body = prop_oneof![
        1 => session,
        1 => Just(Body::Collect("m".into())),
        1 => (0..9_usize).prop_map(|count| Body::Collected(Collected { count, list: None })),
        6 => setup,
        4 => Just(Body::Call),
        4 => Just(Body::Teardown),
        2 => Just(failed(TestPhase::Call, "message")),
        6 => outcome.prop_map(Body::End),
        3 => births,
        1 => Just(Body::PdbEnter),
        1 => Just(Body::PdbLeave),
        1 => Just(Body::Finish),
        1 => Just(Body::Unconfigure),
        1 => any::<u8>().prop_map(Body::Interrupted),
    ];
    let record = (body, 0..6_u32, any::<u32>()).prop_map(|(body, serial, threads)| {
        What::Record(Box::new(Record {
            seq: 0,
            at: 0,
            serial,
            counts: counts(threads),
            body,
        }))
    });
    prop_oneof![
        20 => record,
        1 => prop::collection::vec(pid, 0..4).prop_map(What::Opened),
        1 => any::<u64>().prop_map(What::Lost),
        1 => Just(What::Collected(vec!["a".into(), "d".into()])),
        1 => Just(What::Stopped("no sense")),
        1 => Just(What::Ended),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn whatever_is_told_the_numbers_hold(
        told in prop::collection::vec((1..6_i32, 0..50_u64, any_what(), any::<bool>()), 0..200)
    ) {
        let mut tracker = Tracker::new(5);
        let mut begun = 0;
        let (mut lost, mut last) = (0_u64, 5);
        for (pid, at, what, hung) in told {
            if let What::Record(record) = &what && matches!(record.body, Body::Setup(_)) {
                begun += 1;
            }
            if let What::Lost(records) = &what {
                lost = lost.saturating_add(*records);
            }
            let who = who(pid);
            if hung {
                tracker.mark_hung(who);
            }
            tracker.hear(&News { who, at, what });
            prop_assert!(tracker.last_event_ns() >= last);
            last = tracker.last_event_ns();
            for one in tracker.running() {
                prop_assert!(one.runs_in != Some(one.who));
            }
        }
        let record = tracker.record(60, String::new());
        prop_assert!(record.tests.len() <= begun);
        prop_assert!(lost > 0 || record.run.finished + tracker.open.len() <= begun);
        prop_assert!(record.run.finished >= tracker.done.len());
        for process in &record.run.processes {
            prop_assert!(lost > 0 || process.finished <= begun);
            prop_assert!(process.births.len() <= 2000);
        }
        // A test that runs has a process that lives.
        for item in tracker.open.values() {
            let owner = tracker.runners.get(&item.who);
            let current = owner.and_then(|owner| owner.current);
            prop_assert!(current.is_some_and(|one| one.owner && one.number == item.number));
        }
        let inventory = record.run.inventory.unwrap_or_default();
        prop_assert!(inventory.changed.len() <= begun && inventory.tests <= begun);
    }
}

#[test]
fn a_place_knows_its_test_only_in_a_test() {
    let mut told = Told::started(MAIN);
    told.test(MAIN, "t", PASSED);
    let here = |told: &Told| {
        told.tracker
            .runners
            .get(&MAIN)
            .map(super::runner::Runner::here)
    };
    let between = Place {
        phase: TestPhase::Between,
        test: None,
        begun: 1,
    };
    assert_eq!(here(&told), Some(between));
}
