//! One record of a ring: its form on disk, and what it says.

use super::limit::TestLimit;
use crate::model::{Counts, Foreign, TestOutcome, TestPhase};
use serde::Deserialize;

/// Bytes before a record's text.
pub(super) const HEAD: usize = 44;
/// Longest record of any ring.
const LONGEST: usize = 16 * 1024;
/// What stands for a number that was not counted.
const NOT_COUNTED: u32 = u32::MAX;

/// The longest record of a ring with this capacity.
pub(super) fn longest(capacity: u64) -> usize {
    usize::try_from(capacity / 4).map_or(LONGEST, |quarter| quarter.min(LONGEST))
}

/// What a test process wrote down at one moment.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Record {
    /// Its number in the ring, from 0; it wraps around.
    pub(crate) seq: u32,
    /// When, on CLOCK_MONOTONIC, in nanoseconds.
    pub(crate) at: u64,
    /// The number of the test in this process, from 1; 0 when none runs.
    pub(crate) serial: u32,
    /// What was counted at that moment.
    pub(crate) counts: Counts,
    /// What it says.
    pub(crate) body: Body,
}

/// What a record says.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Body {
    /// A session of pytest begins.
    Session(Session),
    /// The import of a module or package begins, to find its tests.
    Collect(Foreign),
    /// The tests are known.
    Collected(Collected),
    /// A test begins with its setup.
    Setup(Setup),
    /// Its call begins.
    Call,
    /// Its teardown begins.
    Teardown,
    /// A phase of it did not simply pass.
    Report(PhaseReport),
    /// It has ended.
    End(TestOutcome),
    /// What is new and gone since the last such record.
    Births(Births),
    /// A debugger took over: clocks stand.
    PdbEnter,
    /// The debugger has left.
    PdbLeave,
    /// All tests are done; the session ends.
    Finish,
    /// pytest is done.
    Unconfigure,
    /// The plugin acted on a request of this stage.
    Interrupted(u8),
}

/// How a session begins.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct Session {
    /// Its name as an xdist worker.
    pub(crate) worker: Option<String>,
    /// Whether it hands its tests to workers.
    pub(crate) controller: bool,
    /// Whether it was forked from a process that has a ring.
    pub(crate) forked: bool,
    /// xdist's `testrunuid`: the same in the controller and its workers.
    pub(crate) run: Option<String>,
    /// pytest's root folder.
    pub(crate) root: Option<String>,
    /// The real-time signal that a request is announced by; none or 0 when it takes none.
    pub(crate) signal: Option<i32>,
    /// The JUnit file that the user asked for, absolute.
    pub(crate) xmlpath: Option<String>,
    /// pytest-timeout's limit for all tests, in seconds.
    pub(crate) timeout: Option<f64>,
    /// Whether pytest-timeout is there to act on it.
    pub(crate) timeout_active: bool,
    /// Whether that limit is for the call alone.
    pub(crate) func_only: bool,
    /// Its parent process.
    pub(crate) ppid: i32,
}

/// How many tests were found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Collected {
    /// How many.
    pub(crate) count: usize,
    /// The file of the run folder that lists them.
    pub(crate) list: Option<String>,
}

/// A test that begins.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Setup {
    /// pytest's node id.
    pub(crate) test: Foreign,
    /// Its file, relative to the root folder.
    pub(crate) file: Foreign,
    /// Its line, from 1.
    pub(crate) line: Option<u32>,
    /// Its own limit.
    pub(crate) limit: TestLimit,
    /// What stands in its mark `hangscope` if that is no time.
    pub(crate) no_time: Option<Foreign>,
}

/// The report of a phase that did not simply pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PhaseReport {
    /// Setup, call or teardown.
    pub(crate) phase: TestPhase,
    /// How it ended.
    pub(crate) said: Said,
    /// Why.
    pub(crate) message: Foreign,
}

/// How a phase ended that did not simply pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    /// It failed.
    Failed,
    /// It was skipped.
    Skipped,
    /// It failed as expected.
    ExpectedFailure,
    /// It passed against expectation.
    UnexpectedPass,
    /// What another plugin calls it, such as `rerun`: the test will begin again.
    Other,
}

