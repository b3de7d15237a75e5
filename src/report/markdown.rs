//! Markdown for a job summary or a comment: the answer, the evidence, the inventory, and the stacks folded away.

use super::clean::clean_whole;
use super::inventory::{change, choose, conclusions, heading, nothing, thing};
use super::whereabouts::{births, whereabouts};
use super::{Renderer, text};
use crate::model::{Certainty, Evidence, Finding, Foreign, Grade, Inventory, Report};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::{self, Write};

/// Most bytes of a report; GitHub refuses a job summary above 1 MiB.
const MAX: usize = 900 << 10;
/// Most findings that are told in full.
const MAX_FINDINGS: usize = 20;

pub(super) struct Markdown;

impl Renderer for Markdown {
    fn render(&self, report: &Report, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(markdown(report, MAX).as_bytes())
    }
}

/// The report as GitHub's Markdown of at most `max` bytes. What does not fit is left out from the end (first the
/// stacks of the last processes), and a line says so.
#[must_use]
pub fn markdown(report: &Report, max: usize) -> String {
    let mut parts = answer(report);
    if let Some(inventory) = report.run.as_ref().and_then(|run| run.inventory.as_ref()) {
        parts.push(table(inventory));
    }
    let stacks = text::processes(report).map(|text| folded(&text));
    parts.extend(stacks);
    bounded(parts, max)
}

fn bounded(parts: Vec<String>, max: usize) -> String {
    let note = "_Left out here for its size: see report.txt._\n";
    let mut out = String::new();
    let total: usize = parts.iter().map(String::len).sum();
    if total <= max {
        return parts.concat();
    }
    let room = max.saturating_sub(note.len());
    for part in &parts {
        if out.len() + part.len() > room {
            break;
        }
        out.push_str(part);
    }
    if out.len() + note.len() <= max {
        out.push_str(note);
    }
    out
}

/// Headline, then each finding.
fn answer(report: &Report) -> Vec<String> {
    let place = whereabouts(report);
    let mut parts = Vec::new();
    let mut told = BTreeSet::new();
    for finding in &report.analysis.findings {
        if !told.insert(&finding.signature) || parts.len() >= MAX_FINDINGS {
            continue;
        }
        // The place of the headline is that of the first finding.
        let place = place.as_deref().filter(|_| parts.is_empty());
        let same = report
            .analysis
            .findings
            .iter()
            .filter(|other| other.signature == finding.signature)
            .count();
        parts.push(one_finding(report, finding, place, same - 1));
    }
    if parts.is_empty() {
        // The text's own words on what was seen instead.
        let mut part = "### hangscope\n\n".to_owned();
        if let Some(place) = &place {
            let _ = writeln!(part, "**in** <code>{}</code>\n", inline(place));
        }
        part.push_str(&fenced(&text::answer(report)));
        part.push('\n');
        parts.push(part);
    }
    parts
}

fn one_finding(report: &Report, finding: &Finding, place: Option<&str>, more: usize) -> String {
    let (word, sure) = match finding.certainty {
        Certainty::Certain => ("hang", "certain"),
        Certainty::Probable => ("hang", "probable"),
        Certainty::Possible => ("slow or stuck", "possible"),
    };
    let mut part = format!("### {word}: {}\n\n", words(&finding.id.as_str().into()));
    if let Some(place) = place {
        let _ = writeln!(part, "**in** <code>{}</code>\n", inline(place));
    }
    let _ = writeln!(part, "{}\n", words(&finding.title));
    for evidence in &finding.evidence {
        let _ = writeln!(part, "- {}{}", words(&evidence.text), grade(evidence));
    }
    for birth in births(report, finding) {
        let _ = writeln!(part, "- {}", words(&birth));
    }
    let _ = writeln!(part, "\n**fix:** {}\n", words(&finding.remedy));
    let _ = writeln!(
        part,
        "**certainty:** {sure}, unless {}\n",
        words(&finding.refuted_if)
    );
    if more > 0 {
        let _ = writeln!(part, "{more} more with the same signature\n");
    }
    part
}

