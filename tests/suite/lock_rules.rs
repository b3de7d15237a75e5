//! How sure a diagnosis of a lock may be: saved dumps of real hangs, with one thing changed in each.

use crate::support::detector_fixture;
use hangscope::analysis::analyze;
use hangscope::model::{
    Certainty, Finding, Grade, Holder, HolderEvidence, Key, Report, Snapshot, Thread, ThreadKind,
    Trigger, Wait, WaitKind,
};
use std::fs;

const OVERDUE: Trigger = Trigger::RunTimeout { limit_ms: 1000 };

pub(crate) fn samples(id: &str) -> Vec<Snapshot> {
    let path = detector_fixture(id).join("hang.dump.json");
    let report: Report =
        serde_json::from_slice(&fs::read(path).expect("a dump")).expect("a report");
    report.samples
}

pub(crate) fn each_thread(samples: &mut [Snapshot], change: &mut dyn FnMut(usize, &mut Thread)) {
    for (number, sample) in samples.iter_mut().enumerate() {
        for thread in sample
            .processes
            .iter_mut()
            .flat_map(|process| &mut process.threads)
        {
            change(number, thread);
        }
    }
}

/// Changes what threads of this name wait for, in all samples.
fn each_wait(samples: &mut [Snapshot], name: &str, change: &dyn Fn(&mut Wait)) {
    each_thread(samples, &mut |_, thread| {
        if thread.display_name().untrusted().starts_with(name)
            && let Some(wait) = &mut thread.wait
        {
            change(wait);
        }
    });
}

/// Lets a thread go on between the samples.
fn set_going(samples: &mut [Snapshot], name: &str) {
    each_thread(samples, &mut |number, thread| {
        if thread.display_name().untrusted() == name {
            thread.python[0].frames[0].instruction = i64::try_from(2 * number).expect("small");
        }
    });
}

fn findings(samples: &[Snapshot], trigger: &Trigger) -> Vec<Finding> {
    analyze(samples, trigger, None).findings
}

/// The certainty of a cause; `None` if it is not told.
fn told(samples: &[Snapshot], trigger: &Trigger, id: &str) -> Option<Certainty> {
    findings(samples, trigger)
        .iter()
        .find(|finding| finding.id == id)
        .map(|finding| finding.certainty)
}

const CYCLE: &str = "lock-order-cycle";

#[test]
fn a_cycle_as_it_was_read_is_certain_and_one_look_is_not_enough() {
    let all = samples(CYCLE);
    assert_eq!(told(&all, &Trigger::Dump, CYCLE), Some(Certainty::Certain));
    let last = &all[all.len() - 1..];
    assert_eq!(told(last, &Trigger::Dump, CYCLE), Some(Certainty::Possible));
}

#[test]
fn a_wait_with_a_deadline_breaks_the_cycle_by_itself() {
    let timed = |left: u64| {
        let mut all = samples(CYCLE);
        each_wait(&mut all, "transfer-1", &|wait| {
            wait.timed = Some(true);
            wait.remaining_ms = Some(left);
        });
        all
    };
    assert_eq!(told(&timed(900), &Trigger::Dump, CYCLE), None);
    assert_eq!(
        told(&timed(900), &OVERDUE, CYCLE),
        Some(Certainty::Possible)
    );
    assert_eq!(
        told(&timed(900_000), &Trigger::Dump, CYCLE),
        Some(Certainty::Probable)
    );
}

#[test]
fn suspects_accuse_nobody() {
    for by in [HolderEvidence::BareOwnerField, HolderEvidence::Reference] {
        let mut all = samples(CYCLE);
        each_wait(&mut all, "transfer-1", &|wait| {
            for holder in &mut wait.holders {
                holder.by = by;
            }
        });
        assert_eq!(told(&all, &OVERDUE, CYCLE), None, "{by:?}");
    }
    let mut guessed = samples(CYCLE);
    each_wait(&mut guessed, "transfer", &|wait| {
        for holder in &mut wait.holders {
            holder.grade = Grade::Guessed;
        }
    });
    assert_eq!(told(&guessed, &OVERDUE, CYCLE), None);
}

#[test]
fn evidence_that_is_contradicted_is_not_used() {
    let main = main_thread(&samples(CYCLE));
    for by in [HolderEvidence::WithBlock, HolderEvidence::BareOwnerField] {
        let other = Holder {
            thread: Some(main.clone()),
            by,
            place: None,
            grade: Grade::Guessed,
        };
        let mut all = samples(CYCLE);
        each_wait(&mut all, "transfer-1", &|wait| {
            wait.holders.push(other.clone());
        });
        assert_eq!(told(&all, &OVERDUE, CYCLE), None, "{by:?}");
        let mut first_only = samples(CYCLE);
        each_wait(&mut first_only[..1], "transfer-1", &|wait| {
            wait.holders[0].thread = Some(main.clone());
        });
        assert_eq!(told(&first_only, &OVERDUE, CYCLE), None);
    }
}

