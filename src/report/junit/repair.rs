//! pytest's own JUnit file with what it lacks: the test that hung, and those that never ran.

use super::case::{Case, CaseVerdict, Said, cases};
use super::document::{Document, Found, children, is_bad, name_of, start_of, value};
use super::write::{Places, each_property, element, properties, result, write};
use super::{Counts, names::Names};
use crate::model::{Report, RunRecord};
use quick_xml::Writer;
use quick_xml::events::attributes::Attribute;
use quick_xml::events::{BytesEnd, BytesStart, BytesText, Event};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io;
use std::ops::Range;

/// Why a JUnit file is left as it is.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum JunitError {
    /// It ends early: its writer was ended, or is still writing.
    #[error("the JUnit file is not complete")]
    Truncated,
    /// It is not XML.
    #[error("the JUnit file is not well-formed XML: {why}")]
    NotXml {
        /// What is wrong.
        why: String,
    },
    /// It is XML, but not of the form that pytest writes.
    #[error("the JUnit file is not one that pytest wrote: {why}")]
    NotPytest {
        /// What is unlike.
        why: &'static str,
    },
    /// It is older than the run.
    #[error("the JUnit file is of an earlier run ({timestamp})")]
    Stale {
        /// When its run began.
        timestamp: String,
    },
}

/// pytest's file with what it lacks. All that is in it stays, byte for byte, except: the hung test gets the verdict,
/// tests that are missing are added at the end, and the counts are made to fit.
///
/// `existing` must be of this run. A file of an earlier one is refused if it says its time zone (pytest 8.3 and
/// newer); for others the caller must look at the file's own time.
///
/// # Errors
/// When the file is truncated, foreign, or of an earlier run. It should then be left alone.
pub fn repair(
    existing: &[u8],
    record: &RunRecord,
    report: Option<&Report>,
    bundle: Option<&str>,
) -> Result<Vec<u8>, JunitError> {
    let document = Document::parse(existing)?;
    refuse_stale(&document, record)?;
    let cases = cases(record, report, bundle);
    let plan = Plan::of(&document, &cases);
    let mut out = Writer::new(Vec::with_capacity(existing.len() + 4096));
    // Writing to memory cannot fail.
    let _ = plan.write(&mut out, &document);
    Ok(out.into_inner())
}

fn refuse_stale(document: &Document<'_>, record: &RunRecord) -> Result<(), JunitError> {
    let Some(timestamp) = document.suite_attribute("timestamp") else {
        return Ok(());
    };
    let written = timestamp.parse::<jiff::Timestamp>();
    let began = record.began.parse::<jiff::Timestamp>();
    match (written, began) {
        // `began` may be cut to a second.
        (Ok(written), Ok(began)) if written.as_second() < began.as_second() => {
            Err(JunitError::Stale { timestamp })
        }
        _ => Ok(()),
    }
}

/// What is to be done to a file.
struct Plan<'c> {
    added: Vec<&'c Case>,
    /// By where the case begins in the file.
    judged: BTreeMap<usize, &'c CaseVerdict>,
    more: Counts,
    prefix: String,
    places: Places,
}

impl<'c> Plan<'c> {
    fn of(document: &Document<'_>, cases: &'c [Case]) -> Self {
        let mut known: BTreeMap<Names, Vec<&Found>> = BTreeMap::new();
        for found in &document.cases {
            known.entry(found.names.clone()).or_default().push(found);
        }
        let prefix = prefix_of(document, cases);
        let mut plan = Self {
            added: Vec::new(),
            judged: BTreeMap::new(),
            more: Counts::default(),
            places: match document.cases.iter().any(|found| found.has_file) {
                true => Places::FromZero,
                false => Places::None,
            },
            prefix,
        };
        for case in cases {
            let same = [&case.names, &case.older].iter().find_map(|names| {
                known.get(&Names {
                    class: plan.class(names),
                    name: names.name.clone(),
                })
            });
            let Some(same) = same else {
                plan.added.push(case);
                continue;
            };
            let Some(verdict) = &case.verdict else {
                continue;
            };
            // A test that failed twice (in its call and in its teardown) has two.
            let last_bad = same.iter().rev().find(|found| found.is_bad);
            if let Some(found) = last_bad.or(same.last())
                && !same.iter().any(|found| is_judged(document, found))
            {
                plan.more.errors += u64::from(!found.is_bad);
                plan.judged.insert(found.at.start, verdict);
            }
        }
        let added = Counts::of(plan.added.iter().copied());
        plan.more.tests += added.tests;
        plan.more.errors += added.errors;
        plan.more.failures += added.failures;
        plan.more.skipped += added.skipped;
        plan
    }

