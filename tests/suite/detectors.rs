//! Each cause, shown by programs that hang and by near misses that must stay silent, on each Python that it applies to.
//!
//! A test is a row: the fixture with its arguments, the versions, and what must be said of it.

use crate::support::hangscope::{Run, assert_resolves, dump};
use crate::support::program::Program;
use crate::support::{detector_fixture, pythons};
use hangscope::model::{Certainty, Finding, Report, Snapshot, Verdict};
use std::time::{Duration, Instant};

/// `READY` comes just before the hang, and a busy machine may need long for that little.
const HANGS_WITHIN: Duration = Duration::from_secs(60);

/// A hang that is recognised as another one so many times in a row will not be recognised rightly later.
const MISTAKEN_AT_MOST: u32 = 10;

/// Any of the threads may be named.
const ANY: &str = "";

/// A program that hangs.
struct Hang {
    /// Folder, file and arguments.
    fixture: &'static str,
    id: &'static str,
    /// At least so sure.
    certainty: Certainty,
    waiter: &'static str,
    /// The last of the blockers; `None` where there is no thread to name.
    culprit: Option<&'static str>,
    /// All of these are in the title or the evidence.
    says: &'static [&'static str],
}

/// A program that does not hang, though it looks like it.
struct NearMiss {
    fixture: &'static str,
    /// Whether a finding that is called possible (and does not count as a hang) may be told.
    at_most: Verdict,
    dumps: u32,
}

impl Hang {
    fn check(&self, version: &str) {
        let Some(mut program) = start(self.fixture, version) else {
            return;
        };
        let wanted = if self.certainty == Certainty::Possible {
            Verdict::PossibleHang
        } else {
            Verdict::Hang
        };
        let began = Instant::now();
        let mut mistaken = 0;
        let (run, report) = loop {
            let run = dump(program.pid());
            program.must_be_alive();
            let report = run.report();
            mistaken = if report.analysis.verdict == Verdict::Hang {
                mistaken + 1
            } else {
                0
            };
            let found = report
                .analysis
                .findings
                .iter()
                .any(|finding| self.is_found(&report, finding));
            if found && report.analysis.verdict == wanted {
                break (run, report);
            }
            assert!(
                began.elapsed() < HANGS_WITHIN && mistaken < MISTAKEN_AT_MOST,
                "{} on {version}: {} not found, but {}",
                self.fixture,
                self.id,
                told(&report)
            );
        };
        let context = format!("{} on {version}: {}", self.fixture, told(&report));
        let code = if wanted == Verdict::Hang { 10 } else { 0 };
        assert_eq!(run.code, Some(code), "{context}");
        self.check_words(&report, &context);
        for other in &report.analysis.findings {
            assert!(
                other.id == self.id || other.certainty == Certainty::Possible,
                "{context}: {} is told, too",
                other.id
            );
        }
        assert_resolves(&report);
        assert!(
            report
                .samples
                .iter()
                .flat_map(|sample| &sample.pauses)
                .all(|pause| pause.native && self.needs_native()),
            "{context}: it was stopped"
        );
    }

    /// Whether a look into native code makes the finding tell more: then the process is stopped for it, and for nothing else.
    fn needs_native(&self) -> bool {
        matches!(
            self.id,
            "gil-held-in-native-call" | "destroy-blocked-by-gil"
        )
    }

    fn is_found(&self, report: &Report, finding: &Finding) -> bool {
        finding.id == self.id
            && finding.certainty >= self.certainty
            && (self.waiter == ANY || name(report, &finding.waiter) == self.waiter)
            && (self.culprit == Some(ANY)
                || finding
                    .blockers
                    .last()
                    .map(|key| name(report, key))
                    .as_deref()
                    == self.culprit)
    }

    fn check_words(&self, report: &Report, context: &str) {
        let finding = report
            .analysis
            .findings
            .iter()
            .find(|finding| self.is_found(report, finding));
        let finding = finding.unwrap_or_else(|| panic!("{context}"));
        let mut words = finding.title.untrusted().to_owned();
        for evidence in &finding.evidence {
            words.push('\n');
            words.push_str(evidence.text.untrusted());
        }
        for text in self.says {
            assert!(
                words.contains(text),
                "{context}: {text:?} is not in\n{words}"
            );
        }
        assert!(
            finding.title.untrusted().ends_with('.') && !finding.title.untrusted().contains('\n'),
            "{context}"
        );
        assert!(
            !finding.remedy.is_empty() && !finding.refuted_if.is_empty(),
            "{context}"
        );
        let hash = finding.signature.strip_prefix("v1:");
        assert!(
            hash.is_some_and(|hash| hash.len() == 16),
            "{context}: {}",
            finding.signature
        );
    }
}

/// A program that hangs of another cause than that which it looks like.
struct AnotherCause {
    fixture: &'static str,
    id: &'static str,
}

impl AnotherCause {
    fn check(&self, version: &str) {
        let Some(mut program) = start(self.fixture, version) else {
            return;
        };
        // READY comes just before the hang.
        for _ in 0..HANGS_LOOKS {
            let report = dump(program.pid()).report();
            program.must_be_alive();
            let ids: Vec<&str> = report
                .analysis
                .findings
                .iter()
                .map(|finding| finding.id.as_str())
                .collect();
            match ids.as_slice() {
                [] => {}
                [only] if *only == self.id => return,
                _ => panic!("{} on {version}: {}", self.fixture, told(&report)),
            }
        }
        panic!("{} on {version}: {} is not told", self.fixture, self.id);
    }
}

