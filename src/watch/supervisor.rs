//! The one loop of a watched run: it orders the command's end, signals, clocks and captures.

use super::dump::{Dump, Inspect};
use super::following::Following;
use super::idle::{Idle, Slow};
use super::limit::Limit;
use super::link::Link;
use super::overdue::{Overdue, Told};
use super::progress::Progress;
use super::signals::{self, Signals};
use super::sink::Sink;
use super::surveying::Surveying;
use super::terminal::Terminal;
use super::wire::Word;
use super::{Finished, Options, WatchError};
use crate::archive::Bundle;
use crate::model::{Event, Key, Outcome, OutcomeKind, Report};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Where the run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// It runs.
    Running,
    /// The limit is reached; it is looked at before it is ended. Ended at this time even if that hangs.
    LookingAtHang(Instant),
    /// TERM is sent, KILL comes at this time.
    Terminating(Option<Instant>),
    /// KILL is sent; the guardian has not confirmed yet that all is gone.
    Killing,
    /// All is gone.
    Gone,
}

/// A watched run.
pub(super) struct Supervisor {
    pub(super) options: Options,
    pub(super) inspect: Inspect,
    pub(super) link: Link,
    pub(super) signals: Signals,
    pub(super) sink: Sink,
    pub(super) terminal: Option<Terminal>,
    pub(super) limit: Option<Limit>,
    pub(super) phase: Phase,
    /// How the command itself ended.
    pub(super) end: Option<Outcome>,
    pub(super) dump: Option<Dump>,
    /// When the capture under way is given up.
    pub(super) dump_until: Option<Instant>,
    /// Signals that are passed on when the first sample is on disk, at this time at the latest.
    pub(super) held: Option<(Vec<i32>, Instant)>,
    /// When the first signal came that ends the run: a later one is passed on at once.
    pub(super) signalled: Option<Instant>,
    /// The loop has failed: no more captures, only what keeps the run whole.
    pub(super) plain: bool,
    /// The command's end was seen while a capture ran: that one is waited for until then.
    pub(super) tail: Option<Instant>,
    pub(super) bundles: Vec<Bundle>,
    /// What the tests do.
    pub(super) following: Following,
    pub(super) surveying: Option<Surveying>,
    pub(super) progress: Progress,
    /// Tests over their limit that something is being done about.
    pub(super) overdue: Vec<Overdue>,
    /// Tests that have been found over a limit.
    pub(super) told_overdue: BTreeSet<Told>,
    /// Tests that were given time anew when they got on, and since when that counts.
    pub(super) anew: BTreeMap<(Key, u32), u64>,
    pub(super) idle: Idle,
    pub(super) slow: Slow,
    /// Since when the whole job is suspended.
    pub(super) stood_since: Option<Instant>,
    /// The last look, and which of the bundles has it.
    pub(super) last_report: Option<(Report, Option<PathBuf>)>,
    /// Our parent is gone: the run is killed if it has not ended by then.
    pub(super) orphaned_until: Option<Instant>,
    /// A limit of ours ends, or has ended, the run.
    pub(super) ended_by_us: bool,
    /// How the command could not be started.
    pub(super) not_started: Option<i32>,
    told_lost: bool,
    /// Our parent when we were started.
    pub(super) parent: Option<rustix::process::Pid>,
}

/// See [`super::run`].
pub(super) fn run(
    options: Options,
    sink: Box<dyn FnMut(Event) + Send>,
) -> Result<Finished, WatchError> {
    let ignored = signals::ignored();
    let parent = rustix::process::getppid();
    let signals = Signals::take(ignored).map_err(WatchError::Setup)?;
    // Should the guardian die, what it has adopted becomes ours. A kernel without it is older than we support.
    let _ = nix::sys::prctl::set_child_subreaper(true);
    // A CI runner that is told to stop kills the shell we run under, and not us. Under nohup that is the user's wish.
    if !signals::is_in(ignored, nix::libc::SIGHUP) {
        let _ = nix::sys::prctl::set_pdeathsig(signals::PARENT_DEATH);
    }
    let terminal = Terminal::open();
    let following = Following::start(&options);
    let link =
        Link::start(&options.command, following.environment()).map_err(WatchError::Guardian)?;
    let now = Instant::now();
    let mut supervisor = Supervisor {
        limit: options.run_timeout.map(|length| Limit::new(length, now)),
        inspect: super::dump::inspect,
        link,
        signals,
        // Threads only after the guardian is started: until then nothing may touch signal masks.
        sink: Sink::start(sink),
        terminal,
        options,
        phase: Phase::Running,
        end: None,
        dump: None,
        dump_until: None,
        held: None,
        signalled: None,
        plain: false,
        tail: None,
        bundles: Vec::new(),
        following,
        surveying: None,
        progress: Progress::new(now),
        overdue: Vec::new(),
        told_overdue: BTreeSet::new(),
        anew: BTreeMap::new(),
        idle: Idle::default(),
        slow: Slow::default(),
        stood_since: None,
        last_report: None,
        orphaned_until: None,
        ended_by_us: false,
        not_started: None,
        told_lost: false,
        parent,
    };
    if !signals::is_in(ignored, nix::libc::SIGHUP) {
        // It may have ended before we asked to be told.
        supervisor.look_at_parent();
    }
    supervisor.go_on_whatever_happens();
    supervisor.finish()
}

