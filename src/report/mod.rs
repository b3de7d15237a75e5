//! Say it: one renderer a file, over the same [`Report`].

mod clean;
mod events;
mod github;
mod graph;
mod inventory;
mod json;
mod junit;
mod markdown;
mod text;
mod whereabouts;

pub use clean::clean;
use clean::clean_word;
pub use events::{EVENTS_SCHEMA, INVENTORY_SCHEMA, events, inventory_json};
pub use github::github;
pub use json::schema;
pub use junit::{JunitError, junit, repair as repair_junit};
pub use markdown::markdown;
pub use text::inventory;
pub use whereabouts::whereabouts;

use crate::model::Report;
use std::io::{self, Write};

/// Formats of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For people: the answer, the evidence, the remedy, the stacks.
    Text,
    /// For programs: all that was read, in the schema `hangscope/1`.
    Json,
    /// For job summaries and comments: as text, in GitHub's Markdown, of at most 900 KiB.
    Markdown,
    /// The wait-for graph, for Graphviz.
    Dot,
    /// The wait-for graph, as a picture.
    Svg,
}

/// How text is marked up. Decided at the edge, by the terminal and `NO_COLOR`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Style {
    color: bool,
}

impl Style {
    /// No escape sequences at all.
    #[must_use]
    pub fn plain() -> Self {
        Self { color: false }
    }
    /// Bold and colour, for a terminal.
    #[must_use]
    pub fn color() -> Self {
        Self { color: true }
    }
    fn paint(self, code: &str, text: &str) -> String {
        if self.color {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
    fn alarm(self, text: &str) -> String {
        self.paint("1;31", text)
    }
    fn caution(self, text: &str) -> String {
        self.paint("1;33", text)
    }
    fn good(self, text: &str) -> String {
        self.paint("1;32", text)
    }
    fn strong(self, text: &str) -> String {
        self.paint("1", text)
    }
}

/// A way to write a report.
trait Renderer {
    fn render(&self, report: &Report, out: &mut dyn Write) -> io::Result<()>;
}

/// Writes a report.
///
/// # Errors
/// What the writer returns.
pub fn render(
    format: Format,
    report: &Report,
    style: Style,
    out: &mut dyn Write,
) -> io::Result<()> {
    match format {
        Format::Text => text::Text { style }.render(report, out),
        Format::Json => json::Json.render(report, out),
        Format::Markdown => markdown::Markdown.render(report, out),
        Format::Dot => graph::Dot.render(report, out),
        Format::Svg => graph::Svg.render(report, out),
    }
}
