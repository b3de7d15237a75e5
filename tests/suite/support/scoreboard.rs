//! What the scoreboards share: programs are dumped as a user would, and the first verdict on each is held against the truth.

use super::hangscope::{assert_resolves, command, finish};
use super::program::Program;
use hangscope::model::{Finding, Verdict};
use std::sync::Mutex;

/// So many looks may find nothing: a hang may come later than the program's rest.
const LOOKS: u32 = 5;
/// Programs that run at a time. Most of them only wait.
const AT_A_TIME: usize = 4;

/// How the first verdict compares with the truth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Score {
    Right,
    /// Nothing was found.
    Silent,
    /// Something else was found, or a healthy program was accused.
    Wrong,
}

/// A program that was scored: its name, the score, what was said, and whether it is known that its cause is not recognised.
pub(crate) struct Scored {
    pub(crate) name: String,
    pub(crate) score: Score,
    pub(crate) said: String,
    pub(crate) known_miss: bool,
}

/// Judges the first verdict on a program: `compare` tells what of a finding differs from the truth. Of a healthy one the ids of its
/// notices must be those of `notes`.
pub(crate) fn judge(
    program: &mut Program,
    healthy: bool,
    notes: &[String],
    compare: impl FnOnce(&Finding) -> Result<(), String>,
) -> (Score, String) {
    if !healthy {
        program.wait_for_rest();
    }
    let mut said = String::new();
    for _ in 0..if healthy { 1 } else { LOOKS } {
        let pid = program.pid().to_string();
        let report = finish(command().args(["dump", &pid, "--format", "json"])).report();
        program.must_be_alive();
        let Some(first) = report.analysis.findings.first() else {
            said = format!("{:?}", report.analysis.verdict);
            if healthy && report.analysis.verdict != Verdict::NoHangSeen {
                return (Score::Wrong, said);
            }
            let noticed = report.analysis.notices.iter().map(|notice| &notice.id);
            if healthy && !noticed.clone().eq(notes) {
                let noticed: Vec<&String> = noticed.collect();
                return (Score::Wrong, format!("notices {noticed:?}"));
            }
            assert_resolves(&report);
            continue;
        };
        let told = format!(
            "{} ({:?}): {}",
            first.id,
            first.certainty,
            first.title.untrusted()
        );
        if healthy {
            return (Score::Wrong, told);
        }
        assert_resolves(&report);
        return match compare(first) {
            Ok(()) => (Score::Right, told),
            Err(differs) => (Score::Wrong, format!("{differs}: {told}")),
        };
    }
    let score = if healthy { Score::Right } else { Score::Silent };
    (score, said)
}

/// A finding's sentence and evidence.
pub(crate) fn words(finding: &Finding) -> String {
    let evidence = finding.evidence.iter().map(|it| it.text.untrusted());
    let lines: Vec<&str> = std::iter::once(finding.title.untrusted())
        .chain(evidence)
        .collect();
    lines.join("\n")
}

/// Whether the words name a place such as `file.py:7`, and not `file.py:77`.
pub(crate) fn is_placed(words: &str, place: &str) -> bool {
    words
        .match_indices(place)
        .any(|(at, _)| !words[at + place.len()..].starts_with(|next: char| next.is_ascii_digit()))
}

/// Scores all of these, prints what became of them, and fails if any of it is not as expected.
pub(crate) fn score_all<T: Send>(of: &str, mut todo: Vec<T>, score: impl Fn(T) -> Scored + Sync) {
    todo.reverse();
    let todo = Mutex::new(todo);
    let done: Mutex<Vec<Scored>> = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| {
                loop {
                    let Some(truth) = todo.lock().expect("no panic").pop() else {
                        break;
                    };
                    let scored = score(truth);
                    done.lock().expect("no panic").push(scored);
                }
            });
        }
    });
    let mut done = done.into_inner().expect("no panic");
    done.sort_by(|one, other| one.name.cmp(&other.name));
    let mut counts = [0; 3];
    let mut surprises = Vec::new();
    for scored in &done {
        let Scored {
            name, score, said, ..
        } = scored;
        counts[*score as usize] += 1;
        println!("{score:?}\t{of}\t{name}\t{said}");
        let as_expected = match score {
            Score::Right => !scored.known_miss,
            Score::Silent => scored.known_miss,
            // A wrong accusation is never to be got used to.
            Score::Wrong => false,
        };
        if !as_expected {
            surprises.push(format!("{score:?}: {name}: {said}"));
        }
    }
    println!(
        "{of}: {} right, {} silent, {} wrong",
        counts[0], counts[1], counts[2]
    );
    assert!(
        surprises.is_empty(),
        "{of}, unlike truth.json:\n{}",
        surprises.join("\n")
    );
}
