//! The tasks of a loop as a tree, and the lines that it takes.

use super::place;
use super::wording::{cancellation, left_of, some_of, state_of};
use crate::model::{EventLoop, Key, Process, Task, TaskLibrary, TaskState};
use crate::report::clean;
use std::collections::{BTreeSet, HashMap};

/// Fewest tasks side by side that are folded when they are alike.
const MIN_ALIKE: usize = 4;
/// Deepest level that is still indented.
const MAX_INDENTED: usize = 8;
/// Facts of an object that stand beside it.
const MAX_INLINE: usize = 2;
/// Milliseconds by which two deadlines may differ that are the same.
const SAME_MS: u64 = 100;

/// A line of a tree, and what stands below it.
pub(super) struct Row<'r> {
    pub(super) task: &'r Task,
    /// The branches left of its name, and of the lines below it.
    pub(super) branch: String,
    pub(super) below: String,
    pub(super) name: String,
    pub(super) what: String,
    pub(super) place: String,
    pub(super) notes: Vec<String>,
    /// Tasks that it stands for.
    pub(super) count: usize,
}

pub(super) struct Tree<'r> {
    event_loop: &'r EventLoop,
    index: HashMap<&'r Key, usize>,
    children: Vec<Vec<usize>>,
    roots: Vec<usize>,
}

impl<'r> Tree<'r> {
    pub(super) fn of(event_loop: &'r EventLoop, with_system: bool) -> Self {
        let tasks = &event_loop.tasks;
        let shown = |task: &Task| with_system || !task.system;
        let index: HashMap<&Key, usize> = tasks
            .iter()
            .enumerate()
            .filter(|(_, task)| shown(task))
            .map(|(number, task)| (&task.key, number))
            .collect();
        let mut children = vec![Vec::new(); tasks.len()];
        let mut has_parent = vec![false; tasks.len()];
        for (number, task) in tasks.iter().enumerate().filter(|(_, task)| shown(task)) {
            if let Some(parent) = task.parent.as_ref().and_then(|key| index.get(key)) {
                children[*parent].push(number);
                has_parent[number] = true;
            }
            let awaits = task.awaits.iter().flat_map(|awaits| &awaits.tasks);
            if event_loop.library == TaskLibrary::Asyncio {
                for awaited in awaits.filter_map(|key| index.get(key)) {
                    if *awaited != number {
                        children[number].push(*awaited);
                        has_parent[*awaited] = true;
                    }
                }
            }
        }
        for own in &mut children {
            own.sort_unstable();
        }
        // First those that nothing leads to; then the rest, which stands in circles.
        let shown = || (0..tasks.len()).filter(|number| shown(&tasks[*number]));
        let roots = shown().filter(|number| !has_parent[*number]);
        let circles = shown().filter(|number| has_parent[*number]);
        let roots = roots.chain(circles).collect();
        Self {
            event_loop,
            index,
            children,
            roots,
        }
    }

