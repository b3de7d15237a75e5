//! Who might hold a lock that notes nobody: the threads whose frames reach it.

use super::{RawHolder, place};
use crate::capture::python::code::Globals;
use crate::capture::python::frame::RawFrame;
use crate::capture::python::heap::Heap;
use crate::capture::python::interpreter::Census;
use crate::capture::python::{slots, waits};
use crate::model::HolderEvidence;
use std::collections::{BTreeMap, BTreeSet};

/// Most objects whose attributes are searched for suspects, in one process.
const MAX_SEARCHED: usize = 50_000;
/// Innermost frames of a thread that are searched for suspects.
pub(super) const MAX_SUSPECT_FRAMES: usize = 64;

/// Threads by objects that their frames reach: by a variable, a global that their code uses, or an attribute of one.
pub(super) fn reached(
    heap: &Heap<'_>,
    census: &Census,
    wanted: &BTreeSet<u64>,
    counts: &dyn Fn(&Heap<'_>, &RawFrame) -> bool,
) -> BTreeMap<u64, Vec<RawHolder>> {
    let mut out: BTreeMap<u64, Vec<RawHolder>> = BTreeMap::new();
    let mut search = Reach {
        heap,
        wanted,
        by_object: BTreeMap::new(),
        by_code: BTreeMap::new(),
    };
    for raw in census.with_frames(heap) {
        let mut known = BTreeSet::new();
        let frames = raw.raw_frames.iter().take(MAX_SUSPECT_FRAMES);
        for frame in frames.filter(|frame| counts(heap, frame)) {
            for object in search.within_frame(frame) {
                if known.insert(object) {
                    out.entry(object).or_default().push(RawHolder {
                        native_id: Some(raw.native_id),
                        by: HolderEvidence::Reference,
                        place: Some(place(heap, frame)),
                        direct: true,
                    });
                }
            }
        }
    }
    out
}

/// The search for what refers to the wanted objects; each object and each function's globals are searched once.
struct Reach<'h> {
    heap: &'h Heap<'h>,
    wanted: &'h BTreeSet<u64>,
    by_object: BTreeMap<u64, Vec<u64>>,
    by_code: BTreeMap<u64, Vec<u64>>,
}

impl Reach<'_> {
    fn within_frame(&mut self, frame: &RawFrame) -> Vec<u64> {
        let mut out = Vec::new();
        for value in slots::values(self.heap, frame).unwrap_or_default() {
            out.extend(self.within_object(value));
        }
        let code = frame.code.address;
        if !self.by_code.contains_key(&code) {
            // A module's code names all that the module defines.
            let globals = if frame.code.name == "<module>" {
                Globals::default()
            } else {
                waits::used_globals(self.heap, frame)
            };
            let found = globals
                .iter()
                .flat_map(|(_, value)| self.within_object(*value))
                .collect();
            self.by_code.insert(code, found);
        }
        out.extend(self.by_code.get(&code).into_iter().flatten());
        out
    }

    fn within_object(&mut self, object: u64) -> Vec<u64> {
        if self.wanted.contains(&object) {
            return vec![object];
        }
        if let Some(found) = self.by_object.get(&object) {
            return found.clone();
        }
        if self.by_object.len() >= MAX_SEARCHED {
            return Vec::new();
        }
        let values = self.heap.attribute_values(object).unwrap_or_default();
        let values = values.into_iter();
        let found: Vec<u64> = values.filter(|value| self.wanted.contains(value)).collect();
        self.by_object.insert(object, found.clone());
        found
    }
}