    /// The class name in this file.
    fn class(&self, names: &Names) -> String {
        with_prefix(&self.prefix, &names.class)
    }

    fn write(&self, out: &mut Writer<Vec<u8>>, document: &Document<'_>) -> io::Result<()> {
        let events = &document.events;
        let mut at = 0;
        while let Some(event) = events.get(at) {
            if let Some(verdict) = self.judged.get(&at)
                && let Some(found) = document.cases.iter().find(|found| found.at.start == at)
            {
                judge(out, events, &found.at, verdict)?;
                at = found.at.end;
                continue;
            }
            if at + 1 == document.suite.end && at > document.suite.start {
                self.write_added(out)?;
            }
            match event {
                Event::Start(tag) if at == document.root || at == document.suite.start => {
                    out.write_event(Event::Start(self.counted(tag)))?;
                }
                Event::Empty(tag) if at == document.suite.start && !self.added.is_empty() => {
                    out.write_event(Event::Start(self.counted(tag)))?;
                    self.write_added(out)?;
                    out.write_event(Event::End(BytesEnd::new(tag.name().0)))?;
                }
                other => out.write_event(other.borrow())?,
            }
            at += 1;
        }
        Ok(())
    }

    fn write_added(&self, out: &mut Writer<Vec<u8>>) -> io::Result<()> {
        for case in &self.added {
            // Cases outside of tests are no part of what the user gave a prefix.
            let class = match case.names.class.as_str() {
                "hangscope" => case.names.class.clone(),
                _ => self.class(&case.names),
            };
            write(out, case, &class, self.places)?;
        }
        Ok(())
    }

    /// The tag with counts that fit. What has none gets none.
    fn counted<'t>(&self, tag: &BytesStart<'t>) -> BytesStart<'t> {
        if self.more == Counts::default() {
            return tag.clone();
        }
        let counts = [
            ("tests", self.more.tests),
            ("errors", self.more.errors),
            ("failures", self.more.failures),
            ("skipped", self.more.skipped),
        ];
        changed(tag, |name, old| {
            let (_, more) = counts.iter().find(|(count, _)| *count == name)?;
            Some((old.parse::<u64>().ok()? + more).to_string())
        })
    }
}

fn with_prefix(prefix: &str, class: &str) -> String {
    match (prefix, class) {
        ("", class) => class.to_owned(),
        (prefix, "") => prefix.to_owned(),
        (prefix, class) => format!("{prefix}.{class}"),
    }
}

/// What `--junitprefix` put before the class names: the one that fits most of the tests we know.
fn prefix_of(document: &Document<'_>, cases: &[Case]) -> String {
    let mut classes: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for found in &document.cases {
        let names = &found.names;
        classes.entry(&names.name).or_default().push(&names.class);
    }
    let mut votes: BTreeMap<&str, usize> = BTreeMap::new();
    for case in cases {
        for class in classes.get(case.names.name.as_str()).into_iter().flatten() {
            let before = class.strip_suffix(case.names.class.as_str());
            let prefix = match before {
                Some("") => Some(""),
                Some(before) => before.strip_suffix('.'),
                None => None,
            };
            *votes.entry(prefix.unwrap_or("")).or_default() += usize::from(prefix.is_some());
        }
    }
    // Of equals, the shortest.
    let best = votes
        .into_iter()
        .max_by_key(|(prefix, votes)| (*votes, std::cmp::Reverse(prefix.len())));
    best.map_or_else(String::new, |(prefix, _)| prefix.to_owned())
}

