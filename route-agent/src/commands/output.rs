//! How a command writes what it has to say.

use std::error::Error;
use std::fmt::Display;
use std::io::{self, Write};

use clap::ValueEnum;
use serde::Serialize;

use crate::text::{printable, printable_json};

/// How to write an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// What a command has to say cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write to standard output")]
pub struct PrintError(#[from] io::Error);

/// Something that happened, on one line. Names in it may be of anyone's choice: what is not printable is
/// escaped.
pub fn line(one: &(impl Display + Serialize), output: Output) -> serde_json::Result<String> {
    Ok(match output {
        Output::Text => printable(&one.to_string()).into_owned(),
        Output::Json => printable_json(&serde_json::to_string(one)?).into_owned(),
    })
}

/// Writes a text to standard output.
pub fn print(text: &str) -> Result<(), PrintError> {
    print_to(&mut io::stdout().lock(), text)
}

fn print_to(out: &mut impl Write, text: &str) -> Result<(), PrintError> {
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

/// True if all that failed is that the reader of the output has read enough, as `head` does.
pub fn is_unread(error: &(dyn Error + 'static)) -> bool {
    match error.downcast_ref::<PrintError>() {
        Some(PrintError(error)) => error.kind() == io::ErrorKind::BrokenPipe,
        None => error.source().is_some_and(is_unread),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;
    use crate::commands::drops::DropsError;
    use crate::error::chain;

    #[test]
    fn output_that_cannot_be_written_is_said_and_output_that_no_one_reads_is_not() {
        let mut full = File::options().write(true).open("/dev/full").unwrap();
        let error = print_to(&mut full, "text").unwrap_err();
        assert!(!is_unread(&error));
        let said = chain(&error);
        assert!(
            said.starts_with("cannot write to standard output: No space"),
            "{said}"
        );
        let (reader, mut writer) = io::pipe().unwrap();
        drop(reader);
        let error = print_to(&mut writer, "text").unwrap_err();
        assert!(is_unread(&error));
        assert!(is_unread(&DropsError::Print(error)));
        assert!(!is_unread(&io::Error::from(io::ErrorKind::BrokenPipe)));
    }
}
