//! What is read of event loops and their tasks, on each version, against what the libraries say themselves.

use crate::capture::{assert_complete, on_versions, root};
use crate::support::hangscope::{assert_resolves, dump_with};
use crate::support::program::Program;
use crate::support::{pythons, repository};
use hangscope::model::{EventLoop, Report, Task, TaskLibrary, TaskState};
use hangscope::report::{self, Format, Style};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What a program says of one of its tasks.
#[derive(serde::Deserialize)]
struct Told {
    parent: Option<String>,
    frames: Vec<(String, String, u32)>,
    #[serde(default)]
    cancelled: bool,
    #[serde(default)]
    uncancellable: bool,
    #[serde(default)]
    scopes: Vec<(Option<i64>, bool, bool)>,
    call: Option<String>,
    state: Option<BTreeMap<String, String>>,
    #[serde(default)]
    held_by: Vec<String>,
    #[serde(default)]
    awaits: Vec<String>,
}

type AllTold = BTreeMap<String, Told>;

fn start(version: &str, name: &str, args: &[&str]) -> Option<(Program, AllTold)> {
    let python = pythons::python_with_packages(version)?;
    let script = repository("fixtures/programs").join(format!("{name}_program.py"));
    let mut program = Program::start(Command::new(python).arg(script).args(args));
    let lines = program.wait_for("READY");
    let told = lines.first().map_or_else(AllTold::new, |line| {
        serde_json::from_str(line).expect("JSON of the program")
    });
    Some((program, told))
}

