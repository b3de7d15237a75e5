//! The XML of one test.

use super::case::{Case, CaseResult, CaseVerdict, Said};
use quick_xml::Writer;
use quick_xml::events::{BytesEnd, BytesStart, BytesText, Event};
use std::io;

/// Where a file and its lines are named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Places {
    /// Not: pytest's family xunit2.
    None,
    /// With lines from 0, as in pytest's family xunit1.
    FromZero,
    /// With lines from 1, as editors and CI servers count.
    FromOne,
}

/// Writes a `testcase`.
pub(super) fn write(
    out: &mut Writer<Vec<u8>>,
    case: &Case,
    class: &str,
    places: Places,
) -> io::Result<()> {
    let mut start = BytesStart::new("testcase");
    start.push_attribute(("classname", class));
    start.push_attribute(("name", case.names.name.as_str()));
    let from = match places {
        Places::None => None,
        Places::FromZero => Some(1),
        Places::FromOne => Some(0),
    };
    if let (Some(from), Some(file)) = (from, &case.file) {
        start.push_attribute(("file", file.as_str()));
        if let Some(line) = case.line {
            start.push_attribute(("line", line.saturating_sub(from).to_string().as_str()));
        }
    }
    start.push_attribute(("time", seconds(case.took_ms).as_str()));
    if matches!(case.result, CaseResult::Passed) && case.verdict.is_none() {
        return out.write_event(Event::Empty(start));
    }
    out.write_event(Event::Start(start))?;
    if let Some(verdict) = &case.verdict {
        properties(out, verdict)?;
    }
    match &case.result {
        CaseResult::Passed => {}
        CaseResult::Failure(said) => result(out, "failure", said)?,
        CaseResult::Error(said) => result(out, "error", said)?,
        CaseResult::Skipped(said) => result(out, "skipped", said)?,
    }
    if let Some(attachment) = case.verdict.as_ref().and_then(|v| v.attachment.as_ref()) {
        element(out, "system-out", &format!("\n{attachment}\n"))?;
    }
    out.write_event(Event::End(BytesEnd::new("testcase")))
}

/// Writes the properties of a verdict as an element.
pub(super) fn properties(out: &mut Writer<Vec<u8>>, verdict: &CaseVerdict) -> io::Result<()> {
    out.write_event(Event::Start(BytesStart::new("properties")))?;
    each_property(out, verdict)?;
    out.write_event(Event::End(BytesEnd::new("properties")))
}

/// Writes the properties of a verdict without an element around them.
pub(super) fn each_property(out: &mut Writer<Vec<u8>>, verdict: &CaseVerdict) -> io::Result<()> {
    for (name, value) in &verdict.properties {
        let mut property = BytesStart::new("property");
        property.push_attribute(("name", *name));
        property.push_attribute(("value", value.as_str()));
        out.write_event(Event::Empty(property))?;
    }
    Ok(())
}

/// Writes `failure`, `error` or `skipped`.
pub(super) fn result(out: &mut Writer<Vec<u8>>, tag: &str, said: &Said) -> io::Result<()> {
    let mut start = BytesStart::new(tag);
    if let Some(kind) = said.kind {
        start.push_attribute(("type", kind));
    }
    start.push_attribute(("message", said.message.as_str()));
    if said.text.is_empty() {
        return out.write_event(Event::Empty(start));
    }
    out.write_event(Event::Start(start))?;
    out.write_event(Event::Text(BytesText::new(&said.text)))?;
    out.write_event(Event::End(BytesEnd::new(tag)))
}

/// Writes an element that is text.
pub(super) fn element(out: &mut Writer<Vec<u8>>, tag: &str, text: &str) -> io::Result<()> {
    out.write_event(Event::Start(BytesStart::new(tag)))?;
    out.write_event(Event::Text(BytesText::new(text)))?;
    out.write_event(Event::End(BytesEnd::new(tag)))
}

/// Seconds, as pytest writes them.
pub(super) fn seconds(ms: u64) -> String {
    format!("{}.{:03}", ms / 1000, ms % 1000)
}
