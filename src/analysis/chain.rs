//! Whom each thread waits for, followed from thread to thread: to a root that waits for no thread, or round a circle.

use super::wait_graph;
use crate::model::{Holder, Key, Process, Thread, WaitKind};
use std::collections::BTreeMap;

/// Longest chain that is followed.
const MAX_CHAIN: usize = 1000;

/// How a thread waits for the next one.
#[derive(Clone, Copy, Debug)]
pub(super) enum Link<'c> {
    /// For its end.
    Join,
    /// For a lock that this says it holds.
    Lock(&'c Holder),
}

impl Link<'_> {
    pub(super) fn is_join(self) -> bool {
        matches!(self, Self::Join)
    }
}

/// Whom each thread of a process waits for; nobody where that is not known on good evidence.
pub(super) struct Waits<'c> {
    process: &'c Process,
    next: BTreeMap<&'c Key, (&'c Thread, Link<'c>)>,
}

/// Threads in the order in which they wait for each other.
pub(super) struct Chain<'c> {
    pub(super) threads: Vec<&'c Thread>,
    /// How each thread waits for the next; in a circle also how the last one does.
    pub(super) links: Vec<Link<'c>>,
    /// The last thread waits for the one of this number: a circle.
    pub(super) closes: Option<usize>,
}

impl<'c> Waits<'c> {
    pub(super) fn of(process: &'c Process) -> Self {
        let threads: BTreeMap<&Key, &Thread> = process
            .threads
            .iter()
            .map(|thread| (&thread.key, thread))
            .collect();
        let next = process.threads.iter().filter_map(|thread| {
            let wait = thread.wait.as_ref()?;
            let (key, link) = if wait.kind == WaitKind::ThreadExit {
                (wait.target.as_ref()?, Link::Join)
            } else {
                let holder = wait_graph::holder(wait)?;
                (holder.thread.as_ref()?, Link::Lock(holder))
            };
            Some((&thread.key, (*threads.get(key)?, link)))
        });
        Self {
            process,
            next: next.collect(),
        }
    }

    /// The thread that `thread` waits for.
    pub(super) fn next(&self, thread: &Key) -> Option<(&'c Thread, Link<'c>)> {
        self.next.get(thread).copied()
    }

    /// The chain from `start` on.
    pub(super) fn chain(&self, start: &'c Thread) -> Chain<'c> {
        self.chain_of(start, MAX_CHAIN)
    }

    /// At most so many threads of it.
    fn chain_of(&self, start: &'c Thread, most: usize) -> Chain<'c> {
        let mut chain = Chain {
            threads: vec![start],
            links: Vec::new(),
            closes: None,
        };
        let mut places = BTreeMap::from([(&start.key, 0)]);
        let mut last = start;
        while chain.threads.len() <= most {
            let Some((next, link)) = self.next(&last.key) else {
                break;
            };
            chain.links.push(link);
            if let Some(place) = places.get(&next.key) {
                chain.closes = Some(*place);
                break;
            }
            places.insert(&next.key, chain.threads.len());
            chain.threads.push(next);
            last = next;
        }
        chain
    }

    /// Each circle once, from that thread of it on which comes first in the process.
    pub(super) fn circles(&self) -> Vec<Chain<'c>> {
        // The walk that first came by a thread.
        let mut seen: BTreeMap<&Key, usize> = BTreeMap::new();
        let mut circles = Vec::new();
        for (walk, start) in self.process.threads.iter().enumerate() {
            let mut at = start;
            while !seen.contains_key(&at.key) {
                seen.insert(&at.key, walk);
                match self.next(&at.key) {
                    Some((next, _)) => at = next,
                    None => break,
                }
            }
            let closed = seen.get(&at.key) == Some(&walk) && self.next(&at.key).is_some();
            if closed && let Some(circle) = self.circle(at) {
                circles.push(circle);
            }
        }
        circles
    }

    /// The circle that `member` is in, however long.
    fn circle(&self, member: &'c Thread) -> Option<Chain<'c>> {
        let most = self.process.threads.len();
        let first = self
            .chain_of(member, most)
            .threads
            .into_iter()
            .min_by_key(|thread| thread.tid)?;
        Some(self.chain_of(first, most)).filter(|chain| chain.closes == Some(0))
    }
}

impl<'c> Chain<'c> {
    /// The thread that the last one waits for, in a circle.
    pub(super) fn closing(&self) -> Option<&'c Thread> {
        self.threads.get(self.closes?).copied()
    }

    /// Each thread that waits, how, and the one that it waits for.
    pub(super) fn steps(&self) -> impl Iterator<Item = (&'c Thread, Link<'c>, &'c Thread)> {
        self.links.iter().enumerate().filter_map(|(index, link)| {
            let to = self.threads.get(index + 1).copied();
            Some((
                *self.threads.get(index)?,
                *link,
                to.or_else(|| self.closing())?,
            ))
        })
    }

    /// Whether it runs into a circle in which a lock is waited for.
    pub(super) fn closes_over_a_lock(&self) -> bool {
        self.closes.is_some_and(|start| {
            let circle = self.links.get(start..).unwrap_or_default();
            !circle.iter().all(|link| link.is_join())
        })
    }
}
