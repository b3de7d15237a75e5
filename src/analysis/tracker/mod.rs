//! Follows waits from thread to thread, into event loops and their tasks, and on into other processes.

mod peers;

use super::case::Case;
use super::chain::{Link, Waits};
use super::native_trail;
use super::polling;
use super::pools::{
    is_at_work, is_future_call, is_pool_call, is_thread_call, is_worker, runs_a_task,
};
use super::roles;
use super::streams::entry;
use super::task_liveness::stuck_loop_of;
use super::trail::{How, Node, Trail, fact};
use super::wait_graph;
use crate::model::{
    HolderEvidence, Key, Process, Task, TaskState, Thread, Wait, WaitKind, WaitObject,
};
use std::collections::BTreeMap;

/// Whether a thread waits for the next piece of work: it has done what it was given, and what somebody else misses is lost.
fn waits_for_work(thread: &Thread) -> bool {
    let call = thread.wait.as_ref().and_then(|wait| wait.call.as_ref());
    call.is_some_and(|call| matches!(call.untrusted(), "Queue.get" | "_queue.SimpleQueue.get"))
}

/// Longest trail that is followed.
const MAX_STEPS: usize = 200;

/// Follows waits in the last sample.
pub(super) struct Tracker<'c> {
    case: &'c Case<'c>,
    waits: BTreeMap<&'c Key, Waits<'c>>,
}

impl<'c> Tracker<'c> {
    pub(super) fn new(case: &'c Case<'c>) -> Self {
        let waits = case
            .last
            .processes
            .iter()
            .map(|process| (&process.key, Waits::of(process)));
        Self {
            case,
            waits: waits.collect(),
        }
    }

