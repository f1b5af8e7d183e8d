//! A file as documents: where one of YAML ends and the next begins.

use std::io::{self, BufRead};

/// True if the first character that is not white space opens a JSON object.
///
/// YAML may start so as well (flow style), but then it is JSON but for rare cases, in which the
/// error says what is wrong.
pub fn starts_as_json(input: &mut impl BufRead) -> io::Result<bool> {
    loop {
        let buffer = input.fill_buf()?;
        let Some(place) = buffer.iter().position(|byte| !byte.is_ascii_whitespace()) else {
            let all = buffer.len();
            if all == 0 {
                return Ok(false);
            }
            input.consume(all);
            continue;
        };
        return Ok(buffer[place] == b'{');
    }
}

/// Splits a YAML stream at its document markers.
pub struct Documents<R> {
    input: R,
    /// Lines read so far.
    line: usize,
    /// What stood behind the marker that began the document to come.
    pending: String,
}

impl<R: BufRead> Documents<R> {
    /// Those of a stream, from its start.
    pub fn of(input: R) -> Self {
        Self {
            input,
            line: 0,
            pending: String::new(),
        }
    }

    /// Puts the next document that is not empty into `text`; returns the number of its first line.
    pub fn next(&mut self, text: &mut String) -> io::Result<Option<usize>> {
        loop {
            text.clear();
            text.push_str(&self.pending);
            self.pending.clear();
            let first_line = self.line + usize::from(text.is_empty());
            let more = self.read_until_marker(text)?;
            if !is_blank(text) {
                return Ok(Some(first_line));
            }
            if !more {
                return Ok(None);
            }
        }
    }

    /// True if a marker ended the document, false at the end of the input.
    fn read_until_marker(&mut self, text: &mut String) -> io::Result<bool> {
        loop {
            let start = text.len();
            if self.input.read_line(text)? == 0 {
                return Ok(false);
            }
            self.line += 1;
            let line = &text[start..];
            let Some(rest) = line
                .strip_prefix("---")
                .or_else(|| line.strip_prefix("..."))
            else {
                continue;
            };
            if !rest.is_empty() && !rest.starts_with([' ', '\t', '\r', '\n']) {
                continue;
            }
            self.pending = if is_blank(rest) {
                String::new()
            } else {
                rest.to_owned()
            };
            text.truncate(start);
            return Ok(true);
        }
    }
}

/// True if there is nothing but comments, directives and white space.
fn is_blank(text: &str) -> bool {
    text.trim_start_matches('\u{feff}').lines().all(|line| {
        line.starts_with('%') || line.trim_start().is_empty() || line.trim_start().starts_with('#')
    })
}
