//! All rings of a run: found as they appear, read in turn, and deleted when their process is gone.

use super::collected;
use super::news::{News, What, Who};
use super::record::Body;
use super::ring::{Opened, Ring};
use crate::model::Pid;
use crate::watch::processes::Process;
use rustix::fs::{AtFlags, Dir, Mode, OFlags};
use rustix::time::ClockId;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// Most rings that are open at once. Each costs a descriptor, of which a process has 1,024 as a rule.
const MOST_RINGS: usize = 512;
/// Most entries of the folder that are looked at in one look.
const MOST_ENTRIES: usize = 10_000;
/// How many levels of processes above one are told.
const LEVELS: usize = 64;
/// How often a list of tests is looked at that has not all of them.
const LIST_LOOKS: u32 = 100;

/// The rings of a run.
#[derive(Debug)]
pub(crate) struct Rings {
    run: OwnedFd,
    folder: OwnedFd,
    rings: BTreeMap<Who, Source>,
    refused: BTreeSet<Who>,
    lists: Vec<List>,
    known_lists: BTreeSet<String>,
    crowded: bool,
}

#[derive(Debug)]
struct Source {
    who: Who,
    name: String,
    ring: Ring,
    told: bool,
    /// When its last record was written. Its records never go back in time.
    last: u64,
}

/// A list of collected tests that is still to be read.
#[derive(Debug)]
struct List {
    who: Who,
    name: String,
    count: usize,
    looks: u32,
}

impl Rings {
    /// The rings of this run folder.
    ///
    /// # Errors
    /// When the folder cannot be opened.
    pub(crate) fn open(run: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let run = rustix::fs::open(run, flags, Mode::empty())?;
        let folder = rustix::fs::openat(&run, "rings", flags, Mode::empty())?;
        Ok(Self {
            run,
            folder,
            rings: BTreeMap::new(),
            refused: BTreeSet::new(),
            lists: Vec::new(),
            known_lists: BTreeSet::new(),
            crowded: false,
        })
    }

    /// Everything new, in the order in which it happened. Rings of processes that are gone are read to their
    /// end and deleted.
    pub(crate) fn poll(&mut self) -> Vec<News> {
        self.poll_with(&mut || {})
    }

    /// The same; `read` is called when a ring has been read.
    pub(super) fn poll_with(&mut self, read: &mut dyn FnMut()) -> Vec<News> {
        let mut news = Vec::new();
        self.find(&mut news);
        // Children before their parents, which are older: what a parent did before it made a child is then never missing when
        // the child's records are read. Sorted by time, all comes in the order in which it happened.
        let mut gone = Vec::new();
        for (&who, source) in self.rings.iter_mut().rev() {
            // Before the ring is read: what it wrote before its end is then in it.
            let alive = Process::read(source.who.pid).is_some_and(|process| {
                process.start == source.who.start_ticks && !process.is_dead()
            });
            source.read(&mut news);
            read();
            if !alive {
                gone.push(who);
            }
        }
        let now = now_ns();
        for who in gone {
            if let Some(source) = self.rings.remove(&who) {
                let _ = rustix::fs::unlinkat(&self.folder, source.name.as_str(), AtFlags::empty());
                news.push(source.news(now, What::Ended));
            }
        }
        for one in &mut news {
            one.at = one.at.min(now);
        }
        news.sort_by_key(|one| one.at);
        self.note_lists(&news);
        self.read_lists(now, &mut news);
        news
    }

    /// Asks the plugin in this process to fail its running test. It looks at the request when it gets the
    /// signal that its session named. False when the process has no ring.
    ///
    /// # Errors
    /// When the request cannot be written.
    pub(crate) fn request(
        &self,
        who: Who,
        serial: u32,
        stage: u32,
        text: &str,
    ) -> io::Result<bool> {
        match self.rings.get(&who) {
            Some(source) => source.ring.request(serial, stage, text).map(|()| true),
            None => Ok(false),
        }
    }

    /// Whether the plugin in this process has not acted on the last request yet.
    pub(crate) fn is_pending(&self, who: Who) -> bool {
        self.rings
            .get(&who)
            .is_some_and(|source| source.ring.is_pending())
    }

    /// Opens rings that are new.
    fn find(&mut self, news: &mut Vec<News>) {
        let Ok(entries) = Dir::read_from(&self.folder) else {
            return;
        };
        for entry in entries.take(MOST_ENTRIES).flatten() {
            let Some((name, who)) = entry
                .file_name()
                .to_str()
                .ok()
                .and_then(|name| Some((name, parse_name(name)?)))
            else {
                continue;
            };
            if self.rings.contains_key(&who) || self.refused.contains(&who) {
                continue;
            }
            let stopped = match self.open_one(name, who) {
                Ok(Opened::Ring(ring)) => {
                    let source = Source {
                        who,
                        name: name.to_owned(),
                        ring,
                        told: false,
                        last: 0,
                    };
                    self.rings.insert(who, source);
                    continue;
                }
                Ok(Opened::NotYet) => {
                    self.drop_unfinished(name, who);
                    continue;
                }
                Ok(Opened::Refused(why)) => why,
                Err(_) => "it cannot be opened",
            };
            if self.refused.len() < MOST_ENTRIES {
                self.refused.insert(who);
                let at = now_ns();
                let what = What::Stopped(stopped);
                news.push(News { who, at, what });
            }
        }
    }

