//! Native stacks: the frames that gdb sees, and the Python frames in their places.

use crate::capture::{root, start};
use crate::support::hangscope::{command, dump_with, finish};
use crate::support::native::{c_program, rust_hangs};
use crate::support::program::{Program, until};
use crate::support::{fixture, pythons};
use hangscope::model::{Certainty, NativeStack, Process, Report, Thread, Tid};
use std::collections::BTreeMap;
use std::process::Command;

fn native_dump(program: &mut Program) -> Report {
    let run = dump_with(program.pid(), &["--native", "--samples", "1", "--no-tree"]);
    program.must_be_alive();
    run.report()
}

fn stack(thread: &Thread) -> &NativeStack {
    let native = thread.native.as_ref();
    native.unwrap_or_else(|| panic!("no native stack: {thread:?}"))
}

/// The physical frames of each thread.
fn ours(process: &Process) -> BTreeMap<Tid, Vec<u64>> {
    let physical = |thread: &Thread| {
        let frames = stack(thread).frames.iter();
        let physical = frames.filter(|frame| !frame.inlined);
        physical.map(|frame| frame.address.0).collect()
    };
    process
        .threads
        .iter()
        .map(|thread| (thread.tid, physical(thread)))
        .collect()
}

/// The same by gdb, which `tests/provision` installs.
fn by_gdb(pid: i32) -> BTreeMap<Tid, Vec<u64>> {
    let mut command = Command::new("gdb");
    command.args(["-nx", "-batch", "-p", &pid.to_string()]);
    // What it could fetch would take long, and changes no frame.
    command.args(["-iex", "set debuginfod enabled off", "-x"]);
    command.arg(fixture("programs/native/frames.py"));
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("gdb is needed ({error}); see tests/provision"));
    let said = String::from_utf8_lossy(&output.stdout);
    let lines = said.lines().filter_map(|line| line.strip_prefix("FRAMES "));
    let found: BTreeMap<Tid, Vec<u64>> = lines
        .map(|line| serde_json::from_str::<(Tid, Vec<u64>)>(line).expect("a thread's frames"))
        .collect();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(!found.is_empty(), "gdb shows nothing: {said}{errors}");
    found
}

/// All threads of a program stand still; gdb and hangscope see the same frames, to the instruction.
fn check_against_gdb(what: &str, program: &mut Program, fewest_threads: usize) {
    let mut seen = None;
    until("all of its threads stand still", || {
        let before = ours(root(&native_dump(program)));
        let gdb = by_gdb(program.pid());
        let after = native_dump(program);
        let still = before == ours(root(&after));
        seen = Some((after, gdb));
        still
    });
    let (report, gdb) = seen.expect("seen");
    let process = root(&report);
    let ours = ours(process);
    assert!(
        ours.len() >= fewest_threads,
        "{what}: {} threads",
        ours.len()
    );
    assert_eq!(
        ours.keys().collect::<Vec<_>>(),
        gdb.keys().collect::<Vec<_>>(),
        "{what}: other threads"
    );
    for (tid, frames) in &gdb {
        let thread = process.threads.iter().find(|thread| thread.tid == *tid);
        let stack = stack(thread.expect("it is among ours"));
        assert_eq!(stack.cut, None, "{what}: {stack:#?}");
        assert!(!stack.moved, "{what}: {stack:#?}");
        let differs = ours[tid].iter().zip(frames).position(|(a, b)| a != b);
        assert!(
            ours[tid] == *frames,
            "{what}: thread {tid}: {} frames, gdb has {}; the first other one is {differs:?}: {:x?} {:x?}",
            ours[tid].len(),
            frames.len(),
            ours[tid],
            frames
        );
    }
}

fn check_python(version: &str) {
    for (name, arguments) in [("shapes", &["plain"][..]), ("native_calls", &[])] {
        if let Some((mut program, _)) = start(version, name, arguments) {
            check_against_gdb(&format!("{name} on {version}"), &mut program, 8);
        }
    }
}

#[test]
fn as_gdb_has_them_py311() {
    check_python("3.11");
}

#[test]
fn as_gdb_has_them_py314() {
    check_python("3.14");
}

#[test]
fn as_gdb_has_them_py315() {
    check_python("3.15");
}

