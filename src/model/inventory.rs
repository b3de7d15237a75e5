//! What the tests of a run left behind: threads, interpreters, processes, files.

use super::{Foreign, Key, TestPhase};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// In which test something first appeared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Birth {
    /// What it is.
    pub kind: LeftKind,
    /// Its id: kernel thread id, interpreter id or process id.
    pub id: i64,
    /// Its name, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Foreign>,
    /// The test; absent outside of tests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test: Option<Foreign>,
    /// The phase.
    pub phase: TestPhase,
    /// How many tests this process has begun since: 0 is the running (or last) one.
    pub tests_ago: usize,
    /// How that is known.
    pub how: Counted,
}

/// Something that a session left behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leak {
    /// What kind of thing.
    pub kind: LeftKind,
    /// The process that has it.
    pub process: Key,
    /// Its worker's name.
    pub worker: Option<Foreign>,
    /// In which test it was born; absent for file descriptors, which are only counted.
    pub birth: Option<Birth>,
    /// How many: 1, or of file descriptors how many more there were at the finish than at the start.
    pub count: u32,
}

/// Kinds of things that a test may leave behind.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum LeftKind {
    /// A thread that `threading` knows.
    Thread,
    /// A thread of the operating system; all of them are counted.
    OsThread,
    /// An interpreter.
    Interpreter,
    /// A child process.
    Child,
    /// An open file descriptor.
    Fd,
}

/// How a number came about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Counted {
    /// Counted inside the process, at the start and the end of each test.
    Inside,
    /// Looked at from outside, now and then: what came and went in between was not seen.
    #[default]
    Sampled,
}

/// Numbers of things at one moment. What is absent was not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Counts {
    /// Threads that `threading` knows (`threading._active`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threads: Option<u32>,
    /// Threads of the operating system (`st_nlink` of `/proc/self/task`, less 2).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub os_threads: Option<u32>,
    /// Interpreters (`_interpreters.list_all`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interpreters: Option<u32>,
    /// Child processes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub children: Option<u32>,
    /// Open file descriptors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fds: Option<u32>,
}

impl Counts {
    /// The number of one kind.
    #[must_use]
    pub fn get(&self, kind: LeftKind) -> Option<u32> {
        match kind {
            LeftKind::Thread => self.threads,
            LeftKind::OsThread => self.os_threads,
            LeftKind::Interpreter => self.interpreters,
            LeftKind::Child => self.children,
            LeftKind::Fd => self.fds,
        }
    }
}

impl LeftKind {
    /// All kinds, in the order that they are shown in.
    pub const ALL: [Self; 5] = [
        Self::Thread,
        Self::OsThread,
        Self::Interpreter,
        Self::Child,
        Self::Fd,
    ];
}

/// What the tests of a run left behind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Inventory {
    /// How the numbers came about.
    pub how: Counted,
    /// Tests that were counted before and after.
    pub tests: usize,
    /// Tests after which a number was another than before, that left something behind, or that did not end; in order.
    pub changed: Vec<TestInventory>,
    /// What was born in a test and was still there when the run, or the report, ended.
    pub left: Vec<Birth>,
    /// Whether numbers grew over the run.
    pub trends: Vec<Trend>,
}

/// One test in the inventory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TestInventory {
    /// pytest's node id; absent for the end of the session.
    pub test: Foreign,
    /// The process that ran it.
    pub process: Key,
    /// Its worker's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<Foreign>,
    /// Numbers before its setup.
    pub before: Counts,
    /// Numbers after its teardown; absent when it did not end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Counts>,
    /// What was born in it and outlived it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left: Vec<Birth>,
}

/// Whether a number grew over the run: the mean change per test, with its uncertainty.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Trend {
    /// Of what.
    pub kind: LeftKind,
    /// Over how many tests.
    pub tests: usize,
    /// Mean change, per 1,000 tests.
    pub per_1000_tests: i64,
    /// Half the width of its 95 % confidence interval, per 1,000 tests.
    pub uncertainty: i64,
    /// Tests after which the number was higher than before.
    #[serde(default)]
    pub rises: usize,
    /// Tests that have ended since the last of these; all of them when there was none.
    #[serde(default)]
    pub tests_since_rise: usize,
    /// Whether it grew: the interval is above zero, three tests or more contributed, and it went on to rise in the
    /// second half of the run.
    pub accumulates: bool,
}
