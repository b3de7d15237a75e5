//! What a process has brought into being, and in which test.

use super::record::Births;
use crate::model::{Birth, Counted, Foreign, LeftKind, TestPhase};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// Most living things of one process that are kept in mind.
const MOST_ALIVE: usize = 20_000;
/// Most things that are gone and outlived their test.
const MOST_GONE: usize = 1_000;

/// A moment in a test run.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Place {
    /// The phase.
    pub(super) phase: TestPhase,
    /// The test, by its number in the run, and its name; absent outside of tests.
    pub(super) test: Option<(u64, Arc<Foreign>)>,
    /// How many tests the process had begun.
    pub(super) begun: usize,
}

/// Something that came into being.
#[derive(Clone, Debug)]
pub(super) struct Being {
    pub(super) kind: LeftKind,
    id: i64,
    name: Option<Foreign>,
    pub(super) place: Place,
    how: Counted,
    order: u64,
    /// It was there when the session finished.
    outlived_session: bool,
}

impl Being {
    /// What the model says of it, when the process has begun so many tests.
    pub(super) fn birth(&self, begun: usize) -> Birth {
        Birth {
            kind: self.kind,
            id: self.id,
            name: self.name.clone(),
            test: self.place.test.as_ref().map(|(_, name)| (**name).clone()),
            phase: self.place.phase,
            tests_ago: begun.saturating_sub(self.place.begun),
            how: self.how,
        }
    }
}

/// Ids that are told apart from each other. A thread that `threading` comes to know later stays the same one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Space {
    Threads,
    Interpreters,
    Children,
}

impl Space {
    fn of(kind: LeftKind) -> Self {
        match kind {
            LeftKind::Interpreter => Self::Interpreters,
            LeftKind::Child => Self::Children,
            LeftKind::Thread | LeftKind::OsThread | LeftKind::Fd => Self::Threads,
        }
    }
}

/// All that a process has brought into being, bounded.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    alive: BTreeMap<(Space, i64), Being>,
    gone: VecDeque<Being>,
    next: u64,
    finished: bool,
    overfull: bool,
}

impl Ledger {
    /// Enters what is new and strikes out what is gone. Threads that Python knows came at `place`; what is not
    /// looked at at every boundary, at `kernel_place`.
    pub(super) fn enter(
        &mut self,
        births: &Births,
        place: &Place,
        kernel_place: &Place,
        how: Counted,
    ) {
        // First what is gone: an id may have been given again.
        let gone = [
            (Space::Threads, &births.gone_threads),
            (Space::Interpreters, &births.gone_interpreters),
            (Space::Children, &births.gone_children),
        ];
        for (space, ids) in gone {
            for &id in ids {
                self.strike(space, id, place);
            }
        }
        for (id, name) in &births.threads {
            let name = (!name.is_empty()).then(|| name.clone());
            self.born(LeftKind::Thread, *id, name, place, how);
        }
        let nameless = [
            (LeftKind::OsThread, &births.os_threads, kernel_place),
            (LeftKind::Interpreter, &births.interpreters, kernel_place),
            (LeftKind::Child, &births.children, kernel_place),
        ];
        for (kind, ids, place) in nameless {
            for &id in ids {
                self.born(kind, id, None, place, how);
            }
        }
    }

    /// Enters a thread that was seen from outside for the first time.
    pub(super) fn see_thread(&mut self, id: i64, name: Option<Foreign>, place: &Place) {
        self.born(LeftKind::OsThread, id, name, place, Counted::Sampled);
    }

    /// Strikes out a thread that is not seen any more, if the test that started it is over as kept; `runs` says whether it runs.
    pub(super) fn miss_thread(&mut self, id: i64, runs: &dyn Fn(u64) -> bool) {
        let being = self.alive.get(&(Space::Threads, id));
        let Some(mut place) = being.map(|being| being.place.clone()) else {
            return;
        };
        if place.test.as_ref().is_some_and(|(test, _)| !runs(*test)) {
            place.test = None;
        }
        self.strike(Space::Threads, id, &place);
    }

    fn born(
        &mut self,
        kind: LeftKind,
        id: i64,
        name: Option<Foreign>,
        place: &Place,
        how: Counted,
    ) {
        let at = (Space::of(kind), id);
        if let Some(known) = self.alive.get_mut(&at) {
            if known.kind == LeftKind::OsThread && kind == LeftKind::Thread {
                known.kind = kind;
                known.name = name;
                return;
            }
            if known.kind == LeftKind::Thread && kind == LeftKind::OsThread {
                return;
            }
            self.strike(at.0, id, place);
        }
        if self.alive.len() >= MOST_ALIVE {
            self.overfull = true;
            return;
        }
        self.next += 1;
        let being = Being {
            kind,
            id,
            name,
            place: place.clone(),
            how,
            order: self.next,
            outlived_session: false,
        };
        self.alive.insert(at, being);
    }

    fn strike(&mut self, space: Space, id: i64, place: &Place) {
        let Some(mut being) = self.alive.remove(&(space, id)) else {
            return;
        };
        being.outlived_session = self.finished;
        // What a test cleared away itself is of no interest any more.
        let same = |(a, b): (&(u64, _), &(u64, _))| a.0 == b.0;
        if being
            .place
            .test
            .as_ref()
            .zip(place.test.as_ref())
            .is_some_and(same)
        {
            return;
        }
        if self.gone.len() >= MOST_GONE {
            self.gone.pop_front();
        }
        self.gone.push_back(being);
    }

    /// The session has finished: what is there now has outlived it.
    pub(super) fn finish(&mut self) {
        self.finished = true;
    }

    /// Whether more was born than is kept in mind.
    pub(super) fn is_overfull(&self) -> bool {
        self.overfull
    }

    /// At most so many: what lives first, the newest first.
    pub(super) fn list(&self, begun: usize, most: usize) -> Vec<Birth> {
        let mut alive: Vec<&Being> = self.alive.values().collect();
        alive.sort_by_key(|being| std::cmp::Reverse(being.order));
        let all = alive.into_iter().chain(self.gone.iter().rev());
        all.take(most).map(|being| being.birth(begun)).collect()
    }

    /// What was born in a test and lives, the oldest first.
    pub(super) fn left(&self) -> Vec<&Being> {
        let mut left: Vec<&Being> = self.alive.values().collect();
        left.retain(|being| being.place.test.is_some());
        left.sort_by_key(|being| being.order);
        left
    }

    /// What was born in a test and lived when the session finished, the oldest first.
    pub(super) fn leaked(&self) -> Vec<&Being> {
        let gone = self.gone.iter().filter(|being| being.outlived_session);
        let mut leaked: Vec<&Being> = self.alive.values().chain(gone).collect();
        leaked.retain(|being| being.place.test.is_some());
        leaked.sort_by_key(|being| being.order);
        leaked
    }

    /// What outlived the test it was born in, by the number of the test.
    pub(super) fn outlived(&self) -> impl Iterator<Item = (u64, &Being)> {
        let all = self.gone.iter().chain(self.alive.values());
        all.filter_map(|being| Some((being.place.test.as_ref()?.0, being)))
    }
}