/// Most looks at such a program.
const HANGS_LOOKS: usize = 5;

impl NearMiss {
    fn check(&self, version: &str) {
        let Some(mut program) = start(self.fixture, version) else {
            return;
        };
        for number in 1..=self.dumps {
            let run = dump(program.pid());
            program.must_be_alive();
            let report = run.report();
            let context = format!(
                "dump {number} of {} on {version}: {}",
                self.fixture,
                told(&report)
            );
            let silent = report.analysis.findings.is_empty()
                && report.analysis.verdict == Verdict::NoHangSeen;
            let tolerated = self.at_most == Verdict::PossibleHang
                && report.analysis.verdict == Verdict::PossibleHang;
            assert!(silent || tolerated, "{context}");
            assert_eq!(
                run.code,
                Some(0),
                "{context}: {run:?}",
                run = Short(&run, &report)
            );
            // The looks fall on different moments of the program.
            std::thread::sleep(Duration::from_millis(u64::from(37 * number)));
        }
    }
}

fn start(fixture: &str, version: &str) -> Option<Program> {
    let mut words = fixture.split(' ');
    let file = words.next().unwrap_or_default();
    let args: Vec<&str> = words.collect();
    let script = detector_fixture(file);
    let python = pythons::python_for(version, &script)?;
    Some(Program::ready(&python, &script, &args))
}

fn name(report: &Report, key: &hangscope::model::Key) -> String {
    let thread = report.samples.last().and_then(|sample| sample.thread(key));
    // From 3.13 on, the main thread's name is not readable once its interpreter's `threading` was not imported.
    thread.map_or_else(
        || format!("no thread {key:?}"),
        |thread| {
            let name = thread.display_name().untrusted();
            if name.starts_with("python") {
                "main".to_owned()
            } else {
                name.replace("MainThread", "main")
            }
        },
    )
}

fn told(report: &Report) -> String {
    let findings: Vec<String> = report
        .analysis
        .findings
        .iter()
        .map(|finding| {
            format!(
                "{} ({:?}): {}",
                finding.id,
                finding.certainty,
                finding.title.untrusted()
            )
        })
        .collect();
    format!(
        "{:?} {findings:#?} motions {:?}",
        report.analysis.verdict, report.analysis.progress
    )
}

/// The exit code and the gaps of a run.
struct Short<'a>(&'a Run, &'a Report);

impl std::fmt::Debug for Short<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let gaps: Vec<_> = self
            .1
            .samples
            .iter()
            .flat_map(|sample: &Snapshot| &sample.gaps)
            .collect();
        write!(f, "exit code {:?}, gaps {gaps:#?}", self.0.code)
    }
}

/// A row a program; a test a version.
macro_rules! cases {
    ($($name:ident [$($version:ident)*] $case:expr;)*) => {$(
        mod $name {
            use super::*;
            $(#[test]
            fn $version() {
                let version = stringify!($version).replace("py3", "3.");
                ($case).check(&version);
            })*
        }
    )*};
}

mod cancel_waits_for_thread {
    use super::*;

    const fn waits(
        fixture: &'static str,
        culprit: &'static str,
        says: &'static [&'static str],
    ) -> Hang {
        Hang {
            fixture,
            id: "cancel-waits-for-thread",
            certainty: Certainty::Certain,
            waiter: "main",
            culprit: Some(culprit),
            says,
        }
    }

    cases! {
        worker [py39 py310 py311 py312 py313 py314 py315] waits(
            "cancel-waits-for-thread/hang.py worker",
            "work from trio.to_thread.run_sync",
            &["is cancelled, and waits for thread `", "waits in Event.wait at read_meter ("],
        );
        join [py311 py312 py313 py314 py315] waits(
            "cancel-waits-for-thread/hang.py join",
            "meter-reader",
            &["which joins `meter-reader`, which waits in Event.wait at read_meter ("],
        );
        near_miss_wakes [py39 py314 py315] silent("cancel-waits-for-thread/near_miss.py wakes");
        near_miss_works [py39 py314 py315] silent("cancel-waits-for-thread/near_miss.py works");
        near_miss_asked [py39 py314 py315] of_another_cause("cancel-waits-for-thread/near_miss.py asked", "event-never-set");
        near_miss_abandoned [py39 py314 py315] silent("cancel-waits-for-thread/near_miss.py abandoned");
        near_miss_pipe [py39 py314 py315] silent("cancel-waits-for-thread/near_miss.py pipe");
    }
}

mod cancel_stopped_by_shield {
    use super::*;

