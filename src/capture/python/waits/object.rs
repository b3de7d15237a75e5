//! The object that a program would say it waits on: the queue of `jobs.get()`, not the lock within.

use super::{WaitTarget, is_locked, naming};
use crate::capture::python::heap::Heap;
use crate::capture::python::library;
use crate::capture::python::offsets::fixed;
use crate::capture::python::slots;
use crate::capture::python::thread_state::RawThreadState;
use crate::model::{Addr, Grade, ObjectFact, WaitObject};

/// Deepest nest of library calls that is looked through.
const MAX_LIBRARY_FRAMES: usize = 16;

/// What the thread waits on: the object of the outermost library call, else the lock itself.
pub(super) fn describe(
    heap: &Heap<'_>,
    waiter: &RawThreadState,
    target: Option<&WaitTarget>,
) -> Option<WaitObject> {
    let raw = &waiter.raw_frames;
    let library = waiter
        .state
        .frames
        .iter()
        .take_while(|frame| frame.is_stdlib() && !library::starts_a_task(frame))
        .take(MAX_LIBRARY_FRAMES)
        .count();
    let within = |module: &str| {
        let mut frames = waiter.state.frames.iter().take(library);
        frames.any(|frame| frame.file.untrusted().contains(module))
    };
    // These wait for many things at once, and the loop or selector they wait with tells nothing. Popen.communicate() polls for
    // itself.
    if within("/asyncio/") || (within("/selectors.py") && !within("/subprocess.py")) {
        return None;
    }
    let called = raw
        .iter()
        .take(library)
        .rev()
        .find_map(|frame| slots::variable(heap, frame, "self"));
    let own = match target {
        Some(WaitTarget::Lock(lock)) => Some(lock.object.0),
        Some(WaitTarget::ProcessLock(object) | WaitTarget::Object(object)) => Some(object.0),
        _ => None,
    };
    let (object, grade) = match (called, own) {
        (Some(called), _) => (called, Grade::Derived),
        (None, Some(own)) => (own, Grade::Read),
        (None, None) => return None,
    };
    let caller = raw.get(library).or_else(|| raw.last());
    Some(WaitObject {
        type_name: heap.full_type_name(object).ok()?.into(),
        address: Addr(object),
        name: caller
            .and_then(|caller| naming::name_of(heap, caller, object))
            .map(Into::into),
        state: state(heap, object),
        kept_in: None,
        grade,
    })
}

/// What an object of a known class says of itself.
fn state(heap: &Heap<'_>, object: u64) -> Vec<ObjectFact> {
    let Ok(kind) = heap.type_name(object) else {
        return Vec::new();
    };
    let mut facts = Facts {
        heap,
        object,
        facts: Vec::new(),
    };
    match &*kind {
        "_thread.lock" | "_thread.RLock" => {
            facts.push("locked", is_locked(heap, object).to_string());
        }
        "_multiprocessing.SemLock" => {
            let most = heap.memory.i32(object.wrapping_add(fixed::SEMLOCK_MAX));
            if let Ok(most) = most {
                facts.push("maxvalue", most.to_string());
            }
        }
        _ if heap.is_instance(object, "Queue") => {
            facts.length("qsize", "queue");
            facts.number("maxsize", "maxsize");
            facts.number("unfinished_tasks", "unfinished_tasks");
        }
        _ if heap.is_instance(object, "Event") => facts.flag("set", "_flag"),
        _ if heap.is_instance(object, "Semaphore") => facts.number("value", "_value"),
        _ if heap.is_instance(object, "Condition") => facts.length("waiters", "_waiters"),
        _ if heap.is_instance(object, "Barrier") => {
            facts.number("parties", "_parties");
            facts.number("arrived", "_count");
        }
        _ if heap.is_instance(object, "Future") => facts.text("state", "_state"),
        _ if heap.is_instance(object, "ThreadPoolExecutor") => {
            facts.number("max_workers", "_max_workers");
            facts.flag("shutdown", "_shutdown");
        }
        _ if heap.is_instance(object, "Popen") => facts.number("pid", "pid"),
        _ if heap.is_instance(object, "Thread") => facts.text("name", "_name"),
        _ => {}
    }
    facts.facts
}

/// Facts of one object, read from its attributes.
struct Facts<'h> {
    heap: &'h Heap<'h>,
    object: u64,
    facts: Vec<ObjectFact>,
}

impl Facts<'_> {
    fn push(&mut self, name: &str, value: String) {
        self.facts.push(ObjectFact {
            name: name.to_owned(),
            value: value.into(),
        });
    }

    fn attribute(&self, attribute: &str) -> Option<u64> {
        self.heap.attribute(self.object, attribute).ok().flatten()
    }

    fn number(&mut self, name: &str, attribute: &str) {
        let value = self
            .attribute(attribute)
            .filter(|value| self.heap.is(*value, "int"));
        if let Some(number) = value.and_then(|value| self.heap.int(value).ok()) {
            self.push(name, number.to_string());
        }
    }

    fn flag(&mut self, name: &str, attribute: &str) {
        let value = self.attribute(attribute);
        if let Some(flag) = value.and_then(|value| self.heap.boolean(value).ok()) {
            self.push(name, flag.to_string());
        }
    }

    fn text(&mut self, name: &str, attribute: &str) {
        let value = self.attribute(attribute);
        if let Some(text) = value.and_then(|value| self.heap.string(value).ok()) {
            self.push(name, text);
        }
    }

    fn length(&mut self, name: &str, attribute: &str) {
        let value = self.attribute(attribute);
        let sized = value.filter(|value| {
            self.heap.is(*value, "collections.deque") || self.heap.is(*value, "list")
        });
        if let Some(length) = sized.and_then(|value| self.heap.length(value).ok()) {
            self.push(name, length.to_string());
        }
    }
}
