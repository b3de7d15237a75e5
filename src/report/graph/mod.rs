//! The wait-for graph as a drawing: who waits for whom, with what the verdict names marked.

mod dot;
mod svg;

pub(super) use dot::Dot;
pub(super) use svg::Svg;

use super::text::{doing, place_of_task, place_of_thread};
use super::{clean, clean_word};
use crate::model::{EdgeKind, Finding, Grade, Key, Process, Report, Snapshot, Wait, WaitEdge};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

/// Most nodes that are drawn; those of the verdict come first.
const MAX_NODES: usize = 200;

/// Columns of the title.
const TITLE_WIDTH: usize = 90;

/// What is drawn.
struct Drawing {
    /// The verdict, in lines.
    title: Vec<String>,
    /// By process, in the order of the sample.
    groups: Vec<Group>,
    edges: Vec<Edge>,
    /// Nodes that had no room.
    left_out: usize,
}

struct Group {
    title: String,
    nodes: Vec<Node>,
}

struct Node {
    key: Key,
    lines: Vec<String>,
    shape: Shape,
    mark: Mark,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    Thread,
    Task,
    /// A lock, a GIL, an interpreter.
    Object,
}

/// What the first finding says of a node.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mark {
    None,
    /// It is part of the trail.
    Waits,
    /// It is where the trail ends.
    Root,
}

struct Edge {
    from: Key,
    to: Key,
    label: &'static str,
    grade: Grade,
    /// Both ends are part of the first finding.
    is_told: bool,
}

fn label(kind: EdgeKind) -> &'static str {
    match kind {
        EdgeKind::WaitsFor => "waits for",
        EdgeKind::HeldBy => "held by",
        EdgeKind::Joins => "joins",
        EdgeKind::Finalizes => "ends",
        EdgeKind::NeedsEndOf => "needs the end of",
        EdgeKind::WaitsForChild => "waits for its child",
        EdgeKind::NeedsDataOf => "reads from",
        EdgeKind::NeedsRoomOf => "writes to",
        EdgeKind::RunsFor => "runs",
        EdgeKind::Awaits => "awaits",
        EdgeKind::NeedsWorkOf => "needs the work of",
        EdgeKind::MayNeed => "may need",
    }
}

impl Drawing {
    fn of(report: &Report) -> Self {
        let verdict = report.analysis.findings.first();
        let title = verdict.map_or_else(
            || "no hang was found".to_owned(),
            |finding| format!("{}: {}", finding.id, clean(&finding.title)),
        );
        let lines = textwrap::wrap(&title, TITLE_WIDTH).into_iter();
        let mut drawing = Self {
            title: lines.map(Cow::into_owned).collect(),
            groups: Vec::new(),
            edges: Vec::new(),
            left_out: 0,
        };
        let Some(last) = report.samples.last() else {
            return drawing;
        };
        let told = Told::of(report);
        let wanted = wanted(report, &told);
        drawing.left_out = wanted.len().saturating_sub(MAX_NODES);
        let drawn: BTreeSet<&Key> = wanted.into_iter().take(MAX_NODES).collect();
        drawing.groups = groups(last, &drawn, &told, verdict.map(Finding::root));
        let edges = report.analysis.edges.iter();
        drawing.edges = edges
            .filter(|edge| drawn.contains(&edge.from) && drawn.contains(&edge.to))
            .map(|edge| Edge {
                from: edge.from.clone(),
                to: edge.to.clone(),
                label: label(edge.kind),
                grade: edge.grade,
                is_told: told.has(edge),
            })
            .collect();
        drawing
    }
}

/// What the first finding names.
struct Told<'r> {
    /// Threads and tasks.
    nodes: BTreeSet<&'r Key>,
    /// These, and what an edge leads to from one of them: a lock.
    starts: BTreeSet<&'r Key>,
    /// These, and what an edge leads from to one of them.
    ends: BTreeSet<&'r Key>,
}

impl<'r> Told<'r> {
    fn of(report: &'r Report) -> Self {
        let verdict = report.analysis.findings.iter().take(1);
        let nodes: BTreeSet<&Key> = verdict
            .flat_map(|finding| finding.blockers.iter().chain([&finding.waiter]))
            .collect();
        let (mut starts, mut ends) = (nodes.clone(), nodes.clone());
        for edge in &report.analysis.edges {
            if nodes.contains(&edge.from) {
                starts.insert(&edge.to);
            }
            if nodes.contains(&edge.to) {
                ends.insert(&edge.from);
            }
        }
        Self {
            nodes,
            starts,
            ends,
        }
    }

