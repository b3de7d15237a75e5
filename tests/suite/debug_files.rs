//! Lines of a C program whatever way its debug information is kept: compressed, in a file of its own, of a program whose file has
//! been removed.

use crate::support::fixture;
use crate::support::hangscope::dump_with;
use crate::support::program::Program;
use hangscope::model::Report;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Function, source file and line of a frame.
type Place = (String, String, Option<u32>);

fn run(program: &str, arguments: &[&str], files: &[&Path]) -> bool {
    let mut command = Command::new(program);
    let status = command.args(arguments).args(files).status();
    status.expect(program).success()
}

fn build(folder: &Path) -> PathBuf {
    let program = folder.join("hangs");
    let options = ["-g", "-O1", "-pthread", "-o"];
    let built = run("cc", &options, &[&program, &fixture("hangs/c/hangs.c")]);
    assert!(built, "it does not build");
    program
}

/// The program's own frames of the main thread.
fn places(program: &Path) -> Vec<Place> {
    places_of(&report(program, |_| ()))
}

/// `meanwhile` is given the file when it runs.
fn report(program: &Path, meanwhile: impl FnOnce(&Path)) -> Report {
    let mut running = Program::start(Command::new(program).arg("mutex-twice"));
    running.wait_for("READY");
    running.wait_for_rest();
    meanwhile(program);
    let report = dump_with(running.pid(), &["--native"]).report();
    running.must_be_alive();
    report
}

fn places_of(report: &Report) -> Vec<Place> {
    let sample = report.samples.last().expect("a sample");
    let mut threads = sample.processes[0].threads.iter();
    let main = threads.find(|thread| thread.key.is_leader());
    let main = main.expect("its main thread");
    let stack = main.native.as_ref().expect("its stack");
    let own = stack.frames.iter().filter(|frame| !frame.is_library());
    let text = |it: &Option<hangscope::model::Foreign>| {
        let it = it.as_ref().map_or("", |it| it.untrusted());
        it.rsplit('/').next().unwrap_or(it).to_owned()
    };
    own.map(|frame| (text(&frame.function), text(&frame.file), frame.line))
        .collect()
}

#[test]
fn lines_however_they_are_kept() {
    let folder = tempfile::tempdir().expect("a folder");
    let plain = build(folder.path());
    let expected = places(&plain);
    let has_line = |(_, file, line): &Place| file == "hangs.c" && line.is_some();
    assert!(
        !expected.is_empty() && expected.iter().all(has_line),
        "{expected:?}"
    );

    for how in ["zlib", "zlib-gnu", "zstd"] {
        let compressed = folder.path().join(how);
        let option = format!("--compress-debug-sections={how}");
        // Older binutils know no zstd.
        if run("objcopy", &[&option], &[&plain, &compressed]) {
            assert_eq!(places(&compressed), expected, "{how}");
        } else {
            assert_eq!(how, "zstd", "objcopy cannot do that");
        }
    }

    let bare = folder.path().join("bare");
    let debug = folder.path().join("bare.debug");
    assert!(run("objcopy", &["--only-keep-debug"], &[&plain, &debug]));
    assert!(run("objcopy", &["--strip-debug"], &[&plain, &bare]));
    let without = places(&bare);
    let names = |places: &[Place]| Vec::from_iter(places.iter().map(|place| place.0.clone()));
    // Functions that were inlined are known by debug information only.
    assert!(names(&expected).ends_with(&names(&without)), "{without:?}");
    assert!(
        !without.is_empty() && !without.iter().any(has_line),
        "{without:?}"
    );
    let link = format!("--add-gnu-debuglink={}", debug.display());
    assert!(run("objcopy", &[&link], &[&bare]));
    assert_eq!(places(&bare), expected, "debuglink");

    let removed = report(&plain, |file| std::fs::remove_file(file).expect("removed"));
    assert_eq!(places_of(&removed), expected, "removed");
}

#[test]
fn a_stripped_program_is_told_to_be_one() {
    let folder = tempfile::tempdir().expect("a folder");
    let plain = build(folder.path());
    let told = |program: &Path| {
        let report = report(program, |_| ());
        let gaps = report.samples.last().expect("a sample").gaps.iter();
        let missing = gaps.map(|gap| gap.missing.untrusted().to_owned());
        missing
            .filter(|missing| missing.contains("the program"))
            .collect::<Vec<_>>()
    };
    assert!(told(&plain).is_empty());
    assert!(run("strip", &[], &[&plain]));
    assert_eq!(told(&plain), ["names of the program's functions"]);
}
