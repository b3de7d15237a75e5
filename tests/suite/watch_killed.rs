//! hangscope killed at any moment, and archives that cannot be written: the run is as without, nothing is left, and a
//! bundle is whole or absent.

use crate::support::{heavy, skip};
use crate::support_watch::{End, Place, Run, json, name_of, python, run, signal, wait_until};
use rustix::fs::FlockOperation;
use rustix::process::{Resource, Rlimit, Signal};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// A tree with threads, an orphan in a session of its own, and one that is deaf to TERM.
const TREE: &str = r#"
import os, signal, threading, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(1000)
    os._exit(0)
for _ in range(3):
    threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
threading.Lock().acquire()
time.sleep(1000)
"#;

/// Begins and ends everything within half a second: start, captures, bundle, TERM, KILL.
const FAST: [&str; 9] = [
    "--run-timeout",
    "150ms",
    "--samples",
    "5",
    "--interval",
    "20ms",
    "--grace",
    "100ms",
    "--",
];

/// What stands in an archive is whole; unfinished bundles are returned, by name.
#[track_caller]
fn unfinished_in(archive: &Path) -> Vec<String> {
    let mut unfinished = Vec::new();
    for entry in fs::read_dir(archive).into_iter().flatten() {
        let path = entry.expect("an entry").path();
        let name = name_of(&path);
        if name.starts_with(".tmp-") {
            unfinished.push(name);
        } else if path.is_dir() {
            assert_whole(&path);
        }
    }
    unfinished
}

#[track_caller]
fn assert_whole(bundle: &Path) {
    let manifest = json(&bundle.join("manifest.json"));
    assert!(manifest["trigger"]["kind"].is_string(), "{manifest:#}");
    let files = manifest["files"].as_array().expect("files");
    assert!(!files.is_empty(), "{manifest:#}");
    for file in files {
        let content = fs::read(bundle.join(file.as_str().expect("a name"))).expect("the file");
        assert!(!content.is_empty(), "{file}");
    }
    let dump = fs::read(bundle.join("dump.json")).expect("the dump");
    serde_json::from_slice::<hangscope::model::Report>(&dump).expect("a report");
}

/// The moments are spread evenly over the life of a run, each a little differently placed by the machine's load: they
/// need not be the same each time, only many.
#[test]
fn killed_at_any_moment_nothing_is_left_and_bundles_are_whole() {
    let kills: u32 = if heavy() { 300 } else { 30 };
    let at_once = 3;
    let (mut finished, mut bundles) = (0, 0);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..at_once)
            .map(|worker| {
                scope.spawn(move || {
                    let place = Place::new();
                    let mut finished = 0;
                    for kill in (worker..kills).step_by(at_once as usize) {
                        finished += u32::from(kill_after(
                            &place,
                            Duration::from_millis(900) * kill / kills,
                        ));
                    }
                    let unfinished = unfinished_in(&place.path(".hangscope"));
                    println!("unfinished: {unfinished:?}");
                    // The next run that saves something clears away what is unfinished.
                    let end = run(place.watch(&FAST).args(["sleep", "1000"]));
                    assert_eq!(end.code(), 124, "{end:#?}");
                    assert_eq!(
                        unfinished_in(&place.path(".hangscope")),
                        Vec::<String>::new()
                    );
                    (finished, place.bundles().len())
                })
            })
            .collect();
        for worker in workers {
            let (done, saved) = worker.join().expect("it passes");
            finished += done;
            bundles += saved;
        }
    });
    println!("{kills} kills: {finished} runs had ended before, {bundles} bundles");
    assert!(finished < kills, "none was killed");
}

/// Starts a run, kills hangscope after a time. Says whether the run had ended by then.
fn kill_after(place: &Place, time: Duration) -> bool {
    let mut child = place
        .watch(&FAST)
        .args([python(), "-c", TREE])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("it starts");
    std::thread::sleep(time);
    let finished = child.try_wait().expect("its state").is_some();
    let _ = child.kill();
    child.wait().expect("its status");
    wait_until("all is gone", || place.processes().is_empty());
    unfinished_in(&place.path(".hangscope"));
    finished
}

