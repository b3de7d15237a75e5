//! Runs of pytest that are followed test by test: which test, which phase, what is done about it.

use crate::support::pythons;
use crate::support_watch::{End, Place, json, run};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Options that make a capture quick where the verdict does not matter.
const QUICK: [&str; 4] = ["--samples", "1", "--interval", "10ms"];

/// `hangscope watch OPTIONS -- python -m pytest …` on these test files.
fn pytest(version: &str, place: &Place, options: &[&str], arguments: &[&str]) -> Option<Command> {
    let python = pythons::python_with_packages(version)?;
    let mut command = place.watch(options);
    command
        .arg("--")
        .arg(python)
        .args(["-m", "pytest", "-q", "-p", "no:cacheprovider"])
        .args(arguments)
        .env("PYTHONDONTWRITEBYTECODE", "1");
    Some(command)
}

fn suite(place: &Place, text: &str) {
    fs::write(place.path("test_it.py"), text).expect("the tests");
}

/// The first line that hangscope wrote about a limit.
fn headline(end: &End) -> &str {
    let says = |line: &&str| {
        let limit = line.contains("timeout (") || line.contains("nothing got further");
        line.starts_with("hangscope: ") && limit
    };
    end.stderr
        .lines()
        .find(says)
        .unwrap_or_else(|| panic!("{end:?}"))
}

/// The run as the dump of a bundle has it.
fn run_of(bundle: &Path) -> serde_json::Value {
    json(&bundle.join("dump.json"))["run"].clone()
}

fn results(bundle: &Path) -> Vec<(String, String)> {
    fs::read_to_string(bundle.join("events.jsonl"))
        .expect("the events")
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON"))
        .filter(|line| line["test"].is_string())
        .map(|test| {
            let text = |field: &str| test[field].as_str().unwrap_or("").to_owned();
            (text("test"), text("outcome"))
        })
        .collect()
}

const SLEEPER: &str = "
import time
def test_first(): pass
def test_sleeps(): time.sleep(1000)
def test_last(): pass
";

#[test]
fn a_test_over_its_limit_fails_and_the_run_goes_on() {
    for version in ["3.9", "3.12", "3.14", "3.15"] {
        let place = Place::new();
        suite(&place, SLEEPER);
        let options = ["--test-timeout", "1s"];
        let Some(mut command) = pytest(version, &place, &[&options[..], &QUICK].concat(), &[])
        else {
            continue;
        };
        let end = run(&mut command);
        assert_eq!(end.code(), 1, "{version}: {end:?}");
        assert!(
            end.stdout.contains("1 failed, 2 passed"),
            "{version}: {end:?}"
        );
        assert!(
            end.stdout.contains("Failed: hangscope: test timeout (1 s)"),
            "{version}: {end:?}"
        );
        assert!(
            headline(&end).ends_with("in test_it.py::test_sleeps (call)"),
            "{version}: {end:?}"
        );
        assert!(
            end.stderr.contains(
                "hangscope: test_it.py::test_sleeps (call) was made to fail; the run goes on\n"
            ),
            "{version}: {end:?}"
        );
        let manifest = json(&place.bundle().join("manifest.json"));
        assert_eq!(manifest["trigger"]["kind"], "test-timeout");
        assert_eq!(manifest["outcome"]["kind"], "child-exit");
        place.assert_nothing_left();
    }
}

const DESTROYER: &str = r#"
import _interpreters, pytest
CODE = "import threading; threading.Thread(target=threading.Event().wait, name='idle-nd').start()"
@pytest.mark.parametrize("n", range(6))
def test_destroy(n):
    interp = _interpreters.create("legacy")
    if n == 3: _interpreters.exec(interp, CODE)
    _interpreters.destroy(interp)
"#;