fn grade(evidence: &Evidence) -> &'static str {
    match evidence.grade {
        Grade::Read => "",
        Grade::Derived => " (derived)",
        Grade::Guessed => " (guessed)",
    }
}

fn table(inventory: &Inventory) -> String {
    let mut part = "#### What the tests left behind\n\n".to_owned();
    if let Some(sentence) = nothing(inventory) {
        let _ = writeln!(part, "{sentence}\n");
        if inventory.tests == 0 {
            return part;
        }
    } else {
        rows(&mut part, inventory);
    }
    for sentence in conclusions(inventory) {
        let _ = writeln!(part, "{sentence}\n");
    }
    part
}

fn rows(part: &mut String, inventory: &Inventory) {
    let chosen = choose(inventory);
    let mut row = |cells: &[String]| {
        let _ = writeln!(part, "| {} |", cells.join(" | "));
    };
    let mut titles = vec!["test".to_owned()];
    titles.extend(chosen.kinds.iter().map(|kind| heading(*kind).to_owned()));
    titles.push("left behind".to_owned());
    row(&titles);
    row(&vec!["---".to_owned(); titles.len()]);
    for test in &chosen.rows {
        let worker = test
            .worker
            .as_ref()
            .map_or_else(String::new, |worker| format!("[{}] ", worker.untrusted()));
        let name = match test.test.untrusted() {
            "" => "(end of the session)",
            name => name,
        };
        let name = inline(&clean_whole(&Foreign::from(format!("{worker}{name}"))));
        let mut cells = vec![format!("<code>{name}</code>")];
        cells.extend(
            chosen
                .kinds
                .iter()
                .map(|kind| change(&test.before, test.after.as_ref(), *kind)),
        );
        let mut left: Vec<String> = test.left.iter().map(|birth| words(&thing(birth))).collect();
        if test.after.is_none() {
            left.insert(0, "(hung)".to_owned());
        }
        cells.push(left.join(", "));
        row(&cells);
    }
    let mut rest = |name: String, number: &str| {
        let mut cells = vec![name];
        cells.extend(chosen.kinds.iter().map(|_| number.to_owned()));
        cells.push(String::new());
        row(&cells);
    };
    if chosen.more > 0 {
        rest(format!("{} more with changes", chosen.more), "");
    }
    if chosen.others > 0 {
        rest(format!("all others ({})", chosen.others), "±0");
    }
    part.push('\n');
}

/// The text of a process, folded away below its first line.
fn folded(text: &str) -> String {
    let title = html(text.lines().next().unwrap_or("process"));
    format!(
        "<details><summary>{title}</summary>\n\n{}\n</details>\n\n",
        fenced(text)
    )
}

/// Text as it is, in a fence longer than any in it.
fn fenced(text: &str) -> String {
    let longest = text
        .split(|character| character != '`')
        .map(str::len)
        .max()
        .unwrap_or(0);
    let fence = "`".repeat(longest.max(2) + 1);
    let end = if text.ends_with('\n') { "" } else { "\n" };
    format!("{fence}text\n{text}{end}{fence}\n")
}

/// A sentence of ours with foreign parts: what stands in backticks is shown as code.
fn words(text: &Foreign) -> String {
    let shown = clean_whole(text);
    let parts: Vec<&str> = shown.split('`').collect();
    // Backticks in pairs are ours; an odd one is foreign, and then none can be told from it.
    if parts.len().is_multiple_of(2) {
        return inline(&shown);
    }
    let mut out = String::new();
    for (at, part) in parts.iter().enumerate() {
        if at % 2 == 1 {
            let _ = write!(out, "<code>{}</code>", inline(part));
        } else {
            out.push_str(&inline(part));
        }
    }
    out
}

