//! What the tests share: interpreters, fixture programs that are always ended, and runs of the built binary.

pub(crate) mod hangscope;
pub(crate) mod native;
pub(crate) mod program;
pub(crate) mod pythons;
pub(crate) mod scoreboard;

use std::path::{Path, PathBuf};

/// A file or folder of this repository.
pub(crate) fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// A fixture of a detector, such as `join-on-blocked-thread/hang.py`.
pub(crate) fn detector_fixture(path: &str) -> PathBuf {
    repository("fixtures/detectors").join(path)
}

/// A fixture, such as `watch/test_hangs.py`.
pub(crate) fn fixture(path: &str) -> PathBuf {
    repository("fixtures").join(path)
}

/// Whether the long variants are wanted, too (`HANGSCOPE_TEST_HEAVY=1`, see `docs/testing.md`).
pub(crate) fn heavy() -> bool {
    std::env::var("HANGSCOPE_TEST_HEAVY").is_ok_and(|value| value == "1")
}

/// Says loudly that a test is skipped; where nothing may be skipped, fails.
pub(crate) fn skip(why: &str) {
    let set = |name: &str, value: &str| std::env::var(name).is_ok_and(|found| found == value);
    assert!(
        !set("CI", "true") && !set("HANGSCOPE_REQUIRE_ALL", "1"),
        "this test may not be skipped here (CI or HANGSCOPE_REQUIRE_ALL is set), and would be: {why}"
    );
    let test = std::thread::current().name().unwrap_or("?").to_owned();
    println!("SKIPPED: {test}: {why}");
    eprintln!("SKIPPED: {test}: {why}");
}