    fn open_one(&mut self, name: &str, who: Who) -> io::Result<Opened> {
        if self.rings.len() >= MOST_RINGS {
            // Told once; the others are tried again when some are gone.
            let first = !std::mem::replace(&mut self.crowded, true);
            return Ok(if first {
                Opened::Refused("there are too many rings")
            } else {
                Opened::NotYet
            });
        }
        Ring::open(self.folder.as_fd(), name, who)
    }

    /// Deletes a ring that its process did not complete before it died.
    fn drop_unfinished(&self, name: &str, who: Who) {
        let full = self.rings.len() >= MOST_RINGS;
        if !full && Process::read(who.pid).is_none_or(|process| process.start != who.start_ticks) {
            let _ = rustix::fs::unlinkat(&self.folder, name, AtFlags::empty());
        }
    }

    fn note_lists(&mut self, news: &[News]) {
        for one in news {
            let What::Record(record) = &one.what else {
                continue;
            };
            let Body::Collected(collected) = &record.body else {
                continue;
            };
            if let Some(name) = collected
                .list
                .as_deref()
                .filter(|name| collected::is_list(name))
                && self.known_lists.len() < MOST_ENTRIES
                && self.known_lists.insert(name.to_owned())
            {
                self.lists.push(List {
                    who: one.who,
                    name: name.to_owned(),
                    count: collected.count,
                    looks: 0,
                });
            }
        }
    }

    /// Reads lists. Another worker than the one that told of a list may still be writing it.
    fn read_lists(&mut self, at: u64, news: &mut Vec<News>) {
        let run = &self.run;
        self.lists.retain_mut(|list| {
            list.looks += 1;
            let tests = collected::read(run, &list.name);
            let last = list.looks >= LIST_LOOKS;
            match tests {
                Some(tests) if last || tests.len() >= list.count => {
                    let (who, what) = (list.who, What::Collected(tests));
                    news.push(News { who, at, what });
                    false
                }
                _ => !last,
            }
        });
    }
}

impl Source {
    fn news(&self, at: u64, what: What) -> News {
        let who = self.who;
        News { who, at, what }
    }

    fn read(&mut self, news: &mut Vec<News>) {
        let now = now_ns();
        let look = self.ring.look();
        // All that came before the first record that was read was then, at the latest.
        let mut last = self.last;
        let first = look.records.first().map_or(last, |record| record.at);
        last = last.max(first);
        if !self.told {
            self.told = true;
            // A ring without a record has no time of its own: its process would seem to be at its start since boot.
            let at = if look.records.is_empty() { now } else { last };
            news.push(self.news(at, What::Opened(above(self.who))));
        }
        if look.lost > 0 {
            news.push(self.news(last, What::Lost(look.lost)));
        }
        for record in look.records {
            last = last.max(record.at);
            let what = What::Record(Box::new(record));
            news.push(self.news(last, what));
        }
        if let Some(why) = look.stopped {
            news.push(self.news(last, What::Stopped(why)));
        }
        self.last = last;
    }
}

/// The processes above this one, nearest first.
fn above(who: Who) -> Vec<Pid> {
    let mut found = Vec::new();
    let mut pid = who.pid;
    while found.len() < LEVELS
        && let Some(parent) = Process::read(pid).map(|process| process.parent)
        && parent > 0
    {
        found.push(parent);
        pid = parent;
    }
    found
}

/// `<pid>-<start ticks>.ring`, exactly as the plugin writes it.
fn parse_name(name: &str) -> Option<Who> {
    let (pid, start) = name.strip_suffix(".ring")?.split_once('-')?;
    let who = Who {
        pid: pid.parse().ok().filter(|&pid| pid > 0)?,
        start_ticks: start.parse().ok()?,
    };
    (format!("{}-{}.ring", who.pid, who.start_ticks) == name).then_some(who)
}

/// CLOCK_MONOTONIC, in nanoseconds.
pub(crate) fn now_ns() -> u64 {
    let now = rustix::time::clock_gettime(ClockId::Monotonic);
    let (seconds, nanos) = (u64::try_from(now.tv_sec), u64::try_from(now.tv_nsec));
    seconds.unwrap_or(0) * 1_000_000_000 + nanos.unwrap_or(0)
}
