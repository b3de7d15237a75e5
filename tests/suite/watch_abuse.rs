//! Suites that mistreat what they run in: with `hangscope watch` around them all is as without.
//!
//! Each suite of `fixtures/watch` runs twice, bare and watched, each time in a folder of its own; what it prints, how
//! it ends and what it leaves must be the same. `HANGSCOPE_TEST_HEAVY=1` runs them with all Pythons, and
//! under pytest-xdist, too.

use crate::support::pythons::{ALL, python_with_packages};
use crate::support::{fixture, heavy};
use crate::support_watch::{End, Place, Run, signal, status_field, wait_until};
use rustix::process::Signal;
use std::fs;
use std::hash::{DefaultHasher, Hasher as _};
use std::io::Read as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Command, Stdio};

/// A suite, and how to run it.
#[derive(Clone, Copy)]
struct Suite<'a> {
    /// In `fixtures/watch`.
    file: &'a str,
    /// Options of pytest.
    options: &'a [&'a str],
    /// Variables of its environment.
    variables: &'a [(&'a str, &'a str)],
}

impl<'a> Suite<'a> {
    fn new(file: &'a str) -> Self {
        Self {
            file,
            options: &[],
            variables: &[],
        }
    }

    /// The command that runs it, bare or watched.
    fn command(&self, place: &Place, python: &Path, watched: bool) -> Command {
        let mut command = if watched {
            let mut command = place.watch(&["--"]);
            command.arg(python);
            command
        } else {
            place.command(python)
        };
        fs::create_dir_all(place.path("tmp")).expect("a folder");
        fs::create_dir_all(place.path("runtime")).expect("a folder");
        command
            .args(["-m", "pytest", "-q", "-p", "no:cacheprovider"])
            .args(self.options)
            .arg(fixture(&format!("watch/{}", self.file)))
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("TMPDIR", place.path("tmp"))
            .env("XDG_RUNTIME_DIR", place.path("runtime"))
            .env_remove("GITHUB_ACTIONS")
            .envs(self.variables.iter().copied())
            // One that kills its group must not kill us.
            .process_group(0);
        command
    }

    fn run(&self, place: &Place, python: &Path, watched: bool) -> End {
        let end = Run::start(&mut self.command(place, python, watched)).end();
        End {
            stdout: plain(&end.stdout, place),
            stderr: plain(&end.stderr, place),
            ..end
        }
    }

    /// Runs it both ways with each Python, compares, and leaves the rest to `also`, which gets the watched run's place and
    /// end. What it has not removed from the watched run's standard error must be what the bare run wrote.
    fn same(&self, mut also: impl FnMut(&Place, &mut End)) {
        let versions: &[&str] = if heavy() { &ALL } else { &["3.13"] };
        for version in versions {
            let Some(python) = python_with_packages(version) else {
                continue;
            };
            let (bare_place, watched_place) = (Place::new(), Place::new());
            let bare = self.run(&bare_place, &python, false);
            let mut watched = self.run(&watched_place, &python, true);
            also(&watched_place, &mut watched);
            assert_eq!(
                watched.code(),
                bare.code(),
                "{version}: {watched:#?} {bare:#?}"
            );
            assert_eq!(watched.stdout, bare.stdout, "{version}");
            assert_eq!(watched.stderr, bare.stderr, "{version}");
            watched_place.assert_nothing_left();
            assert!(
                !watched_place.path(".hangscope").exists(),
                "a run that ends leaves no archive"
            );
            // Only what the suite itself leaves there.
            assert_eq!(
                entries(&watched_place.path("tmp")),
                entries(&bare_place.path("tmp")),
                "{version}"
            );
            assert_eq!(
                entries(&watched_place.path("runtime")),
                Vec::<String>::new()
            );
            for pid in bare_place.processes() {
                let _ = signal(pid, Signal::KILL);
            }
        }
    }
}

