//! Texts of others, made fit to be shown.
//!
//! Names, annotations and values come from any user who may write them: a line break in one forges a
//! line of the log, an escape sequence changes what a terminal shows, and there is no end to their
//! length.

use std::borrow::Cow;
use std::fmt::Write;

pub use podwire::text::{is_unprintable, printable};
use podwire_kernel::Protocol;

/// Lines of text, each with its end; a line break that comes with a name is escaped.
pub fn printable_lines<'a>(lines: impl IntoIterator<Item = &'a String>) -> String {
    let mut text = String::new();
    for line in lines {
        text.push_str(&printable(line));
        text.push('\n');
    }
    text
}

/// Pretty JSON as [`printable`]: a terminal may be what reads it. JSON itself only escapes the
/// control characters of ASCII; what is escaped here is inside strings and means the same.
pub fn printable_json(json: &str) -> Cow<'_, str> {
    let escape = |c: char| c != '\n' && is_unprintable(c);
    if !json.contains(escape) {
        return Cow::Borrowed(json);
    }
    let mut escaped = String::with_capacity(json.len() + 16);
    for c in json.chars() {
        match escape(c) {
            true => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    // Writing to a String cannot fail.
                    let _ = write!(escaped, "\\u{unit:04x}");
                }
            }
            false => escaped.push(c),
        }
    }
    Cow::Owned(escaped)
}

/// The first `most` of these, and how many more there are.
pub fn some_of<T: ToString>(
    all: impl IntoIterator<Item = T>,
    most: usize,
    between: &str,
) -> String {
    let mut all = all.into_iter();
    let shown = all.by_ref().take(most).map(|one| one.to_string());
    let shown = shown.collect::<Vec<_>>().join(between);
    match all.count() {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// The first `most` bytes of the text or a few less, and how much more there was.
pub fn cut(text: &str, most: usize) -> Cow<'_, str> {
    if text.len() <= most {
        return Cow::Borrowed(text);
    }
    let mut start = start(text, most).to_owned();
    let more = text.len() - start.len();
    // Writing to a String cannot fail.
    let _ = write!(start, "... ({more} bytes more)");
    Cow::Owned(start)
}

/// The first `most` bytes of the text, or a few less if a character would be cut in two.
pub fn start(text: &str, most: usize) -> &str {
    let ends = (0..=most.min(text.len())).rev();
    let end = ends.into_iter().find(|end| text.is_char_boundary(*end));
    &text[..end.unwrap_or(0)]
}

/// The name of a transport protocol, or its number.
pub fn protocol_name(number: u8) -> String {
    match (Protocol::from_number(number), number) {
        (Some(protocol), _) => protocol.name().to_owned(),
        (None, 1) => "icmp".into(),
        (None, 58) => "icmpv6".into(),
        (None, number) => number.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn json_is_escaped_where_json_itself_does_not_and_means_the_same() {
        let text = "a\u{7f}\u{9b}31m\u{202e}\u{2029}\u{e0041}b\n\u{1b}é";
        let json = serde_json::to_string_pretty(&[text]).unwrap();
        let shown = printable_json(&json);
        assert_eq!(
            shown,
            "[\n  \"a\\u007f\\u009b31m\\u202e\\u2029\\udb40\\udc41b\\n\\u001bé\"\n]"
        );
        assert_eq!(serde_json::from_str::<[String; 1]>(&shown).unwrap(), [text]);
    }

    #[test]
    fn a_long_text_is_cut_at_a_character_and_says_so() {
        assert_eq!(cut("short", 5), "short");
        assert_eq!(cut("long text", 4), "long... (5 bytes more)");
        assert_eq!(cut("äää", 3), "ä... (4 bytes more)");
    }

    proptest! {
        #[test]
        fn nothing_that_a_terminal_obeys_is_left(text: String) {
            prop_assert!(!printable(&text).contains(is_unprintable));
        }
    }
}
