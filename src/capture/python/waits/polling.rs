//! Code that asks again and again whether a thread or a child has ended: `while thread.is_alive(): thread.join(1)`,
//! `while child.poll() is None: time.sleep(1)`. It goes on for ever if that does not end, though each of its waits is short.

use super::naming::used_globals;
use crate::capture::python::bytecode;
use crate::capture::python::frame::RawFrame;
use crate::capture::python::generator;
use crate::capture::python::heap::Heap;
use crate::capture::python::slots;
use crate::capture::python::thread_state::RawThreadState;
use crate::model::{Pid, Tid, is_library_file};
use std::collections::{BTreeMap, BTreeSet};

/// Most frames that are looked through.
const MAX_FRAMES: usize = 200;
/// Most variables of the asking function, and most items of a list of them.
const MAX_OBJECTS: usize = 64;
/// Deepest calls that are followed, and most functions.
const MAX_CALLS: u8 = 4;
const MAX_FUNCTIONS: usize = 100;
/// Names in code that may wake or end what is asked after. If any is there, it is open what the code does in its loop.
const ACTING: [&str; 24] = [
    "set",
    "put",
    "put_nowait",
    "notify",
    "notify_all",
    "release",
    "task_done",
    "set_result",
    "set_exception",
    "cancel",
    "close",
    "shutdown",
    "terminate",
    "kill",
    "stop",
    "send",
    "send_signal",
    "sendall",
    "write",
    "flush_all",
    "abort",
    "communicate",
    "read",
    "recv",
];

/// Names in a loop that asks after threads, and after children.
const OF_THREADS: [&str; 2] = ["is_alive", "join"];
const OF_CHILDREN: [&str; 6] = ["is_alive", "join", "poll", "wait", "returncode", "exitcode"];

fn is_acting<'n>(names: impl IntoIterator<Item = &'n String>) -> bool {
    let mut names = names.into_iter();
    names.any(|name| ACTING.contains(&name.as_str()))
}

/// What a function asks after.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Asked {
    /// Threads that are alive, in the target's pid namespace.
    pub(crate) threads: BTreeSet<Tid>,
    /// Children, in the target's pid namespace.
    pub(crate) children: BTreeSet<Pid>,
}

/// What the innermost function of the program's own asks after, if its names show that it does and that neither it nor its callers
/// do anything about it.
pub(super) fn asked(
    heap: &Heap<'_>,
    top: &RawThreadState,
    by_ident: &BTreeMap<u64, &RawThreadState>,
) -> Asked {
    let own = |frame: &&RawFrame| !is_library_file(frame.code.file.untrusted());
    let mut frames = top.raw_frames.iter().take(MAX_FRAMES).filter(own);
    let Some(asking) = frames.next() else {
        return Asked::default();
    };
    // Few functions do, and to know what they still have before them costs more.
    let names = asking.code.names(heap);
    if !names
        .iter()
        .any(|name| OF_CHILDREN.contains(&name.as_str()))
    {
        return Asked::default();
    }
    let Some(ahead) = bytecode::names_ahead(heap, asking) else {
        return Asked::default();
    };
    let has = |wanted: &[&str]| {
        let mut in_loops = ahead.in_loops.iter();
        in_loops.any(|name| wanted.contains(&name.as_str()))
    };
    let (of_thread, of_child) = (has(&OF_THREADS), has(&OF_CHILDREN));
    let mut code = Ahead {
        heap,
        seen: BTreeSet::new(),
    };
    let does_nothing_else = (of_thread || of_child)
        && !code.acts(asking, &ahead.all)
        && !frames.any(|frame| code.may_act(frame));
    if !does_nothing_else {
        return Asked::default();
    }
    let mut named = slots::values(heap, asking).unwrap_or_default();
    named.extend(used_globals(heap, asking).iter().map(|(_, object)| *object));
    named.truncate(MAX_OBJECTS);
    // `self.thread`: the loop names it.
    let attributes = named
        .iter()
        .flat_map(|object| attributes(heap, *object, &ahead.in_loops));
    let attributes: Vec<u64> = attributes.collect();
    let mut out = Asked::default();
    for object in named
        .into_iter()
        .chain(attributes)
        .flat_map(|object| with_items(heap, object))
    {
        if of_thread && heap.is_instance(object, "Thread") {
            let ident = number(heap, object, "_ident");
            let alive = ident.and_then(|ident| by_ident.get(&ident));
            let other = alive.filter(|other| other.native_id != top.native_id);
            out.threads.extend(other.map(|other| other.native_id));
        } else if of_child && heap.is_instance(object, "Popen") {
            out.children.extend(pid(heap, object));
        } else if of_child && heap.is_instance(object, "BaseProcess") {
            let process = heap.attribute(object, "_popen").ok().flatten();
            out.children
                .extend(process.and_then(|process| pid(heap, process)));
        }
    }
    out
}

