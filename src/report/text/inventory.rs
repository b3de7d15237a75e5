//! What the tests left behind, as a table.

use super::super::clean;
use super::super::inventory::{
    change, choose, conclusions, heading, nothing, thing, things_in_short,
};
use super::layout::{Page, cut};
use crate::model::{Foreign, Inventory, TestInventory};
use comfy_table::{ContentArrangement, Table, presets};
use unicode_width::UnicodeWidthStr;

/// Fewest columns of text that the name of a test gets.
const MIN_TEST: usize = 24;
/// Fewest that what is left behind gets beside it; with less it goes below.
const MIN_LEFT: usize = 16;

/// What the tests of a run left behind, for the end of a watched run: plain text of at most `width` columns
/// (at least 40), harmless on a terminal.
#[must_use]
pub fn inventory(inventory: &Inventory, width: usize) -> String {
    let mut page = Page::new(width);
    if let Some(sentence) = nothing(inventory) {
        page.wrapped("", "  ", &sentence);
        if inventory.tests == 0 {
            return page.finish();
        }
    } else {
        table(&mut page, inventory);
    }
    for sentence in conclusions(inventory) {
        page.wrapped("", "  ", &sentence);
    }
    page.finish()
}

/// A row: the test, its numbers, what it left behind.
struct Row {
    test: String,
    numbers: Vec<String>,
    left: Vec<String>,
    /// The same in fewer words, for where there is little room.
    short: Vec<String>,
}

fn table(page: &mut Page, inventory: &Inventory) {
    let chosen = choose(inventory);
    let mut rows = vec![Row {
        test: "test".to_owned(),
        numbers: chosen
            .kinds
            .iter()
            .map(|kind| heading(*kind).to_owned())
            .collect(),
        left: vec!["left behind".to_owned()],
        short: vec!["left behind".to_owned()],
    }];
    rows.extend(chosen.rows.iter().map(|test| {
        Row {
            test: name_of(test),
            numbers: chosen
                .kinds
                .iter()
                .map(|kind| change(&test.before, test.after.as_ref(), *kind))
                .collect(),
            left: left_of(test, test.left.iter().map(thing)),
            short: left_of(test, things_in_short(&test.left).into_iter()),
        }
    }));
    let plain = |text: String, number: &str| Row {
        test: text,
        numbers: vec![number.to_owned(); chosen.kinds.len()],
        left: Vec::new(),
        short: Vec::new(),
    };
    if chosen.more > 0 {
        rows.push(plain(format!("{} more with changes", chosen.more), ""));
    }
    match chosen.others {
        0 => {}
        count => rows.push(plain(format!("all others ({count})"), "±0")),
    }
    draw(page, &rows);
}

fn name_of(test: &TestInventory) -> String {
    let worker = test
        .worker
        .as_ref()
        .map_or_else(String::new, |worker| format!("[{}] ", clean(worker)));
    let name = match clean(&test.test) {
        name if name.is_empty() => "(end of the session)".to_owned(),
        name => name,
    };
    format!("{worker}{name}")
}

fn left_of(test: &TestInventory, things: impl Iterator<Item = Foreign>) -> Vec<String> {
    let hung = test.after.is_none().then(|| "(hung)".to_owned());
    hung.into_iter()
        .chain(things.map(|thing| clean(&thing)))
        .collect()
}

fn draw(page: &mut Page, rows: &[Row]) {
    let widest = |texts: &mut dyn Iterator<Item = usize>| texts.max().unwrap_or(0);
    let count = rows.first().map_or(0, |row| row.numbers.len());
    let numbers: usize = (0..count)
        .map(|at| widest(&mut rows.iter().map(|row| row.numbers[at].width())) + 2)
        .sum();
    let test = widest(&mut rows.iter().map(|row| row.test.width()));
    let whole = widest(&mut rows.iter().map(|row| row.left.join(", ").width()));
    let short = widest(&mut rows.iter().map(|row| row.short.join(", ").width()));
    let room = page.width().saturating_sub(numbers + 2);
    let left = if test + whole <= room { whole } else { short };
    let is_beside = test.min(MIN_TEST) + left.min(MIN_LEFT) <= room;
    let test = if is_beside {
        test.min(room.saturating_sub(left).max(room * 9 / 20).max(MIN_TEST))
    } else {
        test.min(room)
    };
    let left = room.saturating_sub(test);
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_content_arrangement(ContentArrangement::Disabled);
    for row in rows {
        let mut cells = vec![cut_start(&row.test, test)];
        cells.extend(row.numbers.iter().cloned());
        if is_beside {
            let is_whole = row.left.join(", ").width() <= left;
            cells.push(fitting(if is_whole { &row.left } else { &row.short }, left));
        }
        table.add_row(cells);
    }
    // The table pads each cell at both sides; the page has no margin.
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    for (at, (line, row)) in table.lines().zip(rows).enumerate() {
        page.line(&cut(line.trim_end(), page.width()));
        if !is_beside && at > 0 && !row.left.is_empty() {
            page.wrapped("    left: ", "          ", &row.left.join(", "));
        }
    }
}

/// As many of the things as fit, and the number of those that do not.
fn fitting(things: &[String], width: usize) -> String {
    for shown in (1..=things.len()).rev() {
        let mut text = things[..shown].join(", ");
        if shown < things.len() {
            text.push_str(&format!(" + {} more", things.len() - shown));
        }
        if text.width() <= width {
            return text;
        }
    }
    match things {
        [] => String::new(),
        [only] => cut(only, width),
        [first, rest @ ..] => {
            let more = format!(" + {} more", rest.len());
            format!("{}{more}", cut(first, width.saturating_sub(more.width())))
        }
    }
}

/// Cuts the start of a test's name: its end tells more.
fn cut_start(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let mut rest = text;
    while rest.width() + 1 > width {
        let mut characters = rest.chars();
        if characters.next().is_none() {
            break;
        }
        rest = characters.as_str();
    }
    format!("…{rest}")
}
