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
    /// Stops all threads of a process that can be stopped. Those `at_rest` stand still first and are let go last: they do
    /// not miss the time. Those that work stand still only while the process is read.
    ///
    /// # Errors
    /// In words, when no thread can be: no permission, another tracer.
    pub(super) fn begin(pid: Pid, at_rest: BTreeSet<Tid>) -> Result<Self, String> {
        Self::begin_with(Tracer::new(pid, at_rest, false))
    }

    /// The same, and takes the registers of each.
    pub(super) fn begin_with_registers(pid: Pid, at_rest: BTreeSet<Tid>) -> Result<Self, String> {
        Self::begin_with(Tracer::new(pid, at_rest, true))
    }

    fn begin_with(tracer: Tracer) -> Result<Self, String> {
        let (release, released) = channel();
        let (ready, is_ready) = channel();
        let tracer = thread::Builder::new()
            .name("tracer".to_owned())
            .spawn(move || tracer.trace(&ready, &released))
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

impl Seized {
    fn stands(self) -> bool {
        matches!(self, Self::Stopped(_) | Self::Nameless)
    }
}

/// Threads that stand still, and their registers.
type Stopped = (BTreeSet<Tid>, BTreeMap<Tid, Registers>);

/// What the tracing thread knows.
struct Tracer {
    pid: Pid,
    /// Threads that wait without a timeout.
    at_rest: BTreeSet<Tid>,
    with_registers: bool,
    seized: BTreeMap<Tid, Seized>,
    registers: BTreeMap<Tid, Registers>,
    /// When the first thread was interrupted.
    began: Option<Instant>,
    /// Why a thread could not be seized.
    refused: Errno,
}

impl Tracer {
    fn new(pid: Pid, at_rest: BTreeSet<Tid>, with_registers: bool) -> Self {
        Self {
            pid,
            at_rest,
            with_registers,
            seized: BTreeMap::new(),
            registers: BTreeMap::new(),
            began: None,
            refused: Errno::ESRCH,
        }
    }

    fn trace(mut self, ready: &Sender<Result<Stopped, Errno>>, released: &Receiver<()>) -> Held {
        self.stop_all();
        let Some(began) = self.began else {
            let _ = ready.send(Err(self.refused));
            return Held {
                for_us: 0,
                cut: true,
            };
        };
        let stopped = self
            .seized
            .iter()
            .filter(|(_, state)| state.stands())
            .map(|(tid, _)| *tid)
            .collect();
        let _ = ready.send(Ok((stopped, std::mem::take(&mut self.registers))));
        let cut = released
            .recv_timeout(MOST.saturating_sub(began.elapsed()))
            .is_err();
        self.let_all_go();
        Held {
            for_us: u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX),
            cut,
        }
    }

    fn stop_all(&mut self) {
        for _ in 0..ROUNDS {
            let new = self.seize();
            if new.is_empty() {
                return;
            }
            let (at_rest, at_work): (Vec<Tid>, Vec<Tid>) =
                new.iter().partition(|tid| self.at_rest.contains(tid));
            self.stop(&at_rest);
            self.stop(&at_work);
        }
    }

    /// Seizes the threads that are new. They run on: the first ones need not stand while the last ones are seized.
    fn seize(&mut self) -> Vec<Tid> {
        let mut new = Vec::new();
        for tid in super::kernel::thread_ids(self.pid).unwrap_or_default() {
            if self.seized.contains_key(&tid) {
                continue;
            }
            match ptrace::seize(NixPid::from_raw(tid), ptrace::Options::empty()) {
                Ok(()) => new.push(tid),
                Err(errno) => self.refused = errno,
            }
        }
        new
    }

    /// Stops threads that are seized, and takes their registers.
    fn stop(&mut self, tids: &[Tid]) {
        if tids.is_empty() {
            return;
        }
        let began = *self.began.get_or_insert_with(Instant::now);
        for tid in tids {
            let state = match ptrace::interrupt(NixPid::from_raw(*tid)) {
                Ok(()) => Seized::Running,
                Err(_) => Seized::Gone,
            };
            self.seized.insert(*tid, state);
        }
        await_stops(self.pid, &mut self.seized, began);
        if self.with_registers {
            self.take_registers();
        }
    }

    /// Of those that have stopped since it was last done.
    fn take_registers(&mut self) {
        for (tid, state) in &self.seized {
            if state.stands() && !self.registers.contains_key(tid) {
                let taken = ptrace::getregs(NixPid::from_raw(*tid)).ok();
                if let Some(taken) = taken.as_ref().and_then(Registers::stopped) {
                    self.registers.insert(*tid, taken);
                }
            }
        }
    }

    /// Lets them go, but for those that only the end of this thread can let go.
    fn let_all_go(&mut self) {
        // Some may have stopped only now.
        poll(&mut self.seized);
        for resting in [false, true] {
            for (tid, state) in &self.seized {
                if let Seized::Stopped(signal) = state
                    && self.at_rest.contains(tid) == resting
                {
                    let _ = ptrace::detach(NixPid::from_raw(*tid), *signal);
                }
            }
        }
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
