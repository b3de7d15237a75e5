//! The layers: who may use whom, as `docs/design.md` has it, held against the sources.

use crate::support::repository;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// What each layer may use of the crate. The edge (`commands`) may use all.
const MAY_USE: [(&str, &[&str]); 11] = [
    ("model", &[]),
    ("target", &["model"]),
    ("capture", &["model", "target"]),
    ("analysis", &["model"]),
    ("report", &["model", "analysis"]),
    ("inspect", &["capture", "analysis", "model", "target"]),
    ("archive", &["model", "report"]),
    ("watch", &["model", "target", "inspect", "archive"]),
    ("cli", &[]),
    ("exit_code", &[]),
    ("main", &["commands"]),
];

/// The edge, which may use all, and the list of modules.
const EDGE: [&str; 2] = ["commands", "lib"];

#[test]
fn each_layer_uses_only_what_it_may() {
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        let layer = layer_of(&path);
        if EDGE.contains(&layer.as_str()) {
            continue;
        }
        let allowed = MAY_USE.iter().find(|(name, _)| *name == layer);
        let (_, allowed) =
            allowed.unwrap_or_else(|| panic!("{}: no such layer in the table", path.display()));
        for used in uses(&without_tests(&text)) {
            if used != layer && !allowed.contains(&used.as_str()) {
                wrong.push(format!("{}: {layer} may not use {used}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_checker_sees_grouped_and_inline_uses() {
    let text = "
        //! Not crate::comment::x.
        use crate::{model::{Key, ids::{Pid, Tid}}, capture::{self, merge}, watch};
        use crate::report as said;
        pub(crate) use crate::archive::Bundle;
        fn f() -> crate::analysis::Case { let text = \"crate::string::x\"; crate :: inspect :: run(text) }
        #[cfg(test)]
        mod tests { use crate::commands::main; fn g() { \"}\"; } }
        fn after() { crate::target::access(); }
    ";
    let found = uses(&without_tests(text));
    let expected = [
        "analysis", "archive", "capture", "inspect", "model", "report", "target", "watch",
    ];
    assert_eq!(
        found.iter().map(String::as_str).collect::<Vec<_>>(),
        expected
    );
}

#[test]
fn the_binary_uses_the_library_only_by_its_commands() {
    let main = code_of(&fs::read_to_string(repository("src/main.rs")).expect("main.rs"));
    for (at, _) in main.match_indices("hangscope::") {
        let rest = &main[at + "hangscope::".len()..];
        assert!(
            rest.starts_with("commands"),
            "main may use commands only: {rest}"
        );
    }
}

#[test]
fn nothing_attaches() {
    for (path, text) in sources() {
        let code = without_tests(&text);
        for forbidden in [
            "ptrace::attach",
            "PTRACE_ATTACH",
            "PTRACE_TRACEME",
            "ptrace::traceme",
        ] {
            assert!(
                !code.contains(forbidden),
                "{} has {forbidden}",
                path.display()
            );
        }
    }
}

#[test]
fn only_the_edge_prints() {
    for (path, text) in sources() {
        if layer_of(&path) == "commands" {
            continue;
        }
        let code = without_tests(&text);
        for forbidden in ["print!", "println!", "eprint!", "eprintln!", "dbg!"] {
            let found = code.match_indices(forbidden).any(|(at, _)| {
                !code[..at].ends_with(|before: char| before.is_alphanumeric() || before == '_')
            });
            assert!(!found, "{} has {forbidden}", path.display());
        }
    }
}

#[test]
fn there_is_no_unsafe_code() {
    let manifest = fs::read_to_string(repository("Cargo.toml")).expect("Cargo.toml");
    assert!(manifest.contains("unsafe_code = \"forbid\""));
}

/// All source files with their text.
fn sources() -> Vec<(PathBuf, String)> {
    let mut files = Vec::new();
    let mut folders = vec![repository("src")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of src") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("a source");
                files.push((path, text));
            }
        }
    }
    assert!(files.len() > 30, "the sources were found");
    files.sort();
    files
}

/// The folder or file directly below `src`.
fn layer_of(path: &Path) -> String {
    let below = path.strip_prefix(repository("src")).expect("below src");
    let first = below
        .components()
        .next()
        .expect("a name")
        .as_os_str()
        .to_string_lossy();
    first.trim_end_matches(".rs").to_owned()
}

/// The names that follow `crate::`, grouped ones, too.
fn uses(code: &str) -> BTreeSet<String> {
    let tokens = tokens(code);
    let mut found = BTreeSet::new();
    for (index, token) in tokens.iter().enumerate() {
        let path = token == "crate" && tokens.get(index + 1).is_some_and(|next| next == "::");
        if !path || (index > 0 && tokens[index - 1] == "(") {
            continue;
        }
        match tokens.get(index + 2).map(String::as_str) {
            Some("{") => group(&tokens[index + 3..], &mut found),
            Some(name) => {
                found.insert(name.to_owned());
            }
            None => {}
        }
    }
    found
}

/// The first names of the parts of a group, up to its end.
fn group(tokens: &[String], found: &mut BTreeSet<String>) {
    let mut depth = 0;
    let mut first = true;
    for token in tokens {
        match token.as_str() {
            "{" => depth += 1,
            "}" if depth == 0 => return,
            "}" => depth -= 1,
            "," if depth == 0 => first = true,
            name if depth == 0 && first => {
                found.insert(name.to_owned());
                first = false;
            }
            _ => {}
        }
    }
}

fn tokens(code: &str) -> Vec<String> {
    let mut tokens: Vec<String> = Vec::new();
    let mut rest = code.chars().peekable();
    while let Some(character) = rest.next() {
        if character.is_alphanumeric() || character == '_' {
            let mut word = character.to_string();
            while let Some(next) = rest.next_if(|next| next.is_alphanumeric() || *next == '_') {
                word.push(next);
            }
            tokens.push(word);
        } else if character == ':' && rest.next_if_eq(&':').is_some() {
            tokens.push("::".to_owned());
        } else if !character.is_whitespace() {
            tokens.push(character.to_string());
        }
    }
    tokens
}

/// The code without comments and texts, and without the modules that are only for tests.
fn without_tests(text: &str) -> String {
    let code = code_of(text);
    let mut out = String::new();
    let mut rest = code.as_str();
    while let Some(at) = rest.find("#[cfg(test)]") {
        out.push_str(&rest[..at]);
        let after = &rest[at..];
        // What follows ends with its block, or before that with a semicolon (`mod tests;`).
        let end = match (after.find('{'), after.find(';')) {
            (Some(brace), semicolon) if semicolon.is_none_or(|semicolon| brace < semicolon) => {
                end_of_block(after, brace)
            }
            (_, Some(semicolon)) => semicolon + 1,
            _ => after.len(),
        };
        rest = &after[end..];
    }
    out.push_str(rest);
    out
}

fn end_of_block(text: &str, open: usize) -> usize {
    let mut depth = 0;
    for (at, character) in text[open..].char_indices() {
        match character {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return open + at + 1;
        }
    }
    text.len()
}

/// The code without comments, and with empty texts.
fn code_of(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(character) = rest.chars().next() {
        if rest.starts_with("//") {
            rest = rest.find('\n').map_or("", |end| &rest[end..]);
        } else if rest.starts_with("/*") {
            rest = rest.find("*/").map_or("", |end| &rest[end + 2..]);
        } else if let Some(end) = raw_text(rest)
            .or_else(|| plain_text(rest))
            .or_else(|| character_literal(rest))
        {
            out.push_str("\"\"");
            rest = &rest[end..];
        } else {
            out.push(character);
            rest = &rest[character.len_utf8()..];
        }
    }
    out
}

fn raw_text(rest: &str) -> Option<usize> {
    let marks = rest.strip_prefix('r')?;
    let hashes = marks.len() - marks.trim_start_matches('#').len();
    let body = marks[hashes..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    Some(1 + hashes + 1 + body.find(&end)? + end.len())
}

fn plain_text(rest: &str) -> Option<usize> {
    rest.strip_prefix('"')?;
    let mut escaped = false;
    for (at, character) in rest.char_indices().skip(1) {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return Some(at + 1),
            _ => {}
        }
    }
    None
}

/// `'{'` or `'\n'`; not a lifetime.
fn character_literal(rest: &str) -> Option<usize> {
    let body = rest.strip_prefix('\'')?;
    if let Some(escape) = body.strip_prefix('\\') {
        // The escaped character itself may be a quote.
        let end = escape.char_indices().skip(1).find(|(_, c)| *c == '\'')?;
        return Some(end.0 + 3);
    }
    let first = body.chars().next()?;
    body[first.len_utf8()..]
        .starts_with('\'')
        .then_some(first.len_utf8() + 2)
}
