//! What GitHub Actions shows of a hang: annotations in the log, and the step's summary.
//!
//! Both are written along with the verdict, not at the end: a cancelled step may not get there.

use crate::model::{Report, Verdict};
use crate::report::{self, Format, Style};
use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::PathBuf;

/// GitHub takes no summary of a step beyond 1 MiB; the rest is for other tools of the step.
const MAX_SUMMARY: u64 = 900 << 10;
/// Most annotations of a step that GitHub shows.
const MAX_ANNOTATIONS: usize = 10;

/// The step that we run in.
#[derive(Debug)]
pub(super) struct GitHub {
    workspace: PathBuf,
    summary: Option<PathBuf>,
    told: BTreeSet<String>,
    annotations: usize,
}

impl GitHub {
    /// The step that we run in, if there is one.
    pub(super) fn from_environment() -> Option<Self> {
        let is_set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        is_set("GITHUB_ACTIONS").filter(|value| value == "true")?;
        let workspace = is_set("GITHUB_WORKSPACE").map(PathBuf::from);
        Some(Self {
            workspace: workspace.or_else(|| std::env::current_dir().ok())?,
            summary: is_set("GITHUB_STEP_SUMMARY").map(PathBuf::from),
            told: BTreeSet::new(),
            annotations: 0,
        })
    }

    /// Adds a report to the summary, and returns its annotations. The same hang is told once.
    pub(super) fn tell(&mut self, report: &Report) -> String {
        if report.analysis.verdict != Verdict::Hang && !report.trigger.is_overdue() {
            return String::new();
        }
        let signatures: Vec<&str> = report
            .analysis
            .findings
            .iter()
            .map(|finding| finding.signature.as_str())
            .collect();
        if !self.told.insert(signatures.join(" ")) {
            return String::new();
        }
        self.summarize(report);
        let lines = report::github(report, &self.workspace);
        let most = MAX_ANNOTATIONS - self.annotations;
        let lines: Vec<&str> = lines.lines().take(most).collect();
        self.annotations += lines.len();
        lines.iter().map(|line| format!("{line}\n")).collect()
    }

    /// Without a summary the run is as it was; the verdict is in the log.
    fn summarize(&self, report: &Report) {
        let Some(path) = &self.summary else { return };
        let Ok(mut file) = OpenOptions::new().append(true).create(true).open(path) else {
            return;
        };
        let used = file.metadata().map_or(MAX_SUMMARY, |meta| meta.len());
        let mut text = Vec::new();
        let rendered = report::render(Format::Markdown, report, Style::plain(), &mut text);
        if rendered.is_ok() && used + (text.len() as u64) < MAX_SUMMARY {
            text.push(b'\n');
            let _ = file.write_all(&text);
        }
    }
}
