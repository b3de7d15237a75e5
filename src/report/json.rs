//! JSON: the report as it is, in the schema `hangscope/1`.

use super::Renderer;
use crate::model::Report;
use serde::Serialize;
use serde_json::Serializer;
use serde_json::ser::Formatter;
use std::io::{self, BufWriter, Write};

pub(super) struct Json;

/// Bytes written at once.
const BUFFER: usize = 1 << 16;
/// What separates two values, and stands before the first: a comma, a line's end, and as much indentation as is needed.
const SEPARATOR: &[u8] = b",\n                                                                ";
/// Spaces a level.
const INDENT: usize = 2;

impl Renderer for Json {
    fn render(&self, report: &Report, out: &mut dyn Write) -> io::Result<()> {
        // Of its own: a call through `dyn Write` for each of some hundred thousand small pieces is what costs.
        let mut buffered = BufWriter::with_capacity(BUFFER, out);
        report.serialize(&mut Serializer::with_formatter(
            &mut buffered,
            Indented::default(),
        ))?;
        writeln!(buffered)?;
        buffered.flush()
    }
}

/// Writes what [`serde_json::ser::PrettyFormatter`] writes, but each line's start at once: that one makes a call for each of its
/// some ten levels, which took half of the time of a large report.
#[derive(Default)]
struct Indented {
    level: usize,
    /// The array or object that was closed last, or is open, has something in it.
    filled: bool,
}

impl Indented {
    /// A new line, after a comma unless what follows is the first of its array or object.
    fn new_line<W: ?Sized + Write>(&self, out: &mut W, first: bool) -> io::Result<()> {
        let spaces = self.level * INDENT;
        let start = usize::from(first);
        match SEPARATOR.get(start..2 + spaces) {
            Some(text) => out.write_all(text),
            None => write!(out, "{}{:spaces$}", if first { "\n" } else { ",\n" }, ""),
        }
    }

    fn open<W: ?Sized + Write>(&mut self, out: &mut W, bracket: &[u8]) -> io::Result<()> {
        self.level += 1;
        self.filled = false;
        out.write_all(bracket)
    }

    fn close<W: ?Sized + Write>(&mut self, out: &mut W, bracket: &[u8]) -> io::Result<()> {
        self.level = self.level.saturating_sub(1);
        if self.filled {
            self.new_line(out, true)?;
        }
        self.filled = true;
        out.write_all(bracket)
    }
}

impl Formatter for Indented {
    fn begin_array<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.open(out, b"[")
    }

    fn end_array<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.close(out, b"]")
    }

    fn begin_array_value<W: ?Sized + Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        self.new_line(out, first)
    }

    fn end_array_value<W: ?Sized + Write>(&mut self, _out: &mut W) -> io::Result<()> {
        self.filled = true;
        Ok(())
    }

    fn begin_object<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.open(out, b"{")
    }

    fn end_object<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.close(out, b"}")
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        self.new_line(out, first)
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        out.write_all(b": ")
    }

    fn end_object_value<W: ?Sized + Write>(&mut self, _out: &mut W) -> io::Result<()> {
        self.filled = true;
        Ok(())
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
    use super::*;
    use proptest::prelude::*;
    use serde_json::Value;

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<i64>().prop_map(Value::from),
            ".*".prop_map(Value::from),
        ];
        leaf.prop_recursive(40, 200, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::btree_map(".*", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    fn indented(value: &Value) -> String {
        let mut out = Vec::new();
        let mut serializer = Serializer::with_formatter(&mut out, Indented::default());
        value.serialize(&mut serializer).expect("it is written");
        String::from_utf8(out).expect("text")
    }

    proptest! {
        #[test]
        fn it_is_the_librarys_own_format(value in value()) {
            let expected = serde_json::to_string_pretty(&value).expect("it is written");
            prop_assert_eq!(indented(&value), expected);
        }
    }

    #[test]
    fn any_depth_is_indented() {
        let deep = (0..60).fold(Value::Null, |inner, _| Value::from(vec![inner]));
        assert_eq!(
            indented(&deep),
            serde_json::to_string_pretty(&deep).expect("it is written")
        );
    }

    #[test]
    fn the_documented_schema_is_that_of_the_types() {
        let documented = include_str!("../../docs/schema.json");
        assert!(
            super::schema() == documented,
            "the types have changed: cargo run -- schema > docs/schema.json, and say so in docs/schema.md"
        );
    }
}
