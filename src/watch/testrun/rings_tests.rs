//! Folders of rings, with real processes.

use super::news::{News, What, Who};
use super::record::Body;
use super::rings::{Rings, now_ns};
use super::tracker::Tracker;
use super::writer::{Writer, bytes_of};
use crate::watch::processes::{Process, own_pid};
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command};
use tempfile::TempDir;

struct Run {
    folder: TempDir,
    rings: Rings,
}

impl Run {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        fs::create_dir(folder.path().join("rings")).expect("a folder");
        let rings = Rings::open(folder.path()).expect("rings");
        Self { folder, rings }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("rings")
    }

    fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(self.path()).expect("the folder").flatten();
        let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        names.collect()
    }
}

/// A process that lives until it is dropped.
struct Sleeper(Child);

impl Sleeper {
    fn new() -> Self {
        Self(Command::new("sleep").arg("1000").spawn().expect("sleep"))
    }

    fn who(&self) -> Who {
        who_of(i32::try_from(self.0.id()).expect("a pid"))
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn who_of(pid: i32) -> Who {
    Who {
        pid,
        start_ticks: Process::read(pid).expect("a process").start,
    }
}

fn own() -> Who {
    who_of(own_pid())
}

fn kinds(news: &[News]) -> Vec<&'static str> {
    let kind = |one: &News| match &one.what {
        What::Opened(_) => "opened",
        What::Record(_) => "record",
        What::Lost(_) => "lost",
        What::Collected(_) => "collected",
        What::Stopped(_) => "stopped",
        What::Ended => "ended",
    };
    news.iter().map(kind).collect()
}

#[test]
fn a_ring_is_found_read_and_deleted_when_its_process_is_gone() {
    let mut run = Run::new();
    let sleeper = Sleeper::new();
    let mut writer = Writer::new(&run.path(), sleeper.who(), 4096);
    assert_eq!(kinds(&run.rings.poll()), ["opened"]);
    writer.record(2, 0, 0, "a");
    assert_eq!(kinds(&run.rings.poll()), ["record"]);
    assert!(run.rings.poll().is_empty());
    writer.record(2, 0, 0, "its last");
    drop(sleeper);
    assert_eq!(kinds(&run.rings.poll()), ["record", "ended"]);
    assert!(run.files().is_empty());
    assert!(run.rings.poll().is_empty());
}

#[test]
fn what_a_dead_process_wrote_is_learned_even_if_it_was_never_seen_alive() {
    let mut run = Run::new();
    let mut sleeper = Sleeper::new();
    let mut writer = Writer::new(&run.path(), sleeper.who(), 4096);
    writer.record(4, 0, 1, "1\n\na.py\na.py::t");
    let _ = sleeper.0.kill();
    // A zombie has ended.
    while !Process::read(writer_pid(&sleeper)).is_some_and(|process| process.is_dead()) {
        std::thread::yield_now();
    }
    let news = run.rings.poll();
    assert_eq!(kinds(&news), ["opened", "record", "ended"]);
    let mut tracker = Tracker::new(0);
    for one in &news {
        tracker.hear(one);
    }
    assert_eq!(tracker.record(now_ns(), String::new()).tests.len(), 1);
}

fn writer_pid(sleeper: &Sleeper) -> i32 {
    i32::try_from(sleeper.0.id()).expect("a pid")
}

#[test]
fn the_processes_above_are_told() {
    let mut run = Run::new();
    let sleeper = Sleeper::new();
    let _writer = Writer::new(&run.path(), sleeper.who(), 4096);
    let news = run.rings.poll();
    let What::Opened(above) = &news[0].what else {
        panic!("opened");
    };
    assert_eq!(above[0], own_pid());
    assert!(above.len() > 1 && above.len() <= 64);
}

#[test]
fn news_of_two_rings_come_in_the_order_of_time_and_never_from_the_future() {
    let mut run = Run::new();
    let sleeper = Sleeper::new();
    let mut ours = Writer::new(&run.path(), own(), 4096);
    let mut theirs = Writer::new(&run.path(), sleeper.who(), 4096);
    let write = |writer: &mut Writer, at: u64, text: &str| {
        let bytes = bytes_of(writer.seq, at, 0, [0; 5], 2, 0, text.as_bytes());
        writer.raw(&bytes);
        writer.seq += 1;
        writer.publish();
    };
    write(&mut ours, 10, "1");
    write(&mut theirs, 20, "2");
    write(&mut ours, 30, "3");
    // Back in time within a ring: its order stays.
    write(&mut ours, 5, "4");
    write(&mut theirs, 40, "5");
    write(&mut theirs, u64::MAX, "6");
    let news = run.rings.poll();
    let text = |one: &News| match &one.what {
        What::Record(record) => match &record.body {
            Body::Collect(text) => Some(text.untrusted().to_owned()),
            _ => None,
        },
        _ => None,
    };
    let texts: Vec<String> = news.iter().filter_map(text).collect();
    assert_eq!(texts, ["1", "2", "3", "4", "5", "6"]);
    assert!(news.is_sorted_by_key(|one| one.at));
    assert!(news.iter().all(|one| one.at <= now_ns()));
}

#[test]
fn what_a_parent_did_before_its_child_is_known_when_the_child_is() {
    let mut run = Run::new();
    let sleeper = Sleeper::new();
    let mut parent = Writer::new(&run.path(), own(), 4096);
    let mut child = Writer::new(&run.path(), sleeper.who(), 4096);
    run.rings.poll();
    let mut first = true;
    let news = run.rings.poll_with(&mut || {
        if std::mem::take(&mut first) {
            parent.record(2, 0, 0, "parent");
            child.record(2, 0, 0, "child");
        }
    });
    let all: Vec<News> = news.into_iter().chain(run.rings.poll()).collect();
    let from: Vec<Who> = all.iter().map(|one| one.who).collect();
    assert_eq!(from, [own(), sleeper.who()]);
}

#[test]
fn lists_of_tests_are_read_once_and_whole() {
    let mut run = Run::new();
    let mut writer = Writer::new(&run.path(), own(), 4096);
    let list = run.folder.path().join("collected-uid");
    fs::write(&list, "a.py::t\n").expect("half a list");
    for _ in 0..2 {
        writer.record(3, 0, 0, r#"{"count":2,"list":"collected-uid"}"#);
    }
    writer.record(3, 0, 0, r#"{"count":2,"list":"../../etc/passwd"}"#);
    assert_eq!(
        kinds(&run.rings.poll()),
        ["opened", "record", "record", "record"]
    );
    fs::write(&list, "a.py::t\na.py::u\n").expect("a list");
    let news = run.rings.poll();
    assert_eq!(kinds(&news), ["collected"]);
    let What::Collected(tests) = &news[0].what else {
        panic!("collected");
    };
    assert_eq!(tests, &["a.py::t".into(), "a.py::u".into()]);
    assert!(run.rings.poll().is_empty());
}

#[test]
fn other_files_and_bad_rings_are_left_alone() {
    let mut run = Run::new();
    let own = own();
    let names = [
        "x.ring".to_owned(),
        "0-1.ring".to_owned(),
        format!("0{}-{}.ring", own.pid, own.start_ticks),
        format!("{}-{}.ring.tmp", own.pid, own.start_ticks),
    ];
    for name in &names {
        fs::write(run.path().join(name), "").expect("a file");
    }
    assert!(run.rings.poll().is_empty());
    let bad = Writer::new(&run.path(), own, 4096);
    bad.file.set_len(5000).expect("a size");
    assert_eq!(kinds(&run.rings.poll()), ["stopped"]);
    assert!(run.rings.poll().is_empty(), "told once");
    assert_eq!(run.files().len(), 5);
}

#[test]
fn an_unfinished_ring_waits_for_its_process_and_goes_with_it() {
    let mut run = Run::new();
    let sleeper = Sleeper::new();
    let who = sleeper.who();
    let name = format!("{}-{}.ring", who.pid, who.start_ticks);
    fs::write(run.path().join(&name), [0; 5000]).expect("a file");
    assert!(run.rings.poll().is_empty());
    assert_eq!(run.files(), [name]);
    drop(sleeper);
    assert!(run.rings.poll().is_empty());
    assert!(run.files().is_empty());
}

#[test]
fn many_short_processes_do_not_fill_the_folder() {
    let mut run = Run::new();
    let mut ended = 0;
    for _ in 0..50 {
        let sleeper = Sleeper::new();
        let mut writer = Writer::new(&run.path(), sleeper.who(), 4096);
        writer.record(2, 0, 0, "a");
        drop(sleeper);
        ended += kinds(&run.rings.poll())
            .iter()
            .filter(|&&kind| kind == "ended")
            .count();
        assert!(run.files().is_empty());
    }
    assert_eq!(ended, 50);
}

#[test]
fn a_request_reaches_the_ring_of_its_process() {
    let mut run = Run::new();
    let _writer = Writer::new(&run.path(), own(), 4096);
    run.rings.poll();
    assert!(run.rings.request(own(), 3, 1, "text").expect("written"));
    let nobody = Who {
        pid: 1,
        start_ticks: 0,
    };
    assert!(!run.rings.request(nobody, 3, 1, "text").expect("no ring"));
}
