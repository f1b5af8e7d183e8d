//! What a verb has to say, and why it has nothing to say.

use std::error::Error;
use std::io;

use clap::ValueEnum;
use podwire_agent::text::{is_unprintable, printable_json};
use serde::Serialize;

use crate::reach::ReachError;

/// How to write an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Text,
    /// For programs.
    Json,
    /// For programs and people.
    Yaml,
}

/// What is to be printed, and whether all is well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// The text, with the end of its last line.
    pub text: String,
    /// False if something is wrong: the exit status says so, too.
    pub good: bool,
}

/// Why a verb has no answer.
#[derive(Debug, thiserror::Error)]
pub enum DeskError {
    /// The nodes or an agent cannot be asked.
    #[error(transparent)]
    Reach(#[from] ReachError),
    /// What was asked makes no sense.
    #[error("{0}")]
    Question(String),
    /// The answer cannot be written.
    #[error("cannot write the answer as {format}")]
    Write {
        /// In which format.
        format: &'static str,
        /// Why not.
        source: Box<dyn Error + Send + Sync>,
    },
    /// A file cannot be written.
    #[error("cannot write {path}")]
    File {
        /// The file.
        path: String,
        /// Why not.
        source: io::Error,
    },
    /// No one reads what is printed.
    #[error("cannot print the answer")]
    Print(#[from] podwire_agent::commands::output::PrintError),
}

/// A value for programs. Names in it may be of anyone's choice: what a terminal would obey is
/// escaped.
pub fn for_programs(value: &impl Serialize, output: Output) -> Result<String, DeskError> {
    let json = || match serde_json::to_string_pretty(value) {
        Ok(text) => Ok(printable_json(&text).into_owned() + "\n"),
        Err(error) => Err(DeskError::Write {
            format: "JSON",
            source: error.into(),
        }),
    };
    if output != Output::Yaml {
        return json();
    }
    let yaml = serde_saphyr::to_string(value).map_err(|error| DeskError::Write {
        format: "YAML",
        source: error.into(),
    })?;
    // Marks that turn the direction of writing are written as they are; JSON is YAML too.
    match yaml.contains(|c| c != '\n' && is_unprintable(c)) {
        true => json(),
        false => Ok(yaml),
    }
}