    const fn shielded(
        fixture: &'static str,
        culprit: Option<&'static str>,
        says: &'static [&'static str],
    ) -> Hang {
        Hang {
            fixture,
            id: "cancel-stopped-by-shield",
            certainty: Certainty::Certain,
            waiter: "main",
            culprit,
            says,
        }
    }

    cases! {
        alone [py39 py310 py311 py312 py313 py314 py315] shielded(
            "cancel-stopped-by-shield/hang.py alone",
            None,
            &[
                "is cancelled, but waits in trio.Event.wait at say_goodbye (hang.py:25)",
                "under a shield without a deadline",
            ],
        );
        thread [py39 py310 py311 py312 py313 py314 py315] shielded(
            "cancel-stopped-by-shield/hang.py thread",
            Some("answerer"),
            &["say_goodbye (hang.py:25)", "the only other thread"],
        );
        near_miss_deadline [py39 py314 py315] silent("cancel-stopped-by-shield/near_miss.py deadline");
        near_miss_inner [py39 py314 py315] silent("cancel-stopped-by-shield/near_miss.py inner");
        near_miss_idle [py39 py314 py315] of_another_cause("cancel-stopped-by-shield/near_miss.py idle", "event-never-set");
        near_miss_goes_on [py39 py314 py315] silent("cancel-stopped-by-shield/near_miss.py goes-on");
        near_miss_outside [py39 py314 py315] silent("cancel-stopped-by-shield/near_miss.py outside");
    }
}

mod event_loops_at_standstill {
    use super::*;

    const fn standstill(fixture: &'static str, says: &'static [&'static str]) -> Hang {
        Hang {
            fixture,
            id: "event-loops-at-standstill",
            certainty: Certainty::Probable,
            waiter: "main",
            culprit: Some("child-driver"),
            says,
        }
    }

    cases! {
        closed [py313 py314 py315] standstill(
            "event-loops-at-standstill/hang.py closed",
            &["no task of it listens to anybody", "waits in trio.sleep_forever"],
        );
        quiet [py313 py314 py315] standstill(
            "event-loops-at-standstill/hang.py quiet",
            &["nobody is left to write what it waits for"],
        );
        near_miss_timer [py313 py314 py315] silent("event-loops-at-standstill/near_miss.py timer");
        near_miss_thread [py313 py314 py315] of_another_cause("event-loops-at-standstill/near_miss.py thread", "event-loops-at-standstill");
        near_miss_outside [py313 py314 py315] silent("event-loops-at-standstill/near_miss.py outside");
        near_miss_ctrl_c [py313 py314 py315] silent("event-loops-at-standstill/near_miss.py ctrl-c");
        near_miss_parent_timer [py313 py314 py315] silent("event-loops-at-standstill/near_miss.py parent-timer");
    }
}

mod destroy_blocked_by_idle_thread {
    use super::*;

    const ID: &str = "destroy-blocked-by-idle-thread";

    const fn idle(
        fixture: &'static str,
        certainty: Certainty,
        says: &'static [&'static str],
    ) -> Hang {
        Hang {
            fixture,
            id: ID,
            certainty,
            waiter: "main",
            culprit: Some("idle-nd"),
            says,
        }
    }

    cases! {
        event_legacy [py313 py314 py315] idle(
            "destroy-blocked-by-idle-thread/hang.py event legacy",
            Certainty::Certain,
            &["(destroy in close_actor (hang.py:28)", "`idle-nd`", "waits in Event.wait at idle_worker (", "daemon=False"],
        );
        event_isolated [py313 py314 py315] idle(
            "destroy-blocked-by-idle-thread/hang.py event isolated",
            Certainty::Certain,
            &["(destroy in close_actor (hang.py:28)", "waits in Event.wait at idle_worker ("],
        );
        queue_legacy [py313 py314 py315] idle(
            "destroy-blocked-by-idle-thread/hang.py queue legacy",
            Certainty::Certain,
            &["waits in Queue.get at idle_worker ("],
        );
        queue_isolated [py313 py314 py315] idle(
            "destroy-blocked-by-idle-thread/hang.py queue isolated",
            Certainty::Certain,
            &["waits in Queue.get at idle_worker ("],
        );
        sleep_legacy [py313 py314 py315] idle(
            "destroy-blocked-by-idle-thread/hang.py sleep legacy",
            Certainty::Probable,
            &["sleeps (12 days left) at idle_worker ("],
        );
        sleep_isolated [py313 py314 py315] idle(
            "destroy-blocked-by-idle-thread/hang.py sleep isolated",
            Certainty::Probable,
            &["sleeps (12 days left) at idle_worker ("],
        );
        pipe_legacy [py313 py314 py315] idle(
            "destroy-blocked-by-idle-thread/hang.py pipe legacy",
            Certainty::Probable,
            &["waits for data on fd ", "at idle_worker ("],
        );
        pipe_isolated [py313 py314 py315] idle(
            "destroy-blocked-by-idle-thread/hang.py pipe isolated",
            Certainty::Probable,
            &["waits for data on fd ", "at idle_worker ("],
        );
        close [py314 py315] Hang {
            fixture: "destroy-blocked-by-idle-thread/hang_close.py",
            id: ID,
            certainty: Certainty::Certain,
            waiter: "main",
            culprit: Some("listener"),
            says: &["(Interpreter.close in retire (hang_close.py:19)", "waits in Queue.get at listen ("],
        };
        at_exit [py314 py315] Hang {
            fixture: "destroy-blocked-by-idle-thread/hang_at_exit.py",
            id: ID,
            certainty: Certainty::Certain,
            waiter: "main",
            culprit: Some("heartbeat"),
            says: &["is ending sub-interpreter 1 at the exit of the process", "waits in Event.wait at heartbeat ("],
        };
        in_worker [py313 py314 py315] Hang {
            fixture: "destroy-blocked-by-idle-thread/hang_in_worker.py",
            id: ID,
            certainty: Certainty::Certain,
            waiter: "reaper",
            culprit: Some("mailbox"),
            says: &["(destroy in reap (hang_in_worker.py:23)", "waits in Condition.wait at wait_for_mail ("],
        };
        near_miss_trio_other [py313 py314 py315] silent("destroy-blocked-by-idle-thread/near_miss_idle_pool.py trio other");
        near_miss_trio_none [py314] silent("destroy-blocked-by-idle-thread/near_miss_idle_pool.py trio none");
        near_miss_executor_other [py313 py314 py315] silent("destroy-blocked-by-idle-thread/near_miss_idle_pool.py executor other");
        near_miss_executor_none [py314] silent("destroy-blocked-by-idle-thread/near_miss_idle_pool.py executor none");
        near_miss_orphan [py314 py315] silent("destroy-blocked-by-idle-thread/near_miss_orphan.py");
        near_miss_running [py313 py314 py315] silent("destroy-blocked-by-idle-thread/near_miss_running.py");
    }
}

