//! Making text from the target harmless on a terminal.

use crate::model::Foreign;

/// Longest piece of foreign text that is shown.
const MAX_SHOWN: usize = 400;
/// Longest piece where more room is.
const MAX_WHOLE: usize = 4000;

/// Text from the target for a terminal or a log: control characters (C0, C1), bidirectional controls and invisible
/// characters are shown as escapes, so that they can neither move the cursor nor reorder or hide what follows.
#[must_use]
pub fn clean(text: &Foreign) -> String {
    let whole = text.untrusted();
    match whole.char_indices().nth(MAX_SHOWN) {
        Some((at, _)) => visible(&whole[..at]) + "…",
        None => visible(whole),
    }
}

/// The same at any length that a page may have, for formats with a bound of their own.
pub(super) fn clean_whole(text: &Foreign) -> String {
    let whole = text.untrusted();
    match whole.char_indices().nth(MAX_WHOLE) {
        Some((at, _)) => visible(&whole[..at]) + "…",
        None => visible(whole),
    }
}

fn visible(text: &str) -> String {
    let mut out = String::new();
    for character in text.chars() {
        match character {
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            '\u{0}'..='\u{1f}' | '\u{7f}' => out.push_str(&format!("\\x{:02x}", character as u32)),
            '\u{80}'..='\u{9f}'
            | '\u{ad}'
            | '\u{61c}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e007f}' => out.push_str(&format!("\\u{{{:x}}}", character as u32)),
            _ => out.push(character),
        }
    }
    out
}

/// The same for text that is ours in a report of our own, but may be anybody's in a file that is given to `analyze`.
pub(super) fn clean_word(text: &str) -> String {
    clean(&Foreign::from(text))
}

#[cfg(test)]
mod tests {
    use super::clean;
    use proptest::prelude::*;

    #[test]
    fn escapes_newlines_and_bidi_become_visible() {
        assert_eq!(
            clean(&"\x1b[31mred\x07\n\u{202e}evil\u{9b}x".into()),
            "\\x1b[31mred\\x07\\n\\u{202e}evil\\u{9b}x"
        );
        assert_eq!(clean(&"größe_日本".into()), "größe_日本");
    }

    proptest! {
        #[test]
        fn nothing_that_controls_a_terminal_remains(text: String) {
            let shown = clean(&text.into());
            prop_assert!(!shown.chars().any(char::is_control));
        }
    }
}
