//! All processes with their threads: one line each, or whole stacks.

use super::super::whereabouts::{known, role_of, told_by_itself};
use super::super::{Style, clean, clean_word};
use super::findings::is_worth_a_line;
use super::holding;
use super::layout::{Page, cut};
use super::signals;
use super::stacks;
use super::tasks;
use crate::model::{
    Foreign, Frame, Key, Motion, NativeStack, Process, PythonReader, Report, RuntimeKind,
    SocketState, Thread, ThreadKind, Trigger, Wait, WaitKind,
};
use comfy_table::{ContentArrangement, Table, presets};
use std::collections::{BTreeMap, BTreeSet};

/// Threads of one process that are listed one by one, and stacks of those involved in a finding; identical ones beyond are
/// folded.
const MAX_LISTED: usize = 40;
/// The column of what a thread does.
const DOING: usize = 3;

pub(super) fn write(page: &mut Page, style: Style, report: &Report) {
    let Some(last) = report.samples.last() else {
        return;
    };
    let context = Context::of(report);
    for process in &last.processes {
        page.gap();
        write_one(page, style, report, &context, process);
    }
    if !report.options.all && report.trigger == Trigger::Dump {
        page.gap();
        page.line("(all stacks: --all · JSON: --format json)");
    }
}

/// What the analysis says of the threads.
pub(super) struct Context<'r> {
    motions: BTreeMap<&'r Key, Motion>,
    involved: BTreeSet<&'r Key>,
}

impl<'r> Context<'r> {
    pub(super) fn of(report: &'r Report) -> Self {
        let progress = report.analysis.progress.iter();
        let findings = report.analysis.findings.iter();
        Self {
            motions: progress
                .map(|progress| (&progress.thread, progress.motion))
                .collect(),
            involved: findings
                .flat_map(|finding| finding.blockers.iter().chain([&finding.waiter]))
                .collect(),
        }
    }
}

/// One process with its threads.
pub(super) fn write_one(
    page: &mut Page,
    style: Style,
    report: &Report,
    context: &Context<'_>,
    process: &Process,
) {
    write_process(page, style, report, process);
    write_table(page, process, &context.motions, &context.involved);
    tasks::write(page, report, process);
    let Some(sample) = report.samples.last() else {
        return;
    };
    let all = report.options.all;
    let shown: Vec<&Thread> = process
        .threads
        .iter()
        .filter(|thread| all || context.involved.contains(&thread.key))
        .collect();
    let most = if all { shown.len() } else { MAX_LISTED };
    for thread in shown.iter().take(most) {
        stacks::write(page, style, sample, thread, all);
    }
    if shown.len() > most {
        page.gap();
        page.line(&format!(
            "  … and the stacks of {} more of them: --all",
            shown.len() - most
        ));
    }
}

fn write_process(page: &mut Page, style: Style, report: &Report, process: &Process) {
    let command = process.argv.iter().map(clean).collect::<Vec<_>>().join(" ");
    let command = if command.is_empty() {
        clean(&process.name)
    } else {
        command
    };
    let title = cut(&format!("process {} {command}", process.pid), page.width());
    page.line(&style.strong(&title));
    let mut parts = Vec::new();
    match (&process.python, process.runtime) {
        (Some(python), _) => {
            let build = if python.free_threaded {
                " free-threaded"
            } else {
                ""
            };
            let reader = match python.reader {
                PythonReader::Own => "",
                PythonReader::PySpy => ", read by py-spy",
            };
            parts.push(format!(
                "CPython {}{build}{reader}",
                clean_word(&python.version)
            ));
        }
        (None, RuntimeKind::Unknown) => parts.push("unknown program".to_owned()),
        (None, RuntimeKind::Rust) => parts.push("Rust program".to_owned()),
        (None, _) => parts.push("native program".to_owned()),
    }
    parts.push(plural(process.coverage.threads, "thread"));
    if process.coverage.interpreters > 0 {
        parts.push(plural(process.coverage.interpreters, "interpreter"));
    }
    match process.state.as_str() {
        "T" => parts.push("stopped".to_owned()),
        "t" => parts.push("stopped by its tracer".to_owned()),
        "Z" => parts.push("leader has ended".to_owned()),
        _ => {}
    }
    if let Some(tracer) = process.tracer {
        parts.push(format!("traced by {tracer}"));
    }
    let pause = report.samples.last().and_then(|sample| {
        let mut pauses = sample.pauses.iter();
        pauses.find(|pause| pause.process == process.key)
    });
    if let Some(pause) = pause {
        let ms = pause.stopped_us.div_ceil(1000);
        parts.push(format!("stopped for {ms} ms to be read"));
    }
    match known(report, process) {
        Some(known) => parts.push(role_of(report, known)),
        None => {
            let test = told_by_itself(process);
            if !test.is_empty() {
                parts.push(format!("test {test}"));
            }
        }
    }
    page.wrapped("  ", "  ", &parts.join(" · "));
    for interpreter in process
        .interpreters
        .iter()
        .filter(|interpreter| interpreter.finalizing && interpreter.id != 0)
    {
        page.line(&format!("  interpreter {} is being ended", interpreter.id));
    }
    for line in signals::lines(process) {
        page.wrapped("  ", "    ", &line);
    }
}