mod destroy_blocked_by_busy_thread {
    use super::*;
    use crate::lock_rules::{each_thread, samples};
    use hangscope::analysis::analyze;
    use hangscope::model::Trigger;

    const fn busy(fixture: &'static str) -> Hang {
        Hang {
            fixture,
            id: "destroy-blocked-by-busy-thread",
            certainty: Certainty::Possible,
            waiter: "main",
            culprit: Some("spinner"),
            says: &[
                "(destroy in close_actor (hang.py:26)",
                "`spinner`, which goes round in a loop at spin (",
            ],
        }
    }

    cases! {
        legacy [py313 py314 py315] busy("destroy-blocked-by-busy-thread/hang.py legacy");
        isolated [py313 py314 py315] busy("destroy-blocked-by-busy-thread/hang.py isolated");
        near_miss_legacy [py313 py314 py315] silent("destroy-blocked-by-busy-thread/near_miss.py legacy");
        near_miss_isolated [py314] silent("destroy-blocked-by-busy-thread/near_miss.py isolated");
    }

    /// Its stack changed while it was read, each time: no sign that it goes round.
    #[test]
    fn a_thread_whose_frames_could_not_be_read_is_not_accused() {
        let told = |unread: bool| {
            let mut all = samples("destroy-blocked-by-busy-thread");
            each_thread(&mut all, &mut |_, thread| {
                if unread && thread.display_name().untrusted() == "spinner" {
                    thread.python[0].frames.clear();
                    thread.python[0].cut = Some("nothing readable at 0x9".into());
                }
            });
            analyze(&all, &Trigger::Dump, None).findings.len()
        };
        assert_eq!((told(false), told(true)), (1, 0));
    }
}

mod destroy_blocked_by_executor {
    use super::*;

    const fn stuck(fixture: &'static str) -> Hang {
        Hang {
            fixture,
            id: "destroy-blocked-by-executor",
            certainty: Certainty::Certain,
            waiter: "main",
            culprit: Some("jobs_0"),
            says: &[
                "(destroy in close_actor (hang.py:30)",
                "executor worker `jobs_0`",
                "waits in Event.wait at wait_for_approval (",
            ],
        }
    }

    cases! {
        legacy [py313 py314 py315] stuck("destroy-blocked-by-executor/hang.py legacy");
        isolated [py313 py314 py315] stuck("destroy-blocked-by-executor/hang.py isolated");
        near_miss_legacy [py313 py314 py315] silent("destroy-blocked-by-executor/near_miss.py legacy");
        near_miss_isolated [py314] silent("destroy-blocked-by-executor/near_miss.py isolated");
    }
}

mod destroy_blocked_by_atexit {
    use super::*;

    const ID: &str = "destroy-blocked-by-atexit";

    const fn callback(
        fixture: &'static str,
        certainty: Certainty,
        says: &'static [&'static str],
    ) -> Hang {
        Hang {
            fixture,
            id: ID,
            certainty,
            waiter: "main",
            culprit: None,
            says,
        }
    }

    cases! {
        event_legacy [py313 py314 py315] callback(
            "destroy-blocked-by-atexit/hang.py event legacy",
            Certainty::Certain,
            &["(destroy in close_actor (hang.py:25)", "in its exit callback say_goodbye (", "waits in Event.wait"],
        );
        event_isolated [py313 py314 py315] callback(
            "destroy-blocked-by-atexit/hang.py event isolated",
            Certainty::Certain,
            &["in its exit callback say_goodbye (", "waits in Event.wait"],
        );
        pipe [py313 py314 py315] callback(
            "destroy-blocked-by-atexit/hang.py pipe legacy",
            Certainty::Probable,
            &["in its exit callback say_goodbye (", "waits for data on fd "],
        );
        logging [py314 py315] Hang {
            fixture: "destroy-blocked-by-atexit/hang_logging.py",
            id: ID,
            certainty: Certainty::Certain,
            waiter: "main",
            culprit: Some("log-writer"),
            says: &["in its exit callback shutdown (logging/__init__.py:", "waits for an RLock", "whose owner is `log-writer`", "now at write_slowly ("],
        };
        near_miss_legacy [py313 py314 py315] silent("destroy-blocked-by-atexit/near_miss.py legacy");
        near_miss_isolated [py314] silent("destroy-blocked-by-atexit/near_miss.py isolated");
    }
}