/// What is new and what is gone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Births {
    /// The list could not be read; it was too long for a record.
    pub(crate) unreadable: bool,
    /// New threads that `threading` knows: kernel thread id and name.
    pub(crate) threads: Vec<(i64, Foreign)>,
    /// New threads that it does not know.
    pub(crate) os_threads: Vec<i64>,
    /// New interpreters.
    pub(crate) interpreters: Vec<i64>,
    /// New child processes.
    pub(crate) children: Vec<i64>,
    /// Threads of both kinds that are gone.
    pub(crate) gone_threads: Vec<i64>,
    /// Interpreters that are gone.
    pub(crate) gone_interpreters: Vec<i64>,
    /// Child processes that are gone.
    pub(crate) gone_children: Vec<i64>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct BirthsText {
    threads: Vec<(i64, Option<String>, Option<bool>)>,
    os_threads: Vec<i64>,
    interpreters: Vec<i64>,
    children: Vec<i64>,
    gone: Gone,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Gone {
    threads: Vec<i64>,
    interpreters: Vec<i64>,
    children: Vec<i64>,
}

/// The length of the record that `bytes` begin with, if that can be one. `most` bounds it.
pub(super) fn length(bytes: &[u8], most: usize) -> Option<usize> {
    let length = usize::try_from(u32_at(bytes, 0)?).ok()?;
    (HEAD..=most).contains(&length).then_some(length)
}

/// The number of the record that `bytes` begin with.
pub(super) fn seq(bytes: &[u8]) -> Option<u32> {
    u32_at(bytes, 4)
}

impl Record {
    /// Reads a whole record. `None` when it makes no sense.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let text = String::from_utf8_lossy(bytes.get(HEAD..)?);
        let count = |at| u32_at(bytes, at).map(|number| (number != NOT_COUNTED).then_some(number));
        let (kind, flags) = (*bytes.get(40)?, *bytes.get(41)?);
        Some(Self {
            seq: seq(bytes)?,
            at: u64::from_le_bytes(*bytes.get(8..)?.first_chunk()?),
            serial: u32_at(bytes, 16)?,
            counts: Counts {
                threads: count(20)?,
                os_threads: count(24)?,
                interpreters: count(28)?,
                children: count(32)?,
                fds: count(36)?,
            },
            body: Body::parse(kind, flags, &text)?,
        })
    }
}

impl Body {
    fn parse(kind: u8, flags: u8, text: &str) -> Option<Self> {
        Some(match kind {
            1 => Self::Session(serde_json::from_str(text).ok()?),
            2 => Self::Collect(text.into()),
            3 => Self::Collected(serde_json::from_str(text).ok()?),
            4 => Self::Setup(Setup::parse(text)?),
            5 => Self::Call,
            6 => Self::Teardown,
            7 => Self::Report(PhaseReport::parse(flags, text)?),
            8 => Self::End(match flags {
                0 => TestOutcome::Passed,
                1 => TestOutcome::Failed,
                2 => TestOutcome::Error,
                3 => TestOutcome::Skipped,
                _ => return None,
            }),
            9 => Self::Births(Births::parse(text)),
            10 => Self::PdbEnter,
            11 => Self::PdbLeave,
            12 => Self::Finish,
            13 => Self::Unconfigure,
            14 => Self::Interrupted(flags),
            _ => return None,
        })
    }
}

impl Setup {
    fn parse(text: &str) -> Option<Self> {
        // The name comes last since it may hold anything.
        let mut parts = text.splitn(4, '\n');
        let (line, limit) = (parts.next()?, parts.next()?);
        let (file, test) = (parts.next()?, parts.next()?);
        let (limit, no_time) = match limit.split_once('\t') {
            Some((limit, no_time)) => (limit, Some(no_time.into())),
            None => (limit, None),
        };
        Some(Self {
            test: test.into(),
            file: file.into(),
            line: line.parse().ok().filter(|&line| line > 0),
            limit: TestLimit::parse(limit),
            no_time,
        })
    }
}

impl PhaseReport {
    fn parse(flags: u8, text: &str) -> Option<Self> {
        let (said, message) = text.split_once('\n').unwrap_or((text, ""));
        Some(Self {
            phase: match flags {
                1 => TestPhase::Setup,
                2 => TestPhase::Call,
                3 => TestPhase::Teardown,
                _ => return None,
            },
            said: match said {
                "failed" => Said::Failed,
                "skipped" => Said::Skipped,
                "xfailed" => Said::ExpectedFailure,
                "xpassed" => Said::UnexpectedPass,
                _ => Said::Other,
            },
            message: message.into(),
        })
    }
}

