//! A CI runner cancels a step: what it signals, replayed, and what is on disk then.
//!
//! The runners' own pauses (GitHub: 7.5 s after INT, 2.5 s after TERM) are replaced by the events that
//! they leave time for; `HANGSCOPE_TEST_HEAVY=1` replays them in real time, too.

use crate::support::{fixture, heavy, pythons::python_with_packages};
use crate::support_watch::{Place, json, name_of, signal, status_field, wait_until};
use rustix::process::Signal;
use std::fs;
use std::io::Write as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// What the product promises (docs/ci.md): from the first signal that reaches hangscope to a whole bundle.
///
/// Measured here from before the signal is sent until the finished bundle is seen under its name, by looking
/// every two milliseconds: both ends make it too long rather than too short. It takes about 20 ms on an idle
/// machine, so the bound holds on a busy one, too.
const PROMISE: Duration = Duration::from_secs(2);

/// GitHub's pauses after INT and after TERM.
const GITHUB: [Duration; 2] = [Duration::from_millis(7500), Duration::from_millis(2500)];

/// The `bash` of a step, and all that runs in it.
struct Step {
    place: Place,
    bash: Child,
}

impl Step {
    /// Starts a script the way GitHub's runner does for `shell: bash`, and waits until the suite hangs.
    fn start(place: Place, script: &str) -> Self {
        fs::write(place.path("script.sh"), script).expect("the script");
        let mut bash = place.command("bash");
        bash.args(["--noprofile", "--norc", "-e", "-o", "pipefail", "script.sh"]);
        Self::run(place, bash)
    }

    fn run(place: Place, mut command: Command) -> Self {
        let log = fs::File::create(place.path("log")).expect("the log");
        let bash = command
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env_remove("GITHUB_ACTIONS")
            .stdout(log.try_clone().expect("the log"))
            .stderr(log)
            .spawn()
            .expect("it starts");
        let step = Self { place, bash };
        wait_until("the suite hangs", || {
            step.place.path("ready").exists() && step.command().is_some()
        });
        step
    }

    fn pid(&self) -> i32 {
        i32::try_from(self.bash.id()).expect("a pid")
    }

    /// Signals the step's process only, as runners do.
    fn signal(&self, number: Signal) {
        signal(self.pid(), number).expect("it lives");
    }

    /// The first process of the run that is hangscope.
    fn hangscope(&self) -> i32 {
        self.place
            .processes()
            .into_iter()
            .find(|&pid| arguments(pid).get(1).is_some_and(|first| first == "watch"))
            .expect("hangscope runs")
    }

    /// The process that runs pytest, once hangscope is there.
    fn command(&self) -> Option<i32> {
        self.place.processes().into_iter().find(|&pid| {
            let arguments = arguments(pid);
            arguments.get(1).is_some_and(|first| first == "-m")
        })
    }

    /// Until a bundle stands under its name; then it is whole, and did not take longer than promised.
    fn bundle_within(&self, since: Instant) -> PathBuf {
        wait_until("a bundle is on disk", || {
            std::thread::sleep(Duration::from_millis(2));
            !self.place.bundles().is_empty()
        });
        let took = since.elapsed();
        println!("the bundle was on disk after {took:?}");
        assert!(took <= PROMISE, "the bundle took {took:?}");
        let bundle = self.place.bundle();
        assert_whole(&bundle);
        bundle
    }

    /// How the step's own process ended.
    fn end(&mut self) -> i32 {
        wait_until("the step has ended", || {
            self.bash.try_wait().expect("its state").is_some()
        });
        let status = self.bash.wait().expect("its status");
        status
            .code()
            .unwrap_or_else(|| -status.signal().unwrap_or(0))
    }

    fn all_is_gone(&self) {
        wait_until("no process of the run is left", || {
            self.place.processes().is_empty()
        });
    }

    fn log(&self) -> String {
        fs::read_to_string(self.place.path("log")).expect("the log")
    }

    fn heard(&self) -> String {
        fs::read_to_string(self.place.path("heard")).unwrap_or_default()
    }
}

