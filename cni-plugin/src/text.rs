//! Texts of others, made fit to be shown.
//!
//! A line break in one forges a line of the log, an escape sequence changes what a terminal shows,
//! and names may differ in nothing that can be seen.

use std::borrow::Cow;

/// The text with everything escaped that is not shown as a character: control characters, line
/// breaks, marks that change the direction of writing, and what has no width, for names that differ
/// in nothing else look the same.
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.contains(is_unprintable) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match is_unprintable(c) {
            true => escaped.extend(c.escape_default()),
            false => escaped.push(c),
        }
    }
    Cow::Owned(escaped)
}

/// True for what a terminal obeys and does not show, and for what no one sees.
pub fn is_unprintable(c: char) -> bool {
    let separates = matches!(c, '\u{2028}' | '\u{2029}');
    let turns = matches!(c, '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let hides = matches!(
        c,
        '\u{ad}' | '\u{180e}' | '\u{200b}'..='\u{200d}' | '\u{2060}'..='\u{2064}' | '\u{feff}'
            | '\u{e0000}'..='\u{e007f}'
    );
    c.is_control() || separates || turns || hides
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_escaped_and_the_rest_is_shown_as_it_is() {
        for (text, expected) in [
            ("Node worker", "Node worker"),
            ("żółw \"x\" \\n", "żółw \"x\" \\n"),
            ("a\nINFO forged", "a\\nINFO forged"),
            (
                "\u{1b}[2J\u{1b}]0;title\u{7}",
                "\\u{1b}[2J\\u{1b}]0;title\\u{7}",
            ),
            ("\u{9b}31m\u{7f}\r\t", "\\u{9b}31m\\u{7f}\\r\\t"),
            ("a\u{202e}b\u{2028}c", "a\\u{202e}b\\u{2028}c"),
            (
                "we\u{200b}b\u{feff}\u{e0041}",
                "we\\u{200b}b\\u{feff}\\u{e0041}",
            ),
        ] {
            assert_eq!(printable(text), expected);
        }
    }
}