impl Births {
    fn parse(text: &str) -> Self {
        // A list that was cut to fit is no JSON any more; that costs names, not the test.
        let Ok(text) = serde_json::from_str::<BirthsText>(text) else {
            return Self {
                unreadable: true,
                ..Self::default()
            };
        };
        let named = |(id, name, _): (i64, Option<String>, _)| (id, name.unwrap_or_default().into());
        Self {
            unreadable: false,
            threads: text.threads.into_iter().map(named).collect(),
            os_threads: text.os_threads,
            interpreters: text.interpreters,
            children: text.children,
            gone_threads: text.gone.threads,
            gone_interpreters: text.gone.interpreters,
            gone_children: text.gone.children,
        }
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::super::writer::bytes_of;
    use super::{Births, Body, PhaseReport, Record, Said, Setup, length};
    use crate::model::{Counts, TestOutcome, TestPhase};
    use crate::watch::testrun::limit::{Mark, TestLimit};
    use proptest::prelude::*;

    fn body(kind: u8, flags: u8, text: &str) -> Option<Body> {
        let counts = [1, 2, u32::MAX, 0, 9];
        let bytes = bytes_of(7, 1234, 3, counts, kind, flags, text.as_bytes());
        assert_eq!(length(&bytes, 1 << 14), Some(bytes.len()));
        let record = Record::parse(&bytes)?;
        assert_eq!((record.seq, record.at, record.serial), (7, 1234, 3));
        let expected = Counts {
            threads: Some(1),
            os_threads: Some(2),
            interpreters: None,
            children: Some(0),
            fds: Some(9),
        };
        assert_eq!(record.counts, expected);
        Some(record.body)
    }

    #[test]
    fn each_kind_is_read() {
        let setup = Setup {
            test: "tests/a.py::t[x\ny]".into(),
            file: "tests/a.py".into(),
            line: Some(12),
            limit: TestLimit::After(Mark::Timeout, 1500),
            no_time: None,
        };
        let text = "12\ntimeout:1.5\ntests/a.py\ntests/a.py::t[x\ny]";
        assert_eq!(body(4, 0, text), Some(Body::Setup(setup.clone())));
        let setup = Setup {
            no_time: Some("'soon'".into()),
            ..setup
        };
        let text = "12\ntimeout:1.5\t'soon'\ntests/a.py\ntests/a.py::t[x\ny]";
        assert_eq!(body(4, 0, text), Some(Body::Setup(setup)));
        let report = PhaseReport {
            phase: TestPhase::Call,
            said: Said::Failed,
            message: "a\nb".into(),
        };
        assert_eq!(body(7, 2, "failed\na\nb"), Some(Body::Report(report)));
        assert_eq!(body(8, 3, ""), Some(Body::End(TestOutcome::Skipped)));
        let Some(Body::Session(session)) = body(
            1,
            0,
            r#"{"python":"3.14","pytest":"9","worker":"gw0","controller":false,"forked":false,
            "run":"u","root":"/r","signal":45,"xmlpath":null,"timeout":2.5,"timeout_active":true,
            "func_only":false,"ppid":7,"later":"ignored"}"#,
        ) else {
            panic!("a session");
        };
        assert_eq!(session.worker.as_deref(), Some("gw0"));
        assert_eq!((session.signal, session.ppid), (Some(45), 7));
        let Some(Body::Births(births)) = body(
            9,
            1,
            r#"{"threads":[[5,"T",false],[6,null,true]],"os_threads":[7],"interpreters":[1],
            "children":[8],"gone":{"threads":[4],"interpreters":[],"children":[3]}}"#,
        ) else {
            panic!("births");
        };
        assert!(!births.unreadable);
        assert_eq!(births.threads, [(5, "T".into()), (6, "".into())]);
        assert_eq!(
            (births.os_threads, births.gone_children),
            (vec![7], vec![3])
        );
    }

    #[test]
    fn what_makes_no_sense_is_refused_and_a_cut_list_is_not() {
        for (kind, flags, text) in [
            (0, 0, ""),
            (15, 0, ""),
            (1, 0, "{"),
            (3, 0, "{\"count\":-1}"),
            (4, 0, "1\n\n"),
            (7, 0, "failed\n"),
            (8, 9, ""),
        ] {
            assert_eq!(body(kind, flags, text), None, "{kind} {flags} {text:?}");
        }
        let cut = Births {
            unreadable: true,
            ..Births::default()
        };
        assert_eq!(body(9, 0, "{\"threads\":[[1,"), Some(Body::Births(cut)));
    }

    proptest! {
        #[test]
        fn garbage_is_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = (length(&bytes, 16 * 1024), Record::parse(&bytes));
        }

        #[test]
        fn garbage_in_a_sound_head_is_read_or_refused(
            kind in 0u8..16, flags in any::<u8>(), text in proptest::collection::vec(any::<u8>(), 0..200)
        ) {
            let bytes = bytes_of(1, 2, 3, [0; 5], kind, flags, &text);
            let _ = Record::parse(&bytes);
        }
    }
}