fn arguments(pid: i32) -> Vec<String> {
    fs::read(format!("/proc/{pid}/cmdline"))
        .unwrap_or_default()
        .split(|&byte| byte == 0)
        .map(|argument| String::from_utf8_lossy(argument).into_owned())
        .collect()
}

/// All files of a bundle are there, complete, and show the test that hangs.
#[track_caller]
fn assert_whole(bundle: &Path) {
    let manifest = json(&bundle.join("manifest.json"));
    assert!(manifest["trigger"]["kind"].is_string(), "{manifest:#}");
    for file in manifest["files"].as_array().expect("files") {
        let name = file.as_str().expect("a name");
        assert!(bundle.join(name).is_file(), "{name} of {manifest:#}");
    }
    let report: hangscope::model::Report =
        serde_json::from_slice(&fs::read(bundle.join("dump.json")).expect("the dump"))
            .expect("a report");
    assert!(!report.samples.is_empty());
    let text = fs::read_to_string(bundle.join("report.txt")).expect("the text");
    assert!(text.contains("::test_"), "{text}");
    assert!(!name_of(bundle).starts_with('.'));
}

/// `hangscope watch -- pytest …` on one of the suites, for use in a script.
fn watched(suite: &str) -> Option<String> {
    let python = python_with_packages("3.13")?;
    Some(format!(
        "'{}' watch -- '{}' -m pytest -q -p no:cacheprovider '{}'",
        env!("CARGO_BIN_EXE_hangscope"),
        python.display(),
        fixture(&format!("watch/{suite}")).display()
    ))
}

#[test]
fn github_with_exec_the_first_signal_reaches_us() {
    let Some(watched) = watched("test_hangs.py") else {
        return;
    };
    let mut step = Step::start(Place::new(), &format!("echo before\nexec {watched}\n"));
    let sent = Instant::now();
    step.signal(Signal::INT);
    let bundle = step.bundle_within(sent);
    // pytest ends by itself then, and says so: the step is over long before TERM.
    assert_eq!(step.end(), 2, "{}", step.log());
    step.all_is_gone();
    let manifest = json(&bundle.join("manifest.json"));
    assert_eq!(
        manifest["trigger"],
        serde_json::json!({"kind": "signal", "name": "SIGINT"})
    );
    assert_eq!(
        manifest["outcome"],
        serde_json::json!({"kind": "child-exit", "code": 2})
    );
    let log = step.log();
    assert!(log.starts_with("before\n"), "{log}");
    assert!(log.contains("KeyboardInterrupt"), "{log}");
    assert!(log.contains("hangscope: SIGINT"), "{log}");
}

#[test]
fn github_without_exec_the_death_of_bash_reaches_us() {
    let Some(watched) = watched("test_hangs.py") else {
        return;
    };
    let mut step = Step::start(Place::new(), &format!("{watched}\necho after\n"));
    step.signal(Signal::INT);
    wait_until("bash has taken the signal", || {
        pending(step.pid(), Signal::INT) == Some(false)
    });
    assert!(
        step.place.bundles().is_empty(),
        "bash waits for its child first; nothing reaches us"
    );
    let sent = Instant::now();
    step.signal(Signal::TERM);
    let bundle = step.bundle_within(sent);
    assert_eq!(step.end(), -15);
    step.all_is_gone();
    assert_eq!(
        json(&bundle.join("manifest.json"))["trigger"]["name"],
        "the end of the parent process"
    );
    assert!(!step.log().contains("after"), "{}", step.log());
}

#[test]
fn github_in_a_pipeline_the_death_of_bash_reaches_us() {
    let Some(watched) = watched("test_hangs.py") else {
        return;
    };
    let mut step = Step::start(Place::new(), &format!("{watched} 2>&1 | tee copy\n"));
    step.signal(Signal::INT);
    let sent = Instant::now();
    step.signal(Signal::TERM);
    step.bundle_within(sent);
    assert_eq!(step.end(), -15);
    step.all_is_gone();
    let copy = fs::read_to_string(step.place.path("copy")).expect("the copy");
    assert!(copy.contains("the end of the parent process"), "{copy}");
}

