//! Annotations for GitHub Actions: workflow commands, one a line.

use super::clean::{clean_whole, clean_word};
use super::whereabouts::{known_of, longest, whereabouts};
use crate::model::{Finding, Foreign, Frame, Key, Report, TestProcess, Trigger, Verdict};
use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

/// Most annotations of a report. GitHub shows ten errors a step.
const MAX: usize = 10;

/// `::error …::…` lines: for each hang one on the line that blocks (else the one that waits), and one on the test.
/// Nothing for a report that names no hang and ends nothing. Paths are relative to `workspace`, the checkout
/// (`GITHUB_WORKSPACE`); what lies outside of it gets no line.
///
/// The text ends with a newline and must begin at the start of a line.
#[must_use]
pub fn github(report: &Report, workspace: &Path) -> String {
    let ended = match report.trigger {
        Trigger::RunTimeout { .. } | Trigger::TestTimeout { .. } => true,
        Trigger::IdleTimeout { ends, .. } => ends,
        Trigger::Dump | Trigger::Signal { .. } => false,
    };
    if report.analysis.verdict != Verdict::Hang && !ended {
        return String::new();
    }
    let mut lines: Vec<String> = Vec::new();
    let mut add = |line: String| {
        if lines.len() < MAX && !lines.contains(&line) {
            lines.push(line);
        }
    };
    let mut signatures = BTreeSet::new();
    for finding in &report.analysis.findings {
        if !signatures.insert(&finding.signature) {
            continue;
        }
        let title = format!("hang: {}", finding.id);
        let what = finding.title.untrusted();
        let fix = finding.remedy.untrusted();
        let place = blocking_frame(report, finding, workspace);
        let test = known_of(report, finding).map(|known| known.tests);
        if place.is_some() || test.is_none() {
            add(error(place, &title, &format!("{what}\nfix: {fix}")));
        }
        if let Some(test) = test {
            let name = test.place();
            let message = format!("{} hangs: {what}", name.untrusted());
            add(error(line_of(test, workspace), &title, &message));
        }
    }
    if report.analysis.findings.is_empty() {
        let run = report.run.as_ref();
        let place = run
            .and_then(longest)
            .and_then(|test| line_of(test, workspace));
        let what = whereabouts(report).unwrap_or_else(|| "the run".to_owned());
        let message = format!("{what} did not end; no known cause of a hang fits");
        add(error(place, "hang: cause not recognised", &message));
    }
    lines.concat()
}

/// The innermost line of the project in the root blocker, else in the next one, last in the waiter.
fn blocking_frame(report: &Report, finding: &Finding, workspace: &Path) -> Option<Place> {
    let last = report.samples.last()?;
    let in_project = |key: &Key| -> Option<Place> {
        let thread = last.thread(key)?;
        let at = |frame: &Frame| {
            let file = Path::new(frame.file.untrusted());
            Some(Place {
                file: below(file, workspace)?,
                line: frame.line?,
            })
        };
        let mut own = thread.frames().filter(|frame| !frame.is_library());
        own.find_map(at)
    };
    // The root is last.
    let blockers = finding.blockers.iter().rev();
    blockers.chain([&finding.waiter]).find_map(in_project)
}

/// A line of the project.
struct Place {
    file: String,
    line: u32,
}

fn line_of(test: &TestProcess, workspace: &Path) -> Option<Place> {
    let root = Path::new(test.root.as_ref()?.untrusted());
    let file = root.join(test.file.as_ref()?.untrusted());
    Some(Place {
        file: below(&file, workspace)?,
        line: test.line?,
    })
}

/// The path relative to the workspace, if it is in it.
fn below(file: &Path, workspace: &Path) -> Option<String> {
    let inside = plain(file).strip_prefix(plain(workspace)).ok()?.to_owned();
    let text = inside.to_str()?.to_owned();
    // Should nobody take the command for one, it must still do no harm to a terminal.
    let is_plain = !text.is_empty() && clean_whole(&Foreign::from(text.as_str())) == text;
    (file.is_absolute() && is_plain).then_some(text)
}

/// The path with `.` and `..` taken out.
fn plain(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => {
                out.pop();
            }
            Component::CurDir => {}
            other => out.push(other),
        }
    }
    out
}

fn error(place: Option<Place>, title: &str, message: &str) -> String {
    let mut properties = Vec::new();
    if let Some(place) = place {
        properties.push(format!("file={}", property(&place.file)));
        properties.push(format!("line={}", place.line));
    }
    properties.push(format!("title={}", property(&clean_word(title))));
    format!("::error {}::{}\n", properties.join(","), data(message))
}

/// Text of a message: our own newlines stay, everything else that controls is shown.
fn data(text: &str) -> String {
    let lines: Vec<String> = text
        .lines()
        .map(|line| clean_whole(&Foreign::from(line)).replace('%', "%25"))
        .collect();
    lines.join("%0A")
}

/// A property's value.
fn property(text: &str) -> String {
    text.replace('%', "%25")
        .replace('\r', "%0D")
        .replace('\n', "%0A")
        .replace(':', "%3A")
        .replace(',', "%2C")
}

#[cfg(test)]
mod tests {
    use super::{below, data, error, property};
    use proptest::prelude::*;
    use std::path::Path;

    #[test]
    fn only_files_of_the_checkout() {
        let at = |file| below(Path::new(file), Path::new("/w/project"));
        assert_eq!(at("/w/project/tests/a.py").as_deref(), Some("tests/a.py"));
        assert_eq!(at("/w/project/./x/../a.py").as_deref(), Some("a.py"));
        for outside in [
            "/w/project/../other/a.py",
            "/w/project2/a.py",
            "<string>",
            "a.py",
            "/w/project",
            "/w/project/a\n::error::b.py",
        ] {
            assert_eq!(at(outside), None, "{outside}");
        }
    }

    #[test]
    fn what_would_end_a_property_or_a_message_is_encoded() {
        assert_eq!(property("a,b:c%0A\r\n"), "a%2Cb%3Ac%250A%0D%0A");
        assert_eq!(data("50 %\n::error::x"), "50 %25%0A::error::x");
    }

    proptest! {
        #[test]
        fn a_message_is_one_line_and_one_command(title: String, message: String) {
            let line = error(None, &title, &message);
            prop_assert!(line.starts_with("::error title="));
            prop_assert_eq!(line.matches(['\n', '\r']).count(), 1);
        }
    }
}
