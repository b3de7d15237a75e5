//! Threads that go on and cannot come to what is waited for.

use super::look::{Look, is_own_note};
use crate::analysis::task_liveness::tasks_out_of_reach;
use crate::model::{Holder, Key, Process, Thread, Wait};
use std::collections::{BTreeMap, BTreeSet};

impl<'a> Look<'a, '_> {
    /// The threads that cannot come to what is waited for: most samples say so, as a thread that ran meanwhile cannot be
    /// followed, and none that it could.
    ///
    /// Not asked of events of a main thread outside of tests: it may be parked on one that only Ctrl-C ends, while others do the
    /// work.
    pub(super) fn out_of_reach(
        &self,
        process: &Process,
        thread: &Thread,
        wait: &'a Wait,
    ) -> BTreeSet<&'a Key> {
        if process.is_known_native() {
            return self.out_of_native_reach(process, thread, wait);
        }
        let object = wait.object.as_ref();
        let is_event = object.is_none_or(|object| object.type_name.untrusted().ends_with("Event"));
        if is_event && process.test.is_none() && process.is_led_by(thread) {
            return BTreeSet::new();
        }
        let samples = self.case.samples.len();
        let mut often: BTreeMap<&Key, usize> = BTreeMap::new();
        for view in self.case.views(&thread.key) {
            let same = view
                .wait
                .as_ref()
                .filter(|then| then.address == wait.address);
            for key in same.into_iter().flat_map(|then| &then.out_of_reach) {
                *often.entry(key).or_default() += 1;
            }
        }
        // One that comes to it and will do nothing is among both.
        let reaches = |key: &Key| {
            let mut waits = self
                .case
                .views(&thread.key)
                .filter_map(|view| view.wait.as_ref());
            waits.any(|wait| {
                let suspected = |suspect: &Holder| suspect.thread.as_ref() == Some(key);
                wait.suspects.iter().any(suspected) && !wait.out_of_reach.contains(key)
            })
        };
        often
            .into_iter()
            .filter(|(key, times)| samples > 1 && times * 2 > samples && !reaches(key))
            .map(|(key, _)| key)
            .chain(tasks_out_of_reach(self.case, thread, wait))
            .collect()
    }

    /// The same by native stacks, which are taken once. Of a mutex that notes the waiter itself any thread that is out of reach
    /// will do. Otherwise only one that rests between what it does by the clock: another may have a lock that notes nobody, or
    /// be what the program is there for while its main thread waits for ever.
    pub(super) fn out_of_native_reach(
        &self,
        process: &Process,
        thread: &Thread,
        wait: &'a Wait,
    ) -> BTreeSet<&'a Key> {
        let parked = wait
            .call
            .as_ref()
            .is_some_and(|call| call.untrusted() == "thread::park");
        if self.case.samples.len() < 2 || (parked && process.test.is_none()) {
            return BTreeSet::new();
        }
        let by_clock = |key: &Key| {
            let other = process.thread(key).and_then(|thread| thread.wait.as_ref());
            other.is_some_and(|other| {
                other.timed == Some(true) && other.files.is_empty() && other.descriptor.is_none()
            })
        };
        let noted = is_own_note(thread, wait);
        let keys = wait.out_of_reach.iter();
        keys.filter(|key| noted || by_clock(key)).collect()
    }
}