    /// Whether an edge leads from one that the finding names to another, maybe through a lock.
    fn has(&self, edge: &WaitEdge) -> bool {
        self.starts.contains(&edge.from) && self.ends.contains(&edge.to)
    }
}

/// What is to be drawn, each once: first what the verdict names, then whatever has an edge.
fn wanted<'r>(report: &'r Report, told: &Told<'r>) -> Vec<&'r Key> {
    let edges = &report.analysis.edges;
    // A GIL that somebody holds and nobody waits for is no news.
    let awaited: BTreeSet<&Key> = edges.iter().map(|edge| &edge.to).collect();
    let is_news = |edge: &&WaitEdge| edge.kind != EdgeKind::HeldBy || awaited.contains(&edge.from);
    let beside = edges.iter().filter(|edge| told.has(edge));
    let all = edges.iter().filter(is_news);
    let mut seen = BTreeSet::new();
    told.nodes
        .iter()
        .copied()
        .chain(beside.chain(all).flat_map(|edge| [&edge.from, &edge.to]))
        .filter(|key| seen.insert(*key))
        .collect()
}

fn groups(
    last: &Snapshot,
    drawn: &BTreeSet<&Key>,
    told: &Told<'_>,
    root: Option<&Key>,
) -> Vec<Group> {
    let mut waits: BTreeMap<&Key, &Wait> = BTreeMap::new();
    for thread in last.processes.iter().flat_map(|process| &process.threads) {
        if let Some((target, wait)) = thread
            .wait
            .as_ref()
            .and_then(|it| Some((it.target.as_ref()?, it)))
        {
            waits.entry(target).or_insert(wait);
        }
    }
    let node = |process: &Process, key: &Key| {
        let (lines, shape) = described(process, key, waits.get(key).copied());
        let mark = match (root == Some(key), told.nodes.contains(key)) {
            (true, _) => Mark::Root,
            (false, true) => Mark::Waits,
            (false, false) => Mark::None,
        };
        Node {
            key: key.clone(),
            lines,
            shape,
            mark,
        }
    };
    last.processes
        .iter()
        .map(|process| Group {
            title: format!("{} (pid {})", clean(&process.name), process.pid),
            nodes: drawn
                .iter()
                .filter(|key| key.of_process() == process.key)
                .map(|key| node(process, key))
                .collect(),
        })
        .filter(|group| !group.nodes.is_empty())
        .collect()
}

/// What a node is, in lines.
fn described(process: &Process, key: &Key, wait: Option<&Wait>) -> (Vec<String>, Shape) {
    if let Some(thread) = process.thread(key) {
        let lines = vec![
            format!("{} (tid {})", clean(thread.display_name()), thread.tid),
            doing(process, thread),
            place_of_thread(thread),
        ];
        return (without_empty(lines), Shape::Thread);
    }
    let mut loops = process.event_loops.iter();
    if let Some(task) = loops.find_map(|event_loop| event_loop.task(key)) {
        let awaits = task.awaits.as_ref().and_then(|awaits| awaits.call.as_ref());
        let lines = vec![
            format!("task {}", clean(&task.name)),
            awaits.map_or_else(String::new, clean),
            place_of_task(task),
        ];
        return (without_empty(lines), Shape::Task);
    }
    let mut interpreters = process.interpreters.iter();
    if let Some(interpreter) = interpreters.find(|interpreter| interpreter.key == *key) {
        return (
            vec![format!("interpreter {}", interpreter.id)],
            Shape::Object,
        );
    }
    if *key == process.key {
        return (vec![format!("process {}", process.pid)], Shape::Object);
    }
    if key.as_str().contains("/gil@") {
        return (vec!["GIL".to_owned()], Shape::Object);
    }
    let object = wait.and_then(|wait| wait.object.as_ref());
    let lines = match object {
        Some(object) => vec![
            object.name.as_ref().map_or_else(String::new, clean),
            clean(&object.type_name),
        ],
        None => vec!["lock".to_owned()],
    };
    let lines = without_empty(lines);
    if lines.is_empty() {
        return (vec![clean_word(key.as_str())], Shape::Object);
    }
    (lines, Shape::Object)
}

fn without_empty(lines: Vec<String>) -> Vec<String> {
    lines.into_iter().filter(|line| !line.is_empty()).collect()
}
