//! `podwire-sbom`: what the image is made of, as an SPDX 2.3 document in JSON.
//!
//! Every crate of both programs for the image's target comes from what cargo says, so the list is
//! that of the build: `crates`. How SPDX writes it: `document`.

mod crates;
mod document;

use std::error::Error;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use jiff::Timestamp;
use sha2::{Digest, Sha256};

/// Write what the image is made of, as SPDX 2.3 in JSON, to standard output.
#[derive(Parser)]
#[command(name = "podwire-sbom", version, max_term_width = 100)]
struct Flags {
    /// The target for which the programs are built.
    #[arg(long, value_name = "TRIPLE")]
    target: String,

    /// A program in the image and its file, whose checksum goes into the document.
    #[arg(long = "program", value_name = "NAME=FILE", value_parser = program)]
    programs: Vec<(String, PathBuf)>,

    /// When it was made, in seconds since 1970: the same for everyone who builds this commit.
    #[arg(long, env = "SOURCE_DATE_EPOCH", value_name = "SECONDS", value_parser = seconds)]
    created: Timestamp,
}

fn seconds(text: &str) -> Result<Timestamp, String> {
    let seconds = text.parse().map_err(|_| "not a number of seconds")?;
    Timestamp::from_second(seconds).map_err(|_| "beyond the calendar".to_owned())
}

fn program(text: &str) -> Result<(String, PathBuf), String> {
    let (name, file) = text.split_once('=').ok_or("not NAME=FILE")?;
    Ok((name.to_owned(), file.into()))
}

fn main() -> ExitCode {
    match run(&Flags::parse()) {
        Ok(document) => {
            println!("{document}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("podwire-sbom: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(flags: &Flags) -> Result<String, Box<dyn Error>> {
    let mut programs = Vec::new();
    for (name, file) in &flags.programs {
        let bytes =
            fs::read(file).map_err(|error| format!("cannot read {}: {error}", file.display()))?;
        programs.push((name.clone(), document::hex(&Sha256::digest(&bytes))));
    }
    let made_of = crates::of_the_image(&flags.target)?;
    let document = document::spdx(&made_of, &programs, flags.created)?;
    Ok(serde_json::to_string_pretty(&document)?)
}
