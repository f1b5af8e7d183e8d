//! How the walkthrough looks on a terminal, and in a log.

use std::io::{self, IsTerminal, Write};

/// The widest line of running text.
const WIDTH: usize = 88;

/// The most lines of one command's output that are shown.
const MOST_LINES: usize = 60;

/// Where the walkthrough is printed.
#[derive(Debug)]
pub struct Page<W> {
    out: W,
    colours: bool,
}

impl Page<io::Stdout> {
    /// The terminal, in colours if it is one and it was not asked to do without.
    pub fn terminal() -> Self {
        let colours = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Page {
            out: io::stdout(),
            colours,
        }
    }
}

impl<W: Write> Page<W> {
    /// Anything that can be written to, without colours.
    pub fn plain(out: W) -> Self {
        Page {
            out,
            colours: false,
        }
    }

    /// What was written to.
    pub fn into_inner(self) -> W {
        self.out
    }

    /// A paragraph of running text.
    pub fn text(&mut self, text: &str) -> io::Result<()> {
        for line in wrap(text, WIDTH) {
            writeln!(self.out, "{line}")?;
        }
        self.out.flush()
    }

    /// Text as it stands.
    pub fn verbatim(&mut self, text: &str) -> io::Result<()> {
        write!(self.out, "{text}")?;
        self.out.flush()
    }

    /// The start of an observation.
    pub(super) fn claim(&mut self, number: u8, claim: &str) -> io::Result<()> {
        writeln!(self.out)?;
        for (position, line) in wrap(claim, WIDTH - 4).iter().enumerate() {
            let number = if position == 0 {
                format!("{number:>2}")
            } else {
                "  ".into()
            };
            let line = self.painted("1", &format!("{number}  {line}"));
            writeln!(self.out, "{line}")?;
        }
        writeln!(self.out)
    }

    /// A command, which may have several lines.
    pub(super) fn command(&mut self, at: &str, command: &str) -> io::Result<()> {
        let place = self.painted("36", &format!("{at} $"));
        let mut lines = command.lines();
        let first = self.painted("1", lines.next().unwrap_or_default());
        writeln!(self.out, "    {place} {first}")?;
        for line in lines {
            let line = self.painted("1", line);
            writeln!(self.out, "      {line}")?;
        }
        self.out.flush()
    }

    pub(super) fn output(&mut self, output: &str) -> io::Result<()> {
        let lines: Vec<&str> = output.lines().collect();
        for line in lines.iter().take(MOST_LINES) {
            writeln!(self.out, "      {line}")?;
        }
        if lines.len() > MOST_LINES {
            writeln!(
                self.out,
                "      ... and {} more lines",
                lines.len() - MOST_LINES
            )?;
        }
        self.out.flush()
    }

    /// What takes a while.
    pub(super) fn waiting(&mut self, at: &str, command: &str) -> io::Result<()> {
        let program = command.split_whitespace().next().unwrap_or_default();
        let line = self.painted("2", &format!("waiting until {program} in {at} ends ..."));
        writeln!(self.out, "    {line}")?;
        self.out.flush()
    }

    pub(super) fn watched(&mut self, at: &str, command: &str, output: &str) -> io::Result<()> {
        let program = command.split_whitespace().next().unwrap_or_default();
        let line = self.painted("36", &format!("what {program} in {at} saw:"));
        writeln!(self.out, "    {line}")?;
        self.output(output)
    }

    pub(super) fn check(&mut self, says: &str, holds: bool) -> io::Result<()> {
        let mark = if holds {
            self.painted("32", "✓")
        } else {
            self.painted("31", "✗")
        };
        writeln!(self.out, "    {mark} {says}")?;
        self.out.flush()
    }

    pub(super) fn reason(&mut self, reason: &str) -> io::Result<()> {
        for line in wrap(reason, WIDTH - 6) {
            let line = self.painted("2", &line);
            writeln!(self.out, "      {line}")?;
        }
        self.out.flush()
    }

    fn painted(&self, code: &str, text: &str) -> String {
        if self.colours {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}

/// Breaks text into lines of at most `width` characters.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let last = lines.last_mut().expect("it starts with one line");
        if !last.is_empty() && last.chars().count() + 1 + word.chars().count() > width {
            lines.push(word.to_owned());
        } else {
            if !last.is_empty() {
                last.push(' ');
            }
            last.push_str(word);
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_broken_between_words() {
        assert_eq!(wrap("one two three", 7), ["one two", "three"]);
        assert_eq!(wrap("unbreakable", 3), ["unbreakable"]);
    }

    #[test]
    fn long_output_is_cut_and_says_so() {
        let mut page = Page::plain(Vec::new());
        page.output(&"line\n".repeat(MOST_LINES + 2)).unwrap();
        let text = String::from_utf8(page.into_inner()).unwrap();
        assert!(text.ends_with("      ... and 2 more lines\n"), "{text}");
    }
}