#[test]
fn as_gdb_has_them_c_with_signals() {
    let mut program = Program::start(&mut Command::new(c_program("programs/native/signals.c")));
    program.wait_for("READY");
    check_against_gdb("signals", &mut program, 8);
    let report = native_dump(&mut program);
    let threads = root(&report).threads.iter();
    let in_handlers = threads.filter(|thread| stack(thread).frames.iter().any(|one| one.signal));
    assert_eq!(in_handlers.count(), 4, "threads in handlers");
}

fn check_rust(profile: &str) {
    let program = rust_hangs(profile);
    for scene in [
        "mutex-abba",
        "crossbeam-send-full",
        "barrier-one-short",
        "once-in-itself",
    ] {
        let mut running = Program::start(Command::new(&program).arg(scene));
        running.wait_for("READY");
        check_against_gdb(&format!("{scene}, {profile}"), &mut running, 1);
    }
}

#[test]
fn as_gdb_has_them_rust_debug() {
    check_rust("dev");
}

#[test]
fn as_gdb_has_them_rust_release() {
    check_rust("release");
}

/// A thread whose interpreter is gone waits for a lock like any other; its stack tells that it runs Python code without a thread state.
#[test]
fn a_thread_without_its_interpreter_is_noticed() {
    let Some((mut program, _)) = start("3.14", "orphaned", &[]) else {
        return;
    };
    let noticed = |more: &[&str]| {
        let run = dump_with(program.pid(), more);
        let notices = run.report().analysis.notices;
        let told = notices
            .iter()
            .map(|notice| (notice.id.clone(), notice.certainty));
        told.collect::<Vec<_>>()
    };
    assert_eq!(noticed(&["--no-native"]), []);
    // Debian's has no names of functions on x86_64.
    let certainty = match cfg!(target_arch = "x86_64") {
        true => Certainty::Probable,
        false => Certainty::Certain,
    };
    let orphan = ("orphan-thread".to_owned(), certainty);
    assert_eq!(noticed(&["--native"]), [orphan]);
    program.must_be_alive();
}

#[derive(serde::Deserialize)]
struct Told {
    /// Functions, each of which was called by the next one from C code; `true`: straight from Python.
    calls: Vec<(String, String, bool)>,
    /// A C function between the two of a call from C.
    through: Option<String>,
}

/// Which call of the evaluation function, counted from inside, runs each of the Python frames.
fn evaluations(thread: &Thread) -> Vec<(String, usize)> {
    let counts = stack(thread).frames.iter().map(|frame| frame.python_frames);
    let places = counts
        .enumerate()
        .flat_map(|(at, count)| std::iter::repeat_n(at, count));
    let names = thread.frames().map(|frame| {
        let name = frame.function.untrusted();
        name.rsplit('.').next().unwrap_or(name).to_owned()
    });
    names.zip(places).collect()
}

fn check_splice(version: &str) {
    let Some((mut program, lines)) = start(version, "spliced", &[]) else {
        return;
    };
    let told: BTreeMap<String, Told> = serde_json::from_str(&lines[0]).expect("JSON");
    let report = native_dump(&mut program);
    let process = root(&report);
    let mut checked = 0;
    for thread in &process.threads {
        let name = thread.display_name().untrusted();
        let stack = stack(thread);
        assert_eq!(stack.apart, None, "{version}: {name}: {stack:#?}");
        assert_eq!(stack.counted, version == "3.9", "{version}: {name}");
        let placed: usize = stack.frames.iter().map(|frame| frame.python_frames).sum();
        assert_eq!(placed, thread.frames().count(), "{version}: {name}");
        let Some(told) = told.get(name) else {
            continue;
        };
        let evaluations = evaluations(thread);
        let place = |function: &str| {
            let found = evaluations.iter().find(|(name, _)| name == function);
            found
                .unwrap_or_else(|| panic!("{version}: {name}: no {function}: {evaluations:?}"))
                .1
        };
        for (inner, outer, straight) in &told.calls {
            let (inner, outer) = (place(inner), place(outer));
            let same = *straight && pythons::minor(version) >= 11;
            assert_eq!(inner == outer, same, "{version}: {name}: {stack:#?}");
            assert!(inner <= outer, "{version}: {name}: {stack:#?}");
        }
        if let (Some(through), Some((inner, outer, _))) = (
            &told.through,
            told.calls.iter().find(|(_, _, straight)| !straight),
        ) {
            let between = &stack.frames[place(inner)..place(outer)];
            let named = between.iter().filter_map(|frame| frame.function.as_ref());
            // What a stripped Python does not export has no name.
            let all_named = between.iter().all(|frame| frame.function.is_some());
            assert!(
                !all_named
                    || named
                        .clone()
                        .any(|one| one.untrusted().contains(through.as_str())),
                "{version}: {name}: no {through}: {between:#?}"
            );
        }
        checked += 1;
    }
    assert_eq!(checked, told.len(), "{version}");
    let pid = program.pid().to_string();
    let text = finish(command().args(["dump", &pid, "--native", "--all"])).stdout;
    let marked = text.contains("by counting calls, not by address");
    assert_eq!(marked, version == "3.9", "{version}:\n{text}");
}

