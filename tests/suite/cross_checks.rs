//! Frames of code of every shape, against three other accounts of them: the program's own (`sys._current_frames()`), py-spy's,
//! and that of CPython's remote unwinder (3.14+).

use crate::support::hangscope::dump_with;
use crate::support::program::Program;
use crate::support::{pythons, repository, skip};
use hangscope::model::{Addr, Process, ThreadState};
use nix::unistd::Uid;
use py_spy::config::LockingStrategy;
use py_spy::{Config, PythonSpy, StackTrace};
use std::collections::BTreeMap;
use std::process::Command;

/// The table of opcodes by which the names are found that a frame may still use is that of each Python.
#[test]
fn opcodes_are_those_of_each_python() {
    let table = std::fs::read_to_string(repository("src/capture/python/bytecode/opcodes.txt"))
        .expect("the table");
    for version in pythons::ALL {
        let Some(python) = pythons::python(version) else {
            continue;
        };
        let mut command = Command::new(python);
        let output = command
            .arg(repository("tests/opcodes.py"))
            .output()
            .expect("runs");
        let told = String::from_utf8(output.stdout).expect("text");
        let known = table
            .lines()
            .find(|line| line.starts_with(&format!("{version} ")));
        assert_eq!(known, Some(told.trim_end()), "{version}");
    }
}

/// Function, file, and line or 0.
type Line = (String, String, u32);

/// What one interpreter of the program says.
#[derive(serde::Deserialize)]
struct Told {
    interpreter: i64,
    threads: BTreeMap<i32, ToldThread>,
}

#[derive(serde::Deserialize)]
struct ToldThread {
    shape: String,
    frames: Vec<Line>,
}

struct Scene {
    version: &'static str,
    program: Program,
    told: Vec<Told>,
    process: Process,
}

impl Scene {
    /// Runs the program and looks at it once.
    fn of(version: &'static str, args: &[&str]) -> Option<Self> {
        let python = pythons::python(version)?;
        let script = repository("fixtures/programs/shapes_program.py");
        let mut program = Program::start(Command::new(python).arg(script).args(args));
        let lines = program.wait_for("READY");
        let told = lines
            .iter()
            .map(|line| serde_json::from_str(line).expect("JSON of the program"))
            .collect();
        let mut report = dump_with(program.pid(), &["--samples", "1"]).report();
        program.must_be_alive();
        let mut sample = report.samples.pop().expect("a sample");
        Some(Self {
            version,
            program,
            told,
            process: sample.processes.swap_remove(0),
        })
    }

    /// Each thread that was told of, with its thread state there.
    fn states(&self) -> impl Iterator<Item = (&ToldThread, &ThreadState)> {
        self.told.iter().flat_map(move |told| {
            told.threads.iter().map(move |(tid, expected)| {
                let thread = self
                    .process
                    .threads
                    .iter()
                    .find(|thread| thread.tid == *tid);
                let state = thread.and_then(|thread| thread.state_of(told.interpreter));
                let state = state.unwrap_or_else(|| {
                    panic!(
                        "{}: {} of interpreter {} is not there",
                        self.version, expected.shape, told.interpreter
                    )
                });
                (expected, state)
            })
        })
    }

    fn check(&self) {
        let minor = pythons::minor(self.version);
        for (expected, state) in self.states() {
            let context = format!("{}: {}", self.version, expected.shape);
            let found = lines(state);
            assert_eq!(state.cut, None, "{context}");
            assert_eq!(found.len(), expected.frames.len(), "{context}: {found:#?}");
            for (found, expected) in found.iter().zip(&expected.frames) {
                assert_eq!(
                    (&found.1, found.2),
                    (&expected.1, expected.2),
                    "{context}: {found:?}"
                );
                // Before 3.11 nothing leads from a frame to an inner function or to a static method.
                let of_none =
                    expected.0.contains("<locals>") || expected.0.ends_with(".of_nothing");
                let hidden = minor < 11 && of_none;
                let is_last_part = hidden && found.0 == last_part(&expected.0);
                assert!(
                    found.0 == expected.0 || is_last_part,
                    "{context}: {found:?} {expected:?}"
                );
            }
        }
    }

