//! All threads of a process held still: for `--stop` while its memory is read, for native stacks while their registers
//! and stacks are copied.
//!
//! A tracer thread of its own seizes and interrupts them (ptrace(2), `PTRACE_SEIZE`: should hangscope die, the kernel lets
//! them run on), and lets go after the reading or after [`MOST`], whichever comes first. It never attaches, which would
//! send signals, and waits for nothing but the threads that it has seized.

use super::native::Registers;
use crate::model::{Pid, Tid};
use nix::errno::Errno;
use nix::sys::ptrace;
use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid as NixPid;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Longest time that a process is held.
const MOST: Duration = Duration::from_millis(500);
/// How long threads may take to stop; one in an uninterruptible system call does not.
const SETTLING: Duration = Duration::from_millis(100);
/// The same where the others are but waiting for a CPU to stop on.
const SETTLING_OF_READY: Duration = Duration::from_millis(400);
/// Pause between two looks at whether they have stopped.
const POLL: Duration = Duration::from_micros(100);
/// How often new threads are looked for while the others are stopped.
const ROUNDS: usize = 8;

/// While it lives, signals that would stop hangscope wait: this thread blocks them, and so do those that it starts.
#[derive(Debug)]
pub(super) struct Unstoppable {
    before: Option<SigSet>,
}

impl Unstoppable {
    pub(super) fn begin() -> Self {
        let mut stopping = SigSet::empty();
        for signal in [Signal::SIGTSTP, Signal::SIGTTIN, Signal::SIGTTOU] {
            stopping.add(signal);
        }
        let before = stopping.thread_swap_mask(SigmaskHow::SIG_BLOCK).ok();
        Self { before }
    }
}

impl Drop for Unstoppable {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            let _ = before.thread_set_mask();
        }
    }
}

/// A process that is held.
#[derive(Debug)]
pub(super) struct Stop {
    /// Threads that stand still.
    pub(super) stopped: BTreeSet<Tid>,
    /// Their registers, if they were asked for.
    pub(super) registers: BTreeMap<Tid, Registers>,
    release: Sender<()>,
    tracer: Option<JoinHandle<Held>>,
}

/// How a hold went.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    /// From the first interruption to the last release.
    pub(super) for_us: u64,
    /// The threads were let go before the reading was over.
    pub(super) cut: bool,
}

impl Stop {
    /// Stops all threads of a process that can be stopped.
    ///
    /// # Errors
    /// In words, when no thread can be: no permission, another tracer.
    pub(super) fn begin(pid: Pid) -> Result<Self, String> {
        Self::begin_with(pid, false)
    }

    /// The same, and takes the registers of each.
    pub(super) fn begin_with_registers(pid: Pid) -> Result<Self, String> {
        Self::begin_with(pid, true)
    }

    fn begin_with(pid: Pid, registers: bool) -> Result<Self, String> {
        let (release, released) = channel();
        let (ready, is_ready) = channel();
        let tracer = thread::Builder::new()
            .name("tracer".to_owned())
            .spawn(move || trace(pid, registers, &ready, &released))
            .map_err(|error| error.to_string())?;
        match is_ready.recv() {
            Ok(Ok((stopped, registers))) => Ok(Self {
                stopped,
                registers,
                release,
                tracer: Some(tracer),
            }),
            Ok(Err(errno)) => {
                let _ = tracer.join();
                Err(match errno {
                    Errno::EPERM => "the kernel refused, or another tracer is attached".to_owned(),
                    errno => errno.desc().to_owned(),
                })
            }
            Err(_) => Err("the tracing thread failed".to_owned()),
        }
    }

    /// Has it let go, which takes some microseconds a thread.
    pub(super) fn release(&self) {
        let _ = self.release.send(());
    }

    /// Lets it go, and waits until that is done.
    pub(super) fn end(mut self) -> Option<Held> {
        self.let_go()
    }

    fn let_go(&mut self) -> Option<Held> {
        self.release();
        self.tracer.take()?.join().ok()
    }
}

impl Drop for Stop {
    fn drop(&mut self) {
        let _ = self.let_go();
    }
}

/// A seized thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seized {
    /// Interrupted, not yet seen to stop.
    Running,
    /// Stopped; a signal was about to be delivered to it, which it gets when it is let go.
    Stopped(Option<Signal>),
    /// Stopped by a signal that has no name here, a real-time one: only the kernel can pass that on, when this thread ends.
    Nameless,
    Gone,
}

/// Threads that stand still, and their registers.
type Stopped = (BTreeSet<Tid>, BTreeMap<Tid, Registers>);