#[test]
fn github_a_deaf_suite_with_exec_is_ended_by_kill() {
    let Some(watched) = watched("test_deaf.py") else {
        return;
    };
    let mut step = Step::start(Place::new(), &format!("exec {watched}\n"));
    let sent = Instant::now();
    step.signal(Signal::INT);
    step.bundle_within(sent);
    wait_until("INT is passed on", || step.heard() == "SIGINT\n");
    step.signal(Signal::TERM);
    wait_until("TERM is passed on", || step.heard() == "SIGINT\nSIGTERM\n");
    step.signal(Signal::KILL);
    assert_eq!(step.end(), -9);
    step.all_is_gone();
    assert_whole(&step.place.bundle());
}

#[test]
fn github_a_deaf_suite_without_exec_goes_with_the_runners_last_sweep() {
    let Some(watched) = watched("test_deaf.py") else {
        return;
    };
    let mut step = Step::start(Place::new(), &format!("{watched}\n"));
    let hangscope = step.hangscope();
    step.signal(Signal::INT);
    let sent = Instant::now();
    step.signal(Signal::TERM);
    step.bundle_within(sent);
    assert_eq!(step.end(), -15);
    wait_until("TERM is passed on", || step.heard() == "SIGTERM\n");
    // At the end of the job the runner kills what it finds by a variable of the job's, in no special order.
    signal(hangscope, Signal::KILL).expect("it lives");
    step.all_is_gone();
    assert_whole(&step.place.bundle());
}

#[test]
fn github_killed_at_once_the_run_is_dumped_all_the_same() {
    let Some(watched) = watched("test_hangs.py") else {
        return;
    };
    let mut step = Step::start(Place::new(), &format!("{watched}\n"));
    let sent = Instant::now();
    step.signal(Signal::KILL);
    step.bundle_within(sent);
    assert_eq!(step.end(), -9);
    step.all_is_gone();
}

#[test]
fn github_in_real_time() {
    if !heavy() {
        return;
    }
    for (exec, suite, end) in [
        ("exec ", "test_hangs.py", 2),
        ("", "test_hangs.py", -15),
        ("exec ", "test_deaf.py", -9),
        ("", "test_deaf.py", -15),
    ] {
        let Some(watched) = watched(suite) else {
            return;
        };
        let mut step = Step::start(Place::new(), &format!("{exec}{watched}\n"));
        let hangscope = step.hangscope();
        for (number, pause) in [Signal::INT, Signal::TERM].into_iter().zip(GITHUB) {
            step.signal(number);
            let sent = Instant::now();
            while sent.elapsed() < pause && step.bash.try_wait().expect("its state").is_none() {
                std::thread::sleep(Duration::from_millis(10));
            }
            if step.bash.try_wait().expect("its state").is_some() {
                break;
            }
        }
        if step.bash.try_wait().expect("its state").is_none() {
            step.signal(Signal::KILL);
        }
        assert_eq!(step.end(), end, "{exec}{suite}");
        if suite == "test_deaf.py" && exec.is_empty() {
            wait_until("TERM is passed on", || step.heard() == "SIGTERM\n");
            signal(hangscope, Signal::KILL).expect("it lives");
        }
        step.all_is_gone();
        assert_whole(&step.place.bundle());
    }
}

/// GitLab's shell executor feeds the script to `bash` on its standard input, with each job's commands in one
/// `eval` at the end of a pipeline, and signals the process group: TERM, later KILL.
#[test]
fn gitlab_signals_the_group_of_the_shell() {
    for exec in ["exec ", ""] {
        let Some(watched) = watched("test_hangs.py") else {
            return;
        };
        let place = Place::new();
        let script = format!(
            "set -eo pipefail\nset +o noclobber\n: | eval $'echo before\\n{exec}{}'\nexit 0\n",
            watched.replace('\'', "\\'")
        );
        let mut bash = place.command("bash");
        bash.stdin(script_on_stdin(&place, &script))
            .process_group(0);
        let mut step = Step::run(place, bash);
        let group = rustix::process::Pid::from_raw(step.pid()).expect("a pid");
        let sent = Instant::now();
        rustix::process::kill_process_group(group, Signal::TERM).expect("it lives");
        step.bundle_within(sent);
        assert_eq!(step.end(), -15, "{}", step.log());
        let _ = rustix::process::kill_process_group(group, Signal::KILL);
        step.all_is_gone();
        assert_whole(&step.place.bundle());
    }
}