#[test]
fn what_no_signal_can_interrupt_ends_the_run() {
    let place = Place::new();
    suite(&place, DESTROYER);
    let options = [
        "--test-timeout",
        "2s",
        "--grace",
        "500ms",
        "--inventory",
        "never",
    ];
    let Some(mut command) = pytest("3.14", &place, &options, &[]) else {
        return;
    };
    let end = run(&mut command);
    assert_eq!(end.code(), 124, "{end:?}");
    assert!(
        end.stderr.contains(
            "hangscope: test_it.py::test_destroy[3] (call): test timeout (2 s): ending the run\n"
        ),
        "{end:?}"
    );
    assert!(
        end.stderr.contains("hang: destroy-blocked-by-idle-thread"),
        "{end:?}"
    );
    let bundle = place.bundle();
    let expected = [
        ("test_it.py::test_destroy[0]", "passed"),
        ("test_it.py::test_destroy[1]", "passed"),
        ("test_it.py::test_destroy[2]", "passed"),
        ("test_it.py::test_destroy[3]", "hung"),
    ];
    assert_eq!(
        results(&bundle),
        expected.map(|(test, outcome)| (test.to_owned(), outcome.to_owned()))
    );
    let junit = fs::read_to_string(bundle.join("junit.xml")).expect("junit.xml");
    assert!(junit.contains(r#"tests="6""#), "{junit}");
    assert_eq!(junit.matches("<skipped").count(), 2, "{junit}");
    assert!(junit.contains(r#"type="hangscope.hang""#), "{junit}");
    place.assert_nothing_left();
}

#[test]
fn of_a_worker_only_its_process_is_ended() {
    let place = Place::new();
    suite(&place, DESTROYER);
    let options = ["--test-timeout", "2s", "--grace", "500ms"];
    let Some(mut command) = pytest("3.14", &place, &options, &["-n", "2"]) else {
        return;
    };
    let end = run(&mut command);
    assert_eq!(end.code(), 1, "{end:?}");
    assert!(end.stdout.contains("1 failed, 5 passed"), "{end:?}");
    assert!(end.stdout.contains("crashed while running"), "{end:?}");
    assert!(
        end.stderr.contains("cannot be interrupted: its process"),
        "{end:?}"
    );
    assert!(end.stderr.contains("[gw"), "{end:?}");
    place.assert_nothing_left();
}

#[test]
fn marks_go_before_the_option() {
    let place = Place::new();
    suite(
        &place,
        "
import time, pytest
@pytest.mark.hangscope(timeout=1000)
def test_may_take_long():
    time.sleep(2.5)
@pytest.mark.hangscope(timeout=0.5)
def test_must_be_quick():
    time.sleep(1000)
@pytest.mark.timeout(0)
def test_has_no_limit():
    time.sleep(2.5)
",
    );
    let options = [&["--test-timeout", "1.5s"][..], &QUICK].concat();
    let Some(mut command) = pytest("3.12", &place, &options, &["-W", "ignore"]) else {
        return;
    };
    let end = run(&mut command);
    assert!(end.stdout.contains("1 failed, 2 passed"), "{end:?}");
    assert!(
        end.stdout
            .contains("hangscope: the test's hangscope mark (0.5 s)"),
        "{end:?}"
    );
}

/// Where a suite hangs, and what the report must say of it.
const PLACES: [(&str, &str, &str); 4] = [
    (
        "import pytest, time\n@pytest.fixture\ndef f():\n    yield\n    time.sleep(1000)\ndef test_a(f): pass\n",
        "test_it.py::test_a (teardown)",
        "teardown",
    ),
    (
        "import time\ntime.sleep(1000)\ndef test_a(): pass\n",
        "collection of test_it.py",
        "collection",
    ),
    (
        "import pytest, time\n@pytest.fixture(scope='session')\ndef f():\n    yield\n    time.sleep(1000)\n\
         def test_a(f): pass\ndef test_b(f): time.sleep(0)\n",
        "test_it.py::test_b (teardown)",
        "teardown",
    ),
    (
        "import threading\ndef test_a():\n    threading.Thread(target=threading.Event().wait, name='stays').start()\n",
        "interpreter exit",
        "interpreter-exit",
    ),
];

#[test]
fn the_phase_of_a_hang_is_named() {
    for version in ["3.9", "3.14"] {
        for (text, place_name, phase) in PLACES {
            let place = Place::new();
            suite(&place, text);
            let options = [&["--idle-timeout", "1500ms", "--grace", "1s"][..], &QUICK].concat();
            let Some(mut command) = pytest(version, &place, &options, &[]) else {
                continue;
            };
            let end = run(&mut command);
            assert_eq!(end.code(), 124, "{version} {phase}: {end:?}");
            assert!(
                headline(&end).ends_with(&format!(" in {place_name}")),
                "{version} {phase}: {end:?}"
            );
            let processes = run_of(&place.bundle())["processes"].clone();
            assert_eq!(processes[0]["phase"], phase, "{version}: {processes}");
            place.assert_nothing_left();
        }
    }
}

#[test]
fn a_thread_that_keeps_the_interpreter_has_its_birth_told() {
    let place = Place::new();
    suite(
        &place,
        "import threading\ndef test_a():\n    threading.Thread(target=threading.Event().wait, name='stays').start()\n\
         def test_b(): pass\ndef test_c(): pass\n",
    );
    let Some(mut command) = pytest("3.14", &place, &["--idle-timeout", "1500ms"], &[]) else {
        return;
    };
    let end = run(&mut command);
    let told = end
        .stderr
        .replace("\n", " ")
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ");
    assert!(
        told.contains("`stays` was born in test_it.py::test_a (call)"),
        "{end:?}"
    );
}

#[test]
fn a_subprocess_of_a_test_is_told_with_the_test() {
    let place = Place::new();
    suite(
        &place,
        "import subprocess, sys\ndef test_a():\n    subprocess.run([sys.executable, '-c', 'import threading\\n\
         t = threading.Thread(target=threading.Event().wait)\\nt.start()\\nt.join()'])\n",
    );
    let Some(mut command) = pytest("3.14", &place, &["--idle-timeout", "1500ms"], &[]) else {
        return;
    };
    let end = run(&mut command);
    assert!(
        headline(&end).ends_with("in test_it.py::test_a (call)"),
        "{end:?}"
    );
    assert!(end.stderr.contains("join-on-blocked-thread"), "{end:?}");
}

#[test]
fn without_the_plugin_the_environment_names_the_test() {
    let place = Place::new();
    suite(&place, SLEEPER);
    let options = [
        &["--no-plugin", "--test-timeout", "2s", "--grace", "1s"][..],
        &QUICK,
    ]
    .concat();
    let Some(mut command) = pytest("3.12", &place, &options, &[]) else {
        return;
    };
    let end = run(&mut command);
    assert_eq!(end.code(), 124, "there is nobody to ask: {end:?}");
    assert!(
        headline(&end).ends_with("in test_it.py::test_sleeps (call)"),
        "{end:?}"
    );
    assert_eq!(run_of(&place.bundle())["source"], "environ");
    place.assert_nothing_left();
}

#[test]
fn without_limits_a_standstill_is_told_once_and_nothing_is_ended() {
    let place = Place::new();
    suite(
        &place,
        "import time\ndef test_a(): time.sleep(4)\ndef test_b(): pass\n",
    );
    let options = [&["--report-after", "1s"][..], &QUICK].concat();
    let Some(mut command) = pytest("3.14", &place, &options, &[]) else {
        return;
    };
    let end = run(&mut command);
    assert_eq!(end.code(), 0, "{end:?}");
    assert!(end.stdout.contains("2 passed"), "{end:?}");
    assert_eq!(
        end.stderr.matches("nothing got further").count(),
        1,
        "{end:?}"
    );
    let manifest = json(&place.bundle().join("manifest.json"));
    assert_eq!(manifest["outcome"]["kind"], "child-exit");
}

#[test]
fn the_idle_limit_ends_a_standstill_and_no_busy_run() {
    let place = Place::new();
    let busy = "import time\nend = time.monotonic() + 3\nwhile time.monotonic() < end: pass\n";
    let idle = [
        "--idle-timeout",
        "1s",
        "--grace",
        "1s",
        "--samples",
        "1",
        "--",
    ];
    let end = run(place
        .watch(&idle)
        .args([crate::support_watch::python(), "-c", busy]));
    assert_eq!(end.code(), 0, "{end:?}");
    let end = run(place.watch(&idle).args(["sleep", "1000"]));
    assert_eq!(end.code(), 124, "{end:?}");
    assert_eq!(
        json(&place.bundle().join("manifest.json"))["trigger"]["kind"],
        "idle-timeout"
    );
}

const LEAKER: &str = "
import subprocess, threading
def test_clean(): pass
def test_thread():
    threading.Thread(target=threading.Event().wait, name='stays', daemon=True).start()
def test_child():
    subprocess.Popen(['sleep', '0.5'])
def test_files():
    globals()['kept'] = open('/dev/null')
";

#[test]
fn what_tests_leave_behind_is_told_and_can_fail_the_run() {
    let place = Place::new();
    suite(&place, LEAKER);
    let options = [
        "--inventory",
        "always",
        "--inventory-json",
        "inventory.json",
        "--fail-on-leak",
        "threads",
    ];
    let Some(mut command) = pytest("3.14", &place, &options, &["-W", "ignore"]) else {
        return;
    };
    let end = run(&mut command);
    assert_eq!(end.code(), 11, "{end:?}");
    assert!(end.stdout.contains("4 passed"), "{end:?}");
    assert!(
        end.stderr.contains("hangscope: leaked: thread stays"),
        "{end:?}"
    );
    assert!(
        end.stderr.contains("this is not a leak that grew"),
        "{end:?}"
    );
    let inventory = json(&place.path("inventory.json"));
    let changed: Vec<&str> = inventory["changed"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|test| test["test"].as_str().expect("a name"))
        .collect();
    assert_eq!(
        changed,
        [
            "test_it.py::test_thread",
            "test_it.py::test_child",
            "test_it.py::test_files"
        ]
    );
    assert_eq!(inventory["how"], "inside");
}

/// One with a thread in it, one without; of the running test's own nothing is said.
#[test]
fn interpreters_that_outlive_their_test_are_noticed() {
    let place = Place::new();
    suite(
        &place,
        r#"
import _interpreters, threading
def test_leaks(): _interpreters.create("legacy")
def test_abandons():
    interp = _interpreters.create("legacy")
    entered = threading.Event()
    def driver():
        entered.set()
        _interpreters.exec(interp, "import time\nwhile True: time.sleep(0.05)")
    threading.Thread(target=driver, name="driver", daemon=True).start()
    entered.wait()
def test_hangs():
    _interpreters.create("legacy")
    threading.Event().wait()
"#,
    );
    let options = [
        "--test-timeout",
        "2s",
        "--on-hang",
        "end",
        "--grace",
        "300ms",
    ];
    let Some(mut command) = pytest("3.14", &place, &options, &[]) else {
        return;
    };
    let end = run(&mut command);
    assert_eq!(end.code(), 124, "{end:?}");
    let dump = json(&place.bundle().join("dump.json"));
    let notices = dump["analysis"]["notices"].as_array().expect("notices");
    let titles: Vec<&str> = notices
        .iter()
        .filter(|notice| notice["id"] == "interpreter-left-behind")
        .filter_map(|notice| notice["title"].as_str())
        .collect();
    assert_eq!(
        titles,
        [
            "Interpreter 1 has outlived test_it.py::test_leaks, which made it, and is leaked: no thread is in it.",
            "Interpreter 2 has outlived test_it.py::test_abandons, which made it, and is abandoned: `driver` is still in it.",
        ]
    );
    assert!(
        end.stderr.contains("notice: interpreter-left-behind"),
        "{end:?}"
    );
}

#[test]
fn threads_that_pile_up_are_called_that() {
    let place = Place::new();
    suite(
        &place,
        "import pytest, threading\n@pytest.mark.parametrize('n', range(20))\ndef test_a(n):\n    \
         threading.Thread(target=threading.Event().wait, daemon=True).start()\n",
    );
    let Some(mut command) = pytest("3.12", &place, &["--inventory", "always"], &[]) else {
        return;
    };
    let end = run(&mut command);
    assert_eq!(end.code(), 0, "{end:?}");
    assert!(end.stderr.contains("threads accumulate: 1.00"), "{end:?}");
}

#[test]
fn the_users_own_junit_file_is_made_whole() {
    let place = Place::new();
    suite(&place, DESTROYER);
    let options = ["--test-timeout", "1s", "--grace", "300ms", "--samples", "1"];
    let arguments = ["--junitxml", "reports/junit.xml"];
    let Some(mut command) = pytest("3.14", &place, &options, &arguments) else {
        return;
    };
    let end = run(&mut command);
    assert_eq!(end.code(), 124, "{end:?}");
    let junit = fs::read_to_string(place.path("reports/junit.xml")).expect("junit.xml");
    assert!(
        junit.contains(r#"name="test_destroy[3]""#) && junit.contains("hangscope.hang"),
        "{junit}"
    );
    assert!(junit.contains("[[ATTACHMENT|"), "{junit}");
}

/// The incident: five runs, each hangs in another test, and all five say the same of it.
#[test]
fn a_hang_that_moves_is_one_hang() {
    let Some(python) = pythons::python_with_packages("3.14") else {
        return;
    };
    let fixture: PathBuf = crate::support::repository("fixtures/suites/test_incident.py");
    let mut seen = Vec::new();
    for seed in ["1", "3", "4", "7", "8"] {
        let place = Place::new();
        fs::copy(&fixture, place.path("test_incident.py")).expect("the suite");
        let end = run(place
            .watch(&[
                "--test-timeout",
                "2s",
                "--on-hang",
                "end",
                "--grace",
                "300ms",
                "--",
            ])
            .arg(&python)
            .args(["-m", "pytest", "-q", "-p", "no:cacheprovider"])
            .env("INCIDENT_SEED", seed)
            .env("PYTHONDONTWRITEBYTECODE", "1"));
        assert_eq!(end.code(), 124, "seed {seed}: {end:?}");
        assert!(
            end.stderr.contains("this is not a leak that grew"),
            "seed {seed}: {end:?}"
        );
        let dump = json(&place.bundle().join("dump.json"));
        let finding = &dump["analysis"]["findings"][0];
        let test = dump["run"]["processes"][0]["test"]
            .as_str()
            .expect("a test")
            .to_owned();
        let hung: Vec<(String, String)> = results(&place.bundle())
            .into_iter()
            .filter(|(_, outcome)| outcome == "hung")
            .collect();
        assert_eq!(hung, [(test.clone(), "hung".to_owned())], "seed {seed}");
        seen.push((
            finding["id"].as_str().expect("an id").to_owned(),
            finding["signature"]
                .as_str()
                .expect("a signature")
                .to_owned(),
            test,
        ));
    }
    let same = |which: fn(&(String, String, String)) -> &String| {
        seen.iter()
            .map(which)
            .collect::<std::collections::BTreeSet<_>>()
            .len()
    };
    assert_eq!(seen[0].0, "destroy-blocked-by-idle-thread");
    assert_eq!(
        (same(|it| &it.0), same(|it| &it.1)),
        (1, 1),
        "one cause: {seen:?}"
    );
    assert!(same(|it| &it.2) > 1, "it moves: {seen:?}");
}

#[test]
fn github_gets_annotations_and_a_summary_and_others_get_none() {
    let place = Place::new();
    suite(&place, DESTROYER);
    let options = ["--test-timeout", "1s", "--grace", "300ms"];
    let Some(mut command) = pytest("3.14", &place, &options, &[]) else {
        return;
    };
    let summary = place.path("summary.md");
    fs::write(&summary, "of an earlier command\n").expect("the summary");
    command
        .env("GITHUB_ACTIONS", "true")
        .env("GITHUB_WORKSPACE", place.folder.path())
        .env("GITHUB_STEP_SUMMARY", &summary);
    let end = run(&mut command);
    let annotations: Vec<&str> = end
        .stderr
        .lines()
        .filter(|line| line.starts_with("::"))
        .collect();
    assert_eq!(annotations.len(), 2, "blocker and test: {end:?}");
    assert!(
        annotations
            .iter()
            .all(|line| line.starts_with("::error file=test_it.py,line=")),
        "{annotations:?}"
    );
    let summary = fs::read_to_string(summary).expect("the summary");
    assert!(summary.starts_with("of an earlier command\n"), "{summary}");
    assert!(
        summary.contains("destroy-blocked-by-idle-thread"),
        "{summary}"
    );

    let Some(mut command) = pytest("3.14", &place, &options, &[]) else {
        return;
    };
    let end = run(command.env_remove("GITHUB_ACTIONS"));
    assert!(!end.stderr.contains("\n::"), "{end:?}");
}

/// A run that is deaf to TERM and whose shell is gone: nobody is left to end it but we.
#[test]
fn a_deaf_run_does_not_outlive_the_shell_around_it() {
    let place = Place::new();
    let script = "\"$0\" watch --grace 100ms -- sh -c 'trap \"\" TERM; echo READY; while :; do sleep 0.1; done'; true";
    let mut shell = crate::support_watch::Run::start(place.command("bash").args([
        "-c",
        script,
        env!("CARGO_BIN_EXE_hangscope"),
    ]));
    shell.ready();
    shell.signal(rustix::process::Signal::KILL);
    // The outputs are at their ends when all that held them is gone.
    let end = shell.end();
    assert!(
        end.stderr.contains("the end of the parent process"),
        "{end:?}"
    );
    place.assert_nothing_left();
    let manifest = json(&place.bundle().join("manifest.json"));
    assert_eq!(manifest["outcome"]["kind"], "child-signal");
}

/// A test that begins again (pytest-rerunfailures) says so by an outcome that is its plugin's own.
#[test]
fn an_outcome_that_nobody_knows_does_not_end_the_following() {
    let place = Place::new();
    suite(&place, "def test_a(): pass\ndef test_b(): pass\n");
    let conftest = "
import pytest
@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    if call.when == 'call' and item.name == 'test_a':
        outcome.get_result().outcome = 'rerun'
";
    fs::write(place.path("conftest.py"), conftest).expect("a conftest");
    let options = ["--junitxml", "ours.xml", "--inventory", "always"];
    let Some(mut command) = pytest("3.12", &place, &options, &[]) else {
        return;
    };
    let end = run(&mut command);
    let junit = fs::read_to_string(place.path("ours.xml")).expect("ours.xml");
    assert!(junit.contains(r#"tests="2""#), "{junit} {end:?}");
    assert!(!junit.contains("crash"), "{junit}");
}

#[test]
fn the_pipes_of_a_controller_are_no_leak() {
    let place = Place::new();
    suite(&place, "def test_a(): pass\n");
    let options = ["--fail-on-leak", "all"];
    let Some(mut command) = pytest("3.12", &place, &options, &["-n", "2"]) else {
        return;
    };
    let end = run(&mut command);
    assert_eq!(end.code(), 0, "{end:?}");
}

#[test]
fn a_pool_that_comes_to_its_size_is_no_leak() {
    let place = Place::new();
    suite(
        &place,
        "import pytest, threading\nfrom concurrent.futures import ThreadPoolExecutor\npool = ThreadPoolExecutor(6)\n\
         @pytest.mark.parametrize('n', range(30))\ndef test_a(n):\n    size = min(n + 1, 6)\n    \
         meet = threading.Barrier(size)\n    [f.result() for f in [pool.submit(meet.wait) for _ in range(size)]]\n",
    );
    let Some(mut command) = pytest("3.12", &place, &["--inventory", "always"], &[]) else {
        return;
    };
    let end = run(&mut command);
    assert_eq!(end.code(), 0, "{end:?}");
    assert!(!end.stderr.contains("accumulate:"), "{end:?}");
    assert!(
        end.stderr.contains("this is not a leak that grew"),
        "{end:?}"
    );
}

/// 20 kB a second through a socket: few bytes, next to no CPU, and not idle.
#[test]
fn a_slow_download_is_not_idle() {
    let place = Place::new();
    let script = "
import socket, threading, time
a, b = socket.socketpair()
def serve():
    for _ in range(40):
        a.send(b'x' * 2000)
        time.sleep(0.1)
    a.close()
threading.Thread(target=serve).start()
while b.recv(65536): pass
";
    let options = [
        "--idle-timeout",
        "1500ms",
        "--interval",
        "150ms",
        "--grace",
        "1s",
        "--",
    ];
    let end = run(place
        .watch(&options)
        .args([crate::support_watch::python(), "-c", script]));
    assert_eq!((end.code(), end.stderr.as_str()), (0, ""));
    assert!(place.bundles().is_empty());
}

/// After a test was made to fail, the last fixtures may take their time.
#[test]
fn a_teardown_is_not_shot_down_for_the_call_before_it() {
    let place = Place::new();
    suite(
        &place,
        "import pytest, time\n@pytest.fixture(scope='session', autouse=True)\ndef compose():\n    yield\n    \
         time.sleep(1.5)\n    print('compose is down')\ndef test_hangs(): time.sleep(1000)\n",
    );
    let options = [&["--test-timeout", "2s", "--grace", "300ms"][..], &QUICK].concat();
    let Some(mut command) = pytest("3.14", &place, &options, &["-s"]) else {
        return;
    };
    let end = run(&mut command);
    assert_eq!(end.code(), 1, "{end:?}");
    assert!(end.stdout.contains("compose is down"), "{end:?}");
    assert!(
        end.stdout.contains("1 failed in"),
        "no error beside it: {end:?}"
    );
    assert!(
        end.stderr.contains("was made to fail; the run goes on"),
        "{end:?}"
    );
    let junit = fs::read_to_string(place.bundle().join("junit.xml")).expect("junit.xml");
    assert!(junit.contains(r#"errors="0" failures="1""#), "{junit}");
}

/// A test whose limit passes while its session ends is not what keeps the run.
#[test]
fn what_has_ended_by_itself_is_left_alone() {
    let place = Place::new();
    suite(&place, "import time\ndef test_slow(): time.sleep(1.6)\n");
    let options = [
        "--test-timeout",
        "1s",
        "--grace",
        "300ms",
        "--junitxml",
        "ours.xml",
    ];
    let Some(mut command) = pytest("3.14", &place, &options, &[]) else {
        return;
    };
    let end = run(&mut command);
    assert_eq!(end.code(), 0, "{end:?}");
    assert!(
        end.stderr.contains("ended while it was looked at"),
        "{end:?}"
    );
    let junit = fs::read_to_string(place.path("ours.xml")).expect("ours.xml");
    assert!(
        junit.contains(r#"errors="0" failures="0" skipped="0" tests="1""#),
        "{junit}"
    );
}
