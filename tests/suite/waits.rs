//! What each blocked thread waits for and who holds it, against what the process itself says.

use crate::capture::{on_versions, start};
use crate::support::hangscope::dump_with;
use crate::support::program::{Program, until};
use crate::support::pythons;
use hangscope::model::{
    Grade, Holder, HolderEvidence, Process, Report, RuntimeKind, Thread, Wait, WaitKind,
};
use std::collections::{BTreeMap, BTreeSet};

/// What the program says of one of its waiters.
#[derive(Debug, serde::Deserialize)]
struct Truth {
    #[serde(rename = "type")]
    kind: String,
    name: String,
    address: String,
    /// Names of threads; none for one that has ended.
    holders: Vec<Option<String>>,
    by: Option<String>,
    state: BTreeMap<String, String>,
}

/// The process asked for, or the Python that it has started, not counting `multiprocessing`'s helper.
fn root(report: &Report) -> &Process {
    let last = report.samples.last().expect("a sample");
    let asked = |process: &&Process| process.pid == report.options.pid;
    let process = last.processes.iter().find(asked);
    let process = process.expect("the process asked for");
    if process.runtime == RuntimeKind::Python {
        return process;
    }
    let pythons = last.processes.iter();
    let pythons = pythons.filter(|process| process.runtime == RuntimeKind::Python);
    pythons
        .max_by_key(|process| process.threads.len())
        .unwrap_or(process)
}

fn named<'p>(process: &'p Process, name: &str) -> Option<&'p Thread> {
    let mut threads = process.threads.iter();
    threads.find(|thread| thread.display_name().untrusted() == name)
}

/// Names of the threads that hold something; `None` for one that has ended.
fn names(process: &Process, holders: &[Holder]) -> BTreeSet<Option<String>> {
    holders
        .iter()
        .map(|holder| {
            let thread = process.thread(holder.thread.as_ref()?)?;
            Some(thread.display_name().untrusted().to_owned())
        })
        .collect()
}

fn word(evidence: HolderEvidence) -> String {
    serde_json::to_value(evidence)
        .expect("serializable")
        .as_str()
        .expect("a word")
        .to_owned()
}

/// A dump in which all waiters are seen to wait.
fn all_waiting(program: &Program, waiters: &BTreeMap<String, Truth>) -> Report {
    let mut found = None;
    until("all threads wait", || {
        let report = dump_with(program.pid(), &["--samples", "1"]).report();
        let process = root(&report);
        let ready = waiters.keys().all(|name| {
            named(process, name).is_some_and(|thread| {
                let waits = thread.wait.as_ref().is_some_and(|wait| {
                    !matches!(wait.kind, WaitKind::Gil) && wait.object.is_some()
                });
                let begun = thread
                    .frames()
                    .any(|frame| frame.function.untrusted() == *name);
                thread.settled && waits && begun
            })
        });
        let ready = ready && process.threads.iter().all(|thread| thread.settled);
        found = ready.then_some(report);
        ready
    });
    found.expect("a report")
}

fn check_truth(version: &str, args: &[&str]) {
    let Some((program, lines)) = start(version, "locks", args) else {
        return;
    };
    check_program(&program, &lines, &format!("{version} {args:?}"));
}

/// What is said of a running `locks_program.py` is what it has said itself.
pub(crate) fn check_program(program: &Program, lines: &[String], version: &str) {
    let truth: BTreeMap<String, Truth> =
        serde_json::from_str(lines.last().expect("a line")).expect("JSON of the program");
    assert_eq!(truth.len(), 28);
    let report = all_waiting(program, &truth);
    let process = root(&report);
    for (name, told) in &truth {
        let wait = named(process, name)
            .and_then(|thread| thread.wait.as_ref())
            .expect("it waits");
        check_wait(process, wait, told, &format!("{version} {name}"));
    }
    let bare = named(process, "w_bare").and_then(|thread| thread.wait.as_ref());
    let bare = bare.expect("it waits");
    assert!(
        bare.holder_unknown.is_some(),
        "a bare acquire() notes nobody, and that is said"
    );
    assert_eq!(
        names(process, &bare.suspects),
        BTreeSet::from([Some("holds_bare".to_owned())]),
        "{version}: it is suspected, no more"
    );
    let recycled = named(process, "w_recycled").and_then(|thread| thread.wait.as_ref());
    let recycled = recycled.expect("it waits");
    assert!(recycled.holder_unknown.is_some() || names(process, &recycled.holders).contains(&None));
    for suspect in bare.suspects.iter().chain(&recycled.suspects) {
        assert_eq!(suspect.grade, Grade::Guessed);
    }
}