macro_rules! spliced {
    ($($test:ident $version:literal)*) => {$(
        #[test]
        fn $test() {
            check_splice($version);
        }
    )*};
}

spliced! {
    python_frames_are_in_place_py39 "3.9"
    python_frames_are_in_place_py310 "3.10"
    python_frames_are_in_place_py311 "3.11"
    python_frames_are_in_place_py312 "3.12"
    python_frames_are_in_place_py313 "3.13"
    python_frames_are_in_place_py314 "3.14"
    python_frames_are_in_place_py315 "3.15"
}

/// All shapes of code, traced and monitored ones, too: each frame has a place.
#[test]
fn frames_of_every_shape_are_in_place() {
    for version in pythons::ALL {
        for mode in ["plain", "settrace", "monitoring"] {
            if mode == "monitoring" && pythons::minor(version) < 12 {
                continue;
            }
            let Some((mut program, _)) = start(version, "shapes", &[mode]) else {
                continue;
            };
            for thread in &root(&native_dump(&mut program)).threads {
                let stack = stack(thread);
                let name = thread.display_name().untrusted();
                assert_eq!(stack.apart, None, "{version}, {mode}: {name}: {stack:#?}");
                let placed: usize = stack.frames.iter().map(|frame| frame.python_frames).sum();
                assert_eq!(placed, thread.frames().count(), "{version}, {mode}: {name}");
            }
        }
    }
}

/// A process that computes is caught in the middle of things, over and over: what is placed is placed whole.
#[test]
fn running_python_is_placed_whole_or_not_at_all() {
    for version in ["3.11", "3.14", "3.15"] {
        let Some((mut program, _)) = start(version, "busy", &[]) else {
            continue;
        };
        for _ in 0..10 {
            for thread in &root(&native_dump(&mut program)).threads {
                let Some(stack) = &thread.native else {
                    continue;
                };
                let placed: usize = stack.frames.iter().map(|frame| frame.python_frames).sum();
                match &stack.apart {
                    None => assert_eq!(placed, thread.frames().count(), "{version}: {stack:#?}"),
                    Some(_) => assert_eq!(placed, 0, "{version}: {stack:#?}"),
                }
            }
        }
    }
}

/// Whether two have the same frames, but for what the kernel sets the program counter back before a tracer sees it.
fn is_as_seen(ours: &[u64], gdb: &[u64]) -> bool {
    let set_back = if cfg!(target_arch = "aarch64") { 4 } else { 0 };
    let innermost = ours.first().zip(gdb.first());
    innermost.is_some_and(|(ours, gdb)| ours.wrapping_sub(*gdb) <= set_back)
        && ours.get(1..) == gdb.get(1..)
}

/// Without a stop nothing is held, and threads that wait have their frames all the same, marked as guessed.
#[test]
fn without_a_stop() {
    let mut program = Program::start(&mut Command::new(c_program("programs/native/signals.c")));
    program.wait_for("READY");
    let run = finish(
        crate::support::hangscope::command()
            .args(["dump", &program.pid().to_string(), "--format", "json"])
            .args(["--no-stop", "--samples", "1"]),
    );
    program.must_be_alive();
    let report = run.report();
    assert!(report.samples[0].pauses.is_empty());
    let (ours, gdb) = (ours(root(&report)), by_gdb(program.pid()));
    let same = gdb
        .iter()
        .filter(|(tid, frames)| ours.get(tid).is_some_and(|ours| is_as_seen(ours, frames)));
    assert!(same.count() * 2 > gdb.len(), "most are right");
    for thread in &root(&report).threads {
        assert_eq!(stack(thread).grade, hangscope::model::Grade::Guessed);
    }
}