impl Supervisor {
    /// A bug of ours must not cost the run: after a panic it is still supervised, just not looked at.
    fn go_on_whatever_happens(&mut self) {
        while let Err(panic) = catch_unwind(AssertUnwindSafe(|| self.work())) {
            if !std::mem::replace(&mut self.plain, true) {
                let what = format!(
                    "hangscope failed ({}); the run goes on without captures",
                    super::dump::words_of(panic.as_ref())
                );
                self.sink.send(Event::Trouble { what: what.into() });
            }
            // Dropped, not waited for: whatever it was at may be what failed.
            self.dump = None;
            self.tail = None;
            if matches!(self.phase, Phase::LookingAtHang(_)) {
                self.phase = Phase::LookingAtHang(Instant::now());
            }
            self.forward_held();
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn work(&mut self) {
        while !self.is_over() {
            self.wait();
            for word in self.link.words() {
                self.hear(word);
            }
            for signal in self.signals.read() {
                self.signal(signal);
            }
            self.read_dump();
            self.look_at_guardian();
            let now = Instant::now();
            self.follow(now);
            self.look_at_tests(now);
            self.look_at_idleness();
            self.look_at_clocks(now);
        }
    }

    fn is_over(&self) -> bool {
        let unstarted = self.not_started.is_some();
        let by_itself = self.end.is_some() && self.phase == Phase::Running && self.dump.is_none();
        unstarted || by_itself || self.phase == Phase::Gone
    }

    /// Until something has happened or a time has come.
    fn wait(&self) {
        let mut fds = vec![PollFd::new(&self.signals, PollFlags::IN)];
        fds.extend(
            self.link
                .readable()
                .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)),
        );
        fds.extend(
            self.dump
                .as_ref()
                .map(|dump| PollFd::from_borrowed_fd(dump.as_fd(), PollFlags::IN)),
        );
        let now = Instant::now();
        let timeout = self
            .next_time()
            .map(|at| at.saturating_duration_since(now) + Duration::from_millis(1))
            .and_then(|wait| Timespec::try_from(wait).ok());
        // EINTR and the like: the next turn looks at everything anyway.
        let _ = poll(&mut fds, timeout.as_ref());
    }

    pub(super) fn hear(&mut self, word: Word) {
        match word {
            Word::Started(group) => {
                self.surveying = Surveying::start(self.scope(), self.options.own_test);
                if let Some(terminal) = self
                    .terminal
                    .as_mut()
                    .filter(|terminal| terminal.is_for_command())
                {
                    terminal.give(group);
                }
            }
            Word::NotStarted(errno) => self.not_started = Some(errno),
            Word::Stopped(signal) => self.mirror_stop(signal),
            Word::Exited(code) => self.ended(Outcome::exited(code)),
            Word::Killed(signal) => self.ended(Outcome::killed(signal)),
            Word::Lost if self.end.is_none() => self.ended(Outcome {
                kind: OutcomeKind::Unknown,
                code: None,
                signal: None,
            }),
            Word::Lost => {}
            // No need to wait for the rest of the grace; the guardian confirms it.
            Word::Empty if matches!(self.phase, Phase::Terminating(_)) => self.kill(),
            Word::Empty => {}
            Word::Gone(left) => {
                self.phase = Phase::Gone;
                if left > 0 {
                    let left = self.link.alive();
                    self.sink.send(Event::Survived(
                        left.iter().map(super::processes::Process::left).collect(),
                    ));
                }
            }
        }
    }

    /// The guardian is gone before its time: an out-of-memory kill, or somebody's `kill -9`.
    fn look_at_guardian(&mut self) {
        if !self.link.is_lost() || self.phase == Phase::Gone {
            return;
        }
        if !std::mem::replace(&mut self.told_lost, true) && self.not_started.is_none() {
            let what = "the guardian process is gone; should hangscope be killed, too, processes may be left over";
            self.sink.send(Event::Trouble { what: what.into() });
        }
        if self.phase == Phase::Killing {
            // Its answer will not come any more.
            self.kill();
        }
    }

    fn ended(&mut self, outcome: Outcome) {
        self.end = Some(outcome);
        if let Some(terminal) = &mut self.terminal {
            terminal.take_back();
        }
        if let Some(dump) = &self.dump {
            dump.stop();
            self.tail = Some(Instant::now() + super::looking::TAIL_AT_MOST);
        }
    }
}
