//! A watched run as its tests see it: who runs which test, and what has finished.

use super::{Birth, Counts, Foreign, Inventory, Key, LeftKind, Pid, Tid};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a watched run was doing when a report was made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Run {
    /// Where the names of the running tests come from.
    pub source: TestSource,
    /// The processes that run tests, oldest first.
    pub processes: Vec<TestProcess>,
    /// Tests that have finished, in all processes.
    pub finished: usize,
    /// Tests that were collected; absent when that is not known (yet).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub collected: Option<usize>,
    /// The slowest finished test.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slowest: Option<SlowTest>,
    /// What the tests left behind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inventory: Option<Inventory>,
    /// What is not known of the run, and why; sentences.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<Foreign>,
}

/// Where the names of the running tests come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TestSource {
    /// hangscope's pytest plugin, test by test.
    Plugin,
    /// `PYTEST_CURRENT_TEST` in the live environment of the processes, looked at now and then.
    Environ,
    /// Tests of Rust: the threads of libtest, the processes of nextest and rustdoc, looked at ten times a second.
    Cargo,
    /// Nothing told of tests.
    #[default]
    None,
}

/// A finished test and how long it took.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SlowTest {
    /// Its name, as in [`TestRecord::test`].
    pub test: Foreign,
    /// Milliseconds from the start of its setup to the end of its teardown.
    pub took_ms: u64,
}

/// A process that runs tests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TestProcess {
    /// Its key.
    pub key: Key,
    /// Its process id.
    pub pid: Pid,
    /// What it is to the run.
    pub role: Role,
    /// Its name as an xdist worker, such as `gw0`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<Foreign>,
    /// What it was at.
    pub phase: TestPhase,
    /// The binary of a Rust test, as nextest names it: the package, and after `::` the test target if it is another than
    /// the library.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub binary: Option<Foreign>,
    /// The kernel's id of the thread that ran the test, in a libtest binary. Such a process is listed once for each test
    /// that it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thread: Option<Tid>,
    /// The test it ran, or while collecting the module.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test: Option<Foreign>,
    /// The file of the test, relative to the root folder of the test run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<Foreign>,
    /// The line of the test in it, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<u32>,
    /// The root folder of the test run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<Foreign>,
    /// Milliseconds since the phase began.
    pub phase_ms: u64,
    /// Milliseconds since the test (or the present phase outside of tests) began.
    pub test_ms: u64,
    /// Tests that have finished in it.
    pub finished: usize,
    /// Whether it still ran.
    pub alive: bool,
    /// The real-time signal that hangscope's plugin takes in it, if it takes any: none of the program's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// In which test its threads, interpreters and child processes first appeared.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub births: Vec<Birth>,
}

/// What a process is to a test run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// It runs the tests itself.
    Session,
    /// It hands them to workers (pytest-xdist).
    Controller,
    /// It is such a worker.
    Worker,
    /// It was forked for one test (pytest-forked), or escaped from a fork in a test.
    Forked,
    /// A Rust test binary, which runs each test on a thread (libtest).
    Libtest,
    /// nextest has started it for one test.
    Nextest,
    /// It runs one doctest.
    Doctest,
}

impl Role {
    /// Whether its tests are Rust's: they have no phases, and cannot be made to fail from inside.
    #[must_use]
    pub fn is_rust(self) -> bool {
        matches!(self, Self::Libtest | Self::Nextest | Self::Doctest)
    }
}

/// What a process of a test run is at.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum TestPhase {
    /// Before collection.
    Start,
    /// It imports test modules to find the tests in them.
    Collection,
    /// Fixtures of a test are set up.
    Setup,
    /// The test itself runs.
    Call,
    /// Fixtures are torn down.
    Teardown,
    /// Between two tests.
    Between,
    /// All tests are done; reports are written and the last fixtures ended.
    SessionFinish,
    /// pytest is done; the interpreter joins its threads and runs its exit functions.
    InterpreterExit,
}

/// How a test ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TestOutcome {
    /// It passed.
    Passed,
    /// Its call failed.
    Failed,
    /// Its setup or teardown failed.
    Error,
    /// It was skipped, or failed as expected.
    Skipped,
    /// It had not ended when the run, or its process, was ended.
    Hung,
    /// Its process died while it ran.
    Crashed,
    /// It had not ended when the report was made.
    Running,
}

/// One test of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TestRecord {
    /// pytest's node id. Of a Rust test its binary and its name: `demo::it tests::a_test`.
    pub test: Foreign,
    /// The binary of a Rust test, with which `test` begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub binary: Option<Foreign>,
    /// The file of the test, relative to the root folder of the test run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<Foreign>,
    /// The line of the test in it, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<u32>,
    /// The process that ran it.
    pub process: Key,
    /// Its worker's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<Foreign>,
    /// Milliseconds from the start of the run to its own.
    pub started_ms: u64,
    /// Milliseconds of setup, call and teardown together, so far.
    pub took_ms: u64,
    /// The phase that it was in when it ended or was last seen.
    pub phase: TestPhase,
    /// How it ended.
    pub outcome: TestOutcome,
    /// Why it failed or was skipped, as far as told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<Foreign>,
    /// Numbers before its setup.
    pub before: Counts,
    /// Numbers after its teardown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Counts>,
}