fn main_thread(samples: &[Snapshot]) -> Key {
    samples[0].processes[0].threads[0].key.clone()
}

#[test]
fn what_could_not_be_read_each_time_or_only_derived_is_not_certain() {
    let mut once_unread = samples(CYCLE);
    each_wait(&mut once_unread[..1], "transfer-1", &|wait| {
        wait.holders.clear();
    });
    assert_eq!(
        told(&once_unread, &Trigger::Dump, CYCLE),
        Some(Certainty::Probable)
    );
    let mut derived = samples(CYCLE);
    each_wait(&mut derived, "transfer-1", &|wait| {
        wait.holders[0].grade = Grade::Derived;
    });
    assert_eq!(
        told(&derived, &Trigger::Dump, CYCLE),
        Some(Certainty::Probable)
    );
}

#[test]
fn a_thread_that_goes_on_might_release_a_plain_lock_and_no_other() {
    let mut all = samples(CYCLE);
    set_going(&mut all, "MainThread");
    assert_eq!(told(&all, &Trigger::Dump, CYCLE), Some(Certainty::Probable));
    each_wait(&mut all, "transfer", &|wait| wait.kind = WaitKind::RLock);
    assert_eq!(told(&all, &Trigger::Dump, CYCLE), Some(Certainty::Certain));
}

#[test]
fn a_thread_of_the_cycle_that_moves_ends_it() {
    let mut all = samples(CYCLE);
    set_going(&mut all, "transfer-2");
    assert_eq!(findings(&all, &Trigger::Dump), []);
}

#[test]
fn permits_of_a_semaphore_are_not_locks() {
    let mut all = samples(CYCLE);
    each_wait(&mut all, "transfer", &|wait| {
        let object = wait.object.as_mut().expect("an object");
        object.type_name = "threading.Semaphore".into();
    });
    assert_eq!(told(&all, &OVERDUE, CYCLE), None);
}

#[test]
fn a_cycle_has_one_name_wherever_it_starts() {
    let named = |one: &str, other: &str| {
        let mut all = samples(CYCLE);
        each_thread(&mut all, &mut |_, thread| {
            let name = thread.display_name().untrusted().to_owned();
            let function = if name == "transfer-1" { one } else { other };
            if name.starts_with("transfer") {
                thread.python[0].frames[0].function = function.into();
            }
        });
        findings(&all, &Trigger::Dump)[0].signature.clone()
    };
    assert_eq!(named("write", "audit"), named("audit", "write"));
    assert_ne!(named("write", "audit"), named("write", "write"));
}

#[test]
fn locks_of_different_names_are_not_numbered() {
    let mut all = samples(CYCLE);
    each_wait(&mut all, "transfer-2", &|wait| {
        wait.object.as_mut().expect("an object").name = Some("source.lock".into());
    });
    let told = findings(&all, &Trigger::Dump);
    let title = told[0].title.untrusted();
    assert_eq!(
        title,
        "`transfer-1` waits for `target.lock`, which `transfer-2` holds; `transfer-2` waits for `source.lock`, which \
         `transfer-1` holds."
    );
    assert!(
        told[0]
            .remedy
            .untrusted()
            .contains("all of them take a second lock")
    );
}

#[test]
fn an_rlock_is_never_waited_for_by_its_own_holder() {
    let id = "lock-self-deadlock";
    let mut all = samples(id);
    assert_eq!(told(&all, &Trigger::Dump, id), Some(Certainty::Certain));
    each_wait(&mut all, "MainThread", &|wait| {
        wait.kind = WaitKind::RLock;
    });
    assert_eq!(told(&all, &OVERDUE, id), None);
}

#[test]
fn who_may_help_the_holder_silences_all_but_an_overdue_run() {
    let id = "lock-held-by-blocked-thread";
    let mut all = samples(id);
    assert_eq!(told(&all, &Trigger::Dump, id), Some(Certainty::Certain));
    set_going(&mut all, "MainThread");
    assert_eq!(told(&all, &Trigger::Dump, id), None);
    assert_eq!(told(&all, &OVERDUE, id), Some(Certainty::Possible));
}

#[test]
fn a_thread_that_python_does_not_know_may_be_the_owner() {
    let id = "lock-holder-ended";
    let mut all = samples(id);
    assert_eq!(told(&all, &Trigger::Dump, id), Some(Certainty::Certain));
    for sample in &mut all {
        let process = &mut sample.processes[0];
        let mut native = process.threads[0].clone();
        native.tid += 1;
        native.key = process.key.thread(native.tid);
        native.kind = ThreadKind::Native;
        native.python.clear();
        if let Some(wait) = &mut native.wait {
            wait.owner = None;
            wait.holders.clear();
        }
        process.threads.push(native);
    }
    assert_eq!(told(&all, &Trigger::Dump, id), Some(Certainty::Probable));
}
