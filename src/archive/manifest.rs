//! `manifest.json`: what a bundle is about and what is in it.

use crate::model::{Outcome, Tool, Trigger, Verdict, redact};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::ffi::OsString;

/// Name of the manifest's schema. Fields are only ever added to it.
pub const MANIFEST_SCHEMA: &str = "hangscope-manifest/1";

/// What a bundle is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Manifest {
    /// Always `hangscope-manifest/1`.
    pub schema: String,
    /// Who wrote it.
    pub tool: Tool,
    /// When the bundle was begun, in UTC (RFC 3339).
    pub created: String,
    /// The watched command, secrets replaced by `***`.
    pub command: Vec<String>,
    /// Why the capture was made.
    pub trigger: Trigger,
    /// How the run ended; tells hangscope's 124 from one of the command's own.
    pub outcome: Outcome,
    /// The answer in one word; absent when nothing could be captured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
    /// Why the capture failed or is not complete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    /// The other files of the bundle: `dump.json` and `report.txt`, of the first sample on; `report.md` with more
    /// samples or the end of the run; and of the end of the run `junit.xml`, `events.jsonl` and `inventory.json`.
    pub files: Vec<String>,
}

impl Manifest {
    /// The manifest of a capture of `command` that begins now.
    #[must_use]
    pub fn new(command: &[OsString], trigger: Trigger) -> Self {
        let command: Vec<String> = command
            .iter()
            .map(|argument| argument.to_string_lossy().into_owned())
            .collect();
        Self {
            schema: MANIFEST_SCHEMA.to_owned(),
            tool: Tool::current(),
            created: jiff::Timestamp::now()
                .strftime("%Y-%m-%dT%H:%M:%SZ")
                .to_string(),
            command: redact(&command),
            trigger,
            outcome: Outcome::RUNNING,
            verdict: None,
            failure: None,
            files: Vec::new(),
        }
    }
}