fn entries(folder: &Path) -> Vec<String> {
    let mut found: Vec<String> = fs::read_dir(folder)
        .expect("the folder")
        .map(|entry| {
            entry
                .expect("an entry")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    found.sort();
    found
}

/// Output without what differs from run to run: the folder, and how long it took.
fn plain(text: &str, place: &Place) -> String {
    let text = text.replace(&place.folder.path().display().to_string(), "PLACE");
    let mut parts = text.split(" in ");
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        plain.push_str(" in ");
        let number = part
            .find(|c: char| !(c.is_ascii_digit() || c == '.'))
            .unwrap_or(part.len());
        let is_time = number > 0 && part.get(number..number + 1) == Some("s");
        plain.push_str(if is_time { "SOME " } else { "" });
        plain.push_str(
            part.get(if is_time { number } else { 0 }..)
                .unwrap_or_default(),
        );
    }
    plain
}

fn nothing_more(_: &Place, _: &mut End) {}

#[test]
fn forks() {
    let suite = Suite {
        // The long form shows a pid.
        options: &["--tb=short"],
        ..Suite::new("test_forks.py")
    };
    suite.same(|_, end| {
        // The child that escaped, and then the parent, which failed nothing.
        assert!(
            end.stdout.contains("1 failed, 4 passed") && end.stdout.contains("5 passed"),
            "{end:#?}"
        );
    });
}

#[test]
fn execs() {
    let suite = Suite {
        options: &["-s"],
        ..Suite::new("test_execs.py")
    };
    suite.same(|_, end| {
        assert_eq!(end.code(), 5, "{end:#?}");
        assert!(end.stdout.contains("I am another"), "{end:#?}");
    });
}

#[test]
fn closes_all_descriptors_and_reuses_their_numbers() {
    let suite = Suite {
        options: &["-s"],
        ..Suite::new("test_closes.py")
    };
    suite.same(|place, end| {
        assert!(end.stdout.contains("1 failed, 3 passed"), "{end:#?}");
        for number in 0..1000 {
            let text =
                fs::read_to_string(place.path(&format!("files/{number}"))).expect("the file");
            assert_eq!(text, format!("mine {number}\n"));
        }
    });
}

#[test]
fn takes_the_ground_away() {
    Suite::new("test_moves.py").same(|_, end| {
        assert_eq!(end.code(), 1, "{end:#?}");
        assert!(end.stdout.contains("1 failed, 6 passed"), "{end:#?}");
    });
}

#[test]
fn empties_the_folders_for_temporary_files() {
    Suite::new("test_empties.py").same(nothing_more);
}

#[test]
fn sets_small_limits() {
    Suite::new("test_limits.py").same(|_, end| {
        assert!(end.stdout.contains("1 failed, 3 passed"), "{end:#?}");
    });
}

#[test]
fn a_service_is_listed_and_left_alone() {
    Suite::new("test_leaves.py").same(|place, end| {
        let service = fs::read_to_string(place.path("service")).expect("the service");
        let line = format!("\nhangscope: left running: {service} (sleep)\n");
        assert_eq!(end.stderr, line);
        end.stderr.clear();
        let service = service.parse().expect("a pid");
        assert_eq!(
            place.processes(),
            [service],
            "hangscope and the guardian are gone"
        );
        assert_eq!(
            status_field(service, "State").expect("its state").get(..1),
            Some("S")
        );
        signal(service, Signal::KILL).expect("it lives");
        wait_until("the service is gone", || place.processes().is_empty());
    });
}

#[test]
fn a_death_of_any_kind() {
    for (what, code) in [("group", -9), ("itself", -9), ("abort", -6), ("exit", 9)] {
        let suite = Suite {
            // Its traceback of an abort holds addresses.
            options: &["-p", "no:faulthandler"],
            variables: &[("WHAT", what)],
            ..Suite::new("test_kills.py")
        };
        suite.same(|_, end| assert_eq!(end.code(), code, "{what}: {end:#?}"));
    }
}

/// The parent of the command is the guardian; bare it would be this test.
#[test]
fn kills_its_parent() {
    let Some(python) = python_with_packages("3.13") else {
        return;
    };
    let place = Place::new();
    let suite = Suite {
        variables: &[("WHAT", "parent")],
        ..Suite::new("test_kills.py")
    };
    let end = suite.run(&place, &python, true);
    assert_eq!(end.code(), 0, "{end:#?}");
    assert!(end.stdout.contains("3 passed, 4 skipped"), "{end:#?}");
    assert_eq!(
        end.stderr,
        "\nhangscope: the guardian process is gone; should hangscope be killed, too, processes may be left over\n"
    );
    place.assert_nothing_left();
}

/// Of an xdist worker the parent is the controller. What that has printed by then is a matter of luck.
#[test]
fn a_worker_kills_its_controller() {
    let Some(python) = python_with_packages("3.13") else {
        return;
    };
    let suite = Suite {
        options: &["-n", "2"],
        variables: &[("WHAT", "parent")],
        ..Suite::new("test_kills.py")
    };
    for watched in [false, true] {
        let place = Place::new();
        let end = suite.run(&place, &python, watched);
        assert_eq!(end.code(), -9, "{end:#?}");
        // The workers outlive it for a moment, which hangscope may see.
        wait_until("the workers have ended", || place.processes().is_empty());
        let others = end
            .stderr
            .lines()
            .filter(|line| line.starts_with("hangscope: "))
            .filter(|line| !line.starts_with("hangscope: left running: "))
            .count();
        assert_eq!(others, 0, "{end:#?}");
    }
}

#[test]
fn a_flood_on_standard_output_arrives() {
    let megabytes = if heavy() { "1000" } else { "100" };
    let Some(python) = python_with_packages("3.13") else {
        return;
    };
    let suite = Suite {
        options: &["-s"],
        variables: &[("FLOOD", megabytes)],
        ..Suite::new("test_floods.py")
    };
    let sum = |watched| {
        let place = Place::new();
        let mut command = suite.command(&place, &python, watched);
        let mut child = command.stdout(Stdio::piped()).spawn().expect("it starts");
        let mut pipe = child.stdout.take().expect("a pipe");
        let (mut hasher, mut flood) = (DefaultHasher::new(), 0);
        let mut buffer = vec![0; 1 << 20];
        // pytest's own last words hold how long it took; the flood holds no other digits than these.
        while let Ok(count @ 1..) = pipe.read(&mut buffer) {
            for &byte in &buffer[..count] {
                if flood < 16 << 20 {
                    hasher.write_u8(byte);
                }
                flood += 1;
            }
        }
        let status = child.wait().expect("its status");
        place.assert_nothing_left();
        (status.code(), status.signal(), hasher.finish(), flood)
    };
    let (bare, watched) = (sum(false), sum(true));
    assert_eq!(watched.0, Some(0));
    assert_eq!((watched.1, watched.2), (bare.1, bare.2));
    let expected = megabytes.parse::<usize>().expect("a number") << 20;
    assert!(watched.3 >= expected, "{} of {expected} bytes", watched.3);
    // The time may have a digit more.
    assert!(
        watched.3.abs_diff(bare.3) <= 8,
        "{} and {}",
        watched.3,
        bare.3
    );
}

/// A suite that passes, too large to run twice without need.
#[track_caller]
fn passes(suite: Suite<'_>, last: &str) {
    if heavy() {
        suite.same(|_, end| assert!(end.stdout.contains(last), "{end:#?}"));
        return;
    }
    let Some(python) = python_with_packages("3.13") else {
        return;
    };
    let place = Place::new();
    let end = suite.run(&place, &python, true);
    assert_eq!(end.code(), 0, "{end:#?}");
    assert!(end.stdout.ends_with(last), "{end:#?}");
    assert_eq!(end.stderr, "");
    place.assert_nothing_left();
    assert!(!place.path(".hangscope").exists());
}

#[test]
fn ten_thousand_tests() {
    let suite = Suite {
        variables: &[("COUNT", "10000")],
        ..Suite::new("test_trivial.py")
    };
    passes(suite, "\n10000 passed in SOME s\n");
}

#[test]
fn sixteen_workers() {
    let suite = Suite {
        options: &["-n", "16"],
        variables: &[("COUNT", "64")],
        ..Suite::new("test_trivial.py")
    };
    passes(suite, "\n64 passed in SOME s\n");
}

/// The same under pytest-xdist, as far as its output has an order.
#[test]
fn in_workers() {
    if !heavy() {
        return;
    }
    for file in ["test_moves.py", "test_empties.py", "test_limits.py"] {
        let suite = Suite {
            options: &["-n", "1", "--max-worker-restart", "0"],
            ..Suite::new(file)
        };
        suite.same(nothing_more);
    }
}