fn check_wait(process: &Process, wait: &Wait, told: &Truth, what: &str) {
    let object = wait.object.as_ref().expect("an object");
    assert_eq!(object.type_name.untrusted(), told.kind, "{what}");
    assert_eq!(object.address.to_string(), told.address, "{what}");
    assert_eq!(
        object.name.as_ref().map(|name| name.untrusted()),
        Some(told.name.as_str()),
        "{what}"
    );
    for (name, value) in &told.state {
        let fact = object.state.iter().find(|fact| fact.name == *name);
        assert_eq!(
            fact.map(|fact| fact.value.untrusted()),
            Some(value.as_str()),
            "{what}: {name}"
        );
    }
    if told.name == "recycled" {
        // Which thread got the dead owner's id, if any did, is glibc's affair; it must not be taken for the owner.
        assert!(
            names(process, &wait.holders).is_subset(&BTreeSet::from([None])),
            "{what}"
        );
        return;
    }
    let expected: BTreeSet<Option<String>> = told.holders.iter().cloned().collect();
    assert_eq!(names(process, &wait.holders), expected, "{what}: {wait:#?}");
    let by: BTreeSet<String> = wait.holders.iter().map(|holder| word(holder.by)).collect();
    assert_eq!(by, told.by.iter().cloned().collect(), "{what}");
    for holder in &wait.holders {
        assert!(holder.grade >= Grade::Derived, "{what}: {holder:?}");
        let has_place = holder.place.is_some();
        assert_eq!(has_place, holder.thread.is_some(), "{what}: {holder:?}");
    }
}

fn check_plain(version: &str) {
    check_truth(version, &[]);
}

fn check_traced(version: &str) {
    check_truth(version, &["settrace"]);
}

fn check_monitored(version: &str) {
    check_truth(version, &["monitoring"]);
}

/// Imports, and locks and queues that processes share.
fn check_imports(version: &str) {
    let Some((program, _)) = start(version, "imports", &[]) else {
        return;
    };
    let waiters = [
        "waits_for_import",
        "waits_for_process",
        "waits_for_process_queue",
    ];
    let mut found = None;
    until("all threads wait", || {
        let report = dump_with(program.pid(), &["--samples", "1"]).report();
        let ready = waiters.iter().all(|name| {
            named(root(&report), name)
                .and_then(|thread| thread.wait.as_ref())
                .is_some_and(|wait| wait.object.is_some())
        });
        found = ready.then_some(report);
        ready
    });
    let report = found.expect("a report");
    let process = root(&report);
    let wait = |name: &str| {
        let thread = named(process, name).expect("a thread");
        thread.wait.clone().expect("it waits")
    };
    let import = wait("waits_for_import");
    assert_eq!(
        import.call.as_ref().map(|call| call.untrusted()),
        Some("import of slow_module"),
        "{version}"
    );
    assert_eq!(
        names(process, &import.holders),
        BTreeSet::from([Some("imports".to_owned())])
    );
    assert_eq!(import.holders[0].by, HolderEvidence::ImportLock);
    let lock = wait("waits_for_process");
    let [holder] = &lock.holders[..] else {
        panic!("{version}: {lock:#?}");
    };
    let key = holder.thread.as_ref().expect("a thread");
    assert_ne!(
        key.of_process(),
        process.key,
        "{version}: it is held by the child"
    );
    let sample = report.samples.last().expect("a sample");
    assert!(
        sample.thread(key).is_some(),
        "{version}: that is in the tree"
    );
    let place = holder.place.as_ref().map(|place| place.untrusted());
    assert_eq!(place, Some("holds (imports_program.py:18)"), "{version}");
    assert_eq!(lock.holder_unknown, None);
    let queue = wait("waits_for_process_queue");
    let object = queue.object.expect("an object");
    assert_eq!(object.type_name.untrusted(), "multiprocessing.queues.Queue");
    assert_eq!(
        object.name.as_ref().map(|name| name.untrusted()),
        Some("queue")
    );
}

