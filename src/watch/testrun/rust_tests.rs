//! Runs of Rust tests, as they are seen from outside.

use super::Tracker;
use super::news::Who;
use crate::inspect::{RustBinary, RustHow, RustLook, RustTest, RustThread, Started};
use crate::model::{Role, TestOutcome, TestSource};

const BINARY: (i32, u64) = (50, 9);

fn libtest(tid: i32, ticks: u64, name: &str, together: usize) -> RustTest {
    RustTest {
        binary: "demo::it".into(),
        name: name.into(),
        how: RustHow::Libtest,
        process: BINARY,
        thread: Some((tid, ticks)),
        attempt: None,
        tests_in_process: together,
    }
}

fn look(tests: Vec<RustTest>, threads: u32) -> RustLook {
    RustLook {
        tests,
        binaries: vec![RustBinary {
            process: BINARY,
            name: "demo::it".into(),
            os_threads: Some(threads),
            fds: Some(3),
            born: Vec::new(),
        }],
        cargo: true,
        building: false,
    }
}

fn see(tracker: &mut Tracker, look: &RustLook, at: u64) {
    tracker.see_rust(look, at, &|ticks| ticks);
}

#[test]
fn a_thread_is_a_test_from_its_start_to_its_end() {
    let mut tracker = Tracker::new(0);
    see(&mut tracker, &look(Vec::new(), 1), 10);
    let running = tracker.running();
    assert_eq!((running.len(), running[0].role), (1, Role::Libtest));
    assert!(!running[0].in_test(), "a binary alone is no test");
    let two = || vec![libtest(51, 20, "a", 2), libtest(52, 21, "b", 2)];
    see(&mut tracker, &look(two(), 1), 30);
    let running = tracker.running();
    let names: Vec<_> = running.iter().filter_map(|it| it.test.clone()).collect();
    assert_eq!(names, ["demo::it a".into(), "demo::it b".into()]);
    assert_eq!(
        (running[1].test_since_ns, running[2].test_since_ns),
        (20, 21)
    );
    assert_eq!(running[1].key, running[2].key, "they share a process");
    assert_ne!(running[1].serial, running[2].serial);
    assert_eq!(running[1].process.pid, 50);
    tracker.mark_hung(running[2].who);
    see(&mut tracker, &look(vec![libtest(52, 21, "b", 1)], 1), 40);
    assert_eq!(tracker.totals().0, 1);
    see(&mut tracker, &RustLook::default(), 50);
    let record = tracker.record(60, String::new());
    assert_eq!(record.run.source, TestSource::Cargo);
    assert!(record.run.processes.is_empty() && tracker.running().is_empty());
    let ends: Vec<_> = record
        .tests
        .iter()
        .map(|it| (it.test.untrusted(), it.outcome))
        .collect();
    assert_eq!(
        ends,
        [("demo::it b", TestOutcome::Hung)],
        "how a ended nobody knows"
    );
    assert_eq!(record.tests[0].binary, Some("demo::it".into()));
}

#[test]
fn a_binary_lists_each_test_that_it_runs() {
    let mut tracker = Tracker::new(0);
    see(
        &mut tracker,
        &look(vec![libtest(51, 20, "a", 2), libtest(52, 21, "b", 2)], 1),
        30,
    );
    let run = tracker.run(1_000_000_020);
    let threads: Vec<_> = run
        .processes
        .iter()
        .map(|it| (it.thread, it.test_ms))
        .collect();
    assert_eq!(threads, [(None, 1000), (Some(51), 1000), (Some(52), 999)]);
    let key = &run.processes[0].key;
    assert_eq!(
        run.process(key).and_then(|it| it.thread),
        Some(51),
        "the oldest test"
    );
    let own = run.at_thread(&key.thread(52)).expect("its own test");
    assert_eq!(own.place().untrusted(), "demo::it b");
    assert_eq!(
        run.at_thread(&key.thread(99)).and_then(|it| it.thread),
        Some(51)
    );
    assert_eq!(
        run.processes[0].place().untrusted(),
        "the test binary demo::it"
    );
}