mod destroy_blocked_by_gil {
    use super::*;

    cases! {
        hang [py313 py314 py315] Hang {
            fixture: "destroy-blocked-by-gil/hang.py",
            id: "destroy-blocked-by-gil",
            certainty: Certainty::Certain,
            waiter: "main",
            culprit: Some("driver"),
            says: &["(destroy in close_actor (hang.py:29)) and waits for the GIL", "`driver` keeps in a native call made at wait_for_device (hang.py:22)", "nanosleep"],
        };
        near_miss [py313 py314 py315] silent("destroy-blocked-by-gil/near_miss.py");
    }
}

mod destroy_blocked_by_unknown {
    use super::*;

    const fn finalizer(fixture: &'static str, says: &'static [&'static str]) -> Hang {
        Hang {
            fixture,
            id: "destroy-blocked-by-unknown",
            certainty: Certainty::Probable,
            waiter: "main",
            culprit: None,
            says,
        }
    }

    cases! {
        lock [py313 py314 py315] finalizer(
            "destroy-blocked-by-unknown/hang.py lock legacy",
            &["(destroy in close_actor (hang.py:36)", "in Connection.__del__ (", "torn down"],
        );
        pipe [py313 py314 py315] finalizer(
            "destroy-blocked-by-unknown/hang.py pipe isolated",
            &["in Connection.__del__ (", "waits for data on fd "],
        );
        sleep [py313 py314 py315] finalizer(
            "destroy-blocked-by-unknown/hang.py sleep legacy",
            &["in Connection.__del__ (", "sleeps (12 days left)"],
        );
        // At its exit, CPython 3.13.0 takes the idle thread's state off the interpreter's list: nothing names the thread.
        at_exit_without_thread_state [py313] finalizer(
            "destroy-blocked-by-idle-thread/hang_at_exit.py",
            &["is ending sub-interpreter 1 at the exit of the process", "in the thread shutdown of the interpreter"],
        );
        near_miss_finalizers [py313 py314 py315] silent("destroy-blocked-by-unknown/near_miss.py finalizers");
        near_miss_garbage [py313 py314 py315] silent("destroy-blocked-by-unknown/near_miss.py garbage");
    }
}

mod join_on_blocked_thread {
    use super::*;

    const ID: &str = "join-on-blocked-thread";

    const fn join(
        fixture: &'static str,
        culprit: &'static str,
        says: &'static [&'static str],
    ) -> Hang {
        Hang {
            fixture,
            id: ID,
            // Ctrl-C still ends a join in the main thread of what is no test run.
            certainty: Certainty::Probable,
            waiter: "main",
            culprit: Some(culprit),
            says,
        }
    }

    cases! {
        event [py39 py310 py311 py312 py313 py314 py315] join(
            "join-on-blocked-thread/hang.py",
            "worker",
            &["at <module> (hang.py:14) joins `worker`", "waits in Event.wait at worker (hang.py:8)"],
        );
        watchdog [py39 py312 py314] Hang {
            fixture: "join-on-blocked-thread/hang_watchdog.py",
            id: ID,
            certainty: Certainty::Probable,
            waiter: "main",
            culprit: Some("worker"),
            says: &["some threads of the process could not be judged"],
        };
        chain [py39 py310 py311 py312 py313 py314 py315] join(
            "join-on-blocked-thread/hang_chain.py",
            "packer",
            &[
                "at run_service (hang_chain.py:27) joins `loader`, which waits for `sorter`, which waits for `packer`",
                "waits in Queue.get at pack (hang_chain.py:9)",
            ],
        );
        at_exit [py39 py310 py311 py312 py313 py314 py315] Hang {
            fixture: "join-on-blocked-thread/hang_at_exit.py",
            id: "exit-blocked-by-thread",
            certainty: Certainty::Probable,
            waiter: "main",
            culprit: Some("forgotten"),
            says: &["`forgotten`, which waits in Queue.get at work (hang_at_exit.py:10)"],
        };
        socket_of_its_own [py39 py311 py312 py314] join(
            "join-on-blocked-thread/hang_socket.py",
            "worker",
            &["`worker`, which waits for data on fd", "(UNIX socket to fd", "at worker (hang_socket.py:9)"],
        );
        near_miss_handler [py39 py312 py314] silent("join-on-blocked-thread/near_miss_handler.py");
        near_miss_compute [py39 py310 py311 py312 py313 py314 py315] silent("join-on-blocked-thread/near_miss.py compute");
        near_miss_sleep [py39 py310 py311 py313 py315] silent("join-on-blocked-thread/near_miss.py sleep");
        near_miss_socket [py39 py310 py311 py312 py314] silent("join-on-blocked-thread/near_miss.py socket");
        near_miss_consumer [py39 py310 py311 py312 py313 py314 py315] silent("join-on-blocked-thread/near_miss_consumer.py 0.05");
        near_miss_slow_consumer [py39 py310 py311 py312 py313 py314 py315] silent("join-on-blocked-thread/near_miss_consumer.py 20");
        near_miss_asyncio [py39 py310 py311 py312 py313 py314 py315] silent("join-on-blocked-thread/near_miss_server.py asyncio");
        near_miss_trio [py39 py310 py311 py312 py313 py314 py315] silent("join-on-blocked-thread/near_miss_server.py trio");
        near_miss_churn [py39 py310 py311 py312 py313 py314 py315] silent_for("join-on-blocked-thread/near_miss_churn.py", 6);
    }

