//! What native threads wait for, by the frames on their stacks and by what lies at the address that they wait on.

mod guards;
mod holders;
mod names;
mod objects;
mod scan;
mod shape_table;
mod shapes;

use super::super::memory::CachedMemory;
use super::super::namespace::NamespaceIds;
use super::super::native::Symbolizer;
use super::Unwound;
use crate::model::{Addr, Foreign, Grade, Process, Thread, Tid, Wait, WaitKind, WaitObject};
use objects::{Lock, Owner};
use shapes::Shape;
use std::collections::BTreeMap;

/// A thread that waits for a lock.
struct Waiter {
    tid: Tid,
    shape: Shape,
    /// Number of its first physical frame that is not of the waiting itself.
    physical: usize,
    lock: Lock,
}

/// Tells of each thread with a native stack what it waits in, and of locks who holds them, or may.
pub(super) fn tell(
    process: &mut Process,
    unwound: &BTreeMap<Tid, Unwound>,
    memory: &CachedMemory<'_>,
    symbols: &mut Symbolizer<'_>,
    namespace: &NamespaceIds,
) {
    let key = process.key.clone();
    let mut waiters = Vec::new();
    for thread in &mut process.threads {
        let Some(shape) = shape_of(thread) else {
            continue;
        };
        let Some(wait) = &mut thread.wait else {
            continue;
        };
        wait.call = Some(Foreign::from(shape.call));
        // Other processes may hold or signal it, and are not known.
        if wait.kind == WaitKind::SharedFutex {
            continue;
        }
        let lock = objects::lock(shape.primitive, wait, memory);
        let address = lock.map_or(wait.address, |lock| Some(Addr(lock.address)));
        if let Some(address) = address.filter(|_| !shape.type_name.is_empty()) {
            wait.object = Some(object(shape, address, lock.is_some()));
        }
        let Some(lock) = lock else {
            continue;
        };
        wait.kind = WaitKind::Lock;
        wait.address = Some(Addr(lock.address));
        wait.target = Some(key.lock(Addr(lock.address)));
        waiters.push(Waiter {
            tid: thread.tid,
            physical: physical_frames(thread, shape.frames),
            shape,
            lock,
        });
    }
    let any_unnoted = waiters
        .iter()
        .any(|waiter| !matches!(waiter.lock.owner, Owner::Thread(_)));
    let owning = match any_unnoted {
        true => guards::owning(&process.threads, unwound, memory, symbols),
        false => guards::Owners::default(),
    };
    holders::find(process, &waiters, unwound, &owning, namespace);
}

/// What a thread waits in, unless Python knows it better, or it has moved since it was seen to wait.
fn shape_of(thread: &Thread) -> Option<Shape> {
    let (wait, stack) = (thread.wait.as_ref()?, thread.native.as_ref()?);
    let known_better = wait.object.is_some()
        || matches!(wait.kind, WaitKind::Gil | WaitKind::Lock | WaitKind::RLock);
    if stack.moved || known_better || !is_on_futex(wait) {
        return None;
    }
    shapes::shape(&stack.frames)
}

fn is_on_futex(wait: &Wait) -> bool {
    matches!(
        wait.kind,
        WaitKind::Futex | WaitKind::SharedFutex | WaitKind::ThreadExit | WaitKind::Poll
    )
}

fn object(shape: Shape, address: Addr, exact: bool) -> WaitObject {
    WaitObject {
        type_name: shape.type_name.into(),
        address,
        name: None,
        state: Vec::new(),
        grade: match exact {
            true => Grade::Read,
            false => Grade::Derived,
        },
    }
}

/// How many physical frames the first `count` ones of a stack are.
fn physical_frames(thread: &Thread, count: usize) -> usize {
    let frames = thread.native.iter().flat_map(|stack| &stack.frames);
    frames.take(count).filter(|frame| !frame.inlined).count()
}