/// The C function that a thread is in. Before 3.14 it is told only where there is no other that it may be.
fn check_native_calls(version: &str) {
    let Some((program, lines)) = start(version, "native_calls", &[]) else {
        return;
    };
    let truth: BTreeMap<String, Option<String>> =
        serde_json::from_str(lines.last().expect("a line")).expect("JSON of the program");
    let exact = pythons::minor(version) >= 14;
    let told = |process: &Process, name: &str| {
        let wait = named(process, name)?.wait.as_ref()?;
        let call = wait.native_call.as_ref()?;
        assert_eq!(
            call.grade,
            if exact {
                Grade::Derived
            } else {
                Grade::Guessed
            }
        );
        Some(call.function.untrusted().to_owned())
    };
    // They are on their way into their calls, and sqlite's wakes now and then.
    let mut missing: BTreeSet<&String> = truth.keys().collect();
    until("each was seen in its call", || {
        let report = dump_with(program.pid(), &["--samples", "1"]).report();
        let process = root(&report);
        missing.retain(|name| {
            let expected = truth[*name].as_ref();
            let found = named(process, name)
                .filter(|thread| thread.wait.is_some() && thread.frames().count() > 3)
                .map(|_| told(process, name));
            match (found, expected) {
                (Some(Some(found)), Some(expected)) => {
                    assert_eq!(&found, expected, "{version}: {name}");
                    false
                }
                // A type that calls it: the evaluation stack may tell of either.
                (Some(found), None) => found.is_some_and(|found| found != "time.sleep"),
                _ => true,
            }
        });
        missing.is_empty()
    });
}

/// A process that never stands still: nothing is claimed that cannot be.
fn check_busy(version: &str) {
    let Some((program, _)) = start(version, "busy", &[]) else {
        return;
    };
    for round in 0..8 {
        let report = dump_with(
            program.pid(),
            &["--samples", if round == 0 { "3" } else { "1" }],
        );
        let report = report.report();
        assert!(
            report.analysis.findings.is_empty(),
            "{version}: {:#?}",
            report.analysis.findings
        );
        let process = root(&report);
        for thread in &process.threads {
            let name = thread.display_name().untrusted();
            let Some(wait) = &thread.wait else { continue };
            let Some((group, _)) = name.split_once('-') else {
                assert!(wait.holders.is_empty(), "{version} {name}: {wait:#?}");
                continue;
            };
            for holder in wait.holders.iter().chain(&wait.suspects) {
                let Some(other) = holder.thread.as_ref().and_then(|key| process.thread(key)) else {
                    continue;
                };
                let other_name = other.display_name().untrusted();
                assert!(
                    other_name.starts_with(group) || holder.grade == Grade::Guessed,
                    "{version}: {name} waits for {other_name}: {wait:#?}"
                );
                assert_ne!(other.key, thread.key, "{version}: {wait:#?}");
                assert!(
                    holder.grade < Grade::Read || (thread.settled && other.settled),
                    "{version}: read of a thread that moved"
                );
            }
        }
    }
}

on_versions! {
    native_calls: check_native_calls [py39 py310 py311 py312 py313 py314 py315];
    imports: check_imports [py39 py310 py311 py312 py313 py314 py315];
    busy: check_busy [py39 py310 py311 py312 py313 py314 py315];
    locks: check_plain [py39 py310 py311 py312 py313 py314 py315];
    locks_under_settrace: check_traced [py39 py310 py311 py312 py313 py314 py315];
    locks_under_monitoring: check_monitored [py312 py313 py314 py315];
}
