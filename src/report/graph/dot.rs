//! For Graphviz (the DOT language).

use super::{Drawing, Edge, Mark, Node, Shape};
use crate::model::{Grade, Report};
use crate::report::Renderer;
use std::io::{self, Write};

/// Writes the graph for `dot`.
pub(in crate::report) struct Dot;

impl Renderer for Dot {
    fn render(&self, report: &Report, out: &mut dyn Write) -> io::Result<()> {
        let drawing = Drawing::of(report);
        writeln!(out, "digraph waits {{")?;
        writeln!(out, "  rankdir=TB; labelloc=t; fontname=\"sans-serif\";")?;
        writeln!(out, "  label={};", quoted(&drawing.title.join("\n")))?;
        writeln!(
            out,
            "  node [shape=box, fontname=\"sans-serif\", fontsize=11];"
        )?;
        writeln!(out, "  edge [fontname=\"sans-serif\", fontsize=10];")?;
        for (number, group) in drawing.groups.iter().enumerate() {
            writeln!(out, "  subgraph cluster_{number} {{")?;
            writeln!(out, "    label={};", quoted(&group.title))?;
            for node in &group.nodes {
                writeln!(out, "    {};", self::node(node))?;
            }
            writeln!(out, "  }}")?;
        }
        for edge in &drawing.edges {
            writeln!(out, "  {};", self::edge(edge))?;
        }
        if drawing.left_out > 0 {
            let text = format!("{} more are left out", drawing.left_out);
            writeln!(out, "  more [shape=plaintext, label={}];", quoted(&text))?;
        }
        writeln!(out, "}}")
    }
}

fn node(node: &Node) -> String {
    let shape = match node.shape {
        Shape::Thread => "box",
        Shape::Task => "box, style=rounded",
        Shape::Object => "ellipse",
    };
    let mark = match node.mark {
        Mark::None => "",
        Mark::Waits => ", color=red",
        Mark::Root => ", color=red, penwidth=3",
    };
    format!(
        "{} [label={}, shape={shape}{mark}]",
        quoted(node.key.as_str()),
        quoted(&node.lines.join("\n"))
    )
}

fn edge(edge: &Edge) -> String {
    let style = match edge.grade {
        Grade::Read => "solid",
        Grade::Derived => "dashed",
        Grade::Guessed => "dotted",
    };
    let mark = if edge.is_told { ", color=red" } else { "" };
    format!(
        "{} -> {} [label={}, style={style}{mark}]",
        quoted(edge.from.as_str()),
        quoted(edge.to.as_str()),
        quoted(edge.label)
    )
}

/// A double-quoted string: only the quote and the backslash mean something in it.
fn quoted(text: &str) -> String {
    let escaped = text
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n");
    format!("\"{escaped}\"")
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn no_text_ends_its_string() {
        assert_eq!(quoted("a\"; b\\"), r#""a\"; b\\""#);
        assert_eq!(quoted("a\nb"), r#""a\nb""#);
    }
}
