//! Texts of which no more is written than there is room for.

use std::fmt::{self, Write};

use podwire_kernel::nft::COMMENT_MAX;

use crate::text;

/// As much of something's text as a comment has room for; the rest of it is not even made. A network
/// may have thousands of holes.
pub fn beginning(whole: &impl fmt::Display) -> String {
    let mut start = Start(String::new());
    // The error is that there is no room for more.
    _ = write!(start, "{whole}");
    start.0
}

struct Start(String);

impl Write for Start {
    fn write_str(&mut self, more: &str) -> fmt::Result {
        let room = COMMENT_MAX - self.0.len();
        self.0 += text::start(more, room);
        match more.len() <= room {
            true => Ok(()),
            false => Err(fmt::Error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Endless;

    impl fmt::Display for Endless {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            loop {
                f.write_str("\u{e4}b")?;
            }
        }
    }

    #[test]
    fn no_more_is_written_than_there_is_room_for() {
        assert_eq!(beginning(&"short"), "short");
        let start = beginning(&Endless);
        assert_eq!(start, "\u{e4}b".repeat(COMMENT_MAX / 3));
    }
}