    pub(super) fn task(&self, key: &Key) -> Option<&'r Task> {
        self.index
            .get(key)
            .and_then(|number| self.event_loop.tasks.get(*number))
            .map(std::sync::Arc::as_ref)
    }

    pub(super) fn shown(&self) -> usize {
        self.roots.len()
    }

    /// All lines, each task once.
    pub(super) fn rows(&self, process: &Process, all: bool) -> Vec<Row<'r>> {
        let tasks = &self.event_loop.tasks;
        let mut done = vec![false; tasks.len()];
        let mut rows: Vec<Row<'r>> = Vec::new();
        for root in &self.roots {
            // Task, depth, whether it is the last of its siblings, the branches left of them.
            let mut open = vec![(*root, 0_usize, true, String::new(), 1_usize)];
            while let Some((number, depth, last, left, count)) = open.pop() {
                let Some(task) = tasks.get(number) else {
                    continue;
                };
                if std::mem::replace(&mut done[number], true) {
                    continue;
                }
                let (branch, stem) = match (depth, last) {
                    (0, _) => (String::new(), String::new()),
                    (_, true) => (format!("{left}└─ "), format!("{left}   ")),
                    (_, false) => (format!("{left}├─ "), format!("{left}│  ")),
                };
                let own: BTreeSet<usize> = self.children[number]
                    .iter()
                    .copied()
                    .filter(|child| !done[*child])
                    .collect();
                let mut row = self.row(process, task, &own);
                row.count = count;
                if count > 1 {
                    row.name = format!("{} × {count}", row.name);
                }
                row.branch = branch;
                row.below = if own.is_empty() {
                    stem.clone()
                } else {
                    format!("{stem}│")
                };
                rows.push(row);
                let groups = self.groups(process, own, &mut done, all);
                let deeper = if depth < MAX_INDENTED { stem } else { left };
                let count = groups.len();
                for (place, (child, alike)) in groups.into_iter().enumerate().rev() {
                    open.push((child, depth + 1, place + 1 == count, deeper.clone(), alike));
                }
            }
        }
        fold_roots(rows, all)
    }

    /// Siblings, those that are alike and have nothing below them taken together: the first of them, and their number.
    fn groups(
        &self,
        process: &Process,
        siblings: BTreeSet<usize>,
        done: &mut [bool],
        all: bool,
    ) -> Vec<(usize, usize)> {
        if all || siblings.len() < MIN_ALIKE {
            return siblings.into_iter().map(|number| (number, 1)).collect();
        }
        let mut alike: HashMap<Look, Vec<usize>> = HashMap::new();
        let mut out: Vec<(usize, Look)> = Vec::new();
        for number in siblings {
            let row = self.row(process, &self.event_loop.tasks[number], &BTreeSet::new());
            let is_leaf = self.children[number].is_empty();
            let look = row.look(if is_leaf { None } else { Some(number) });
            let members = alike.entry(look.clone()).or_default();
            members.push(number);
            if members.len() == 1 {
                out.push((number, look));
            }
        }
        let mut groups = Vec::new();
        for (first, look) in out {
            let members = alike.remove(&look).unwrap_or_default();
            if members.len() < MIN_ALIKE {
                groups.extend(members.into_iter().map(|number| (number, 1)));
                continue;
            }
            for number in &members[1..] {
                done[*number] = true;
            }
            groups.push((first, members.len()));
        }
        groups.sort_unstable();
        groups
    }

    fn row(&self, process: &Process, task: &'r Task, own: &BTreeSet<usize>) -> Row<'r> {
        Row {
            task,
            branch: String::new(),
            below: String::new(),
            name: clean(&task.name),
            what: self.what(task),
            place: place(task),
            notes: self.notes(process, task, own),
            count: 1,
        }
    }

    fn what(&self, task: &Task) -> String {
        let awaits = match (task.state, &task.awaits) {
            (TaskState::Running, _) => return "runs now".to_owned(),
            (TaskState::Ready, _) => return "ready to run".to_owned(),
            (TaskState::Waiting, None) => return "waits".to_owned(),
            (TaskState::Waiting, Some(awaits)) => awaits,
        };
        let prefix = match self.event_loop.library {
            TaskLibrary::Trio => "trio.",
            TaskLibrary::Asyncio => "asyncio.",
        };
        let name = awaits
            .call
            .as_ref()
            .or(awaits.object.as_ref().map(|object| &object.type_name));
        let mut text = match name {
            None => "waits".to_owned(),
            Some(_) if awaits.call.is_none() && !awaits.tasks.is_empty() => {
                "a task's end".to_owned()
            }
            Some(name) => clean(name),
        };
        if let Some(rest) = text.strip_prefix(prefix) {
            text = rest.to_owned();
        }
        if let Some(descriptor) = awaits.descriptor {
            text.push_str(&format!(" fd {descriptor}"));
        }
        let state = state_of(awaits);
        if !state.is_empty() && state.len() <= MAX_INLINE {
            text.push_str(&format!(" ({})", state.join(", ")));
        }
        // What ends the wait of its parent as well is told there.
        let parent = task.parent.as_ref().and_then(|key| self.task(key));
        let inherited = parent.and_then(|parent| parent.awaits.as_ref()?.remaining_ms);
        if let Some(left) = awaits.remaining_ms
            && inherited.is_none_or(|inherited| inherited.abs_diff(left) > SAME_MS)
        {
            text.push_str(&format!(" {}", left_of(left)));
        }
        text
    }

    fn notes(&self, process: &Process, task: &Task, own: &BTreeSet<usize>) -> Vec<String> {
        let mut notes = Vec::new();
        if let Some(awaits) = &task.awaits {
            let state = state_of(awaits);
            if state.len() > MAX_INLINE {
                notes.push(state.join(", "));
            }
            let holders = awaits.holders.iter().map(|holder| {
                let known = holder.task.as_ref().and_then(|key| self.task(key));
                let name = known.map_or_else(
                    || "a task that is gone".to_owned(),
                    |known| clean(&known.name),
                );
                match &holder.place {
                    Some(place) => format!("{name} (in {})", clean(place)),
                    None => name,
                }
            });
            let holders = some_of(holders);
            if !holders.is_empty() {
                notes.push(format!("held by {holders}"));
            }
            let below: BTreeSet<&Key> = own
                .iter()
                .filter_map(|number| self.event_loop.tasks.get(*number))
                .map(|task| &task.key)
                .collect();
            let elsewhere = awaits.tasks.iter().filter(|key| !below.contains(key));
            let elsewhere = some_of(elsewhere.filter_map(|key| Some(clean(&self.task(key)?.name))));
            if self.event_loop.library == TaskLibrary::Asyncio && !elsewhere.is_empty() {
                notes.push(format!("waits for {elsewhere}"));
            }
            if let Some(thread) = awaits.thread.as_ref().and_then(|key| process.thread(key)) {
                let name = clean(thread.display_name());
                notes.push(format!("done by thread {name} (tid {})", thread.tid));
            }
        }
        notes.extend(cancellation(task, self.event_loop.library));
        notes
    }
}