    /// The trail from a thread that is stuck.
    pub(super) fn follow(&self, process: &'c Process, start: &'c Thread) -> Trail<'c> {
        let mut trail = Trail {
            nodes: vec![Node::Thread(process, start)],
            hows: Vec::new(),
            closes: None,
        };
        let mut at = Node::Thread(process, start);
        while trail.nodes.len() < MAX_STEPS {
            let Some((how, next)) = self.next(at) else {
                break;
            };
            let known = trail.nodes.iter().position(|node| node.key() == next.key());
            if let Some(known) = known {
                // What may be does not make a circle.
                if how.is_exact() {
                    trail.hows.push(how);
                    trail.closes = Some(known);
                }
                break;
            }
            trail.hows.push(how);
            trail.nodes.push(next);
            at = next;
        }
        trail
    }

    /// The one that a thread or task waits for, and how.
    pub(super) fn next(&self, node: Node<'c>) -> Option<(How, Node<'c>)> {
        match node {
            Node::Thread(process, thread) => self.after_thread(process, thread),
            Node::Task(process, task) => self.after_task(process, task),
        }
    }

    fn after_thread(&self, process: &'c Process, thread: &'c Thread) -> Option<(How, Node<'c>)> {
        if let Some((next, link)) = self.waits.get(&process.key)?.next(&thread.key) {
            let how = match link {
                Link::Join => How::Join,
                Link::Lock(_) => How::Lock,
            };
            return Some((how, Node::Thread(process, next)));
        }
        let event_loop = roles::idle_loop_of(process, thread)
            .or_else(|| stuck_loop_of(self.case, process, thread));
        if let Some(event_loop) = event_loop {
            let task = entry(event_loop)?;
            return Some((How::Runs, Node::Task(process, task)));
        }
        if let Some(asked) = self.asked(process, thread) {
            return Some((How::Asks, asked));
        }
        let wait = thread.wait.as_ref()?;
        if let Some(key) = &wait.task
            && let Some(task) = self.case.task(key)
        {
            return Some((How::Task, Node::Task(process, task)));
        }
        match wait.kind {
            WaitKind::Child => self.child(wait),
            WaitKind::Read | WaitKind::Write | WaitKind::Poll => {
                self.other_end(process, thread, wait).or_else(|| {
                    let server = self.server_thread(process, thread, wait)?;
                    Some((How::Might, server))
                })
            }
            WaitKind::FileLock => {
                let file = wait.descriptor.as_ref()?;
                let holder = self.peer(process, Some(thread), file)?;
                Some((How::Lock, holder))
            }
            WaitKind::SharedFutex => {
                let Some(holder) = wait_graph::holder(wait) else {
                    return self.other_feeder(thread);
                };
                let holder = holder.thread.as_ref()?;
                let other = self.case.last.process(&holder.of_process())?;
                let thread = other.thread(holder)?;
                self.is_stuck(thread)
                    .then_some((How::Lock, Node::Thread(other, thread)))
            }
            _ => self.within(process, thread, wait),
        }
    }

    /// The stuck one after whose end a thread asks again and again.
    fn asked(&self, process: &'c Process, thread: &'c Thread) -> Option<Node<'c>> {
        let asked = polling::asked(self.case, process, thread)?;
        let mut threads = asked.threads.iter().filter_map(|key| process.thread(key));
        if let Some(stuck) = threads.find(|other| self.is_stuck(other)) {
            return Some(Node::Thread(process, stuck));
        }
        let mut processes = asked.processes.iter();
        processes.find_map(|key| self.leader(self.case.last.process(key)?))
    }

    /// Of several processes that write to one `multiprocessing.Queue` one has the lock of its pipe, and takes it by no `with`
    /// block: the one that writes.
    fn other_feeder(&self, thread: &Thread) -> Option<(How, Node<'c>)> {
        let feeds = |thread: &Thread| {
            let mut frames = thread.frames();
            frames.any(|frame| frame.is("Queue._feed", "multiprocessing/queues.py"))
        };
        if !feeds(thread) {
            return None;
        }
        let writes = |other: &&Thread| {
            let wait = other.wait.as_ref();
            feeds(other)
                && self.is_stuck(other)
                && wait.is_some_and(|wait| wait.kind == WaitKind::Write)
        };
        let mut processes = self.case.last.processes.iter();
        processes.find_map(|process| {
            let writer = process.threads.iter().find(writes)?;
            Some((How::Might, Node::Thread(process, writer)))
        })
    }

    fn is_stuck(&self, thread: &Thread) -> bool {
        self.case.liveness.is_stuck(&thread.key)
    }

    /// The child that is waited for.
    fn child(&self, wait: &'c Wait) -> Option<(How, Node<'c>)> {
        let children = &wait.child.as_ref()?.children;
        let first = children.iter().find_map(|child| {
            let process = self.case.last.process(child.process.as_ref()?)?;
            self.leader(process)
        });
        first.map(|node| (How::Child, node))
    }

    /// The stuck child that an object such as `asyncio.subprocess.Process` stands for.
    fn child_of_object(
        &self,
        process: &Process,
        object: Option<&'c WaitObject>,
    ) -> Option<Node<'c>> {
        let pid = fact(object?, "pid")?;
        let mut all = self.case.last.processes.iter();
        let child = all.find(|other| other.ppid == process.pid && other.pid.to_string() == pid)?;
        self.leader(child)
    }

    /// A worker process of a pool that is stuck in the program's own code.
    fn worker_process(&self, process: &Process) -> Option<Node<'c>> {
        let children = self.case.last.processes.iter();
        let mut workers = children.filter(|child| child.ppid == process.pid);
        workers.find_map(|child| {
            let node = self.leader(child)?;
            let works = runs_a_task(&node.frames());
            works.then_some(node)
        })
    }

    /// An event loop of another thread that has come to rest: what was sent to it is parked there.
    fn resting_loop(&self, process: &'c Process, except: &Thread) -> Option<Node<'c>> {
        let mut threads = process.threads.iter();
        let thread = threads.find(|other| {
            other.key != except.key
                && self.is_stuck(other)
                && roles::idle_loop_of(process, other).is_some_and(|it| entry(it).is_some())
        })?;
        Some(Node::Thread(process, thread))
    }

    /// The thread of a process that keeps it from ending: its main thread, if that is stuck.
    fn leader(&self, process: &'c Process) -> Option<Node<'c>> {
        let stuck = |thread: &&Thread| self.is_stuck(thread);
        let main = process
            .threads
            .iter()
            .find(|thread| process.is_led_by(thread));
        let found = main
            .filter(stuck)
            .or_else(|| process.threads.iter().find(stuck))?;
        Some(Node::Thread(process, found))
    }

    /// Within a process: the thread that computes a future, or one that alone could do what is waited for.
    fn within(
        &self,
        process: &'c Process,
        thread: &'c Thread,
        wait: &'c Wait,
    ) -> Option<(How, Node<'c>)> {
        let stuck = |key: &Key| {
            let other = process.thread(key)?;
            (other.key != thread.key && self.is_stuck(other)).then_some(other)
        };
        let suspects = || {
            wait.suspects
                .iter()
                .filter(|suspect| suspect.by == HolderEvidence::Reference)
                .filter_map(|suspect| Some((suspect, stuck(suspect.thread.as_ref()?)?)))
        };
        let native = native_trail::next(process, thread, wait, |other| self.is_stuck(other));
        if let Some((how, worker)) = native {
            return Some((how, Node::Thread(process, worker)));
        }
        let call = wait.call.as_ref().map_or("", |call| call.untrusted());
        let object = wait.object.as_ref();
        let class = object.map_or("", |object| object.type_name.untrusted());
        if is_pool_call(call, class) {
            let mut workers = process.threads.iter();
            let of_threads = workers.find(|other| {
                is_worker(other) && is_at_work(other) && self.is_stuck(other) && !is_worker(thread)
            });
            if let Some(worker) = of_threads {
                return Some((How::Future, Node::Thread(process, worker)));
            }
            return self.worker_process(process).map(|node| (How::Future, node));
        }
        if is_future_call(call) {
            let runs = suspects().find(|(suspect, _)| {
                let place = suspect.place.as_ref().map_or("", |place| place.untrusted());
                place.starts_with("_WorkItem.run ")
            });
            let of_pool = || {
                let mut workers = process.threads.iter().filter(|other| is_worker(other));
                workers.find(|worker| self.is_stuck(worker) && !roles::idles_in_pool(worker))
            };
            let worker = runs
                .map(|(_, worker)| worker)
                .or_else(|| of_pool().filter(|_| !is_worker(thread)));
            let worker = worker.filter(|worker| worker.key != thread.key);
            return worker
                .map(|worker| Node::Thread(process, worker))
                .or_else(|| self.worker_process(process))
                .or_else(|| self.resting_loop(process, thread))
                .map(|node| (How::Future, node));
        }
        // Of a lock they might be the holder, of anything else the one who is to act.
        let apart = suspects().find(|(_, other)| {
            let same = other.wait.as_ref().and_then(|wait| wait.object.as_ref());
            let address = wait.object.as_ref().map(|object| object.address);
            same.map(|object| object.address) != address && !waits_for_work(other)
        });
        apart.map(|(_, other)| (How::Might, Node::Thread(process, other)))
    }

    fn after_task(&self, process: &'c Process, task: &'c Task) -> Option<(How, Node<'c>)> {
        let awaits = task.awaits.as_ref()?;
        if let Some(thread) = awaits.thread.as_ref().and_then(|key| process.thread(key)) {
            return Some((How::Worker, Node::Thread(process, thread)));
        }
        let find = |key: &Key| self.case.task(key);
        let holder = awaits.holders.iter().find_map(|holder| {
            let task = find(holder.task.as_ref()?)?;
            Some((How::Lock, Node::Task(process, task)))
        });
        if holder.is_some() {
            return holder;
        }
        let waiting = || {
            let awaited = awaits.tasks.iter().filter_map(find);
            awaited.filter(|task| task.state == TaskState::Waiting)
        };
        let stuck = waiting().find(|task| self.case.liveness.is_stuck(&task.key));
        if let Some(next) = stuck.or_else(|| waiting().next()) {
            return Some((How::Task, Node::Task(process, next)));
        }
        if let Some(child) = self.child_of_object(process, awaits.object.as_ref()) {
            return Some((How::Child, child));
        }
        if is_thread_call(awaits) {
            let mut workers = process.threads.iter().filter(|other| is_worker(other));
            let worker =
                workers.find(|worker| self.is_stuck(worker) && !roles::idles_in_pool(worker));
            let node = worker.map(|worker| Node::Thread(process, worker));
            return Some((How::Future, node.or_else(|| self.worker_process(process))?));
        }
        let number = awaits.descriptor?;
        let polled = process
            .threads
            .iter()
            .filter_map(|thread| thread.wait.as_ref());
        let file = polled
            .flat_map(|wait| &wait.files)
            .find(|file| file.number == number)?;
        self.peer(process, None, file).map(|node| (How::Data, node))
    }
}