    fn check_by_pyspy(&self) {
        let config = Config {
            blocking: LockingStrategy::NonBlocking,
            ..Config::default()
        };
        let mut spy = PythonSpy::new(self.program.pid(), &config).expect("py-spy");
        let mut theirs: BTreeMap<(i64, Addr), StackTrace> = BTreeMap::new();
        for interpreter in &self.process.interpreters {
            spy.addresses.interpreter_address =
                usize::try_from(interpreter.address.0).expect("64 bits");
            for trace in spy.get_stack_traces().expect("py-spy's traces") {
                theirs.insert((interpreter.id, Addr(trace.thread_id)), trace);
            }
        }
        let (mut different, mut all) = (0, 0);
        for (expected, state) in self.states() {
            let context = format!("{}: {}", self.version, expected.shape);
            let trace = &theirs[&(state.interpreter_id, state.ident)];
            let ours = lines(state);
            let names: Vec<&str> = trace.frames.iter().map(|frame| &*frame.name).collect();
            assert_eq!(ours.len(), trace.frames.len(), "{context}: {names:?}");
            for (ours, theirs) in ours.iter().zip(&trace.frames) {
                assert_eq!(last_part(&ours.0), last_part(&theirs.name), "{context}");
                assert_eq!(ours.1, theirs.filename, "{context}");
                // py-spy has a number for lines that there are none of.
                let differs = ours.2 != 0 && i64::from(ours.2) != i64::from(theirs.line);
                // In 3.10's table py-spy 0.4.3 now and then takes the line before; ours is what the program says itself.
                assert!(
                    !differs || self.version == "3.10",
                    "{context}: {ours:?} {}",
                    theirs.line
                );
                different += usize::from(differs);
                all += 1;
            }
        }
        assert!(
            all > 500 && different * 50 < all,
            "{different} of {all} lines differ"
        );
    }

    fn check_by_its_own_unwinder(&self) {
        let python = pythons::python(self.version).expect("it runs");
        let output = Command::new(python)
            .arg(repository("fixtures/programs/unwinder_program.py"))
            .arg(self.program.pid().to_string())
            .output()
            .expect("the unwinder");
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{text}");
        let theirs: Vec<(i32, Vec<Line>)> =
            serde_json::from_slice(&output.stdout).expect("JSON of the unwinder");
        let mut compared = 0;
        for (tid, theirs) in theirs {
            let thread = self.process.threads.iter().find(|thread| thread.tid == tid);
            let thread = thread.unwrap_or_else(|| panic!("{}: no thread {tid}", self.version));
            // Innermost first. 3.14 leaves out the outermost frames of threads.
            let ours: Vec<Line> = thread.python.iter().flat_map(lines).collect();
            if self.version == "3.15" {
                assert_eq!(ours.len(), theirs.len(), "{ours:#?} {theirs:#?}");
            }
            assert!(ours.len() >= theirs.len(), "{ours:#?} {theirs:#?}");
            for (ours, theirs) in ours.iter().zip(&theirs) {
                assert_eq!((&ours.0, &ours.1), (&theirs.0, &theirs.1));
                if ours.2 != 0 {
                    assert_eq!(ours.2, theirs.2, "{ours:?}");
                }
                compared += 1;
            }
        }
        assert!(compared > 100, "only {compared} frames were compared");
    }
}

fn lines(state: &ThreadState) -> Vec<Line> {
    let line = |frame: &hangscope::model::Frame| {
        (
            frame.function.untrusted().to_owned(),
            frame.file.untrusted().to_owned(),
            frame.line.unwrap_or(0),
        )
    };
    state.frames.iter().map(line).collect()
}

fn last_part(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or(name)
}

/// Whether another process may be read through ptrace's rules by what we compare with.
fn may_compare() -> bool {
    let root = Uid::effective().is_root();
    if !root {
        skip("py-spy and the unwinder need root here, where Yama may forbid it to others");
    }
    root
}

macro_rules! on_versions {
    ($($module:ident $args:expr, [$($name:ident $version:literal)*];)*) => {$(
        mod $module {
            $(#[test]
            fn $name() {
                let Some(scene) = super::Scene::of($version, &$args) else { return };
                scene.check();
                if super::may_compare() {
                    scene.check_by_pyspy();
                    if super::pythons::minor($version) >= 14 {
                        scene.check_by_its_own_unwinder();
                    }
                }
            })*
        }
    )*};
}

on_versions! {
    interpreters ["plain", "interpreters"], [
        py39 "3.9" py310 "3.10" py311 "3.11" py312 "3.12" py313 "3.13" py314 "3.14" py315 "3.15"
    ];
    traced ["settrace"], [
        py39 "3.9" py310 "3.10" py311 "3.11" py312 "3.12" py313 "3.13" py314 "3.14" py315 "3.15"
    ];
    monitored ["monitoring"], [py312 "3.12" py313 "3.13" py314 "3.14" py315 "3.15"];
}