/// What code may still do.
struct Ahead<'h> {
    heap: &'h Heap<'h>,
    /// Functions that were looked into.
    seen: BTreeSet<u64>,
}

impl Ahead<'_> {
    /// Whether what a frame's function may still run, with what that calls, may wake or end anything.
    fn may_act(&mut self, frame: &RawFrame) -> bool {
        match bytecode::names_ahead(self.heap, frame) {
            Some(ahead) => self.acts(frame, &ahead.all),
            None => self.acts(
                frame,
                &frame.code.names(self.heap).iter().cloned().collect(),
            ),
        }
    }

    /// The same of what has these names.
    fn acts(&mut self, frame: &RawFrame, names: &BTreeSet<String>) -> bool {
        if is_acting(names) {
            return true;
        }
        let heap = self.heap;
        let variables = slots::values(heap, frame).unwrap_or_default();
        let globals = used_globals(heap, frame);
        let called = globals.iter().filter(|(name, _)| names.contains(name));
        let called: Vec<u64> = called.map(|(_, value)| *value).collect();
        let of_globals = globals.iter().map(|(_, value)| *value);
        let objects = variables.into_iter().chain(of_globals).take(MAX_OBJECTS);
        let of_objects: Vec<u64> = objects
            .flat_map(|object| {
                let methods = names.iter();
                let methods = methods.filter_map(move |name| heap.method_function(object, name));
                attributes(heap, object, names).chain(methods)
            })
            .collect();
        // Its code runs when the loop goes on.
        let stack = slots::stack(heap, frame).unwrap_or_default();
        let mut iterators = stack.values.into_iter().filter(|value| *value != 0);
        iterators.any(|value| generator::is_generator(heap, value))
            || called
                .into_iter()
                .chain(of_objects)
                .any(|function| self.function_acts(function, MAX_CALLS))
    }

    /// The same of a function of the program's own: libraries wake nobody unasked.
    fn function_acts(&mut self, function: u64, left: u8) -> bool {
        let heap = self.heap;
        let Some(left) = left.checked_sub(1) else {
            return true;
        };
        if !heap.is_of_program(function) || !self.seen.insert(function) {
            return false;
        }
        // A bound method, or a function with arguments: what those lead to is not followed.
        if !heap.is(function, "function") {
            return true;
        }
        let Some((_, names)) = heap.code_names(function) else {
            return true;
        };
        let globals = heap.function_parts(function).map(|parts| parts.globals);
        let called = names
            .iter()
            .filter_map(|name| heap.dict_get(globals.ok()?, name).ok()?);
        let called: Vec<u64> = called.collect();
        self.seen.len() > MAX_FUNCTIONS
            || is_acting(&names)
            || called
                .into_iter()
                .any(|function| self.function_acts(function, left))
    }
}

/// The attributes of an object that have one of these names.
fn attributes<'n>(
    heap: &'n Heap<'_>,
    object: u64,
    names: &'n BTreeSet<String>,
) -> impl Iterator<Item = u64> + 'n {
    let names = names.iter();
    names.filter_map(move |name| heap.attribute(object, name).ok().flatten())
}

/// An object, and the items of it if it is a list, tuple or dictionary.
fn with_items(heap: &Heap<'_>, object: u64) -> Vec<u64> {
    let mut out = vec![object];
    let items = match heap.type_name(object).as_deref() {
        Ok("list") => heap.list(object),
        Ok("tuple") => heap.tuple(object),
        Ok("dict") => heap
            .dict(object)
            .map(|pairs| pairs.into_iter().map(|(_, value)| value).collect()),
        _ => return out,
    };
    out.extend(items.unwrap_or_default().into_iter().take(MAX_OBJECTS));
    out
}

fn number(heap: &Heap<'_>, object: u64, attribute: &str) -> Option<u64> {
    let value = heap.attribute(object, attribute).ok()??;
    heap.is(value, "int").then(|| heap.int(value).ok())?
}

/// Of a child that has not been waited for.
fn pid(heap: &Heap<'_>, object: u64) -> Option<Pid> {
    let code = heap.attribute(object, "returncode").ok()??;
    let pid = number(heap, object, "pid").filter(|_| heap.is_none(code))?;
    Pid::try_from(pid).ok()
}
