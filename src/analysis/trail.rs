//! Where a stuck wait leads: from thread to thread, into event loops and their tasks, and on into other processes, down to
//! what waits for nobody else, or round in a circle.

use crate::model::{Frame, Grade, Key, ObjectFact, Process, Task, Thread, WaitObject};

/// A thread or a task that waits.
#[derive(Clone, Copy)]
pub(super) enum Node<'c> {
    Thread(&'c Process, &'c Thread),
    Task(&'c Process, &'c Task),
}

/// How one waits for the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    /// For its end.
    Join,
    /// For its end, after which it asks again and again.
    Asks,
    /// For a lock that it holds.
    Lock,
    /// For its process's end.
    Child,
    /// For data that it is to send.
    Data,
    /// For room in a pipe that it is to read.
    Room,
    /// The event loop of this thread idles, and this is the task that it runs for.
    Runs,
    /// For the end of a task.
    Task,
    /// For the thread that does the work of a task.
    Worker,
    /// For a future that this thread computes, or that waits in the queue of its pool.
    Future,
    /// For a thread of its scope to end.
    Scope,
    /// For work that only the workers of a pool can do, which are all blocked: this is one of them.
    Pool,
    /// For something that this thread's frames refer to: nobody else could do it.
    Might,
}

impl How {
    /// Whether it is certain that nobody else will do.
    pub(super) fn is_exact(self) -> bool {
        !matches!(self, Self::Future | Self::Might)
    }
}

/// Who waits for whom, from where it was looked from to the root.
pub(super) struct Trail<'c> {
    pub(super) nodes: Vec<Node<'c>>,
    /// How each waits for the next; in a circle also how the last one does.
    pub(super) hows: Vec<How>,
    /// The last one waits for the one of this number.
    pub(super) closes: Option<usize>,
}

impl<'c> Node<'c> {
    pub(super) fn key(self) -> &'c Key {
        match self {
            Self::Thread(_, thread) => &thread.key,
            Self::Task(_, task) => &task.key,
        }
    }

    pub(super) fn process(self) -> &'c Process {
        match self {
            Self::Thread(process, _) | Self::Task(process, _) => process,
        }
    }

    /// Whether its native frames were read without a stop.
    pub(super) fn is_guessed(self) -> bool {
        let stack = match self {
            Self::Thread(_, thread) => thread.native.as_ref(),
            Self::Task(..) => None,
        };
        stack.is_some_and(|stack| stack.grade == Grade::Guessed)
    }

    pub(super) fn frames(self) -> Vec<&'c Frame> {
        match self {
            Self::Thread(_, thread) => thread.frames().collect(),
            Self::Task(_, task) => task.frames.iter().collect(),
        }
    }

    /// The library call that it waits in.
    pub(super) fn call(self) -> &'c str {
        let call = match self {
            Self::Thread(_, thread) => thread.wait.as_ref().and_then(|wait| wait.call.as_ref()),
            Self::Task(_, task) => task.awaits.as_ref().and_then(|awaits| awaits.call.as_ref()),
        };
        call.map_or("", |call| call.untrusted())
    }

    /// What it waits on.
    pub(super) fn object(self) -> Option<&'c WaitObject> {
        match self {
            Self::Thread(_, thread) => thread.wait.as_ref()?.object.as_ref(),
            Self::Task(_, task) => task.awaits.as_ref()?.object.as_ref(),
        }
    }
}

/// What an object says of itself under this name.
pub(super) fn fact<'o>(object: &'o WaitObject, name: &str) -> Option<&'o str> {
    let found = object
        .state
        .iter()
        .find(|fact: &&ObjectFact| fact.name == name)?;
    Some(found.value.untrusted())
}

impl<'c> Trail<'c> {
    /// The last one.
    pub(super) fn root(&self) -> Option<Node<'c>> {
        self.nodes.last().copied()
    }

    /// Each that waits, how, and for whom.
    pub(super) fn steps(&self) -> impl Iterator<Item = (Node<'c>, How, Node<'c>)> {
        self.hows.iter().enumerate().filter_map(|(index, how)| {
            let next = self.nodes.get(index + 1).copied();
            let closing = || self.nodes.get(self.closes?).copied();
            Some((*self.nodes.get(index)?, *how, next.or_else(closing)?))
        })
    }

    /// The part that goes round.
    pub(super) fn circle(&self) -> Option<(&[Node<'c>], &[How])> {
        let start = self.closes?;
        Some((self.nodes.get(start..)?, self.hows.get(start..)?))
    }
}
