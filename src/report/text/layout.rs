//! Lines of a given width.

use unicode_width::UnicodeWidthStr;

/// Narrowest page; below that, lines are not broken further.
const MIN_WIDTH: usize = 40;
/// Widest page; a saved report may ask for anything.
const MAX_WIDTH: usize = 1000;

/// A text page under way.
pub(super) struct Page {
    width: usize,
    text: String,
}

impl Page {
    pub(super) fn new(width: usize) -> Self {
        Self {
            width: width.clamp(MIN_WIDTH, MAX_WIDTH),
            text: String::new(),
        }
    }

    pub(super) fn width(&self) -> usize {
        self.width
    }

    /// A line as it is.
    pub(super) fn line(&mut self, line: &str) {
        self.text.push_str(line.trim_end());
        self.text.push('\n');
    }

    /// An empty line, except at the start.
    pub(super) fn gap(&mut self) {
        if !self.text.is_empty() && !self.text.ends_with("\n\n") {
            self.text.push('\n');
        }
    }

    /// A paragraph, its first line after `first`, the others indented by as much as `rest`.
    pub(super) fn wrapped(&mut self, first: &str, rest: &str, text: &str) {
        let options = textwrap::Options::new(self.width)
            .initial_indent(first)
            .subsequent_indent(rest)
            .break_words(false)
            .wrap_algorithm(textwrap::WrapAlgorithm::FirstFit)
            .word_splitter(textwrap::WordSplitter::NoHyphenation)
            .word_separator(textwrap::WordSeparator::AsciiSpace);
        for line in textwrap::wrap(text, options) {
            self.line(&line);
        }
    }

    /// A line with one part at the left and one at the right, or below if both do not fit.
    pub(super) fn left_right(&mut self, left: &str, painted_left: &str, right: &str) {
        let used = left.width() + right.width();
        if right.is_empty() {
            self.line(painted_left);
        } else if used + 2 <= self.width {
            let space = " ".repeat(self.width - used);
            self.line(&format!("{painted_left}{space}{right}"));
        } else {
            self.line(painted_left);
            self.line(&format!("  {right}"));
        }
    }

    pub(super) fn finish(self) -> String {
        self.text
    }
}

/// Cuts text to a width, marking the cut.
pub(super) fn cut(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let mut out = String::new();
    for character in text.chars() {
        let mut longer = out.clone();
        longer.push(character);
        if longer.width() + 1 > width {
            break;
        }
        out = longer;
    }
    out.push('…');
    out
}
