//! The stacks of one thread: Python frames, native ones, or both in one, the innermost first.

use super::super::{Style, clean};
use super::holding;
use super::layout::{Page, cut};
use crate::model::{
    Foreign, Frame, Grade, NativeFrame, NativeStack, Snapshot, Thread, ThreadState,
};

/// Fewest frames of the test runner in a row that are worth folding.
const MIN_FOLDED: usize = 3;
/// Frames of a stack shown at either end when not all are asked for.
const STACK_ENDS: usize = 12;

pub(super) fn write(page: &mut Page, style: Style, sample: &Snapshot, thread: &Thread, all: bool) {
    let title = format!("{} (tid {})", clean(thread.display_name()), thread.tid);
    page.gap();
    page.line(&format!("  {}", style.strong(&title)));
    let test = thread.test.as_ref().and_then(|test| sample.thread(test));
    if let Some(test) = test {
        let line = format!("started by the test {}", clean(test.display_name()));
        page.wrapped("    ", "      ", &line);
    }
    for line in holding::lines(sample, thread) {
        page.wrapped("    ", "      ", &line);
    }
    let native = thread.native.as_ref();
    match native {
        Some(stack) if stack.apart.is_none() && !stack.moved && thread.python.len() < 2 => {
            write_both(page, thread, stack, all);
            return;
        }
        _ => write_python(page, thread, all),
    }
    if thread.python.is_empty() && native.is_none() {
        let process = sample.process(&thread.key.of_process());
        page.line(match process.is_some_and(|it| it.python.is_some()) {
            true => "    no Python frames: it is in no interpreter",
            false => "    its native stack was not taken",
        });
    }
    if let Some(stack) = native {
        let when = if stack.moved {
            ", where it is now: it has moved since"
        } else {
            ""
        };
        page.line(&format!("    native{when}:"));
        if let Some(reason) = &stack.apart {
            page.wrapped(
                "      ",
                "      ",
                &format!("(apart from the Python frames: {})", clean(reason)),
            );
        }
        write_rows(page, native_rows(stack, all), all);
        write_end(page, stack);
    }
}

fn write_python(page: &mut Page, thread: &Thread, all: bool) {
    for state in &thread.python {
        if thread.python.len() > 1 || state.interpreter_id != 0 {
            page.line(&format!("    in interpreter {}:", state.interpreter_id));
        }
        write_frames(page, state, all);
    }
}

/// One stack of both kinds.
fn write_both(page: &mut Page, thread: &Thread, stack: &NativeStack, all: bool) {
    let state = thread.python.first();
    if let Some(state) = state.filter(|state| state.interpreter_id != 0) {
        page.line(&format!("    in interpreter {}:", state.interpreter_id));
    }
    let mut python = thread.frames();
    let mut rows = Vec::new();
    for frame in &stack.frames {
        if frame.python_frames == 0 || all {
            rows.push(Row::Native(frame));
        }
        rows.extend(python.by_ref().take(frame.python_frames).map(Row::Frame));
    }
    rows.extend(python.map(Row::Frame));
    if !all {
        rows = without_machinery(rows, state.is_some());
    }
    let has_native = rows.iter().any(|row| matches!(row, Row::Native(_)));
    write_rows(page, fold(rows, all), all);
    if stack.counted && has_native {
        page.line("      (native frames placed among Python's by counting calls, not by address)");
    }
    write_end(page, stack);
    if let Some(reason) = state.and_then(|state| state.cut.as_ref()) {
        page.line(&format!(
            "      … Python frames cut here: {}",
            clean(reason)
        ));
    }
}

fn native_rows(stack: &NativeStack, all: bool) -> Vec<Row<'_>> {
    let rows = stack.frames.iter().map(Row::Native).collect();
    let rows = if all {
        rows
    } else {
        without_machinery(rows, false)
    };
    fold(rows, all)
}