fn trace(
    pid: Pid,
    with_registers: bool,
    ready: &Sender<Result<Stopped, Errno>>,
    released: &Receiver<()>,
) -> Held {
    let mut seized: BTreeMap<Tid, Seized> = BTreeMap::new();
    let mut refused = Errno::ESRCH;
    let mut began = Instant::now();
    for round in 0..ROUNDS {
        let mut new = Vec::new();
        for tid in super::kernel::thread_ids(pid).unwrap_or_default() {
            if seized.contains_key(&tid) {
                continue;
            }
            // Seized they run on: the first ones need not stand while the last ones are seized.
            match ptrace::seize(NixPid::from_raw(tid), ptrace::Options::empty()) {
                Ok(()) => new.push(tid),
                Err(errno) => refused = errno,
            }
        }
        if new.is_empty() {
            break;
        }
        if round == 0 {
            began = Instant::now();
        }
        for tid in new {
            let state = match ptrace::interrupt(NixPid::from_raw(tid)) {
                Ok(()) => Seized::Running,
                Err(_) => Seized::Gone,
            };
            seized.insert(tid, state);
        }
        await_stops(pid, &mut seized, began);
    }
    if seized.is_empty() {
        let _ = ready.send(Err(refused));
        return Held {
            for_us: 0,
            cut: true,
        };
    }
    let stopped: BTreeSet<Tid> = seized
        .iter()
        .filter(|(_, state)| matches!(state, Seized::Stopped(_) | Seized::Nameless))
        .map(|(tid, _)| *tid)
        .collect();
    let mut registers = BTreeMap::new();
    if with_registers {
        for tid in &stopped {
            let taken = ptrace::getregs(NixPid::from_raw(*tid)).ok();
            if let Some(taken) = taken.as_ref().and_then(Registers::stopped) {
                registers.insert(*tid, taken);
            }
        }
    }
    let _ = ready.send(Ok((stopped, registers)));
    let cut = released
        .recv_timeout(MOST.saturating_sub(began.elapsed()))
        .is_err();
    // Some may have stopped only now.
    poll(&mut seized);
    for (tid, state) in &seized {
        if let Seized::Stopped(signal) = state {
            let _ = ptrace::detach(NixPid::from_raw(*tid), *signal);
        }
    }
    // The end of this thread lets the rest go.
    Held {
        for_us: u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX),
        cut,
    }
}

/// Waits until all have stopped that will; `began` is when the first of them was interrupted.
fn await_stops(pid: Pid, seized: &mut BTreeMap<Tid, Seized>, began: Instant) {
    let mut patience = SETTLING;
    loop {
        poll(seized);
        let mut running = seized
            .iter()
            .filter(|(_, state)| **state == Seized::Running)
            .peekable();
        if running.peek().is_none() {
            return;
        }
        if began.elapsed() >= patience {
            let will_stop = running.any(|(tid, _)| is_interruptible(pid, *tid));
            if patience == SETTLING_OF_READY || !will_stop {
                return;
            }
            patience = SETTLING_OF_READY;
        }
        thread::sleep(POLL);
    }
}

/// Whether a thread stops as soon as it gets a CPU.
fn is_interruptible(pid: Pid, tid: Tid) -> bool {
    super::kernel::read_stat(&format!("/proc/{pid}/task/{tid}/"))
        .is_some_and(|stat| !matches!(stat.state, 'D' | 'Z' | 'X'))
}

/// Looks at who has stopped, and leaves the notice of it with the kernel: a signal that cannot be named here is delivered
/// when the tracer ends only if nobody has taken that notice.
fn poll(seized: &mut BTreeMap<Tid, Seized>) {
    let flags = WaitPidFlag::__WALL
        | WaitPidFlag::WNOHANG
        | WaitPidFlag::WSTOPPED
        | WaitPidFlag::WEXITED
        | WaitPidFlag::WNOWAIT;
    for (tid, state) in seized.iter_mut() {
        if *state != Seized::Running {
            continue;
        }
        *state = match waitid(Id::Pid(NixPid::from_raw(*tid)), flags) {
            Ok(WaitStatus::StillAlive) => Seized::Running,
            // No event: about to be given a signal.
            Ok(WaitStatus::PtraceEvent(_, signal, 0) | WaitStatus::Stopped(_, signal)) => {
                Seized::Stopped(Some(signal))
            }
            Ok(WaitStatus::PtraceEvent(..)) => Seized::Stopped(None),
            Ok(_) => Seized::Gone,
            Err(Errno::EINVAL) => Seized::Nameless,
            Err(_) => Seized::Gone,
        };
    }
}
