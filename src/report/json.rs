//! JSON: the report as it is, in the schema `hangscope/1`.

use super::Renderer;
use crate::model::Report;
use std::io::{self, BufWriter, Write};

pub(super) struct Json;

/// Bytes written at once.
const BUFFER: usize = 1 << 16;

impl Renderer for Json {
    fn render(&self, report: &Report, out: &mut dyn Write) -> io::Result<()> {
        // Of its own: a call through `dyn Write` for each of some hundred thousand small pieces is what costs.
        let mut buffered = BufWriter::with_capacity(BUFFER, out);
        serde_json::to_writer_pretty(&mut buffered, report)?;
        writeln!(buffered)?;
        buffered.flush()
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
