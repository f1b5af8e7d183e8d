//! Comments, as `nft` writes and reads them.

use std::fmt;

use super::wire;

/// `nft` takes 128 bytes for a comment, the terminating zero included (NFTNL_UDATA_COMMENT_MAXLEN).
pub const COMMENT_MAX: usize = 127;

/// A comment on a table, chain, rule, set or element.
///
/// At most [`COMMENT_MAX`] bytes; without quotation marks, backslashes and control characters, so
/// that the text that `nft list` prints can be loaded again. [`Comment::new`] makes any text fit.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Comment(Box<str>);

impl Comment {
    /// The comment that `text` makes; `None` if nothing is left of it.
    pub fn new(text: &str) -> Option<Self> {
        let mut bytes = Vec::with_capacity(text.len().min(COMMENT_MAX));
        push_clean(&mut bytes, text);
        let text = String::from_utf8(bytes)
            .ok()
            .filter(|text| !text.is_empty())?;
        Some(Self(text.into_boxed_str()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What the kernel holds, however it got there.
    pub(crate) fn from_kernel(value: &[u8]) -> Self {
        Self(wire::str_of(value).into_boxed_str())
    }
}

impl fmt::Debug for Comment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Comment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Appends the part of `text` that may stand in a comment.
fn push_clean(out: &mut Vec<u8>, text: &str) {
    let start = out.len();
    let is_plain = |byte: &u8| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\');
    if text.len() <= COMMENT_MAX && text.as_bytes().iter().all(is_plain) {
        // Nearly all of them, and there are thousands in a batch.
        out.extend_from_slice(text.as_bytes());
        return;
    }
    for character in text.chars() {
        let character = match character {
            '"' | '\\' => '\'',
            character if character.is_control() => ' ',
            character => character,
        };
        if out.len() - start + character.len_utf8() > COMMENT_MAX {
            break;
        }
        let mut buffer = [0; 4];
        out.extend_from_slice(character.encode_utf8(&mut buffer).as_bytes());
    }
}

/// Appends a user data entry of type `kind` with the comment that `text` makes.
pub(crate) fn put_comment(out: &mut Vec<u8>, kind: u8, text: &str) {
    let start = out.len();
    out.extend_from_slice(&[kind, 0]);
    push_clean(out, text);
    if out.len() == start + 2 {
        out.truncate(start);
        return;
    }
    out.push(0);
    out[start + 1] = (out.len() - start - 2) as u8;
}

/// The comment in user data, if there is one of type `kind`.
pub(crate) fn comment_of(udata: &[u8], kind: u8) -> Option<Comment> {
    wire::udata(udata)
        .find(|(found, _)| *found == kind)
        .map(|(_, value)| Comment::from_kernel(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comment_is_cut_at_a_character_and_cannot_break_the_listing() {
        let long = "é".repeat(100);
        let comment = Comment::new(&long).unwrap();
        assert_eq!(comment.as_str().len(), 126);
        assert_eq!(Comment::new("a\"b\\c\nd").unwrap().as_str(), "a'b'c d");
        for length in [COMMENT_MAX - 1, COMMENT_MAX, COMMENT_MAX + 1] {
            let plain = "~".repeat(length);
            let kept = &plain[..length.min(COMMENT_MAX)];
            assert_eq!(Comment::new(&plain).unwrap().as_str(), kept);
        }
        assert_eq!(Comment::new("\u{7f}\u{1f} !~").unwrap().as_str(), "   !~");
        assert_eq!(Comment::new(""), None);
        let mut out = Vec::new();
        put_comment(&mut out, 0, &long);
        assert_eq!(comment_of(&out, 0), Some(comment));
    }
}
