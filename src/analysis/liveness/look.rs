//! Who can end a thread's wait, by what it waits for.

use super::{Enders, Others};
use crate::analysis::case::{Case, Standing};
use crate::analysis::roles;
use crate::analysis::task_liveness::{is_poller, poller_for};
use crate::analysis::{polling, wait_graph};
use crate::model::{Grade, HolderEvidence, Key, Pid, Process, Thread, ThreadKind, Wait, WaitKind};
use std::collections::BTreeMap;

/// Whether a mutex notes its own waiter as the owner: as a rule a thread that locks twice, but some are locked by one thread
/// as a gate that another one opens.
pub(super) fn is_own_note(thread: &Thread, wait: &Wait) -> bool {
    wait_graph::holder(wait).is_some_and(|holder| {
        holder.by == HolderEvidence::PthreadMutex && holder.thread.as_ref() == Some(&thread.key)
    })
}

fn is_resting_native(thread: &Thread) -> bool {
    thread.kind == ThreadKind::Native && thread.kernel.state == "S"
}

/// What the question needs of all processes.
pub(super) struct Look<'a, 'c> {
    pub(super) case: &'c Case<'a>,
    pub(super) by_pid: BTreeMap<Pid, &'a Key>,
    pub(super) pythons: Vec<&'a Key>,
}

impl<'a, 'c> Look<'a, 'c> {
    pub(super) fn new(case: &'c Case<'a>) -> Self {
        let last = case.last;
        Self {
            case,
            by_pid: last
                .processes
                .iter()
                .map(|process| (process.pid, &process.key))
                .collect(),
            pythons: last
                .processes
                .iter()
                .filter(|process| process.python.is_some())
                .map(|process| &process.key)
                .collect(),
        }
    }

    pub(super) fn enders(&self, process: &'a Process, thread: &'a Thread) -> Enders<'a> {
        if roles::is_bystander(thread) {
            return Enders::Bystander;
        }
        if let Some(asked) = polling::asked(self.case, process, thread) {
            return Enders::Any(Others {
                threads: asked.threads,
                processes: asked.processes,
                ..Others::default()
            });
        }
        let Some(wait) = &thread.wait else {
            return Enders::World;
        };
        // Any process that has a proxy may connect.
        if roles::accepts_for_manager(thread) {
            let others = self.pythons.iter().copied();
            return Enders::Any(Others {
                processes: others.filter(|key| **key != process.key).collect(),
                clients: true,
                ..Others::default()
            });
        }
        if self.serves_own(process, thread) {
            let accepting = process.threads.iter().filter(|other| roles::accepts(other));
            return Enders::Any(Others {
                own: true,
                except: accepting.map(|other| &other.key).collect(),
                clients: true,
                ..Others::default()
            });
        }
        if let Some(poller) = poller_for(process, thread) {
            return match &poller.wait {
                Some(wait) => self.outside(process, thread, wait),
                None => Enders::World,
            };
        }
        if is_poller(process, thread) {
            return Enders::Bystander;
        }
        match self.case.standing(thread) {
            Standing::Internal => Enders::Any(match self.only_thread(process, thread, wait) {
                Some(only) if !is_own_note(thread, wait) => Others {
                    threads: vec![only],
                    ..Others::default()
                },
                _ => Others {
                    threads: wait.task.iter().collect(),
                    own: true,
                    except: self.out_of_reach(process, thread, wait),
                    ..Others::default()
                },
            }),
            Standing::External => self.outside(process, thread, wait),
            Standing::Timed | Standing::FarOff(_)
                if roles::idle_loop_of(process, thread).is_some() =>
            {
                self.outside(process, thread, wait)
            }
            Standing::Timed | Standing::FarOff(_)
                if process.python.is_some() && roles::is_watchdog(thread) =>
            {
                Enders::Bystander
            }
            // A library's own thread that could not be judged rarely wakes Python code.
            Standing::Unclear if is_resting_native(thread) => Enders::Bystander,
            _ => Enders::World,
        }
    }

    /// Who alone can end a wait for a thread's end, or for a lock that knows its owner.
    pub(super) fn only_thread(
        &self,
        process: &'a Process,
        waiter: &Thread,
        wait: &'a Wait,
    ) -> Option<&'a Key> {
        if wait.kind == WaitKind::ThreadExit {
            let target = wait.target.as_ref()?;
            return Some(&process.thread(target)?.key);
        }
        let holder = wait_graph::holder(wait).filter(|it| it.grade >= Grade::Derived)?;
        // Who waits for a plain lock in a block of it may use it as a signal, which another thread gives.
        let itself = holder.thread.as_ref() == Some(&waiter.key);
        let owned = wait.kind == WaitKind::RLock
            || matches!(
                holder.by,
                HolderEvidence::OwnerField | HolderEvidence::ImportLock
            )
            || holder.by.is_native()
            // Any thread may release a plain lock, but whoever took it by `with` does.
            || (holder.by == HolderEvidence::WithBlock && holder.grade == Grade::Read && !itself);
        let thread = process.thread(holder.thread.as_ref()?)?;
        owned.then_some(&thread.key)
    }
}
