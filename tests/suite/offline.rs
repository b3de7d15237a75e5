//! Saved dumps: the same verdict again, the same bytes again, and no harm from any file.

use crate::capture::assert_harmless;
use crate::support::hangscope::{Run, command, dump, finish, run};
use crate::support::program::Program;
use crate::support::{detector_fixture, pythons, repository};
use hangscope::analysis::detectors::{Cause, causes};
use hangscope::model::{Certainty, Report};
use proptest::prelude::*;
use std::fs;
use std::path::{Path, PathBuf};

/// The causes with a saved dump; the others are shown by the programs of `fixtures/hangs`.
pub(crate) fn with_dumps() -> impl Iterator<Item = &'static Cause> {
    causes().filter(|cause| detector_fixture(cause.id).exists())
}

pub(crate) fn saved(id: &str) -> PathBuf {
    detector_fixture(id).join("hang.dump.json")
}

fn analyze(path: &Path, more: &[&str]) -> Run {
    finish(command().arg("analyze").arg(path).args(more))
}

/// Whether a dump of this cause says more than "possible".
fn is_hang(report: &Report) -> bool {
    report
        .analysis
        .findings
        .iter()
        .any(|finding| finding.certainty > Certainty::Possible)
}

#[test]
fn saved_dumps_give_their_cause_and_no_other() {
    for cause in with_dumps() {
        let run = analyze(&saved(cause.id), &["--format", "json"]);
        let report = run.report();
        let ids: Vec<&str> = report
            .analysis
            .findings
            .iter()
            .map(|finding| finding.id.as_str())
            .collect();
        assert_eq!(ids, [cause.id]);
        assert_eq!(
            run.code,
            Some(if is_hang(&report) { 10 } else { 0 }),
            "{}",
            cause.id
        );
        assert_eq!(run.stderr, "");
        crate::support::hangscope::assert_resolves(&report);
        let text = fs::read_to_string(saved(cause.id)).expect("a dump");
        for private in ["/root", "/work", "/tmp", "/home", ".pyenv"] {
            assert!(
                !text.contains(private),
                "{} names this machine: {private}",
                cause.id
            );
        }
    }
}

#[test]
fn saved_dumps_read_alike_as_text() {
    for cause in with_dumps() {
        for width in [80_usize, 100] {
            let mut report: Report =
                serde_json::from_slice(&fs::read(saved(cause.id)).expect("a dump"))
                    .expect("a report");
            report.options.width = width;
            let folder = tempfile::tempdir().expect("a folder");
            let path = folder.path().join("dump.json");
            fs::write(&path, serde_json::to_vec(&report).expect("JSON")).expect("a copy");
            let text = analyze(&path, &[]);
            assert_eq!(text.stderr, "");
            assert!(
                text.stdout
                    .lines()
                    .all(|line| line.chars().count() <= width),
                "{}",
                text.stdout
            );
            insta::assert_snapshot!(format!("{}_{width}", cause.id), text.stdout);
        }
    }
}

#[test]
fn saved_dumps_have_the_same_analysis() {
    for cause in with_dumps() {
        let report = analyze(&saved(cause.id), &["--format", "json"]).report();
        let analysis = serde_json::to_string_pretty(&report.analysis).expect("JSON");
        insta::assert_snapshot!(format!("{}_analysis", cause.id), analysis);
    }
}

#[test]
fn saved_dumps_can_be_drawn() {
    for cause in with_dumps() {
        let dot = analyze(&saved(cause.id), &["--graph", "dot"]);
        insta::assert_snapshot!(format!("{}_graph", cause.id), dot.stdout);
        let svg = analyze(&saved(cause.id), &["--graph", "svg"]);
        assert!(svg.stdout.starts_with("<?xml") && svg.stdout.trim_end().ends_with("</svg>"));
        assert!(svg.stdout.contains(cause.id), "{}", svg.stdout);
    }
    let both = ["--graph", "dot", "--format", "json"];
    assert_eq!(analyze(&saved("lock-order-cycle"), &both).code, Some(2));
}

#[test]
fn a_dump_analyzed_again_is_the_same_bytes() {
    for (version, fixture) in [
        ("3.14", "destroy-blocked-by-idle-thread/hang.py"),
        ("3.12", "join-on-blocked-thread/hang_chain.py"),
    ] {
        let Some(python) = pythons::python(version) else {
            return;
        };
        let program = Program::ready(&python, &detector_fixture(fixture), &[]);
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("dump.json");
        let again = folder.path().join("again.json");
        let first = dump(program.pid());
        drop(program);
        fs::write(&path, &first.stdout).expect("a file");
        let second = analyze(&path, &["--format", "json"]);
        assert_eq!(
            first.stdout, second.stdout,
            "the JSON comes through unchanged"
        );
        assert_eq!(first.code, second.code);
        let to_file = analyze(
            &path,
            &["--format", "json", "-o", again.to_str().expect("UTF-8")],
        );
        assert_eq!(to_file.stdout, "");
        assert_eq!(fs::read_to_string(&again).expect("a file"), first.stdout);
        let text = analyze(&path, &[]);
        assert_eq!(text.stdout, analyze(&again, &[]).stdout);
        let piped = finish(
            command()
                .args(["analyze", "-"])
                .stdin(fs::File::open(&path).expect("a file")),
        );
        assert_eq!(text.stdout, piped.stdout);
        // Rendered in this process, of the samples as they were.
        let mut bytes = Vec::new();
        hangscope::report::render(
            hangscope::report::Format::Text,
            &first.report(),
            hangscope::report::Style::plain(),
            &mut bytes,
        )
        .expect("rendered");
        assert_eq!(text.stdout, String::from_utf8(bytes).expect("UTF-8"));
    }
}