    /// The cycle is told once, and truly.
    fn check_cycle(version: &str) {
        let Some(mut program) = start("join-on-blocked-thread/hang_cycle.py", version) else {
            return;
        };
        let began = Instant::now();
        let report = loop {
            let report = dump(program.pid()).report();
            program.must_be_alive();
            if report.analysis.verdict == Verdict::Hang {
                break report;
            }
            assert!(began.elapsed() < HANGS_WITHIN, "{}", told(&report));
        };
        assert_resolves(&report);
        let told = told(&report);
        assert!(
            report
                .analysis
                .findings
                .iter()
                .all(|finding| finding.id == ID),
            "{told}"
        );
        assert!(
            report
                .analysis
                .findings
                .iter()
                .any(|finding| finding.certainty == Certainty::Certain),
            "{told}"
        );
        for finding in &report.analysis.findings {
            for evidence in &finding.evidence {
                let text = evidence.text.untrusted();
                let false_claim = text.starts_with("`writer` ")
                    && text.contains("waits for the end of MainThread");
                assert!(
                    !false_claim,
                    "the writer joins the reader, not MainThread: {text}"
                );
            }
        }
        assert_eq!(
            report.analysis.findings.len(),
            1,
            "one hang, told once: {told}"
        );
    }

    mod cycle {
        #[test]
        fn py39() {
            super::check_cycle("3.9");
        }
        #[test]
        fn py310() {
            super::check_cycle("3.10");
        }
        #[test]
        fn py311() {
            super::check_cycle("3.11");
        }
        #[test]
        fn py313() {
            super::check_cycle("3.13");
        }
        #[test]
        fn py314() {
            super::check_cycle("3.14");
        }
    }
}

mod stuck_lock {
    use super::*;

