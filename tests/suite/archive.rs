//! Bundles on disk.

use crate::support_watch::{Place, json, name_of, run};
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};

const LIMIT: [&str; 7] = [
    "--run-timeout",
    "50ms",
    "--samples",
    "1",
    "--grace",
    "0",
    "--",
];

fn hang(place: &Place) -> crate::support_watch::End {
    let end = run(place.watch(&LIMIT).args(["sleep", "1000"]));
    assert_eq!(end.code(), 124, "{}", end.stderr);
    end
}

#[test]
fn a_bundle_is_private_and_complete() {
    let place = Place::new();
    let secret = [
        "sh",
        "-c",
        "sleep 1000",
        "--password=hunter2",
        "--token",
        "t0k3n",
        "https://me:pw@host/",
    ];
    let end = run(place.watch(&LIMIT).args(secret));
    assert_eq!(end.code(), 124, "{}", end.stderr);
    let archive = place.path(".hangscope");
    assert_eq!(
        fs::read_to_string(archive.join(".gitignore")).expect(".gitignore"),
        "*\n"
    );
    let bundle = place.bundle();
    assert_eq!(
        fs::read_link(archive.join("latest"))
            .expect("a link")
            .to_string_lossy(),
        name_of(&bundle)
    );
    assert_eq!(bundle.metadata().expect("it").mode() & 0o7777, 0o700);
    let mut files = Vec::new();
    for entry in fs::read_dir(&bundle).expect("the bundle") {
        let path = entry.expect("an entry").path();
        assert_eq!(
            path.metadata().expect("it").mode() & 0o7777,
            0o600,
            "{}",
            path.display()
        );
        files.push(name_of(&path));
    }
    files.sort();
    assert_eq!(
        files,
        ["dump.json", "manifest.json", "report.md", "report.txt"]
    );
    let manifest = json(&bundle.join("manifest.json"));
    assert_eq!(manifest["schema"], "hangscope-manifest/1");
    assert_eq!(
        manifest["files"],
        serde_json::json!(["dump.json", "report.txt", "report.md"])
    );
    assert_eq!(
        manifest["trigger"],
        serde_json::json!({"kind": "run-timeout", "limit_ms": 50})
    );
    assert_eq!(
        manifest["command"],
        serde_json::json!([
            "sh",
            "-c",
            "sleep 1000",
            "--password=***",
            "--token",
            "***",
            "https://***@host/"
        ])
    );
    let parsed: hangscope::model::Report =
        serde_json::from_slice(&fs::read(bundle.join("dump.json")).expect("the dump"))
            .expect("a report");
    assert_eq!(parsed.schema, hangscope::model::SCHEMA);
}

#[test]
fn no_link_is_followed_and_nothing_of_others_is_touched() {
    let place = Place::new();
    let precious = place.path("precious");
    fs::create_dir(&precious).expect("a folder");
    fs::write(precious.join("file"), "mine").expect("a file");
    let archive = place.path(".hangscope");
    fs::create_dir(&archive).expect("a folder");
    // Old bundles by name: one is a link, one holds a folder, one is a file. And 30 that are really old.
    symlink(&precious, archive.join("2000-01-01T00-00-00Z-1-1")).expect("a link");
    fs::create_dir_all(archive.join("2000-01-01T00-00-00Z-1-2/deep")).expect("a folder");
    fs::write(archive.join("2000-01-01T00-00-00Z-1-3"), "file").expect("a file");
    fs::create_dir(archive.join("2000-01-01-notes")).expect("a folder");
    for number in 1..=30 {
        let old = archive.join(format!("2001-01-01T00-00-00Z-1-{number}"));
        fs::create_dir(&old).expect("a folder");
        symlink(precious.join("file"), old.join("dump.json")).expect("a link");
    }
    // A writer that died long ago (no process has that pid), and a link where `latest` stands.
    fs::create_dir(archive.join(".tmp-2000-01-01T00-00-00Z-99999999-1")).expect("a folder");
    symlink("../precious", archive.join("latest")).expect("a link");
    hang(&place);
    assert_eq!(
        fs::read_to_string(precious.join("file")).expect("the file"),
        "mine"
    );
    assert_eq!(fs::read_dir(&precious).expect("it").count(), 1);
    assert!(archive.join("2000-01-01T00-00-00Z-1-1").is_symlink());
    assert!(archive.join("2000-01-01T00-00-00Z-1-2/deep").is_dir());
    assert!(archive.join("2000-01-01T00-00-00Z-1-3").is_file());
    assert!(archive.join("2000-01-01-notes").is_dir());
    assert!(
        !archive
            .join(".tmp-2000-01-01T00-00-00Z-99999999-1")
            .exists()
    );
    let ours = place
        .bundles()
        .iter()
        .filter(|path| !name_of(path).starts_with("2000"))
        .count();
    assert_eq!(ours, 20);
    assert!(
        archive.join("2001-01-01T00-00-00Z-1-30").is_dir(),
        "the youngest stay"
    );
    assert!(!archive.join("2001-01-01T00-00-00Z-1-1").exists());
    assert!(
        !archive.join(".gitignore").exists(),
        "the folder was there before: what is in it is the user's"
    );
    assert!(archive.join("latest/dump.json").is_file());
}