/// Whether hangscope has been at this case before.
fn is_judged(document: &Document<'_>, found: &Found) -> bool {
    document.events[found.at.clone()].iter().any(|event| {
        start_of(event)
            .filter(|tag| matches!(tag.name().0, "property" | "error"))
            .and_then(|tag| value(tag, "name").or_else(|| value(tag, "type")))
            .is_some_and(|name| name.starts_with("hangscope."))
    })
}

/// Writes a case of the file with the verdict added.
fn judge(
    out: &mut Writer<Vec<u8>>,
    events: &[Event<'_>],
    case: &Range<usize>,
    verdict: &CaseVerdict,
) -> io::Result<()> {
    let Some(tag) = events.get(case.start).and_then(start_of) else {
        return Ok(());
    };
    let child = |is_it: &dyn Fn(&Event<'_>) -> bool| {
        children(events, case).find(|child| is_it(&events[child.start]))
    };
    let own_properties = child(&|event| name_of(event) == Some("properties"));
    let own_output = child(&|event| name_of(event) == Some("system-out"));
    let own_result = child(&is_bad);
    out.write_event(Event::Start(tag.borrow()))?;
    if own_properties.is_none() {
        properties(out, verdict)?;
    }
    // Where pytest has its own account of the failure, ours goes beside it.
    let mut output = verdict
        .attachment
        .as_ref()
        .map_or_else(String::new, |line| format!("\n{line}\n"));
    if own_result.is_some() && !verdict.text.is_empty() {
        output = format!("\n{}{output}", verdict.text);
    }
    let is_empty = matches!(events[case.start], Event::Empty(_));
    let inside = case.start + 1..if is_empty {
        case.start + 1
    } else {
        case.end - 1
    };
    for at in inside {
        let event = &events[at];
        let begins = |own: &Option<Range<usize>>| own.as_ref().is_some_and(|own| own.start == at);
        let ends = |own: &Option<Range<usize>>| own.as_ref().is_some_and(|own| own.end == at + 1);
        match event {
            Event::Empty(_) if begins(&own_properties) => properties(out, verdict)?,
            Event::Empty(_) if begins(&own_output) => element(out, "system-out", &output)?,
            Event::Empty(tag) if begins(&own_result) => {
                out.write_event(Event::Empty(explained(tag, verdict)))?;
            }
            Event::Start(tag) if begins(&own_result) => {
                out.write_event(Event::Start(explained(tag, verdict)))?;
            }
            Event::End(_) if ends(&own_properties) => {
                each_property(out, verdict)?;
                out.write_event(event.borrow())?;
            }
            Event::End(_) if ends(&own_output) => {
                out.write_event(Event::Text(BytesText::new(&output)))?;
                out.write_event(event.borrow())?;
            }
            other => out.write_event(other.borrow())?,
        }
    }
    if own_result.is_none() {
        let said = Said {
            kind: Some("hangscope.hang"),
            message: verdict.message.clone(),
            text: verdict.text.clone(),
        };
        result(out, "error", &said)?;
    }
    if own_output.is_none() && !output.is_empty() {
        element(out, "system-out", &output)?;
    }
    out.write_event(Event::End(BytesEnd::new(tag.name().0)))
}

/// The tag of a failure with the verdict before pytest's own message.
fn explained<'t>(tag: &BytesStart<'t>, verdict: &CaseVerdict) -> BytesStart<'t> {
    changed(tag, |name, old| {
        (name == "message").then(|| format!("{} (pytest: {old})", verdict.message))
    })
}

/// The tag with some values changed.
fn changed<'t>(tag: &BytesStart<'t>, new: impl Fn(&str, &str) -> Option<String>) -> BytesStart<'t> {
    let mut out = BytesStart::new(tag.name().0.to_owned());
    for attribute in tag.attributes().flatten() {
        let name = attribute.key.0;
        let old = value(tag, name).unwrap_or_default();
        match new(name, &old) {
            Some(value) => out.push_attribute((name, value.as_str())),
            // Values that stand in single quotes may have double ones.
            None => out.push_attribute(Attribute {
                key: attribute.key,
                value: Cow::Owned(attribute.value.replace('"', "&quot;")),
            }),
        }
    }
    out
}