fn refused(bytes: &[u8], words: &str) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("dump.json");
    fs::write(&path, bytes).expect("a file");
    let run = analyze(&path, &[]);
    assert_eq!(
        (run.code, run.stdout.as_str()),
        (Some(2), ""),
        "{}",
        run.stderr
    );
    assert_eq!(run.stderr.lines().count(), 1, "one line: {}", run.stderr);
    assert_harmless(&run.stderr);
    assert!(
        run.stderr.contains(words),
        "{words:?} is not in {}",
        run.stderr
    );
}

#[test]
fn files_that_are_no_dumps() {
    let whole = fs::read(saved("join-on-blocked-thread")).expect("a dump");
    refused(b"", "not a hangscope dump");
    refused(
        b"Traceback (most recent call last):",
        "not a hangscope dump",
    );
    refused(&whole[..whole.len() / 2], "not a hangscope dump");
    refused(&whole[..whole.len() - 3], "not a hangscope dump");
    refused(b"\0\0\0\0", "not a hangscope dump");
    refused(b"{\"schema\": \"hangscope/2\"}", "hangscope/2");
    refused(b"{\"schema\": \"\\u001b[2J\\n\\u202e\"}", "schema");
    refused(b"{\"schema\": \"hangscope/1\"}", "damaged");
    refused(b"{}", "no schema");
    refused(b"[]", "");
    refused("[".repeat(100_000).as_bytes(), "");
    let deep = format!(
        "{{\"schema\":\"hangscope/1\",\"x\":{}1{}}}",
        "[".repeat(100_000),
        "]".repeat(100_000)
    );
    refused(deep.as_bytes(), "");
    let objects = "{\"schema\":".repeat(100_000);
    refused(objects.as_bytes(), "");
    let text = String::from_utf8(whole).expect("UTF-8");
    refused(
        text.replace("\"tid\": ", "\"tid\": 9999999999999999999999")
            .as_bytes(),
        "damaged",
    );
    refused(
        text.replace("\"sample\": 2", "\"sample\": -2").as_bytes(),
        "damaged",
    );
    refused(
        text.replacen(
            "\"hangscope/1\"",
            "\"hangscope/1\", \"evil\u{202e}\u{9b}\": \"\x07\"",
            1,
        )
        .as_bytes(),
        "",
    );
    // The parser's own message quotes the file.
    let hostile_variant = text.replacen(
        "\"verdict\": \"hang\"",
        "\"verdict\": \"\\u001b[2J\\n\\u202e\"",
        1,
    );
    assert_ne!(hostile_variant, text);
    refused(hostile_variant.as_bytes(), "damaged");
    let missing = run(["analyze", "/no/such/file"]);
    assert_eq!(missing.code, Some(2));
    let folder = run(["analyze", "/"]);
    assert_eq!(folder.code, Some(2));
}

#[test]
fn names_in_a_dump_cannot_reach_the_terminal() {
    const EVIL: &str = "\u{1b}[2J\u{1b}]0;x\u{7}\nhang: forged\r\u{202e}\u{9b}\u{feff}\u{2028}\0";
    for cause in with_dumps() {
        let text = fs::read_to_string(saved(cause.id)).expect("a dump");
        let mut json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        spoil(&mut json, EVIL);
        json["options"]["width"] = u64::MAX.into();
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("dump.json");
        fs::write(&path, json.to_string()).expect("a file");
        for more in [&[][..], &["--all"]] {
            let run = analyze(&path, more);
            assert!(
                matches!(run.code, Some(0 | 3 | 10)),
                "{}: {}",
                cause.id,
                run.stderr
            );
            assert_harmless(&run.stdout);
            assert_harmless(&run.stderr);
            assert!(
                !run.stdout
                    .lines()
                    .any(|line| line.trim_start().starts_with("hang: forged")),
                "{}",
                run.stdout
            );
        }
    }
}

