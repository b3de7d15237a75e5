//! Generators that a thread has begun and left suspended: a lock whose `with` block they are in stays taken until somebody drives
//! them on.

use crate::capture::python::frame::RawFrame;
use crate::capture::python::heap::Heap;
use crate::capture::python::offsets::fixed;
use crate::capture::python::{generator, slots, waits};
use crate::model::is_library_file;
use std::collections::{BTreeMap, BTreeSet};

/// Most objects of a frame whose attributes are looked at.
const MAX_OBJECTS: usize = 64;
/// Most attributes of one object.
const MAX_ATTRIBUTES: usize = 64;
/// Most fixtures of a test, and finalizers of a fixture.
const MAX_FIXTURES: usize = 256;

/// The search for them; each object and each function's globals are looked at once.
#[derive(Default)]
pub(super) struct Suspended {
    /// Values of the globals that a code object names.
    globals: BTreeMap<u64, Vec<u64>>,
    /// Generators among an object's attributes.
    of_objects: BTreeMap<u64, Vec<u64>>,
}

impl Suspended {
    /// The generators that a frame refers to: by a variable or a `for` loop; in the program's own code also by a global that it
    /// names and by an attribute of any of these; in pytest's runner, the fixtures of the test.
    pub(super) fn referred_to(&mut self, heap: &Heap<'_>, frame: &RawFrame) -> BTreeSet<u64> {
        let variables = slots::values(heap, frame).unwrap_or_default();
        let stack = slots::stack(heap, frame).unwrap_or_default();
        let of_stack = stack.values.into_iter().filter(|value| *value != 0);
        let mut objects: BTreeSet<u64> = variables.into_iter().chain(of_stack).collect();
        let mut out = BTreeSet::new();
        if is_library_file(frame.code.file.untrusted()) {
            out.extend(fixtures(heap, frame));
        } else {
            let globals = self.globals.entry(frame.code.address).or_insert_with(|| {
                let globals = waits::used_globals(heap, frame);
                globals.iter().map(|(_, value)| *value).collect()
            });
            objects.extend(globals.iter());
            for object in objects.iter().take(MAX_OBJECTS) {
                let found = self.of_objects.entry(*object);
                out.extend(
                    found
                        .or_insert_with(|| among_attributes(heap, *object))
                        .iter(),
                );
            }
        }
        out.extend(
            objects
                .into_iter()
                .filter(|object| generator::is_generator(heap, *object)),
        );
        out
    }
}

fn among_attributes(heap: &Heap<'_>, object: u64) -> Vec<u64> {
    let values = heap.attribute_values(object).unwrap_or_default();
    values
        .into_iter()
        .take(MAX_ATTRIBUTES)
        .filter(|value| generator::is_generator(heap, *value))
        .collect()
}

/// The generators of the `yield` fixtures that the test of pytest's `runtestprotocol` has: each is an argument of a
/// finalizer, a `functools.partial`, of its `FixtureDef`.
fn fixtures(heap: &Heap<'_>, frame: &RawFrame) -> Vec<u64> {
    if frame.code.name != "runtestprotocol"
        || !frame.code.file.untrusted().ends_with("/_pytest/runner.py")
    {
        return Vec::new();
    }
    let attribute = |object: u64, name: &str| heap.attribute(object, name).ok().flatten();
    let definitions = || {
        let item = slots::variable(heap, frame, "item")?;
        let info = attribute(item, "_fixtureinfo")?;
        heap.dict(attribute(info, "name2fixturedefs")?).ok()
    };
    let sequence = |object: u64| {
        let items = if heap.is(object, "list") {
            heap.list(object)
        } else {
            heap.tuple(object)
        };
        items.unwrap_or_default().into_iter().take(MAX_FIXTURES)
    };
    let arguments = |finalizer: u64| {
        let partial = heap.is(finalizer, "functools.partial");
        let field = finalizer.wrapping_add(fixed::PARTIAL_ARGUMENTS);
        let arguments = partial.then(|| heap.memory.u64(field).ok()).flatten();
        arguments.into_iter().flat_map(sequence)
    };
    definitions()
        .unwrap_or_default()
        .into_iter()
        .take(MAX_FIXTURES)
        .flat_map(|(_, of_name)| sequence(of_name))
        .filter_map(|definition| attribute(definition, "_finalizers"))
        .flat_map(sequence)
        .flat_map(arguments)
        .filter(|object| generator::is_generator(heap, *object))
        .collect()
}