/// A look at a program, which must have stood still for it.
fn look(program: &mut Program) -> Report {
    // The program goes on for a moment after READY until it is idle.
    for _ in 0..50 {
        let report = dump_with(program.pid(), &["--samples", "1"]).report();
        program.must_be_alive();
        let loops = &root(&report).event_loops;
        if !loops.is_empty()
            && loops
                .iter()
                .all(|found| !found.moving && found.idle == Some(true))
        {
            assert_complete(&report);
            assert_resolves(&report);
            return report;
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    panic!("its loops never stood still");
}

fn name(event_loop: &EventLoop, key: &hangscope::model::Key) -> String {
    let task = event_loop.task(key);
    task.map_or("?".to_owned(), |task| task.name.untrusted().to_owned())
}

fn compare(event_loop: &EventLoop, task: &Task, told: &Told) {
    let who = task.name.untrusted();
    let names = |keys: &[hangscope::model::Key]| {
        let mut names: Vec<String> = keys.iter().map(|key| name(event_loop, key)).collect();
        names.sort();
        names
    };
    // The one that speaks goes on to another line.
    if who != "__main__.main" {
        let frames: Vec<(String, String, u32)> = task
            .frames
            .iter()
            .map(|frame| {
                let function = frame.function.untrusted();
                let function = function.rsplit('.').next().unwrap_or(function);
                let file = frame.file.untrusted().to_owned();
                (function.to_owned(), file, frame.line.unwrap_or(0))
            })
            .collect();
        assert_eq!(frames, told.frames, "{who}");
        assert_eq!(task.state, TaskState::Waiting, "{who}");
    }
    let Some(state) = &told.state else {
        return;
    };
    let awaits = task
        .awaits
        .as_ref()
        .unwrap_or_else(|| panic!("{who} waits for nothing"));
    assert_eq!(
        awaits.call.as_ref().map(|call| call.untrusted()),
        told.call.as_deref(),
        "{who}"
    );
    let facts: BTreeMap<String, String> = awaits
        .object
        .iter()
        .flat_map(|object| &object.state)
        .map(|fact| (fact.name.clone(), fact.value.untrusted().to_owned()))
        .collect();
    assert_eq!(facts, *state, "{who}");
    let holders: Vec<String> = awaits
        .holders
        .iter()
        .map(|holder| name(event_loop, holder.task.as_ref().expect("a task")))
        .collect();
    assert_eq!(holders, told.held_by, "{who}");
    if event_loop.library == TaskLibrary::Asyncio {
        assert_eq!(names(&awaits.tasks), told.awaits, "{who}");
    }
}

fn check_trio_loop(event_loop: &EventLoop, told: &AllTold) {
    assert_eq!(event_loop.library, TaskLibrary::Trio);
    assert_eq!(event_loop.tasks.len(), told.len());
    assert_eq!((event_loop.ready, event_loop.timers), (Some(0), Some(2)));
    let next = event_loop.next_timer_ms.expect("a timer");
    assert!((4_900_000..=5_000_000).contains(&next), "{next}");
    for task in &event_loop.tasks {
        let who = task.name.untrusted();
        let told = &told[who];
        compare(event_loop, task, told);
        let parent = task.parent.as_ref().map(|key| name(event_loop, key));
        assert_eq!(parent, told.parent, "{who}");
        assert_eq!(task.cancelled, told.cancelled, "{who}");
        assert_eq!(task.system, who.starts_with('<'), "{who}");
        if who == "__main__.main" {
            continue;
        }
        assert_eq!(task.uncancellable, told.uncancellable, "{who}");
        assert_eq!(task.scopes.len(), told.scopes.len(), "{who}");
        for (scope, (deadline, shield, cancel_called)) in task.scopes.iter().zip(&told.scopes) {
            assert_eq!(
                (scope.shield, scope.cancel_called),
                (*shield, *cancel_called),
                "{who}"
            );
            let read = scope.deadline_ms.map(|left| left / 1000);
            let near = match (read, deadline) {
                (Some(read), Some(told)) => (told - 60..=told + 1).contains(&read),
                (read, told) => read.is_none() && told.is_none(),
            };
            assert!(near, "{who}: {read:?} is not {deadline:?}");
        }
    }
    let thread = event_loop
        .tasks
        .iter()
        .find(|task| task.name.untrusted() == "thread");
    let worker = thread.and_then(|task| task.awaits.as_ref()?.thread.as_ref());
    assert!(worker.is_some() && worker != event_loop.thread.as_ref());
}

fn check_trio(version: &str) {
    let Some((mut program, told)) = start(version, "trio_tasks", &[]) else {
        return;
    };
    let report = look(&mut program);
    let process = root(&report);
    assert_eq!(process.event_loops.len(), 1);
    let event_loop = &process.event_loops[0];
    check_trio_loop(event_loop, &told);
    assert_eq!(event_loop.thread, Some(process.key.thread(process.pid)));
    assert_eq!(event_loop.interpreter, process.key.interpreter(0));
}

fn check_trio_in_subinterpreter(version: &str) {
    let Some((mut program, told)) = start(version, "trio_tasks", &["sub"]) else {
        return;
    };
    let report = look(&mut program);
    let process = root(&report);
    assert_eq!(process.event_loops.len(), 1);
    let event_loop = &process.event_loops[0];
    check_trio_loop(event_loop, &told);
    let thread = event_loop
        .thread
        .as_ref()
        .and_then(|key| process.thread(key));
    assert_eq!(
        thread.expect("its thread").display_name().untrusted(),
        "runs-sub"
    );
    assert_eq!(event_loop.interpreter, process.key.interpreter(1));
}

fn check_asyncio(version: &str) {
    let Some((mut program, mut told)) = start(version, "asyncio_tasks", &[]) else {
        return;
    };
    let report = look(&mut program);
    let process = root(&report);
    assert_eq!(process.event_loops.len(), 1);
    let event_loop = &process.event_loops[0];
    assert_eq!(event_loop.thread, Some(process.key.thread(process.pid)));
    assert_eq!((event_loop.ready, event_loop.timers), (Some(0), Some(2)));
    assert_eq!(event_loop.running, None);
    for task in &event_loop.tasks {
        let Some(told) = told.remove(task.name.untrusted()) else {
            continue;
        };
        compare(event_loop, task, &told);
        if task.name.untrusted() == "executor" {
            let worker = task
                .awaits
                .as_ref()
                .and_then(|awaits| awaits.thread.as_ref());
            let worker = worker
                .and_then(|key| process.thread(key))
                .expect("its worker");
            assert_ne!(worker.tid, process.pid);
        }
    }
    assert!(told.is_empty(), "missing: {:?}", told.keys());
    // The tasks of the program, and main itself.
    assert_eq!(event_loop.tasks.len(), 17);
}

/// A loop that has something to do is never called idle; a task that blocks its loop is named.
fn check_busy(version: &str) {
    let Some((mut program, _)) = start(version, "busy_loops", &[]) else {
        return;
    };
    let mut named = false;
    for _ in 0..10 {
        let report = dump_with(program.pid(), &["--samples", "2", "--interval", "20ms"]).report();
        program.must_be_alive();
        for process in report.samples.iter().flat_map(|sample| &sample.processes) {
            for event_loop in &process.event_loops {
                assert_ne!(event_loop.idle, Some(true), "{event_loop:#?}");
                let running = event_loop
                    .running
                    .as_ref()
                    .and_then(|key| event_loop.task(key));
                named |= running.is_some_and(|task| task.name.untrusted() == "runs-on");
            }
        }
    }
    assert!(named, "{version}: the running task was never seen");
}

on_versions! {
    trio: check_trio [py39 py310 py311 py312 py313 py314 py315];
    trio_in_subinterpreter: check_trio_in_subinterpreter [py314 py315];
    asyncio: check_asyncio [py39 py310 py311 py312 py313 py314 py315];
    busy: check_busy [py39 py312 py314 py315];
}

/// The text of two saved dumps, of real runs of the programs above on 3.14 (`HANGSCOPE_SAVE_DUMPS=1` writes them anew).
#[test]
fn the_text_of_a_tree() {
    for name in ["trio_tasks", "asyncio_tasks"] {
        let path = repository("fixtures/tasks").join(format!("{name}.dump.json"));
        if std::env::var_os("HANGSCOPE_SAVE_DUMPS").is_some()
            && let Some((mut program, _)) = start("3.14", name, &[])
        {
            let text = serde_json::to_string_pretty(&saved(&look(&mut program))).expect("JSON");
            std::fs::write(&path, text + "\n").expect("written");
        }
        let text = std::fs::read(&path).expect("a saved dump");
        let mut report: Report = serde_json::from_slice(&text).expect("a report");
        report.options.width = 80;
        let mut out = Vec::new();
        report::render(Format::Text, &report, Style::plain(), &mut out).expect("text");
        let text = String::from_utf8(out).expect("UTF-8");
        for line in text.lines() {
            assert!(line.chars().count() <= 80, "too long: {line}");
        }
        insta::assert_snapshot!(name, text);
    }
}

/// Without the paths of the machine that it was made on.
fn saved(report: &Report) -> Report {
    let mut text = serde_json::to_string(report).expect("JSON");
    let prefix = |python: Option<PathBuf>| {
        let python = python.expect("CPython 3.14");
        let prefix = python.parent().and_then(Path::parent).expect("a prefix");
        prefix.to_str().expect("UTF-8").to_owned()
    };
    for (found, shown) in [
        (prefix(pythons::python_with_packages("3.14")), "/srv/venv"),
        (prefix(pythons::python("3.14")), "/usr"),
        (
            repository("fixtures/programs")
                .to_str()
                .expect("UTF-8")
                .to_owned(),
            "/srv/suite",
        ),
    ] {
        text = text.replace(&found, shown);
    }
    serde_json::from_str(&text).expect("a report")
}
