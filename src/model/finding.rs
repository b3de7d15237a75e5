//! What the analysis concludes.

use super::{Foreign, Gap, Grade, Key};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The analysis of a report's samples. `hangscope analyze` computes it again from the samples alone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Analysis {
    /// The answer in one word.
    pub verdict: Verdict,
    /// What was found, most telling first.
    #[serde(default)]
    pub findings: Vec<Finding>,
    /// What is not as it should be though nobody waits for it: things left behind, signals that are not served. They take no
    /// part in the verdict.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notices: Vec<Finding>,
    /// Who waits for whom in the last sample.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub edges: Vec<WaitEdge>,
    /// What each thread did over the samples.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub progress: Vec<ThreadProgress>,
    /// Detectors that could not look, and what they missed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inconclusive: Vec<Inconclusive>,
}

/// The answer in one word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// A hang, and its cause is certain or probable.
    Hang,
    /// Something that may be a hang or may be slow; it is told, and not counted as a hang.
    PossibleHang,
    /// Nothing points at a hang.
    #[default]
    NoHangSeen,
    /// Too little could be read to say.
    Unknown,
}

/// How sure a finding is.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum Certainty {
    /// Fits, but a slow program looks alike.
    Possible,
    /// What was read leaves another explanation open, and it is named.
    Probable,
    /// Follows from what was read.
    Certain,
}

/// One diagnosis.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Finding {
    /// The detector's id for this cause; `hangscope explain ID` tells more.
    pub id: String,
    /// The answer, one sentence.
    pub title: Foreign,
    /// How sure it is.
    pub certainty: Certainty,
    /// The thread that waits.
    pub waiter: Key,
    /// The threads (or other objects) that keep it waiting, root last.
    pub blockers: Vec<Key>,
    /// Why we say so.
    pub evidence: Vec<Evidence>,
    /// Threads that wait for the waiter or a blocker in turn.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub affected: Vec<Key>,
    /// What would show this to be wrong.
    pub refuted_if: Foreign,
    /// What to do.
    pub remedy: Foreign,
    /// Names this hang across runs: `v1:` and a hash over id and functions of all who wait.
    pub signature: String,
    /// The same, coarser: `v1:` and a hash over the id and the one function that the root is in, whoever waits for it and by whatever
    /// calls it came there.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub site: String,
}

impl Finding {
    /// The last one that waits: the root, as far as it is known.
    #[must_use]
    pub fn root(&self) -> &Key {
        self.blockers.last().unwrap_or(&self.waiter)
    }
}

/// One fact that a finding rests on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Evidence {
    /// The fact in words.
    pub text: Foreign,
    /// How it came about.
    pub grade: Grade,
    /// Where it is in the samples.
    pub at: Vec<Reference>,
}

/// A place in the samples.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Reference {
    /// Index of the sample.
    pub sample: usize,
    /// The object.
    pub key: Key,
    /// The field of that object.
    pub field: String,
}

/// An edge of the wait-for graph.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WaitEdge {
    /// What kind of relation.
    pub kind: EdgeKind,
    /// From.
    pub from: Key,
    /// To.
    pub to: Key,
    /// How it came about.
    pub grade: Grade,
}

/// Relations of the wait-for graph.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum EdgeKind {
    /// A thread waits for a lock or GIL.
    WaitsFor,
    /// A lock or GIL is held by a thread.
    HeldBy,
    /// A thread waits for another's end.
    Joins,
    /// A thread ends an interpreter.
    Finalizes,
    /// An interpreter cannot end before a thread of it, nor a task before a thread of its scope.
    NeedsEndOf,
    /// A thread or task waits for a child process, which this thread keeps from ending.
    WaitsForChild,
    /// It waits for data that this thread's process is to send.
    NeedsDataOf,
    /// It waits for room in a pipe or socket that this thread's process is to read.
    NeedsRoomOf,
    /// A thread runs an event loop that idles, for this task.
    RunsFor,
    /// A task waits for another.
    Awaits,
    /// It waits for work that this thread does, or that waits in the queue of its pool.
    NeedsWorkOf,
    /// This thread's frames refer to what is waited for, and nobody else's do.
    MayNeed,
}

/// What a thread did over the samples.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ThreadProgress {
    /// The thread.
    pub thread: Key,
    /// In one word.
    pub motion: Motion,
    /// CPU use over the samples, in percent of one CPU; absent with a single sample.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_percent: Option<u32>,
}

/// Motion of a thread over the samples, judged by content: frames and instruction offsets, CPU time.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum Motion {
    /// Same stack in all samples, and it has not run in between.
    Still,
    /// Same stack in all samples, but it ran in between: woken, and back in the same place.
    Stirring,
    /// Same stack in all samples, using CPU: inside one native call, or a loop with one position.
    Busy,
    /// Using CPU, the same functions in all samples, at few positions, with the same variables.
    Looping,
    /// Its stack changed.
    Moving,
    /// Runnable, but the machine gave it no CPU.
    Starved,
    /// Only one sample, so unknown.
    Unknown,
}

/// A detector that could not look.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Inconclusive {
    /// The detector's id.
    pub detector: String,
    /// What it missed.
    pub gaps: Vec<Gap>,
}