/// Text without control characters as Markdown that shows it literally: no markup, no link, no mention.
fn inline(text: &str) -> String {
    let mut out = String::new();
    let mut before = ' ';
    let mut rest = text.chars().peekable();
    while let Some(character) = rest.next() {
        let next = rest.peek().copied().unwrap_or(' ');
        let is_markup = match character {
            '\\' | '`' | '*' | '[' | ']' | '|' | '~' | '$' | '^' => true,
            // Within a word it is none.
            '_' => !(before.is_alphanumeric() && next.is_alphanumeric()),
            // Addresses become links by themselves.
            ':' => next == '/',
            '.' => out.ends_with("www") || is_number(&out),
            ')' => is_number(&out),
            '#' | '-' | '+' | '=' => out.trim().is_empty(),
            _ => false,
        };
        if is_markup {
            out.push('\\');
            out.push(character);
        } else {
            push_html(&mut out, character);
        }
        before = character;
    }
    out
}

/// Whether a line that begins so would begin a numbered list with the next mark.
fn is_number(start: &str) -> bool {
    let start = start.trim_start();
    !start.is_empty() && start.bytes().all(|byte| byte.is_ascii_digit())
}

/// Text within a block of HTML, where no Markdown is read.
fn html(text: &str) -> String {
    let mut out = String::new();
    for character in text.chars() {
        push_html(&mut out, character);
    }
    out
}

fn push_html(out: &mut String, character: char) {
    match character {
        '&' => out.push_str("&amp;"),
        '<' => out.push_str("&lt;"),
        '>' => out.push_str("&gt;"),
        // Mentions are looked for in the finished page, where an escape is gone; a tag between remains.
        '@' => out.push_str("<code>@</code>"),
        other => out.push(other),
    }
}

#[cfg(test)]
mod tests {
    use super::{bounded, fenced, words};
    use crate::report::clean::clean_whole;
    use proptest::prelude::*;
    use pulldown_cmark::{Event, Options, Parser, Tag};

    /// What a reader sees of a list item.
    fn seen(text: &str) -> Result<String, String> {
        let source = format!("- {}\n", words(&text.into()));
        let mut out = String::new();
        for event in Parser::new_ext(&source, Options::all()) {
            match event {
                Event::Text(text) => out.push_str(&text),
                Event::InlineHtml(tag) if ["<code>", "</code>"].contains(&&*tag) => {}
                Event::Start(Tag::List(None) | Tag::Item | Tag::Paragraph) | Event::End(_) => {}
                other => return Err(format!("{other:?} in {source}")),
            }
        }
        Ok(out)
    }

    #[test]
    fn markup_in_a_name_is_shown() {
        for text in [
            "a_b __c__ _d_ *e* **f** ~~g~~ `h` ``i`` [j](https://k) ![l](m) <b>n</b> &amp; @o #p | q \\ $r$",
            "1. x",
            "12) y",
            "- z",
            "# a",
            "> b",
            "=== ",
            "www.c.d https://e <https://f> [^g] [ ] [x] :h: {i}",
            "\u{1b}[2J\n</details>\n# forged",
        ] {
            let shown = clean_whole(&text.into()).trim().to_owned();
            let shown = match text.matches('`').count() % 2 {
                0 => shown.replace('`', ""),
                _ => shown,
            };
            assert_eq!(seen(text).expect("only text"), shown);
        }
        assert_eq!(words(&"a@b".into()), "a<code>@</code>b");
        assert_eq!(words(&"https://x www.y".into()), "https\\://x www\\.y");
    }

    #[test]
    fn a_fence_is_longer_than_what_it_holds() {
        assert_eq!(fenced("a\n````\nb"), "`````text\na\n````\nb\n`````\n");
    }

    #[test]
    fn what_is_too_long_is_left_out_whole() {
        let parts = || vec!["first\n".to_owned(), "x".repeat(100), "last\n".to_owned()];
        assert_eq!(bounded(parts(), 111), parts().concat());
        let cut = bounded(parts(), 80);
        assert!(
            cut.starts_with("first\n_Left out") && cut.len() <= 80,
            "{cut}"
        );
        for max in 0..112 {
            assert!(bounded(parts(), max).len() <= max);
        }
    }

    proptest! {
        #[test]
        fn nothing_foreign_is_markup(text in r"[a-z0-9 `*_\[\]()<>&|~#+\-.!:/@$\\{}=\n\r\t\x1b\u{202e}'\x22^;]{0,40}") {
            prop_assert!(seen(&text).is_ok(), "{:?}", seen(&text));
        }
    }
}