pub(super) fn plural(count: usize, noun: &str) -> String {
    let s = if count == 1 { "" } else { "s" };
    format!("{count} {noun}{s}")
}

fn write_table(
    page: &mut Page,
    process: &Process,
    motions: &BTreeMap<&Key, Motion>,
    involved: &BTreeSet<&Key>,
) {
    let mut rows: Vec<(Vec<String>, usize)> = Vec::new();
    let mut details: Vec<Option<String>> = Vec::new();
    let mut index: BTreeMap<Vec<String>, usize> = BTreeMap::new();
    let fold = process.threads.len() > MAX_LISTED;
    for thread in process
        .threads
        .iter()
        .filter(|thread| is_worth_a_line(thread.kind))
    {
        let motion = motions.get(&thread.key).copied().unwrap_or(Motion::Unknown);
        let what = vec![
            state_word(thread, motion).to_owned(),
            doing(process, thread),
            place(thread),
        ];
        // With many threads, those that do the same at the same place share a line.
        if fold
            && (involved.len() > MAX_LISTED || !involved.contains(&thread.key))
            && let Some(row) = index.get(&what)
        {
            rows[*row].1 += 1;
            continue;
        }
        index.insert(what.clone(), rows.len());
        let mut row = vec![clean(thread.display_name()), thread.tid.to_string()];
        row.extend(what);
        rows.push((row, 0));
        details.push(thread.wait.as_ref().and_then(in_full));
    }
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_content_arrangement(ContentArrangement::Disabled);
    let limits = column_limits(page.width(), &rows);
    for ((row, more), detail) in rows.iter().zip(&mut details) {
        let mut cells: Vec<String> = row
            .iter()
            .zip(limits)
            .map(|(cell, limit)| cut(cell, limit))
            .collect();
        if row[DOING] == cells[DOING] {
            *detail = None;
        }
        if *more > 0 {
            cells[0] = cut(&format!("{} × {}", row[0], more + 1), limits[0]);
        }
        table.add_row(cells);
    }
    for (line, detail) in table.lines().zip(details) {
        page.line(&cut(&format!(" {line}"), page.width()));
        if let Some(text) = detail {
            page.wrapped("      ", "      ", &text);
        }
    }
}

/// Widths of the columns, in proportion to what they need, so that a row fits the page.
fn column_limits(width: usize, rows: &[(Vec<String>, usize)]) -> [usize; 5] {
    use unicode_width::UnicodeWidthStr;
    let mut need = [0_usize; 5];
    for (row, more) in rows {
        for (column, cell) in row.iter().enumerate().take(5) {
            let extra = if column == 0 && *more > 0 { 7 } else { 0 };
            need[column] = need[column].max(cell.width() + extra);
        }
    }
    // Each column is padded by one space on either side, and the line is indented by one.
    let space = width.saturating_sub(11);
    let fixed = need[1] + need[2];
    let flexible = space.saturating_sub(fixed).max(30);
    let wanted = need[0] + need[3] + need[4];
    if wanted <= flexible {
        return need;
    }
    let name = need[0].min(flexible / 4);
    // Where a thread is tells more than what it does there.
    let rest = flexible - name;
    let place = need[4].min(rest - need[3].min(rest * 2 / 5));
    [name, need[1], need[2], rest - place, place]
}

fn state_word(thread: &Thread, motion: Motion) -> &'static str {
    match (motion, thread.kernel.state.as_str()) {
        (_, "T" | "t") => "stopped",
        (Motion::Starved, _) => "starved",
        (Motion::Busy, _) => "busy",
        (Motion::Stirring, _) => "stirring",
        (Motion::Looping, _) => "looping",
        (Motion::Moving, _) => "running",
        _ if thread.wait.is_some() => "waiting",
        (_, "R") => "running",
        (_, "D") => "in disk wait",
        _ => "blocked",
    }
}