#[test]
fn gitlab_a_kill_of_the_group_leaves_nothing() {
    let Some(watched) = watched("test_deaf.py") else {
        return;
    };
    let place = Place::new();
    let script = format!("set -eo pipefail\n{watched}\n");
    let mut bash = place.command("bash");
    bash.stdin(script_on_stdin(&place, &script))
        .process_group(0);
    let mut step = Step::run(place, bash);
    let group = rustix::process::Pid::from_raw(step.pid()).expect("a pid");
    let sent = Instant::now();
    rustix::process::kill_process_group(group, Signal::TERM).expect("it lives");
    step.bundle_within(sent);
    wait_until("TERM is passed on", || step.heard().contains("SIGTERM\n"));
    let _ = rustix::process::kill_process_group(group, Signal::KILL);
    assert_eq!(step.end(), -15);
    step.all_is_gone();
    assert_whole(&step.place.bundle());
}

/// `timeout` acts on the alarm that it has set for itself: sent to it, the time is over at once.
#[test]
fn timeout_around_a_script() {
    for (exec, suite, code, last) in [
        ("exec ", "test_hangs.py", 124, false),
        ("", "test_hangs.py", 124, false),
        ("exec ", "test_deaf.py", -9, true),
    ] {
        let Some(watched) = watched(suite) else {
            return;
        };
        let place = Place::new();
        fs::write(place.path("script.sh"), format!("{exec}{watched}\n")).expect("the script");
        let mut timeout = place.command("timeout");
        timeout.args(["-k", "1000", "2000", "bash", "script.sh"]);
        let mut step = Step::run(place, timeout);
        let sent = Instant::now();
        step.signal(Signal::ALARM);
        step.bundle_within(sent);
        if last {
            wait_until("TERM is passed on", || step.heard().contains("SIGTERM\n"));
            step.signal(Signal::ALARM);
        }
        assert_eq!(step.end(), code, "{exec}{suite}: {}", step.log());
        step.all_is_gone();
        assert_whole(&step.place.bundle());
    }
}

/// A signal that has come and not been taken yet.
fn pending(pid: i32, number: Signal) -> Option<bool> {
    let field = status_field(pid, "ShdPnd")?;
    let mask = u64::from_str_radix(&field, 16).ok()?;
    Some(mask >> (number.as_raw() - 1) & 1 == 1)
}

fn script_on_stdin(place: &Place, script: &str) -> Stdio {
    let path = place.path("stdin");
    fs::File::create(&path)
        .and_then(|mut file| file.write_all(script.as_bytes()))
        .expect("the script");
    Stdio::from(fs::File::open(path).expect("the script"))
}

/// The CI's limit and ours come at the same time: the signal finds a first sample under way.
#[test]
fn a_cancel_during_the_capture_at_the_limit_waits_for_its_first_sample() {
    let script = "trap 'ls .hangscope/latest/ >seen; exit 9' TERM; while :; do sleep 0.01; done";
    let options = ["--run-timeout", "300ms", "--samples", "1", "--"];
    let place = Place::new();
    let mut child = place
        .watch(&options)
        .args(["sh", "-c", script])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("it starts");
    let archive = place.path(".hangscope");
    // The bundle in the making is the sign that the capture is under way, and its sample not yet on disk.
    wait_until("the capture is under way", || {
        while child.try_wait().expect("its state").is_none() && !archive.exists() {
            std::hint::spin_loop();
        }
        archive.exists()
    });
    signal(i32::try_from(child.id()).expect("a pid"), Signal::TERM).expect("it lives");
    wait_until("it has ended", || {
        child.try_wait().expect("its state").is_some()
    });
    let seen = fs::read_to_string(place.path("seen")).expect("the list");
    for file in ["dump.json", "manifest.json", "report.txt"] {
        assert!(seen.lines().any(|line| line == file), "{seen}");
    }
    place.assert_nothing_left();
}
