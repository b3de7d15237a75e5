//! As a picture that any browser shows. Where things go is worked out by layout-rs.

use super::{Drawing, Mark, Node, Shape};
use crate::model::{Grade, Report};
use crate::report::Renderer;
use layout::backends::svg::SVGWriter;
use layout::core::base::Orientation;
use layout::core::color::Color;
use layout::core::style::{LineStyleKind, StyleAttr};
use layout::std_shapes::render::get_shape_size;
use layout::std_shapes::shapes::{Arrow, Element, LineEndKind, ShapeKind};
use layout::topo::layout::VisualGraph;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::panic;

const FONT_SIZE: usize = 13;
const RED: u32 = 0xcc00_00ff;
const BLACK: u32 = 0x0000_00ff;
const WHITE: u32 = 0xffff_ffff;
const GREY: u32 = 0xf0f0_f0ff;

/// Writes the graph as SVG.
pub(in crate::report) struct Svg;

impl Renderer for Svg {
    fn render(&self, report: &Report, out: &mut dyn Write) -> io::Result<()> {
        // layout-rs has places where it gives up by a panic ("Can't normalize the unit vector").
        let picture = panic::catch_unwind(|| picture(&Drawing::of(report)));
        let picture = picture.map_err(|_| {
            io::Error::other("layout-rs cannot lay this graph out; --graph dot is for Graphviz")
        })?;
        out.write_all(picture.as_bytes())
    }
}

fn picture(drawing: &Drawing) -> String {
    let mut graph = VisualGraph::new(Orientation::TopToBottom);
    graph.add_node(boxed(&drawing.title.join("\n"), WHITE, 1, WHITE));
    let mut handles = BTreeMap::new();
    // There is no frame around a process: each node says whose it is, if there are several.
    let several = drawing.groups.len() > 1;
    for group in &drawing.groups {
        for node in &group.nodes {
            let whose = several.then_some(group.title.as_str());
            handles.insert(node.key.as_str(), graph.add_node(element(node, whose)));
        }
    }
    if handles.is_empty() {
        graph.add_node(boxed(
            "nobody waits for anybody that is known",
            BLACK,
            1,
            WHITE,
        ));
    }
    if drawing.left_out > 0 {
        let text = format!("{} more are left out", drawing.left_out);
        graph.add_node(boxed(&text, WHITE, 1, WHITE));
    }
    for edge in &drawing.edges {
        let ends = handles
            .get(edge.from.as_str())
            .zip(handles.get(edge.to.as_str()));
        let Some((from, to)) = ends else { continue };
        let line = match edge.grade {
            Grade::Read => LineStyleKind::Normal,
            Grade::Derived => LineStyleKind::Dashed,
            Grade::Guessed => LineStyleKind::Dotted,
        };
        let color = if edge.is_told { RED } else { BLACK };
        let look = StyleAttr::new(Color::new(color), 1, None, 0, FONT_SIZE);
        let arrow = Arrow::new(
            LineEndKind::None,
            LineEndKind::Arrow,
            line,
            edge.label,
            &look,
            &None,
            &None,
        );
        graph.add_edge(arrow, *from, *to);
    }
    let mut picture = SVGWriter::new();
    graph.do_it(false, false, false, &mut picture);
    picture.finalize()
}

fn element(node: &Node, whose: Option<&str>) -> Element {
    let (color, width) = match node.mark {
        Mark::None => (BLACK, 1),
        Mark::Waits => (RED, 1),
        Mark::Root => (RED, 3),
    };
    let fill = match node.shape {
        Shape::Thread => WHITE,
        Shape::Task | Shape::Object => GREY,
    };
    let mut lines = node.lines.clone();
    lines.extend(whose.map(|process| format!("in {process}")));
    boxed(&lines.join("\n"), color, width, fill)
}

fn boxed(text: &str, color: u32, width: usize, fill: u32) -> Element {
    let shape = ShapeKind::new_box(text);
    let size = get_shape_size(Orientation::TopToBottom, &shape, FONT_SIZE, false);
    let look = StyleAttr::new(
        Color::new(color),
        width,
        Some(Color::new(fill)),
        3,
        FONT_SIZE,
    );
    Element::create(shape, look, Orientation::TopToBottom, size)
}

#[cfg(test)]
mod tests {
    use super::super::{Drawing, Edge, Group, Mark, Node, Shape};
    use super::picture;
    use crate::model::{Grade, Key};
    use proptest::prelude::*;
    use quick_xml::Reader;
    use quick_xml::events::Event;

    fn drawing(names: &[String], ends: &[(usize, usize)]) -> Drawing {
        let process = Key::process(1, 1);
        let key =
            |number: usize| process.thread(i32::try_from(number % names.len()).expect("a number"));
        let node = |(number, name): (usize, &String)| Node {
            key: key(number),
            lines: name.lines().map(str::to_owned).collect(),
            shape: Shape::Thread,
            mark: Mark::None,
        };
        let edge = |(from, to): &(usize, usize)| Edge {
            from: key(*from),
            to: key(*to),
            label: "waits for",
            grade: Grade::Read,
            is_told: false,
        };
        Drawing {
            title: vec!["a & b".to_owned()],
            groups: vec![Group {
                title: "p".to_owned(),
                nodes: names.iter().enumerate().map(node).collect(),
            }],
            edges: ends.iter().map(edge).collect(),
            left_out: 0,
        }
    }

    /// Parses it to its end; the number of its boxes.
    fn boxes(picture: &str) -> usize {
        let mut reader = Reader::from_str(picture);
        let mut boxes = 0;
        loop {
            match reader.read_event().expect("well-formed XML") {
                Event::Empty(element) | Event::Start(element) => {
                    boxes += usize::from(element.name().as_ref() == "rect");
                }
                Event::Eof => return boxes,
                _ => {}
            }
        }
    }

    proptest! {
        #[test]
        fn any_graph_can_be_drawn(
            names in prop::collection::vec("[a-z<>&\"' ]{0,8}(\n[a-zäß<]{0,9})?", 1..12),
            ends in prop::collection::vec((0_usize..12, 0_usize..12), 0..24),
        ) {
            prop_assert_eq!(boxes(&picture(&drawing(&names, &ends))), names.len() + 1);
        }
    }

    #[test]
    fn many_can_be_drawn() {
        let names: Vec<String> = (0..200).map(|number| format!("thread {number}")).collect();
        let star: Vec<(usize, usize)> = (1..200).map(|number| (number, 0)).collect();
        let chain: Vec<(usize, usize)> = (1..200).map(|number| (number - 1, number)).collect();
        assert_eq!(boxes(&picture(&drawing(&names, &star))), 201);
        assert_eq!(boxes(&picture(&drawing(&names, &chain))), 201);
    }
}
