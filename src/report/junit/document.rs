//! A JUnit file that pytest wrote, as a list of events with the test cases found in it.

use super::JunitError;
use super::names::{Names, is_allowed};
use quick_xml::Reader;
use quick_xml::XmlVersion;
use quick_xml::escape::resolve_predefined_entity;
use quick_xml::events::{BytesStart, Event};
use std::ops::Range;

/// The file, taken apart.
#[derive(Debug)]
pub(super) struct Document<'x> {
    pub(super) events: Vec<Event<'x>>,
    /// Where the outermost element begins.
    pub(super) root: usize,
    /// Where the `testsuite` begins and ends (both its tags are in it).
    pub(super) suite: Range<usize>,
    pub(super) cases: Vec<Found>,
}

/// A `testcase` in the file.
#[derive(Debug)]
pub(super) struct Found {
    /// Its events, both tags included.
    pub(super) at: Range<usize>,
    pub(super) names: Names,
    pub(super) has_file: bool,
    /// Whether a failure or an error is in it.
    pub(super) is_bad: bool,
}

impl<'x> Document<'x> {
    pub(super) fn parse(bytes: &'x [u8]) -> Result<Self, JunitError> {
        let text = std::str::from_utf8(bytes).map_err(|error| JunitError::NotXml {
            why: error.to_string(),
        })?;
        // The parser lets these pass; readers of the file will not.
        if let Some(control) = text.chars().find(|character| !is_allowed(*character)) {
            return Err(JunitError::NotXml {
                why: format!("it has the character {:#04x}", u32::from(control)),
            });
        }
        let events = events(text)?;
        let is_element = |event: &Event<'_>| matches!(event, Event::Start(_) | Event::Empty(_));
        let root = events
            .iter()
            .position(is_element)
            .ok_or(JunitError::Truncated)?;
        let suite = match name_of(&events[root]) {
            Some("testsuite") => element(&events, root),
            Some("testsuites") => {
                let inside = element(&events, root);
                let mut suites = children(&events, &inside)
                    .filter(|child| name_of(&events[child.start]) == Some("testsuite"));
                match (suites.next(), suites.next()) {
                    (Some(suite), None) => suite,
                    (None, _) => return Err(foreign("it has no testsuite")),
                    (Some(_), Some(_)) => return Err(foreign("it has several testsuites")),
                }
            }
            _ => return Err(foreign("it does not begin with testsuites")),
        };
        let cases = children(&events, &suite)
            .filter(|child| name_of(&events[child.start]) == Some("testcase"))
            .map(|at| {
                let tag = start_of(&events[at.start]);
                let attribute = |name| tag.and_then(|tag| value(tag, name));
                Found {
                    names: Names {
                        class: attribute("classname").unwrap_or_default(),
                        name: attribute("name").unwrap_or_default(),
                    },
                    has_file: attribute("file").is_some(),
                    is_bad: children(&events, &at).any(|child| is_bad(&events[child.start])),
                    at,
                }
            })
            .collect();
        Ok(Self {
            events,
            root,
            suite,
            cases,
        })
    }

    /// An attribute of the `testsuite`.
    pub(super) fn suite_attribute(&self, name: &str) -> Option<String> {
        start_of(&self.events[self.suite.start]).and_then(|tag| value(tag, name))
    }
}

/// All events of a whole, well-formed file.
fn events(text: &str) -> Result<Vec<Event<'_>>, JunitError> {
    let bad = |why: String| JunitError::NotXml { why };
    let mut reader = Reader::from_str(text);
    let mut events = Vec::new();
    let mut depth = 0_usize;
    let mut roots = 0_usize;
    loop {
        let event = reader.read_event().map_err(|error| match error {
            // What ends within a tag, or before one that it needs.
            quick_xml::Error::Syntax(_) => JunitError::Truncated,
            other => bad(other.to_string()),
        })?;
        match &event {
            Event::Start(tag) | Event::Empty(tag) => {
                for attribute in tag.attributes() {
                    let attribute = attribute.map_err(|error| bad(error.to_string()))?;
                    attribute
                        .normalized_value(XmlVersion::Explicit1_0)
                        .map_err(|error| bad(error.to_string()))?;
                }
                roots += usize::from(depth == 0);
                depth += usize::from(matches!(event, Event::Start(_)));
            }
            Event::End(_) => depth = depth.saturating_sub(1),
            Event::GeneralRef(reference) => {
                let known = match reference.resolve_char_ref() {
                    Ok(Some(character)) => is_allowed(character),
                    Ok(None) => resolve_predefined_entity(reference).is_some(),
                    Err(_) => false,
                };
                if !known {
                    return Err(bad("it refers to an unknown entity".to_owned()));
                }
            }
            Event::Decl(declaration) => {
                let other = declaration
                    .encoding()
                    .and_then(Result::ok)
                    .is_some_and(|name| !name.eq_ignore_ascii_case("utf-8"));
                if other {
                    return Err(foreign("it is not in UTF-8"));
                }
            }
            Event::DocType(_) => return Err(foreign("it has a document type")),
            Event::Text(text) if depth == 0 && !text.trim().is_empty() => {
                return Err(bad("it has text outside of its elements".to_owned()));
            }
            _ => {}
        }
        if matches!(event, Event::Eof) {
            break;
        }
        events.push(event);
    }
    if depth > 0 || roots == 0 {
        return Err(JunitError::Truncated);
    }
    if roots > 1 {
        return Err(bad("it has several outermost elements".to_owned()));
    }
    Ok(events)
}

fn foreign(why: &'static str) -> JunitError {
    JunitError::NotPytest { why }
}

/// The element that begins at `start`: its events, both tags included.
pub(super) fn element(events: &[Event<'_>], start: usize) -> Range<usize> {
    let mut depth = 0_usize;
    for (at, event) in events.iter().enumerate().skip(start) {
        match event {
            Event::Start(_) => depth += 1,
            Event::End(_) => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 0 {
            return start..at + 1;
        }
    }
    start..events.len()
}

/// The elements directly in an element.
pub(super) fn children<'e>(
    events: &'e [Event<'_>],
    parent: &Range<usize>,
) -> impl Iterator<Item = Range<usize>> + 'e {
    let mut at = parent.start + 1;
    let end = parent.end;
    std::iter::from_fn(move || {
        while at < end {
            match events.get(at)? {
                Event::Start(_) | Event::Empty(_) => {
                    let child = element(events, at);
                    at = child.end;
                    return Some(child);
                }
                _ => at += 1,
            }
        }
        None
    })
}

/// The opening tag of an element.
pub(super) fn start_of<'e, 'x>(event: &'e Event<'x>) -> Option<&'e BytesStart<'x>> {
    match event {
        Event::Start(tag) | Event::Empty(tag) => Some(tag),
        _ => None,
    }
}

/// The name of the element that an event begins.
pub(super) fn name_of<'e>(event: &'e Event<'_>) -> Option<&'e str> {
    start_of(event).map(|tag| tag.name().0)
}

/// Whether an event begins a failure or an error.
pub(super) fn is_bad(event: &Event<'_>) -> bool {
    matches!(name_of(event), Some("failure" | "error"))
}

/// The value of an attribute.
pub(super) fn value(tag: &BytesStart<'_>, name: &str) -> Option<String> {
    let attribute = tag.try_get_attribute(name).ok()??;
    let value = attribute.normalized_value(XmlVersion::Explicit1_0).ok()?;
    Some(value.into_owned())
}
