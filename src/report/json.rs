//! JSON: the report as it is, in the schema `hangscope/1`.

use super::Renderer;
use crate::model::Report;
use std::io::{self, Write};

pub(super) struct Json;

impl Renderer for Json {
    fn render(&self, report: &Report, out: &mut dyn Write) -> io::Result<()> {
        serde_json::to_writer_pretty(&mut *out, report)?;
        writeln!(out)
    }
}

/// The JSON schema of a report, generated from the types. `docs/schema.json` is this text.
#[must_use]
pub fn schema() -> String {
    let schema = schemars::schema_for!(Report);
    let mut text = serde_json::to_string_pretty(&schema).unwrap_or_default();
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_documented_schema_is_that_of_the_types() {
        let documented = include_str!("../../docs/schema.json");
        assert!(
            super::schema() == documented,
            "the types have changed: cargo run -- schema > docs/schema.json, and say so in docs/schema.md"
        );
    }
}