    const fn circle(
        fixture: &'static str,
        certainty: Certainty,
        culprit: &'static str,
        says: &'static [&'static str],
    ) -> Hang {
        Hang {
            fixture,
            id: "lock-order-cycle",
            certainty,
            waiter: ANY,
            culprit: Some(culprit),
            says,
        }
    }

    const fn own(
        fixture: &'static str,
        certainty: Certainty,
        thread: &'static str,
        says: &'static [&'static str],
    ) -> Hang {
        Hang {
            fixture,
            id: "lock-self-deadlock",
            certainty,
            waiter: thread,
            culprit: Some(thread),
            says,
        }
    }

    const fn held(
        fixture: &'static str,
        waiter: &'static str,
        culprit: &'static str,
        says: &'static [&'static str],
    ) -> Hang {
        Hang {
            fixture,
            id: "lock-held-by-blocked-thread",
            certainty: Certainty::Certain,
            waiter,
            culprit: Some(culprit),
            says,
        }
    }

    const fn forked(fixture: &'static str, says: &'static [&'static str]) -> Hang {
        Hang {
            id: "lock-held-at-fork",
            certainty: Certainty::Probable,
            // The child's main thread, which has no name of its own where the parent's was not asked for it.
            culprit: Some(ANY),
            ..ended(fixture, says)
        }
    }

    const fn ended(fixture: &'static str, says: &'static [&'static str]) -> Hang {
        Hang {
            fixture,
            id: "lock-holder-ended",
            certainty: Certainty::Certain,
            waiter: "main",
            culprit: None,
            says,
        }
    }

    cases! {
        cycle [py39 py310 py311 py312 py313 py314 py315] circle(
            "lock-order-cycle/hang.py",
            Certainty::Certain,
            "transfer-2",
            &[
                "`transfer-1` waits for `target.lock` #1, which `transfer-2` holds",
                "holds `target.lock` #2 since transfer (hang.py:14) by a `with` block",
                "waits for `target.lock` #1 (a _thread.lock at 0x",
                "at transfer (hang.py:16), without a deadline",
            ],
        );
        ring [py39 py310 py311 py312 py313 py314 py315] circle(
            "lock-order-cycle/hang_ring.py 3",
            Certainty::Certain,
            "philosopher-2",
            &["`philosopher-1` waits for `right` #2, which `philosopher-2` holds", "since dine (hang_ring.py:14)"],
        );
        large_ring [py39 py314] circle(
            "lock-order-cycle/hang_ring.py 40",
            Certainty::Certain,
            "philosopher-39",
            &["and so on through 40 threads, back to the first."],
        );
        rlock [py39 py310 py311 py312 py313 py314 py315] circle(
            "lock-order-cycle/hang_mixed.py rlock",
            Certainty::Certain,
            "auditor",
            &["`auditor` waits for `ledger`, which `writer` holds", "since audit (hang_mixed.py:81)", "waits for an RLock"],
        );
        rlock_in_a_manager [py39 py310 py311 py312 py313 py314 py315] circle(
            "lock-order-cycle/hang_mixed.py rlock-acquire",
            Certainty::Probable,
            "auditor",
            &["`writer` waits for `self.lock`, which `auditor` holds", "(a _thread.RLock) at Acquired.__enter__ (hang_mixed.py:35)"],
        );
        condition [py39 py310 py311 py312 py313 py314 py315] circle(
            "lock-order-cycle/hang_mixed.py condition",
            Certainty::Certain,
            "auditor",
            &["`writer` waits for the Condition, which `auditor` holds", "waits for a threading.Condition at write (hang_mixed.py:76)"],
        );
        manager [py39 py310 py311 py312 py313 py314 py315] circle(
            "lock-order-cycle/hang_mixed.py manager",
            Certainty::Probable,
            "auditor",
            &["`writer` waits for `self._lock`, which `auditor` holds", "since audit (hang_mixed.py:81) by a `with` block"],
        );
        contextmanager [py39 py310 py311 py312 py313 py314 py315] circle(
            "lock-order-cycle/hang_mixed.py contextmanager",
            Certainty::Probable,
            "auditor",
            &["`writer` waits for `guard`, which `auditor` holds", "by a `with` block of a generator or coroutine"],
        );
        process_lock [py39 py310 py311 py312 py313 py314 py315] circle(
            "lock-order-cycle/hang_mixed.py process",
            Certainty::Probable,
            "auditor",
            &["waits for a multiprocessing.synchronize.Lock at write (hang_mixed.py:"],
        );
        by_acquire [py39 py310 py311 py312 py313 py314 py315] circle(
            "lock-order-cycle/hang_acquire.py",
            Certainty::Probable,
            "compactor",
            &["`rebuilder` waits for `second` #1, which `compactor` holds", "by the lock's owner field"],
        );
        import [py39 py310 py311 py312 py313 py314 py315] circle(
            "lock-order-cycle/hang_import.py",
            Certainty::Certain,
            "registrar",
            &["waits for the import of `fixture_settings`, which `loader` holds", "by the import system's own note"],
        );
        join [py39 py310 py311 py312 py313 py314 py315] circle(
            "lock-order-cycle/hang_join.py",
            Certainty::Certain,
            "updater",
            &["MainThread waits for the end of `updater`", "`catalogue`, which MainThread holds", "at replace_catalogue (hang_join.py:17)"],
        );
        near_miss_convoy [py39 py310 py311 py312 py313 py314 py315] silent_for("lock-order-cycle/near_miss_contention.py convoy", 5);
        near_miss_long [py39 py310 py311 py312 py313 py314 py315] silent("lock-order-cycle/near_miss_contention.py long");
        near_miss_passed [py39 py310 py311 py312 py313 py314 py315] silent("lock-order-cycle/near_miss_contention.py passed");
        near_miss_back_off [py39 py310 py311 py312 py313 py314 py315] silent_for("lock-order-cycle/near_miss_contention.py backoff", 5);
        near_miss_condition [py39 py310 py311 py312 py313 py314 py315] silent_for("lock-order-cycle/near_miss_condition.py rlock", 5);
        near_miss_condition_of_a_lock [py39 py310 py311 py312 py313 py314 py315] silent_for("lock-order-cycle/near_miss_condition.py lock", 5);
        near_miss_manager [py39 py310 py311 py312 py313 py314 py315] silent("lock-order-cycle/near_miss_manager.py");
        near_miss_counted [py39 py310 py311 py312 py313 py314 py315] silent("lock-order-cycle/near_miss_manager.py counted");
        near_miss_released [py39 py310 py311 py312 py313 py314 py315] silent("lock-order-cycle/near_miss_released.py");
        near_miss_handed [py39 py310 py311 py312 py313 py314 py315] silent("lock-order-cycle/near_miss_released.py handed");

        own_lock [py39 py310 py311 py312 py313 py314 py315] own(
            "lock-self-deadlock/hang.py",
            Certainty::Certain,
            "main",
            &["waits at Cache.refresh (hang.py:17) for `self._lock`, which it holds itself since Cache.get (hang.py:11)"],
        );
        own_lock_by_signal [py39 py310 py311 py312 py313 py314 py315] own(
            "lock-self-deadlock/hang_interrupted.py signal",
            Certainty::Probable,
            "main",
            &["waits at note_closed (hang_interrupted.py:26) for `registry`, which it holds itself since <module> (hang_interrupted.py:47)"],
        );
        own_lock_by_finalizer [py39 py310 py311 py312 py313 py314 py315] own(
            "lock-self-deadlock/hang_interrupted.py del",
            Certainty::Certain,
            "main",
            &["the finalizer SelfClosing.__del__ (hang_interrupted.py:22) was run"],
        );
        own_lock_by_weakref [py39 py310 py311 py312 py313 py314 py315] own(
            "lock-self-deadlock/hang_interrupted.py weakref",
            Certainty::Certain,
            "main",
            &["waits at note_closed (hang_interrupted.py:26)"],
        );
        own_lock_in_a_thread [py39 py310 py311 py312 py313 py314 py315] own(
            "lock-self-deadlock/hang_in_thread.py",
            Certainty::Probable,
            "walker",
            &["for `tree`, which it holds itself since visit (hang_in_thread.py:9)"],
        );
        near_miss_unlocked [py39 py310 py311 py312 py313 py314 py315] silent("lock-self-deadlock/near_miss.py unlocked");
        near_miss_forked [py39 py310 py311 py312 py313 py314 py315] silent("lock-self-deadlock/near_miss.py forked");
        near_miss_lent [py39 py310 py311 py312 py313 py314 py315] NearMiss {
            fixture: "lock-self-deadlock/near_miss.py lent",
            at_most: Verdict::PossibleHang,
            dumps: 3,
        };
        near_miss_waiting [py39 py310 py311 py312 py313 py314 py315] silent("lock-self-deadlock/near_miss.py condition");
        near_miss_recursive [py39 py310 py311 py312 py313 py314 py315] silent("lock-self-deadlock/near_miss.py rlock");

        held_by_blocked [py39 py310 py311 py312 py313 py314 py315] held(
            "lock-held-by-blocked-thread/hang.py",
            "lister",
            "confirmer",
            &[
                "`lister` waits at list_orders (hang.py:16) for `orders`, which `confirmer` holds while it waits in Event.wait",
                "holds `orders` since confirm_order (hang.py:10)",
            ],
        );
        held_by_consumer [py39 py310 py311 py312 py313 py314 py315] held(
            "lock-held-by-blocked-thread/hang_queue.py",
            "producer",
            "consumer",
            &["`gate`, which `consumer` holds while it waits in Queue.get at consume (hang_queue.py:13)"],
        );
        held_while_a_pool_works [py39 py310 py311 py312 py313 py314 py315] Hang {
            fixture: "lock-held-by-blocked-thread/hang_future.py",
            id: "lock-held-by-blocked-thread",
            certainty: Certainty::Probable,
            waiter: "indexer_0",
            culprit: Some("main"),
            says: &["for `index`, which MainThread holds while it waits in Future.result at rebuild (hang_future.py:18)"],
        };
        near_miss_fed [py39 py310 py311 py312 py313 py314 py315] silent("lock-held-by-blocked-thread/near_miss.py fed");
        near_miss_sleeping [py39 py310 py311 py312 py313 py314 py315] silent("lock-held-by-blocked-thread/near_miss.py sleeping");
        near_miss_socket [py39 py310 py311 py312 py313 py314 py315] silent("lock-held-by-blocked-thread/near_miss.py socket");
        near_miss_semaphore [py39 py310 py311 py312 py313 py314 py315] silent("lock-held-by-blocked-thread/near_miss.py semaphore");

        holder_ended [py39 py310 py311 py312 py313 py314 py315] ended(
            "lock-holder-ended/hang.py",
            &["waits at read_cache (hang.py:14) for `cache`, whose holder has ended", "no thread of the process has that id"],
        );
        holder_not_forked [py39 py310 py311 py312 py313 py314 py315] forked(
            "lock-holder-ended/hang_forked.py",
            &[
                "waits at write_in_child (hang_forked.py:16) for `log`, which is held in this process by nobody",
                "its owner field names a thread that only the parent has: `log-writer`",
            ],
        );
        near_miss_recycled [py39 py310 py311 py312 py313 py314 py315] silent("lock-holder-ended/near_miss.py recycled");
        near_miss_alive [py39 py310 py311 py312 py313 py314 py315] silent("lock-holder-ended/near_miss.py alive");
        // It does hang, and nobody can be named.
        near_miss_plain [py39 py310 py311 py312 py313 py314 py315] Hang {
            fixture: "lock-holder-ended/near_miss.py plain",
            id: "lock-never-released",
            certainty: Certainty::Probable,
            waiter: ANY,
            culprit: None,
            says: &["and nobody is left who could release it"],
        };
    }
}

mod gil_held_in_native_call {
    use super::*;

    cases! {
        sleep [py39 py310 py311 py312 py313 py314 py315] Hang {
            fixture: "gil-held-in-native-call/hang.py sleep",
            id: "gil-held-in-native-call",
            certainty: Certainty::Certain,
            // Any of the three that want it may be named.
            waiter: ANY,
            culprit: Some("driver"),
            says: &[
                "`driver` keeps the GIL in a native call made at wait_for_device (hang.py:26), in ",
                " of libc.so.6",
                "nanosleep",
            ],
        };
        read [py39 py310 py311 py313 py314 py315] Hang {
            fixture: "gil-held-in-native-call/hang.py read",
            id: "gil-held-in-native-call",
            certainty: Certainty::Probable,
            waiter: ANY,
            culprit: Some("driver"),
            says: &[
                "`driver` keeps the GIL in a native call made at wait_for_device (hang.py:25), in read of libc.so.6 (system call read)",
            ],
        };
        near_miss [py39 py310 py311 py312 py313 py314 py315] silent_for("gil-held-in-native-call/near_miss.py", 5);
        near_miss_long_call [py39 py310 py311 py312 py313 py314 py315] NearMiss {
            fixture: "gil-held-in-native-call/near_miss_long_call.py",
            at_most: Verdict::PossibleHang,
            dumps: 3,
        };
        near_miss_released [py39 py310 py311 py313 py315] silent("gil-held-in-native-call/near_miss_released.py");
    }
}

const fn silent(fixture: &'static str) -> NearMiss {
    silent_for(fixture, 3)
}

/// It hangs, but of another cause, which is told; or for all that it looks like going on.
const fn of_another_cause(fixture: &'static str, id: &'static str) -> AnotherCause {
    AnotherCause { fixture, id }
}

const fn silent_for(fixture: &'static str, dumps: u32) -> NearMiss {
    NearMiss {
        fixture,
        at_most: Verdict::NoHangSeen,
        dumps,
    }
}
