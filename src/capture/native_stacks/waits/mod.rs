//! What native threads wait for, by the frames on their stacks and by what lies at the address that they wait on.

mod channels;
mod guards;
mod holders;
mod names;
mod objects;
mod pieces;
mod reach;
mod scan;
mod shape_table;
mod shapes;

use super::super::maps::Region;
use super::super::memory::CachedMemory;
use super::super::namespace::NamespaceIds;
use super::super::native::{Images, Symbolizer};
use super::Unwound;
use crate::model::{Addr, Foreign, Grade, Key, Process, Thread, Tid, Wait, WaitKind, WaitObject};
use channels::Channel;
use objects::{Lock, Owner};
use shape_table::PARKING_LOT_CONDVAR;
use shapes::{Primitive, Shape};
use std::collections::BTreeMap;

/// A thread that waits for a lock.
struct Waiter {
    tid: Tid,
    shape: Shape,
    /// Number of its first physical frame that is not of the waiting itself.
    physical: usize,
    lock: Lock,
}

/// A thread that waits for what another thread has to do.
struct Waited {
    tid: Tid,
    /// Of what is waited for.
    address: u64,
    /// Other addresses by which it may be known.
    shared: Vec<u64>,
}

/// Tells of each thread with a native stack what it waits in, and of locks who holds them, or may.
pub(super) fn tell(
    process: &mut Process,
    unwound: &BTreeMap<Tid, Unwound>,
    (images, regions): (&Images, &[Region]),
    memory: &CachedMemory<'_>,
    symbols: &mut Symbolizer<'_>,
    namespace: &NamespaceIds,
) {
    let key = process.key.clone();
    let mut waiters = Vec::new();
    let mut in_conditions = Vec::new();
    let mut waited = Vec::new();
    let mut channels = Vec::new();
    let is_native = process.python.is_none();
    let stacks = reach::stacks(unwound, regions);
    for thread in &mut process.threads {
        let Some(shape) = shape_of(thread) else {
            continue;
        };
        let physical = physical_frames(thread, shape.frames);
        let Some(wait) = &mut thread.wait else {
            continue;
        };
        wait.call = Some(Foreign::from(shape.call));
        // Other processes may hold or signal it, and are not known.
        if wait.kind == WaitKind::SharedFutex {
            continue;
        }
        if shape.type_name == PARKING_LOT_CONDVAR {
            in_conditions.extend(wait.address.map(|futex| (thread.tid, futex.0)));
        }
        let lock = objects::lock(shape.primitive, wait, memory);
        let address = lock.map_or(wait.address, |lock| Some(Addr(lock.address)));
        if let Some(address) = address.filter(|_| !shape.type_name.is_empty()) {
            wait.object = Some(object(shape, address, lock.is_some()));
        }
        if let (Some(object), Some(stack)) = (&mut wait.object, unwound.get(&thread.tid))
            && shape.is_of_channel()
        {
            let frames = thread.native.iter().flat_map(|stack| &stack.frames);
            let shared = reach::shared(stack, stacks.get(&thread.tid), physical, regions);
            let frames = frames.take(shape.frames);
            if let Some(channel) = Channel::among(&shared, shapes::paths(frames), memory) {
                object.address = Addr(channel.address);
                object.state = channel.facts(shape.receives());
                channels.push((thread.tid, channel));
            }
        }
        if let Some(address) = address.filter(|_| is_native && wait.timed == Some(false))
            && let Some(stack) = unwound.get(&thread.tid)
            // Where registers were guessed it is not known by what others know it.
            && stack.grade == Grade::Read
        {
            // C's own primitives are known by their address; others park their thread.
            let parks =
                shape.primitive == Primitive::Signal && shape.call.contains(['.', ':', ' ']);
            waited.push(Waited {
                tid: thread.tid,
                address: address.0,
                shared: match parks {
                    true => reach::shared(stack, stacks.get(&thread.tid), physical, regions),
                    false => Vec::new(),
                },
            });
        }
        let Some(lock) = lock else {
            continue;
        };
        wait.kind = WaitKind::Lock;
        wait.address = Some(Addr(lock.address));
        wait.target = Some(key.lock(Addr(lock.address)));
        waiters.push(Waiter {
            tid: thread.tid,
            physical,
            shape,
            lock,
        });
    }
    let any_unnoted = waiters
        .iter()
        .any(|waiter| !matches!(waiter.lock.owner, Owner::Thread(_)));
    let mut owning = match any_unnoted {
        true => guards::owning(&process.threads, unwound, memory, symbols),
        false => guards::Owners::default(),
    };
    let locks: Vec<u64> = waiters.iter().map(|waiter| waiter.lock.address).collect();
    for (tid, channel) in channels {
        let kept_in = locks.iter().find(|lock| channel.is_kept_in(**lock, memory));
        holders::with_wait(process, tid, |wait| {
            if let Some(object) = &mut wait.object {
                object.kept_in = kept_in.map(|lock| Addr(*lock));
            }
        });
    }
    let released = in_conditions
        .into_iter()
        .filter_map(|(tid, futex)| Some((tid, objects::released(futex, &locks, memory)?)))
        .collect();
    owning.released = released;
    let space = reach::Space {
        regions,
        images,
        memory,
    };
    for (tid, others) in reach::out_of_reach(process, &waited, (unwound, &stacks), &space, symbols)
    {
        let keys = others
            .iter()
            .filter_map(|other| process.thread_by_tid(*other));
        let keys: Vec<Key> = keys.map(|other| other.key.clone()).collect();
        holders::with_wait(process, tid, |wait| wait.out_of_reach = keys);
    }
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
        kept_in: None,
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