#[test]
fn only_a_test_that_ran_alone_is_counted() {
    let mut tracker = Tracker::new(0);
    see(&mut tracker, &look(vec![libtest(51, 20, "a", 1)], 1), 30);
    see(&mut tracker, &look(vec![libtest(52, 40, "b", 1)], 2), 50);
    see(
        &mut tracker,
        &look(vec![libtest(52, 40, "b", 2), libtest(53, 55, "c", 2)], 2),
        60,
    );
    see(&mut tracker, &look(Vec::new(), 9), 70);
    let inventory = tracker.inventory().expect("one was counted");
    let rows: Vec<_> = inventory
        .changed
        .iter()
        .map(|row| row.test.untrusted())
        .collect();
    assert_eq!((inventory.tests, rows), (1, vec!["demo::it a"]));
    assert_eq!(
        inventory.changed[0]
            .after
            .and_then(|after| after.os_threads),
        Some(2)
    );
}

/// A look at tests that run together, and at threads that tests have started: the thread and the test's.
fn look_at_threads(tests: &[(i32, u64, &str)], born: &[(Started, Started)]) -> RustLook {
    let together = tests.len();
    let libtests = tests
        .iter()
        .map(|(tid, ticks, name)| libtest(*tid, *ticks, name, together));
    let mut look = look(libtests.collect(), 9);
    look.binaries[0].born = born
        .iter()
        .map(|&(thread, test)| RustThread {
            thread,
            name: Some("pool".into()),
            test,
        })
        .collect();
    look
}

fn left_by_each(tracker: &Tracker) -> Vec<(String, Vec<i64>)> {
    let rows = tracker.inventory().map(|it| it.changed).unwrap_or_default();
    rows.iter()
        .map(|row| {
            let ids = row.left.iter().map(|birth| birth.id).collect();
            (row.test.untrusted().to_owned(), ids)
        })
        .collect()
}

#[test]
fn threads_that_outlive_one_of_several_tests_are_that_tests() {
    let (a, b) = ((51, 20), (52, 21));
    let both = [(51, 20, "a"), (52, 21, "b")];
    let mut tracker = Tracker::new(0);
    let threads = [((60, 25), a), ((61, 26), b), ((62, 26), a), ((63, 27), b)];
    see(&mut tracker, &look_at_threads(&both, &threads), 30);
    // b has ended one of its threads; a ends with one of its two, and b goes on.
    see(&mut tracker, &look_at_threads(&both, &threads[..3]), 40);
    let later = [threads[0], threads[1]];
    see(&mut tracker, &look_at_threads(&both[1..], &later), 50);
    let row = |name: &str, ids: &[i64]| (format!("demo::it {name}"), ids.to_vec());
    let rows = left_by_each(&tracker);
    assert_eq!(rows, [row("a", &[60]), row("b", &[61])], "b runs still");
    let run = tracker.run(60);
    let births = &run.processes[0].births;
    let born_in = |id| births.iter().find(|birth| birth.id == id);
    assert_eq!(
        born_in(60).and_then(|birth| birth.test.clone()),
        Some("demo::it a".into())
    );
    let key = &run.processes[0].key;
    let test_of = |tid| run.test_of_thread(&key.thread(tid))?.test.clone();
    assert_eq!(test_of(61), Some("demo::it b".into()), "it started it");
    assert_eq!(test_of(60), None, "a does not run any more");
    // b ends, and so does the process, in good order: what b had is not said to be left.
    see(&mut tracker, &RustLook::default(), 70);
    assert_eq!(left_by_each(&tracker), [row("a", &[60])]);
    let inventory = tracker.inventory().expect("something was left");
    assert_eq!(inventory.tests, 0, "nothing was counted");
    assert!(inventory.changed[0].after.is_some(), "a did end");
}

#[test]
fn attempts_of_nextest_and_places_of_doctests_are_told() {
    let mut tracker = Tracker::new(0);
    let nextest = RustTest {
        how: RustHow::Nextest,
        thread: None,
        attempt: Some((2, 3)),
        ..libtest(0, 0, "flaky", 1)
    };
    let doctest = RustTest {
        how: RustHow::Doctest,
        process: (60, 30),
        thread: None,
        ..libtest(0, 0, "src/lib.rs - add (line 5)", 1)
    };
    let seen = RustLook {
        tests: vec![nextest, doctest],
        ..RustLook::default()
    };
    see(&mut tracker, &seen, 40);
    let run = tracker.run(50);
    assert_eq!(
        run.processes[0].test,
        Some("demo::it flaky (attempt 2 of 3)".into())
    );
    assert_eq!(
        (run.processes[1].file.clone(), run.processes[1].line),
        (Some("src/lib.rs".into()), Some(5))
    );
    tracker.mark_hung(Who {
        pid: 60,
        start_ticks: 30,
    });
    see(&mut tracker, &RustLook::default(), 60);
    assert_eq!(tracker.record(60, String::new()).tests.len(), 1);
}