/// Appends to every piece of text that comes from a target, and to words of ours that a file may forge.
fn spoil(json: &mut serde_json::Value, evil: &str) {
    const FOREIGN: [&str; 15] = [
        "name", "file", "function", "argv", "wchan", "missing", "cause", "remedy", "call", "title",
        "text", "version", "state", "phase", "subject",
    ];
    match json {
        serde_json::Value::Object(fields) => {
            for (name, value) in fields {
                match value {
                    // Those of tasks and sockets are words of ours, or the file is refused.
                    serde_json::Value::String(text)
                        if name == "state"
                            && ["running", "ready", "waiting", "established"]
                                .contains(&text.as_str()) => {}
                    serde_json::Value::String(text) if FOREIGN.contains(&name.as_str()) => {
                        text.push_str(evil)
                    }
                    serde_json::Value::Array(items) if name == "argv" => {
                        items
                            .iter_mut()
                            .for_each(|item| *item = format!("x{evil}").into());
                    }
                    _ => spoil(value, evil),
                }
            }
        }
        serde_json::Value::Array(items) => items.iter_mut().for_each(|item| spoil(item, evil)),
        _ => {}
    }
}

/// A change of a JSON document: at the place chosen, to the value chosen.
fn mutate(json: &mut serde_json::Value, mut place: usize, what: u8) {
    use serde_json::Value;
    let mut node = json;
    loop {
        let is_leaf = match &*node {
            Value::Object(fields) => fields.is_empty(),
            Value::Array(items) => items.is_empty(),
            _ => true,
        };
        if is_leaf || (place % 16 == 15 && what < 200) {
            break;
        }
        node = match node {
            Value::Object(fields) => {
                let count = fields.len();
                let chosen = place % count;
                place = place / count + 7;
                fields.values_mut().nth(chosen).expect("a field")
            }
            Value::Array(items) => {
                let count = items.len();
                let chosen = place % count;
                place = place / count + 3;
                &mut items[chosen]
            }
            _ => break,
        };
    }
    *node = match what % 10 {
        0 => Value::Null,
        1 => Value::from(u64::MAX),
        2 => Value::from(i64::MIN),
        3 => Value::from("\u{1b}[0m\n"),
        4 => Value::Array(Vec::new()),
        5 => Value::from(""),
        6 => Value::from("p1.1/t1"),
        7 => Value::Bool(true),
        8 => Value::from(0),
        _ => Value::from("ä".repeat(5000)),
    };
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_changed_dump_never_panics(
        cause in 0_usize..8,
        changes in prop::collection::vec((any::<usize>(), any::<u8>()), 1..6),
    ) {
        let ids: Vec<&str> = with_dumps().map(|cause| cause.id).collect();
        let text = fs::read_to_string(saved(ids[cause % ids.len()])).expect("a dump");
        let mut json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        for (place, what) in changes {
            mutate(&mut json, place, what);
        }
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("dump.json");
        fs::write(&path, json.to_string()).expect("a file");
        let run = analyze(&path, &[]);
        prop_assert!(matches!(run.code, Some(0 | 2 | 3 | 10)), "{:?}: {}", run.code, run.stderr);
        assert_harmless(&run.stdout);
        assert_harmless(&run.stderr);
    }

    #[test]
    fn changed_bytes_never_panic(
        cause in 0_usize..8,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20),
    ) {
        let ids: Vec<&str> = with_dumps().map(|cause| cause.id).collect();
        let mut bytes = fs::read(saved(ids[cause % ids.len()])).expect("a dump");
        for (place, byte) in changes {
            let at = place.index(bytes.len());
            bytes[at] = byte;
        }
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("dump.json");
        fs::write(&path, bytes).expect("a file");
        let run = analyze(&path, &["--all"]);
        prop_assert!(matches!(run.code, Some(0 | 2 | 3 | 10)), "{:?}: {}", run.code, run.stderr);
        assert_harmless(&run.stdout);
    }
}

/// Writes `hang.dump.json` of each cause anew, when asked to by `HANGSCOPE_SAVE_DUMPS=1`: from a real run on 3.14,
/// with this machine's paths replaced.
#[test]
fn saved_dumps_are_made_from_real_runs() {
    if std::env::var_os("HANGSCOPE_SAVE_DUMPS").is_none() {
        return;
    }
    for cause in with_dumps() {
        let script = detector_fixture(cause.id).join("hang.py");
        let python = pythons::python_for("3.14", &script).expect("CPython 3.14");
        let program = Program::ready(&python, &script, &[]);
        // Not the first that fits: by the second the program has come to rest.
        let mut fitting = 0;
        let text = loop {
            let run = dump(program.pid());
            let findings = run.report().analysis.findings;
            fitting += usize::from(findings.iter().map(|finding| &finding.id).eq([cause.id]));
            if fitting == 2 {
                break run.stdout;
            }
        };
        let prefix = |python: &Path| {
            let prefix = python.parent().and_then(Path::parent).expect("a prefix");
            prefix.to_str().expect("UTF-8").to_owned()
        };
        // An environment has its packages below its own prefix, and the standard library below that of its Python.
        let base = pythons::python("3.14").expect("CPython 3.14");
        let suite = repository("fixtures/detectors").join(cause.id);
        let text = text
            .replace(&prefix(&python), "/usr")
            .replace(&prefix(&base), "/usr")
            .replace(suite.to_str().expect("UTF-8"), "/srv/suite");
        fs::write(saved(cause.id), text).expect("saved");
    }
}
