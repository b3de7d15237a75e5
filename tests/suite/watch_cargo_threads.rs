//! Which test of a Rust binary started a thread, where several run at the same time.

use crate::support::hangscope::dump;
use crate::support_watch::{Place, Run, json, run, wait_until, write_line};
use crate::watch_cargo::{apart, build, package};
use std::fs;

/// Tests that run together: two end, once they are told to, and leave threads behind, one of which has a lock that another test
/// needs; one joins its thread.
const TESTS: &str = r#"
#[cfg(test)]
mod tests {
    use std::io::BufRead;
    use std::sync::Mutex;
    use std::thread::{Builder, park, spawn};

    static REGISTRY: Mutex<()> = Mutex::new(());

    /// Until the file says so; all who wait for that have it open.
    fn wait_for(file: &str) {
        let file = std::fs::File::open(file).unwrap();
        std::io::BufReader::new(file).read_line(&mut String::new()).unwrap();
    }

    fn for_ever() { loop { park() } }

    #[test]
    fn a_leaves_the_registrar() {
        let held = || { let _held = REGISTRY.lock().unwrap(); for_ever() };
        Builder::new().name("registrar".into()).spawn(held).unwrap();
        wait_for("go_a");
    }

    #[test]
    fn b_leaves_threads_of_a_thread() {
        let outer = || { spawn(for_ever); Builder::new().name("inner".into()).spawn(for_ever).unwrap(); };
        Builder::new().name("outer".into()).spawn(outer).unwrap().join().unwrap();
        wait_for("go_b");
    }

    #[test]
    fn c_joins_its_thread() {
        Builder::new().name("joined".into()).spawn(|| wait_for("go_c")).unwrap().join().unwrap();
    }

    #[test]
    fn d_waits_for_the_registry() {
        wait_for("go_d");
        let _held = REGISTRY.lock().unwrap();
    }
}
"#;

/// How many threads the tests start that last.
const STARTED: usize = 4;

/// Runs them under watch; the tests go on when all threads were seen.
fn watched(place: &Place) -> (String, serde_json::Value) {
    package(place, "2021", &[("src/lib.rs", TESTS)]);
    build(place);
    let pipes = ["go_a", "go_b", "go_c", "go_d"].map(|name| place.pipe(name));
    let options = [
        "-v",
        "--test-timeout",
        "12s",
        "--inventory-json",
        "left.json",
    ];
    let mut command = place.watch(&options);
    command.args(["--", "cargo", "test", "--lib", "--", "--test-threads=4"]);
    let mut run = Run::start(apart(&mut command));
    let mut seen = 0;
    let mut stderr = run.stderr_until(|line| {
        seen += usize::from(line.contains("a test has started a thread"));
        seen == STARTED
    });
    for pipe in &pipes {
        write_line(pipe);
    }
    stderr.push_str(&run.end().stderr);
    (stderr, json(&place.path("left.json")))
}

/// Each test that left threads, and their names.
fn left(inventory: &serde_json::Value) -> Vec<(&str, Vec<&str>)> {
    let rows = inventory["changed"].as_array().expect("rows").iter();
    rows.map(|row| {
        let left = row["left"].as_array().into_iter().flatten();
        let names = left.map(|it| it["name"].as_str().unwrap_or("(none)"));
        let mut names: Vec<&str> = names.collect();
        names.sort_unstable();
        (row["test"].as_str().expect("a name"), names)
    })
    .collect()
}

#[test]
fn threads_are_those_of_the_test_whose_output_they_share() {
    let place = Place::new();
    let (stderr, inventory) = watched(&place);
    let mut rows = left(&inventory);
    rows.sort_unstable();
    // A thread without a name has that of the thread that started it.
    assert_eq!(
        rows,
        [
            ("demo tests::a_leaves_the_registrar", vec!["registrar"]),
            (
                "demo tests::b_leaves_threads_of_a_thread",
                vec!["inner", "outer"]
            ),
            ("demo tests::d_waits_for_the_registry", vec![]),
        ],
        "{stderr}"
    );
    let words: Vec<&str> = stderr.split_whitespace().collect();
    let told = "`registrar` was born in demo tests::a_leaves_the_registrar, which has ended";
    assert!(words.join(" ").contains(told), "{stderr}");
    assert!(stderr.contains("lock-held-by-blocked-thread"), "{stderr}");
}

/// Two tests that run together, each with a thread of the same name, one of which has started another.
const HANG: &str = r#"
use std::thread::{Builder, park, spawn};
fn for_ever() { loop { park() } }
#[test]
fn one_with_a_long_name() { Builder::new().name("pool".into()).spawn(for_ever).unwrap(); for_ever() }
#[test]
fn two_with_a_long_name() { Builder::new().name("pool".into()).spawn(|| { spawn(for_ever); for_ever() }).unwrap(); for_ever() }
"#;

#[test]
fn a_dump_tells_which_test_has_started_a_thread() {
    for options in [
        &[][..],
        &["-O", "-C", "strip=debuginfo"],
        &["-C", "strip=symbols"],
    ] {
        let place = Place::new();
        fs::write(place.path("unit.rs"), HANG).expect("a file");
        let mut rustc = place.command("rustc");
        let built = run(apart(rustc.args(["--test", "unit.rs"]).args(options)));
        assert_eq!(built.code(), 0, "{}", built.stderr);
        let mut tests = place.command("./unit");
        let mut child = tests.arg("--test-threads=2").spawn().expect("it starts");
        let tasks = format!("/proc/{}/task", child.id());
        wait_until("all threads wait", || {
            let stats = fs::read_dir(&tasks).into_iter().flatten().flatten();
            let stats: Vec<String> = stats
                .filter_map(|task| fs::read_to_string(task.path().join("stat")).ok())
                .collect();
            stats.len() == 6 && stats.iter().all(|stat| stat.contains(") S "))
        });
        let report = dump(i32::try_from(child.id()).expect("a pid")).report();
        child.kill().expect("it lives");
        child.wait().expect("its end");
        let sample = report.samples.last().expect("a sample");
        let threads = sample.processes.iter().flat_map(|process| &process.threads);
        let mut told: Vec<(&str, &str)> = threads
            .filter_map(|thread| {
                let test = sample.thread(thread.test.as_ref()?)?;
                let (name, test) = (thread.display_name(), test.display_name());
                Some((test.untrusted(), name.untrusted()))
            })
            .collect();
        told.sort_unstable();
        let (one, two) = ("one_with_a_long_name", "two_with_a_long_name");
        let expected = [(one, "pool"), (two, "pool"), (two, "pool")];
        // The symbol tells where the output is.
        let stripped = options.contains(&"strip=symbols");
        assert_eq!(
            told,
            if stripped { &[][..] } else { &expected },
            "{options:?}"
        );
    }
}
