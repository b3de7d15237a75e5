//! A capture of the run, on a thread of its own, so that the end of the command, signals and clocks are seen
//! meanwhile; and so that whatever goes wrong in it goes wrong there.

use super::Options;
use crate::archive::{Bundle, Manifest};
use crate::inspect::{self, Native, Request, Samples};
use crate::model::{Pid, Report, RunRecord, Trigger};
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

/// [`inspect`], or a stand-in for it in tests. Fails with a clause for the user.
pub(super) type Inspect = fn(&Request, &mut dyn FnMut(&Report) -> bool) -> Result<Report, String>;

/// The real [`Inspect`].
pub(super) fn inspect(
    request: &Request,
    on_report: &mut dyn FnMut(&Report) -> bool,
) -> Result<Report, String> {
    inspect::inspect(request, on_report).map_err(|error| error.to_string())
}

/// What a capture says.
#[derive(Debug)]
pub(super) enum Said {
    /// The first sample is on disk, or never will be.
    Saved,
    /// It is over.
    Done(Box<Taken>),
}

/// What a capture has come to.
#[derive(Debug, Default)]
pub(super) struct Taken {
    /// What was seen; also when a later sample failed.
    pub(super) report: Option<Report>,
    /// Where it was saved.
    pub(super) bundle: Option<Bundle>,
    /// Why the capture failed, in whole or from some sample on.
    pub(super) failure: Option<String>,
    /// Why the bundle is missing or not complete.
    pub(super) archive_failure: Option<String>,
}

/// What to look at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target {
    /// The process that all of the run is below; not shown itself.
    pub(super) root: Pid,
    /// The guardian; not shown.
    pub(super) guardian: Pid,
    /// The command, which the report is said to be about.
    pub(super) command: Pid,
}

/// A capture under way.
#[derive(Debug)]
pub(super) struct Dump {
    said: Receiver<Said>,
    awake: UnixStream,
    stop: Arc<AtomicBool>,
    saved: bool,
    /// Why it was begun.
    pub(super) trigger: Trigger,
}

impl Dump {
    /// Begins a capture.
    pub(super) fn start(
        inspect: Inspect,
        target: Target,
        options: &Options,
        (samples, interval): (Samples, Duration),
        trigger: Trigger,
        record: RunRecord,
    ) -> std::io::Result<Self> {
        let (awake, wake) = UnixStream::pair()?;
        awake.set_nonblocking(true)?;
        let (say, said) = channel();
        let stop = Arc::new(AtomicBool::new(false));
        let request = Request {
            // From the guardian down: what the command has orphaned is below that, and not below the command.
            pid: target.root,
            tree: true,
            samples,
            interval,
            locals: false,
            stop: false,
            native: Native::Auto,
            no_stop: false,
            all: false,
            width: options.width,
            trigger: trigger.clone(),
            run: Some(record.run.clone()),
            exclude: vec![target.root, target.guardian],
        };
        let job = Job {
            command: target.command,
            options: options.clone(),
            stop: Arc::clone(&stop),
            say: Say { say, wake },
            taken: Taken::default(),
            record,
        };
        std::thread::Builder::new()
            .name("capture".to_owned())
            .spawn(move || job.run(inspect, &request))?;
        Ok(Self {
            said,
            awake,
            stop,
            saved: false,
            trigger,
        })
    }

    /// Asks it to end with the samples that it has, the first one at least.
    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Whether its first sample is on disk.
    pub(super) fn is_saved(&self) -> bool {
        self.saved
    }

    /// What it has said since the last call. A thread that is gone without a word is done, too.
    pub(super) fn read(&mut self) -> Vec<Said> {
        let mut buffer = [0; 16];
        let gone = loop {
            match (&self.awake).read(&mut buffer) {
                Ok(0) => break true,
                Ok(_) => {}
                Err(error) => break error.kind() != std::io::ErrorKind::WouldBlock,
            }
        };
        let mut said: Vec<Said> = self.said.try_iter().collect();
        self.saved |= !said.is_empty();
        if gone && !said.iter().any(|what| matches!(what, Said::Done(_))) {
            said.push(Said::Done(Box::new(Taken {
                failure: Some("the capture ended without a word".to_owned()),
                ..Taken::default()
            })));
        }
        said
    }
}

impl AsFd for Dump {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.awake.as_fd()
    }
}

struct Say {
    say: Sender<Said>,
    wake: UnixStream,
}

impl Say {
    fn say(&mut self, what: Said) {
        // Nobody listens when the run ended first; then nobody misses it.
        let _ = self.say.send(what);
        let _ = self.wake.write_all(b".");
    }
}

struct Job {
    command: Pid,
    options: Options,
    stop: Arc<AtomicBool>,
    say: Say,
    taken: Taken,
    /// The tests, when the capture began.
    record: RunRecord,
}

impl Job {
    fn run(mut self, inspect: Inspect, request: &Request) {
        let result = catch_unwind(AssertUnwindSafe(|| {
            inspect(request, &mut |report| {
                let first = self.taken.report.is_none();
                if !first && self.stop.load(Ordering::Relaxed) {
                    // It shows what came after the thing to look at: the next test, for one.
                    return false;
                }
                let mut report = report.clone();
                report.options.pid = self.command;
                self.save(request, Some(&report));
                self.taken.report = Some(report);
                if first {
                    self.say.say(Said::Saved);
                }
                !self.stop.load(Ordering::Relaxed)
            })
        }));
        self.taken.failure = match result {
            Ok(Ok(_)) => None,
            Ok(Err(why)) => Some(why),
            Err(panic) => Some(format!("hangscope failed: {}", words_of(panic.as_ref()))),
        };
        if self.taken.failure.is_some() {
            let saved = catch_unwind(AssertUnwindSafe(|| self.save(request, None)));
            if saved.is_err() {
                self.taken.archive_failure =
                    Some("hangscope failed while it wrote the bundle".to_owned());
            }
        }
        let saved = catch_unwind(AssertUnwindSafe(|| self.save_record()));
        if saved.is_err() {
            self.taken.archive_failure =
                Some("hangscope failed while it wrote the results".to_owned());
        }
        let taken = Box::new(std::mem::take(&mut self.taken));
        self.say.say(Said::Done(taken));
    }

    /// The results of the tests come after all that tells of the hang: those may be many.
    fn save_record(&mut self) {
        let report = self.taken.report.as_ref();
        if let Some(bundle) = &mut self.taken.bundle
            && let Err(error) = bundle.set_record(&self.record, report)
        {
            self.taken.archive_failure = Some(error.to_string());
        }
    }

    /// Writes what there is. Once that failed it is not tried again: the disk will not be emptier.
    fn save(&mut self, request: &Request, report: Option<&Report>) {
        let Some(archive) = self
            .options
            .archive
            .as_deref()
            .filter(|_| self.taken.archive_failure.is_none())
        else {
            return;
        };
        let failure = self.taken.failure.clone();
        let saved = match (&mut self.taken.bundle, report) {
            (Some(bundle), Some(report)) => bundle.update(report),
            (Some(bundle), None) => failure.map_or(Ok(()), |why| bundle.set_failure(why)),
            (none, report) => {
                let mut manifest = Manifest::new(&self.options.command, request.trigger.clone());
                manifest.failure = failure;
                Bundle::create(archive, manifest, report).map(|bundle| *none = Some(bundle))
            }
        };
        self.taken.archive_failure = saved.err().map(|error| error.to_string());
    }
}

/// The message of a panic.
pub(super) fn words_of(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "it panicked".to_owned())
}

#[cfg(test)]
mod tests;
