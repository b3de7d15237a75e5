//! The columns of a tree, as wide as the page has room.

use super::tree::Row;
use crate::model::Frame;
use crate::report::clean;
use crate::report::text::layout::{Page, cut};
use unicode_width::UnicodeWidthStr;

/// Characters of a place that are kept before its line.
const MIN_PLACE: usize = 6;

/// Widths of the columns for name, wait and place, so that a row fits the page.
pub(super) fn widths(page: usize, rows: &[Row<'_>]) -> [usize; 3] {
    let mut need = [0_usize; 3];
    for row in rows {
        need[0] = need[0].max(row.branch.width() + row.name.width());
        need[1] = need[1].max(row.what.width());
        need[2] = need[2].max(row.place.width());
    }
    // Three spaces before, two between the columns.
    let space = page.saturating_sub(7);
    if need.iter().sum::<usize>() <= space {
        return need;
    }
    let name = need[0].min(space * 2 / 5);
    let rest = space - name;
    let place = need[2].min(rest - need[1].min(rest / 2));
    [name, need[1].min(rest - place), place]
}

pub(super) fn write_row(
    page: &mut Page,
    row: &Row<'_>,
    [name, what, place]: [usize; 3],
    all: bool,
) {
    let padded = |text: &str, width: usize| {
        let text = cut(text, width);
        let space = width.saturating_sub(text.width());
        text + &" ".repeat(space)
    };
    let head = padded(&format!("{}{}", row.branch, row.name), name);
    let doing = padded(&row.what, what);
    let line = format!("   {head}  {doing}  {}", cut_place(&row.place, place));
    page.line(&cut(line.trim_end(), page.width()));
    for note in &row.notes {
        let stem = padded(&row.below, name);
        page.wrapped(&format!("   {stem}  "), &format!("   {stem}  "), note);
    }
    if all {
        for frame in row.task.frames.iter() {
            let stem = &row.below;
            page.line(&format!("   {stem}    {}", whole_spot(frame)));
        }
    }
}

/// Cuts a place that is too long before its line, which tells more than the end of the file's name.
fn cut_place(place: &str, width: usize) -> String {
    match place.rfind(':') {
        Some(colon) if place.width() > width && place.len() - colon + MIN_PLACE < width => {
            let (head, line) = place.split_at(colon);
            cut(head, width - line.width()) + line
        }
        _ => cut(place, width),
    }
}

fn whole_spot(frame: &Frame) -> String {
    let line = frame
        .line
        .map_or_else(String::new, |line| format!(":{line}"));
    format!("{} ({}{line})", clean(&frame.function), clean(&frame.file))
}