#[test]
fn a_link_in_place_of_the_archive_is_refused() {
    let place = Place::new();
    fs::create_dir(place.path("elsewhere")).expect("a folder");
    symlink("elsewhere", place.path(".hangscope")).expect("a link");
    let end = hang(&place);
    assert!(
        end.stderr.contains("a symbolic link is in the way"),
        "{}",
        end.stderr
    );
    assert_eq!(
        fs::read_dir(place.path("elsewhere")).expect("it").count(),
        0
    );
}

#[test]
fn runs_that_write_at_the_same_time_do_not_meet() {
    let place = Place::new();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| hang(&place));
        }
    });
    let bundles = place.bundles();
    assert_eq!(bundles.len(), 4, "{bundles:?}");
    for bundle in bundles {
        assert_eq!(
            json(&bundle.join("manifest.json"))["outcome"]["kind"],
            "timed-out"
        );
    }
}

#[test]
fn the_record_of_a_run_comes_after_the_first_report() {
    use hangscope::archive::{Bundle, Manifest};
    use hangscope::model::{Foreign, Inventory, Report, Run, RunRecord, TestSource, Trigger};
    let dump = crate::support::detector_fixture("join-on-blocked-thread").join("hang.dump.json");
    let report: Report =
        serde_json::from_slice(&fs::read(dump).expect("a dump")).expect("a report");
    let folder = tempfile::tempdir().expect("a folder");
    let archive = folder.path().join("archive");
    let manifest = Manifest::new(&["pytest".into()], Trigger::Dump);
    let mut bundle = Bundle::create(&archive, manifest, Some(&report)).expect("a bundle");
    let files = |bundle: &Bundle| -> Vec<String> {
        let manifest = fs::read(bundle.path().join("manifest.json")).expect("a manifest");
        let manifest: Manifest = serde_json::from_slice(&manifest).expect("a manifest");
        for file in &manifest.files {
            let size = fs::metadata(bundle.path().join(file))
                .expect("a file")
                .len();
            assert!(size > 0, "{file}");
        }
        manifest.files
    };
    // What must be whole within seconds of a signal is not kept waiting by the rest.
    assert_eq!(files(&bundle), ["dump.json", "report.txt"]);
    let mut record = RunRecord {
        run: Run {
            source: TestSource::Plugin,
            ..Run::default()
        },
        not_run: vec![Foreign::from("a.py::b")],
        ..RunRecord::default()
    };
    bundle.set_record(&record, None).expect("written");
    let first = ["dump.json", "report.txt", "junit.xml", "events.jsonl"];
    assert_eq!(files(&bundle), first);
    bundle.update(&report).expect("written");
    record.run.inventory = Some(Inventory::default());
    bundle.set_record(&record, Some(&report)).expect("written");
    let all = [&first[..], &["report.md", "inventory.json"]].concat();
    assert_eq!(files(&bundle), all);
    let mut names: Vec<String> = fs::read_dir(bundle.path())
        .expect("the bundle")
        .map(|entry| {
            entry
                .expect("an entry")
                .file_name()
                .into_string()
                .expect("UTF-8")
        })
        .collect();
    names.sort();
    let mut expected = [all, vec!["manifest.json"]].concat();
    expected.sort_unstable();
    assert_eq!(names, expected);
    let inventory = json(&bundle.path().join("inventory.json"));
    assert_eq!(inventory["schema"], "hangscope-inventory/1");
    assert_eq!(inventory["tests"], 0);
    fs::remove_dir_all(&archive).expect("removed");
    let error = bundle
        .set_record(&record, None)
        .expect_err("there is no folder");
    assert!(error.to_string().contains("junit.xml"), "{error}");
}