/// All that is known of the tests of a run; `junit.xml` and `events.jsonl` of a bundle are made of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunRecord {
    /// The run.
    pub run: Run,
    /// Its tests, in the order that they began.
    pub tests: Vec<TestRecord>,
    /// Tests that were collected and not begun.
    pub not_run: Vec<Foreign>,
    /// When the run began, in UTC (RFC 3339).
    pub began: String,
    /// Milliseconds since then.
    pub took_ms: u64,
    /// The user's own JUnit file, absolute, if pytest was asked for one.
    pub junit: Option<Foreign>,
}

impl Run {
    /// The process with this key; of a libtest binary, the test that runs for longest in it.
    #[must_use]
    pub fn process(&self, key: &Key) -> Option<&TestProcess> {
        let same = self.processes.iter().filter(|process| &process.key == key);
        same.min_by_key(|process| (process.test.is_none(), std::cmp::Reverse(process.test_ms)))
    }

    /// What runs on this thread: the thread's own test if it has one, or the one that started it and still runs, else what its
    /// process runs.
    #[must_use]
    pub fn at_thread(&self, thread: &Key) -> Option<&TestProcess> {
        self.test_of_thread(thread)
            .or_else(|| self.process(&thread.of_process()))
    }

    /// Of tests that run at the same time in one process, the one that this thread runs, or that started it.
    #[must_use]
    pub fn test_of_thread(&self, thread: &Key) -> Option<&TestProcess> {
        let process = thread.of_process();
        let tests = || {
            let of_process = self.processes.iter().filter(|it| it.key == process);
            of_process.filter_map(|it| Some((it, process.thread(it.thread?))))
        };
        let own = tests().find(|(_, runs_on)| runs_on == thread);
        let started = || {
            let mut births = self.binary(&process)?.births.iter();
            let birth = births.find(|birth| {
                let tid = Tid::try_from(birth.id);
                birth.kind == LeftKind::OsThread
                    && tid.is_ok_and(|tid| process.thread(tid) == *thread)
            })?;
            tests().find(|(it, _)| it.test == birth.test)
        };
        own.or_else(started).map(|(it, _)| it)
    }

    /// Whether this process runs this test.
    #[must_use]
    pub fn runs(&self, process: &Key, test: Option<&Foreign>) -> bool {
        let mut same = self.processes.iter().filter(|it| it.key == *process);
        same.any(|it| it.test.as_ref() == test)
    }

    /// The entry of a process itself, where its tests have their own.
    #[must_use]
    pub fn binary(&self, process: &Key) -> Option<&TestProcess> {
        let mut same = self.processes.iter().filter(|it| it.key == *process);
        same.find(|it| it.thread.is_none())
    }
}

impl TestProcess {
    /// When a thread of this process, by its kernel thread id, first appeared. What is in no list yet was born
    /// since the last one, in the present phase.
    #[must_use]
    pub fn birth(&self, kind: LeftKind, id: i64) -> Option<&Birth> {
        let same = |birth: &&Birth| {
            birth.id == id
                && (birth.kind == kind
                    || (kind == LeftKind::OsThread && birth.kind == LeftKind::Thread))
        };
        self.births.iter().find(same)
    }

    /// What it is at, in words: `tests/test_a.py::test_b (call)`, `collection of tests/test_a.py`.
    #[must_use]
    pub fn place(&self) -> Foreign {
        match (self.role, self.phase) {
            // It has no tests of its own all along.
            (Role::Controller, TestPhase::Start | TestPhase::Between) => "handing out tests".into(),
            (Role::Libtest, _) if self.test.is_none() => {
                let binary = self.binary.as_ref().map_or("", Foreign::untrusted);
                format!("the test binary {binary}").into()
            }
            (role, _) if role.is_rust() => self.test.clone().unwrap_or_default(),
            // pytest is done in it; it waits for its controller, or exits.
            (Role::Worker, TestPhase::InterpreterExit) => "end of the worker".into(),
            _ => place(self.phase, self.test.as_ref()),
        }
    }
}

/// A phase and the test (or module) it is of, in words.
#[must_use]
pub fn place(phase: TestPhase, test: Option<&Foreign>) -> Foreign {
    let test = test.map_or("", Foreign::untrusted);
    // Its beginning was lost.
    let unnamed = test.is_empty() && phase >= TestPhase::Setup && phase <= TestPhase::Teardown;
    let test = if unnamed { "a test" } else { test };
    let text = match phase {
        TestPhase::Start => "start of the session".to_owned(),
        TestPhase::Collection if test.is_empty() => "collection".to_owned(),
        TestPhase::Collection => format!("collection of {test}"),
        TestPhase::Setup => format!("{test} (setup)"),
        TestPhase::Call => format!("{test} (call)"),
        TestPhase::Teardown => format!("{test} (teardown)"),
        TestPhase::Between if test.is_empty() => "between two tests".to_owned(),
        TestPhase::Between => format!("after {test}"),
        TestPhase::SessionFinish => "session finish".to_owned(),
        TestPhase::InterpreterExit => "interpreter exit".to_owned(),
    };
    Foreign::from(text)
}