/// Leaves out what no reader looks for: CPython's own functions between Python frames and around them; of a run of library
/// functions all but the outermost, which the program has called; and what starts programs and threads.
fn without_machinery(rows: Vec<Row<'_>>, has_python: bool) -> Vec<Row<'_>> {
    let is_own = |at: usize| match rows.get(at) {
        Some(Row::Native(frame)) => !frame.is_library() && !is_rust_entry(&rows, at),
        Some(_) => true,
        None => false,
    };
    let last_own = (0..rows.len()).rev().find(|at| is_own(*at));
    let mut kept: Vec<Row<'_>> = Vec::new();
    for (at, row) in rows.iter().enumerate() {
        let keep = match row {
            Row::Native(frame) if has_python && frame.is_in_cpython() => false,
            // Around the outermost own frame there is but the start of the thread.
            Row::Native(_) if last_own.is_some_and(|last| at > last) => false,
            Row::Native(frame) if frame.signal => true,
            Row::Native(frame) if frame.is_library() => {
                let next = rows.get(at + 1);
                !matches!(next, Some(Row::Native(next)) if next.is_library() && !next.signal)
            }
            _ => true,
        };
        if keep {
            kept.push(*row);
        }
    }
    if last_own.is_none() { rows } else { kept }
}

/// Whether this is the `main` that rustc makes to call the program's own.
fn is_rust_entry(rows: &[Row<'_>], at: usize) -> bool {
    let before = at.checked_sub(1).and_then(|before| rows.get(before));
    let (Some(Row::Native(frame)), Some(Row::Native(before))) = (rows.get(at), before) else {
        return false;
    };
    frame.function_name() == "main" && before.function_name().contains("lang_start")
}

fn write_end(page: &mut Page, stack: &NativeStack) {
    if let Some(reason) = &stack.cut {
        page.wrapped(
            "      … ",
            "        ",
            &format!("native frames end here: {}", clean(reason)),
        );
    }
    if stack.grade == Grade::Guessed {
        page.line("      (read without a stop: frames marked ? may be wrong)");
    }
}

fn write_frames(page: &mut Page, state: &ThreadState, all: bool) {
    let frames = &state.frames;
    if frames.is_empty() && state.cut.is_none() {
        page.line("      no Python frames");
    }
    let rows = fold(frames.iter().map(Row::Frame).collect(), all);
    write_rows(page, rows, all);
    if let Some(reason) = &state.cut {
        page.line(&format!("      … cut here: {}", clean(reason)));
    }
}

/// A line of a shown stack.
#[derive(Clone, Copy)]
enum Row<'f> {
    Frame(&'f Frame),
    Native(&'f NativeFrame),
    Folded { count: usize, of: &'static str },
}

impl Row<'_> {
    /// Frames that are folded when there are some in a row.
    fn of_runner(&self) -> bool {
        match self {
            Self::Frame(frame) => frame.is_test_runner(),
            _ => false,
        }
    }
}

fn write_rows(page: &mut Page, rows: Vec<Row<'_>>, all: bool) {
    for row in rows {
        let shown = match row {
            Row::Frame(frame) => python_line(frame),
            Row::Native(frame) => native_line(frame, all),
            Row::Folded { count, of } => {
                page.line(&format!("      … {count} frames{of} …"));
                continue;
            }
        };
        if all {
            page.line(&shown);
        } else {
            page.line(&shorten_path(&shown, page.width()));
        }
        if let Row::Frame(frame) = row {
            for local in &frame.locals {
                page.line(&cut(
                    &format!("          {} = {}", clean(&local.name), clean(&local.value)),
                    page.width(),
                ));
            }
        }
    }
}

fn python_line(frame: &Frame) -> String {
    let line = frame
        .line
        .map_or_else(String::new, |line| format!(":{line}"));
    format!(
        "      {} ({}{line})",
        clean(&frame.function),
        clean(&frame.file)
    )
}

/// A native frame: its source where that is known, else the file that is mapped there, and with `all` the address in it.
fn native_line(frame: &NativeFrame, all: bool) -> String {
    let doubt = if frame.guessed { "? " } else { "" };
    let function = match &frame.function {
        Some(function) => clean(function),
        None => "??".to_owned(),
    };
    let place = match (&frame.file, &frame.module) {
        // Where Rust's library and registries lie says nothing.
        (Some(_), _) if frame.is_library() && !all => match (frame.file_name(), frame.line) {
            (Some(name), Some(line)) => format!("{}:{line}", clean(&Foreign::from(name))),
            (name, _) => clean(&Foreign::from(name.unwrap_or_default())),
        },
        (Some(file), _) => {
            let line = frame
                .line
                .map_or_else(String::new, |line| format!(":{line}"));
            format!("{}{line}", clean(file))
        }
        (None, Some(module)) => match (frame.in_module, all || frame.function.is_none()) {
            (Some(at), true) => format!("{} + {at}", clean(module)),
            _ => clean(module),
        },
        (None, None) => frame.address.to_string(),
    };
    let note = match (frame.signal, frame.inlined && all) {
        (true, _) => ", a signal handler was begun here",
        (_, true) => ", inlined",
        _ => "",
    };
    format!("      {doubt}{function} ({place}{note})")
}

/// Frames with the test runner's own ones folded, and the middle left out of what is still long.
fn fold(rows: Vec<Row<'_>>, all: bool) -> Vec<Row<'_>> {
    if all {
        return rows;
    }
    let mut folded = Vec::new();
    for run in rows.chunk_by(|a, b| a.of_runner() == b.of_runner()) {
        if run.len() >= MIN_FOLDED && run.first().is_some_and(Row::of_runner) {
            folded.push(Row::Folded {
                count: run.len(),
                of: " of the test runner",
            });
        } else {
            folded.extend(run.iter().copied());
        }
    }
    let hidden = folded.len().saturating_sub(2 * STACK_ENDS);
    if hidden > 1 {
        let middle = [Row::Folded {
            count: hidden,
            of: "",
        }];
        folded.splice(STACK_ENDS..STACK_ENDS + hidden, middle);
    }
    folded
}

/// Cuts the middle of a line that is too long: its start has the function, its end the file and line.
fn shorten_path(line: &str, width: usize) -> String {
    let characters: Vec<char> = line.chars().collect();
    if characters.len() <= width {
        return line.to_owned();
    }
    let open = characters
        .iter()
        .position(|c| *c == '(')
        .map_or(width / 2, |at| at + 1);
    let head = open.min(width / 2);
    let tail = characters.len() - (width - head - 1);
    let start: String = characters[..head].iter().collect();
    let end: String = characters[tail..].iter().collect();
    format!("{start}…{end}")
}
