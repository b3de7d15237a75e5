//! The tasks of a process's event loops, as trees: trio's by nursery, asyncio's by who waits for whom.

mod columns;
mod tree;
mod wording;

use super::super::clean;
use super::layout::Page;
use super::threads::{plural, spot};
use crate::model::{EventLoop, Process, Report, Task, TaskLibrary};
use columns::{widths, write_row};
use tree::Tree;
use wording::within;

/// Tasks of one loop that have a line of their own when not all are asked for.
const MAX_LISTED: usize = 40;
pub(super) fn write(page: &mut Page, report: &Report, process: &Process) {
    for event_loop in &process.event_loops {
        let all = report.options.all;
        if event_loop.tasks.is_empty() && event_loop.thread.is_none() && !all {
            continue;
        }
        write_loop(page, process, event_loop, all);
    }
}

fn write_loop(page: &mut Page, process: &Process, event_loop: &EventLoop, all: bool) {
    let tree = Tree::of(event_loop, all);
    page.gap();
    let (title, rest) = heading(process, event_loop, &tree);
    page.wrapped("  ", "    ", &format!("{title} · {rest}"));
    let rows = tree.rows(process, all);
    let shown = if all {
        rows.len()
    } else {
        rows.len().min(MAX_LISTED)
    };
    let widths = widths(page.width(), &rows[..shown]);
    for row in &rows[..shown] {
        write_row(page, row, widths, all);
    }
    let hidden: usize = rows[shown..].iter().map(|row| row.count).sum();
    if hidden > 0 {
        page.line(&format!("   … {} (--all)", plural(hidden, "more task")));
    }
}

/// What runs where, and how it is with it.
fn heading(process: &Process, event_loop: &EventLoop, tree: &Tree<'_>) -> (String, String) {
    let library = match event_loop.library {
        TaskLibrary::Trio => "trio",
        TaskLibrary::Asyncio => "asyncio",
    };
    let thread = event_loop
        .thread
        .as_ref()
        .and_then(|key| process.thread(key));
    let mut title = match thread {
        Some(thread) => format!(
            "{library} on {} (tid {})",
            clean(thread.display_name()),
            thread.tid
        ),
        None if event_loop.guest => format!("{library} in guest mode"),
        None => format!("{library}, a loop that no thread is known to run"),
    };
    let interpreter = process
        .interpreters
        .iter()
        .find(|interpreter| interpreter.key == event_loop.interpreter);
    if let Some(interpreter) = interpreter.filter(|interpreter| interpreter.id != 0) {
        title.push_str(&format!(", interpreter {}", interpreter.id));
    }
    let mut parts = vec![plural(tree.shown(), "task")];
    if let Some(running) = event_loop.running.as_ref().and_then(|key| tree.task(key)) {
        parts.push(format!("runs {}", clean(&running.name)));
    }
    match (event_loop.idle, event_loop.timers, event_loop.next_timer_ms) {
        (Some(true), Some(0), _) => parts.push("idle, no timer".to_owned()),
        (Some(true), _, Some(next)) => parts.push(format!("idle, next timer {}", within(next))),
        (Some(true), ..) => parts.push("idle".to_owned()),
        _ => {}
    }
    if let Some(ready) = event_loop.ready.filter(|ready| *ready > 0) {
        parts.push(format!("{ready} ready"));
    }
    if event_loop.moving {
        parts.push("changed while it was read".to_owned());
    }
    (title, parts.join(" · "))
}

pub(in crate::report) fn place(task: &Task) -> String {
    let own = task.frames.iter().find(|frame| !frame.is_library());
    own.or(task.frames.last()).map_or_else(String::new, spot)
}