pub(in crate::report) fn doing(process: &Process, thread: &Thread) -> String {
    let Some(wait) = &thread.wait else {
        return match thread.kind {
            ThreadKind::Native if process.python.is_some() => "no Python".to_owned(),
            _ => String::new(),
        };
    };
    let call = wait.call.as_ref().map(clean);
    let file = || {
        wait.descriptor.as_ref().map_or_else(String::new, |file| {
            format!(" {}", clean(&file.short_words()))
        })
    };
    let mut text = match wait.kind {
        WaitKind::Gil => "GIL".to_owned(),
        WaitKind::ThreadExit => {
            let target = wait.target.as_ref().and_then(|key| process.thread(key));
            let name = target.map_or_else(
                || "a thread".to_owned(),
                |thread| clean(thread.display_name()),
            );
            format!("join({name})")
        }
        WaitKind::Lock => call.unwrap_or_else(|| holding::named("Lock", wait)),
        WaitKind::RLock => match call {
            Some(call) => format!("{call} (RLock)"),
            None => holding::named("RLock", wait),
        },
        WaitKind::Futex => call
            .or_else(|| Some(clean(&wait.native_call.as_ref()?.function)))
            .unwrap_or_else(|| "lock or semaphore".to_owned()),
        WaitKind::SharedFutex => "lock between processes".to_owned(),
        WaitKind::Sleep => "sleep".to_owned(),
        WaitKind::Read => format!("read{}", file()),
        WaitKind::Write => format!("write{}", file()),
        WaitKind::Poll => match wait.short_files_words() {
            Some(files) => format!("poll {}", clean(&files)),
            None => format!("poll{}", file()),
        },
        WaitKind::Connection if is_listener(wait) => format!("accept{}", file()),
        WaitKind::Connection => format!("connection{}", file()),
        WaitKind::Child => match &wait.child {
            Some(child) => clean(&child.words()),
            None => "child's end".to_owned(),
        },
        WaitKind::Signal => "signal".to_owned(),
        WaitKind::FileLock => format!("file lock{}", file()),
        WaitKind::Syscall => thread
            .kernel
            .syscall
            .as_ref()
            .and_then(|call| call.name.as_deref())
            .map(clean_word)
            .unwrap_or_else(|| "system call".to_owned()),
    };
    if wait.kind != WaitKind::Futex
        && let Some(call) = wait.native_call.as_ref().filter(|call| call.is_telling())
    {
        text = format!("{}: {text}", clean(&call.function));
    }
    if let Some(left) = wait.remaining_ms {
        text.push_str(&format!(" {} s left", left / 1000));
    } else if let Some(length) = wait.length_ms {
        let how = match wait.kind {
            WaitKind::Sleep => " of",
            _ => ", at most",
        };
        text.push_str(&format!("{how} {}", seconds(length)));
    }
    text
}

/// The files or the child that a thread waits for, in full: the table's column has room for few.
fn in_full(wait: &Wait) -> Option<String> {
    if let Some(child) = &wait.child {
        return Some(format!("waits for {}", clean(&child.words())));
    }
    let file = || Some(wait.descriptor.as_ref()?.words());
    let files = wait.files_words().or_else(file)?;
    Some(format!("waits on {}", clean(&files)))
}

/// "0.5 s", "3600 s".
fn seconds(ms: u64) -> String {
    if ms < 10_000 {
        format!("{}.{} s", ms / 1000, ms % 1000 / 100)
    } else {
        format!("{} s", ms / 1000)
    }
}

fn is_listener(wait: &Wait) -> bool {
    let state = wait.descriptor.as_ref().and_then(|file| file.state);
    state == Some(SocketState::Listen)
}

pub(in crate::report) fn place(thread: &Thread) -> String {
    let mut frames = thread.frames();
    let own = thread.frames().find(|frame| !frame.is_library());
    if let Some(frame) = own.or_else(|| frames.next()) {
        return spot(frame);
    }
    let native = thread.native.as_ref().and_then(NativeStack::own_frame);
    match native {
        Some(frame) => clean(&Foreign::from(frame.place())),
        None => thread
            .kernel
            .wchan
            .as_ref()
            .map_or_else(String::new, |wchan| format!("[{}]", clean(wchan))),
    }
}

pub(super) fn spot(frame: &Frame) -> String {
    let file = clean(&Foreign::from(frame.file_name()));
    let line = frame
        .line
        .map_or_else(String::new, |line| format!(":{line}"));
    format!("{} ({file}{line})", clean(&frame.function))
}