/// The shortest and most delicate moment, caught by looking for it.
#[test]
fn killed_while_it_saves_the_bundle_is_whole_or_absent() {
    let place = Place::new();
    let archive = place.path(".hangscope");
    for _ in 0..5 {
        let mut child = place
            .watch(&FAST)
            .args(["sleep", "1000"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("it starts");
        let is_unfinished = |entry: fs::DirEntry| name_of(&entry.path()).starts_with(".tmp-2");
        while child.try_wait().expect("its state").is_none()
            && !fs::read_dir(&archive)
                .into_iter()
                .flatten()
                .any(|entry| entry.is_ok_and(is_unfinished))
        {
            std::thread::yield_now();
        }
        let _ = child.kill();
        child.wait().expect("its status");
        wait_until("all is gone", || place.processes().is_empty());
        println!("unfinished: {:?}", unfinished_in(&archive));
        assert!(
            unfinished_in(&archive).len() <= 1,
            "each run that saves clears away what the last left"
        );
        let _ = run(place.watch(&FAST).args(["sleep", "1000"]));
        assert_eq!(unfinished_in(&archive), Vec::<String>::new());
    }
}

#[test]
fn an_unfinished_bundle_is_left_alone_as_long_as_its_writer_lives() {
    let place = Place::new();
    let unfinished = place.path(".hangscope/.tmp-2000-01-01T00-00-00Z-99999999-1");
    fs::create_dir_all(&unfinished).expect("a folder");
    let writer = fs::File::open(&unfinished).expect("the folder");
    rustix::fs::flock(&writer, FlockOperation::LockExclusive).expect("a lock");
    let hang = || run(place.watch(&FAST).args(["sleep", "1000"]));
    assert_eq!(hang().code(), 124);
    assert!(unfinished.exists(), "its writer holds it");
    drop(writer);
    assert_eq!(hang().code(), 124);
    assert!(!unfinished.exists());
}

/// Runs a hanging command in a mount namespace with a file system of its own as folder `disk`, and lists that in the end.
fn on_disk(place: &Place, options: &str, fill: &str) -> Option<(End, String)> {
    let namespace = ["-m", "-Urm"].into_iter().find(|flags| {
        Command::new("unshare")
            .args([flags, "true"])
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    });
    let Some(namespace) = namespace else {
        skip("no file system can be mounted here (unshare -m, unshare -Urm)");
        return None;
    };
    fs::create_dir(place.path("disk")).expect("a folder");
    let script = format!(
        "mount -t tmpfs -o {options} none disk || exit 99; {fill}
         \"$0\" watch --archive disk/archive \"$@\" sleep 1000; code=$?; ls -AR disk >list; cp -r disk copy; exit $code"
    );
    let end = run(place
        .command("unshare")
        .args([
            namespace,
            "sh",
            "-c",
            &script,
            env!("CARGO_BIN_EXE_hangscope"),
        ])
        .args(FAST));
    let list = fs::read_to_string(place.path("list")).expect("the list");
    place.assert_nothing_left();
    Some((end, list))
}

/// The verdict is told and the limit acts; one line says why nothing is saved.
#[track_caller]
fn assert_one_line(end: &End, why: &str) {
    assert_eq!(end.code(), 124, "{end:#?}");
    assert!(end.stderr.contains("hangscope: run timeout"), "{end:#?}");
    let lines: Vec<&str> = end
        .stderr
        .lines()
        .filter(|line| line.contains("no bundle is saved"))
        .collect();
    assert_eq!(lines.len(), 1, "{end:#?}");
    assert!(lines[0].contains(why), "{end:#?}");
}

#[test]
fn a_full_disk_leaves_no_half_bundle() {
    let place = Place::new();
    let fill = "head -c 100000 /dev/zero >disk/full 2>/dev/null;";
    let Some((end, list)) = on_disk(&place, "size=16k", fill) else {
        return;
    };
    assert_one_line(&end, "No space left on device");
    assert!(
        !list.contains("dump.json") && !list.contains(".tmp-"),
        "{list}"
    );
}

#[test]
fn a_disk_that_fills_up_in_the_middle_leaves_no_half_bundle() {
    let place = Place::new();
    // Room for the folders and the first file, but not for all.
    let Some((end, list)) = on_disk(&place, "size=8k", "") else {
        return;
    };
    assert_one_line(&end, "No space left on device");
    assert!(
        !list.contains("manifest.json") && !list.contains(".tmp-"),
        "{list}"
    );
}

#[test]
fn a_disk_that_fills_up_after_the_first_sample_leaves_that() {
    let place = Place::new();
    // Each sample makes the dump larger.
    let fill = "set -- --run-timeout 100ms --samples 100 --interval 10ms --grace 50ms --;";
    let Some((end, list)) = on_disk(&place, "size=48k", fill) else {
        return;
    };
    assert_eq!(end.code(), 124, "{end:#?}");
    let told = "hangscope: the bundle lacks what was seen later: cannot write disk/archive/";
    assert!(
        end.stderr.contains(told) && !end.stderr.contains("no bundle is saved"),
        "{end:#?}"
    );
    assert!(end.stderr.contains("archive: disk/archive/"), "{end:#?}");
    assert!(!list.contains(".tmp-"), "{list}");
    assert_eq!(
        unfinished_in(&place.path("copy/archive")),
        Vec::<String>::new()
    );
    assert!(place.path("copy/archive/latest/dump.json").exists());
}

#[test]
fn an_archive_that_is_read_only_costs_one_line() {
    let place = Place::new();
    let Some((end, list)) = on_disk(&place, "ro", "") else {
        return;
    };
    assert_one_line(&end, "Read-only file system");
    assert_eq!(list, "disk:\n");
}

#[test]
fn a_limit_on_hangscopes_file_sizes_does_not_end_the_run() {
    let place = Place::new();
    let mut run = Run::start(&mut place.watch(&[
        "--run-timeout",
        "1s",
        "--samples",
        "1",
        "--",
        "sh",
        "-c",
        "echo READY; exec sleep 1000",
    ]));
    run.ready();
    // The suite has its own limit already. SIGXFSZ, which comes with this one, kills who does not expect it.
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    let pid = rustix::process::Pid::from_raw(run.pid());
    rustix::process::prlimit(pid, Resource::Fsize, none).expect("the limit");
    let end = run.end();
    assert_one_line(&end, "File too large");
    place.assert_nothing_left();
    assert!(place.bundles().is_empty());
}

#[test]
fn a_limit_on_all_file_sizes_does_not_end_the_run() {
    let place = Place::new();
    let script = "ulimit -f 0; exec \"$0\" watch \"$@\" sleep 1000";
    let end = run(place
        .command("sh")
        .args(["-c", script, env!("CARGO_BIN_EXE_hangscope")])
        .args(FAST));
    assert_one_line(&end, "File too large");
    assert!(place.bundles().is_empty());
    place.assert_nothing_left();
}

/// hangscope's handler for it is not the command's: that still dies of the signal.
#[test]
fn the_signal_of_a_file_size_limit_is_the_commands_own() {
    let place = Place::new();
    let script = "ulimit -c 0; ulimit -f 0; echo text >file";
    let bare = run(place.command("sh").args(["-c", script]));
    let watched = run(&mut place.watch(&["--", "sh", "-c", script]));
    assert_eq!(watched.code(), bare.code());
    assert_eq!(watched.code(), -Signal::XFSZ.as_raw());
}

#[test]
fn an_archive_that_is_deleted_in_the_middle_costs_one_line() {
    let place = Place::new();
    let script = "while [ ! -e .hangscope/latest/dump.json ]; do sleep 0.01; done; rm -r .hangscope; exec sleep 1000";
    let options = [
        "--run-timeout",
        "100ms",
        "--samples",
        "20",
        "--interval",
        "50ms",
        "--grace",
        "50ms",
        "--",
    ];
    let end = run(place.watch(&options).args(["sh", "-c", script]));
    assert_one_line(&end, "No such file or directory");
    assert!(!end.stderr.contains("archive: "), "{end:#?}");
    place.assert_nothing_left();
}

#[test]
fn an_archive_that_is_deleted_after_a_dump_changes_nothing() {
    let place = Place::new();
    // Some of it may still be written while it is removed.
    let script = "echo READY; until [ -e .hangscope/latest ]; do sleep 0.01; done; \
                  while [ -e .hangscope ]; do rm -rf .hangscope; sleep 0.05; done; exit 5";
    let mut run = Run::start(&mut place.watch(&["--samples", "1", "--", "sh", "-c", script]));
    run.ready();
    run.signal(Signal::USR1);
    let end = run.end();
    assert_eq!(end.code(), 5, "{end:#?}");
    assert!(!place.path(".hangscope").exists());
}

#[test]
fn a_folder_that_is_gone_costs_one_line() {
    let place = Place::new();
    let script =
        "mkdir gone; cd gone; exec \"$0\" watch \"$@\" sh -c 'rmdir ../gone; exec sleep 1000'";
    let end = run(place
        .command("sh")
        .args(["-c", script, env!("CARGO_BIN_EXE_hangscope")])
        .args(FAST));
    assert_one_line(&end, "No such file or directory");
    place.assert_nothing_left();
}

/// Killed while it holds a signal back for a capture, and with a stopped suite.
#[test]
fn a_suite_that_is_stopped_goes_with_hangscope() {
    let place = Place::new();
    let script = "echo READY; kill -STOP $$; sleep 1000";
    let mut run = Run::start(&mut place.watch(&["--", "sh", "-c", script]));
    run.ready();
    signal(run.pid(), Signal::KILL).expect("it lives");
    assert_eq!(run.end().code(), -9);
    wait_until("all is gone", || place.processes().is_empty());
}
