//! What the things say of themselves that tasks wait for: events, locks, channels, queues.

use crate::capture::python::heap::Heap;
use crate::capture::python::offsets::fixed;
use crate::model::{Addr, Grade, ObjectFact, WaitObject};

/// `PySetObject.used`.
const SET_USED: u64 = 24;

/// How a value is read.
#[derive(Clone, Copy)]
enum Kind {
    Flag,
    Number,
    /// A length, of any container.
    Length,
    /// Whether there is something else than `None`.
    Presence,
}

/// A fact, its attribute (and that one's own attributes), its kind.
type Recipe = (&'static str, &'static [&'static str], Kind);

/// By class: what is read of trio's, asyncio's and anyio's objects alike. An attribute that is not there gives no fact.
const RECIPES: [(&str, &[Recipe]); 17] = [
    (
        "Event",
        &[
            ("set", &["_flag"], Kind::Flag),
            ("set", &["_value"], Kind::Flag),
            ("set", &["_event", "_flag"], Kind::Flag),
            ("set", &["_event", "_value"], Kind::Flag),
        ],
    ),
    ("Lock", LOCK),
    ("StrictFIFOLock", LOCK),
    (
        "Semaphore",
        &[
            ("value", &["_value"], Kind::Number),
            ("max", &["_max_value"], Kind::Number),
            ("max", &["_bound_value"], Kind::Number),
        ],
    ),
    (
        "CapacityLimiter",
        &[
            ("borrowed", &["_borrowers"], Kind::Length),
            ("total", &["_total_tokens"], Kind::Number),
        ],
    ),
    (
        "Condition",
        &[
            ("locked", &["_lock", "_owner"], Kind::Presence),
            ("locked", &["_lock", "_locked"], Kind::Flag),
        ],
    ),
    ("MemoryReceiveChannel", CHANNEL),
    ("MemorySendChannel", CHANNEL),
    ("MemoryObjectReceiveStream", CHANNEL),
    ("MemoryObjectSendStream", CHANNEL),
    (
        "Queue",
        &[
            ("qsize", &["_queue"], Kind::Length),
            ("maxsize", &["_maxsize"], Kind::Number),
            ("unfinished_tasks", &["_unfinished_tasks"], Kind::Number),
        ],
    ),
    (
        "Barrier",
        &[
            ("waiting", &["_count"], Kind::Number),
            ("parties", &["_parties"], Kind::Number),
        ],
    ),
    (
        "StreamReader",
        &[
            ("buffered", &["_buffer"], Kind::Length),
            ("eof", &["_eof"], Kind::Flag),
        ],
    ),
    (
        "Nursery",
        &[
            ("tasks", &["_children"], Kind::Length),
            ("closed", &["_closed"], Kind::Flag),
        ],
    ),
    ("TaskGroup", &[("tasks", &["_tasks"], Kind::Length)]),
    (
        "_GatheringFuture",
        &[("futures", &["_children"], Kind::Length)],
    ),
    (
        "Process",
        &[
            ("pid", &["pid"], Kind::Number),
            ("pid", &["_proc", "pid"], Kind::Number),
        ],
    ),
];

const LOCK: &[Recipe] = &[
    ("locked", &["_owner"], Kind::Presence),
    ("locked", &["_owner_task"], Kind::Presence),
    ("locked", &["_locked"], Kind::Flag),
];

const CHANNEL: &[Recipe] = &[
    ("buffered", &["_state", "data"], Kind::Length),
    ("buffered", &["_state", "buffer"], Kind::Length),
    ("max", &["_state", "max_buffer_size"], Kind::Number),
    ("senders", &["_state", "open_send_channels"], Kind::Number),
    (
        "receivers",
        &["_state", "open_receive_channels"],
        Kind::Number,
    ),
];

/// The object with its facts; `None` where its class is not one that is known.
pub(super) fn known(heap: &Heap<'_>, object: u64) -> Option<WaitObject> {
    let recipes = recipes_of(heap, object)?;
    let mut state: Vec<ObjectFact> = Vec::new();
    for (name, path, kind) in recipes {
        if state.iter().any(|fact| fact.name == *name) {
            continue;
        }
        if let Some(value) = fact(heap, object, path, *kind) {
            state.push(ObjectFact {
                name: (*name).to_owned(),
                value: value.into(),
            });
        }
    }
    (!state.is_empty()).then(|| with_state(heap, object, state))
}

/// The object without any facts.
pub(super) fn bare(heap: &Heap<'_>, object: u64) -> WaitObject {
    with_state(heap, object, Vec::new())
}

pub(super) fn with_state(heap: &Heap<'_>, object: u64, state: Vec<ObjectFact>) -> WaitObject {
    WaitObject {
        type_name: heap
            .full_type_name(object)
            .unwrap_or_else(|_| "?".to_owned())
            .into(),
        address: Addr(object),
        name: None,
        state,
        kept_in: None,
        grade: Grade::Derived,
    }
}

fn recipes_of(heap: &Heap<'_>, object: u64) -> Option<&'static [Recipe]> {
    let kind = heap.type_of(object).ok()?;
    heap.bases(kind).ok()?.into_iter().find_map(|base| {
        let name = heap.memory.u64(base.wrapping_add(fixed::TYPE_NAME)).ok()?;
        let name = heap.memory.c_string(name, 256).ok()?;
        RECIPES
            .iter()
            .find(|(class, _)| class.as_bytes() == name)
            .map(|(_, recipes)| *recipes)
    })
}

fn fact(heap: &Heap<'_>, object: u64, path: &[&str], kind: Kind) -> Option<String> {
    let mut at = object;
    for name in path {
        at = heap.attribute(at, name).ok().flatten()?;
    }
    match kind {
        Kind::Flag => heap.boolean(at).ok().map(|flag| flag.to_string()),
        Kind::Number => number(heap, at),
        Kind::Length => length(heap, at).map(|length| length.to_string()),
        Kind::Presence => Some((!heap.is_none(at)).to_string()),
    }
}

fn number(heap: &Heap<'_>, object: u64) -> Option<String> {
    if heap.is(object, "int") {
        return heap.int(object).ok().map(|value| value.to_string());
    }
    // Only infinity is a limit of this type.
    let value = heap.float(object).ok()?;
    Some(value.to_string())
}

/// `len()` of a container of the builtin or `collections` types.
pub(super) fn length(heap: &Heap<'_>, object: u64) -> Option<u64> {
    let kind = heap.type_name(object).ok()?;
    match &*kind {
        "set" | "frozenset" => heap.memory.u64(object.wrapping_add(SET_USED)).ok(),
        "collections.deque"
        | "list"
        | "tuple"
        | "bytearray"
        | "dict"
        | "collections.OrderedDict" => heap.length(object).ok(),
        _ => None,
    }
}