/// How a row looks; rows that look the same may be folded. A task with others below it is like no other.
type Look = (String, String, Vec<String>, Option<usize>);

impl Row<'_> {
    fn look(&self, unique: Option<usize>) -> Look {
        // The time that is left differs between tasks that do the same.
        let what = self.what.trim_end_matches(" left");
        let what =
            what.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.' || c == ' ' || c == 's');
        (
            what.to_owned(),
            self.place.clone(),
            self.notes.clone(),
            unique,
        )
    }
}

/// Roots that are alike and have nothing below them.
fn fold_roots(rows: Vec<Row<'_>>, all: bool) -> Vec<Row<'_>> {
    if all || rows.len() <= MIN_ALIKE {
        return rows;
    }
    let is_leaf: Vec<bool> = rows
        .iter()
        .enumerate()
        .map(|(at, row)| {
            row.branch.is_empty() && rows.get(at + 1).is_none_or(|next| next.branch.is_empty())
        })
        .collect();
    let mut counts: HashMap<Look, usize> = HashMap::new();
    for (row, _) in rows.iter().zip(&is_leaf).filter(|(_, leaf)| **leaf) {
        *counts.entry(row.look(None)).or_default() += 1;
    }
    let mut seen = BTreeSet::new();
    let mut out = Vec::new();
    for (mut row, leaf) in rows.into_iter().zip(is_leaf) {
        if leaf {
            let look = row.look(None);
            let count = counts.get(&look).copied().unwrap_or(1);
            if count >= MIN_ALIKE {
                if !seen.insert(look) {
                    continue;
                }
                row.name = format!("{} × {count}", row.name);
                row.count = count;
            }
        }
        out.push(row);
    }
    out
}
