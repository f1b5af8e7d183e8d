//! `podwire-lab`: raise a cluster of network namespaces, look around in it, take it down.

mod cli;
mod demo;
mod interrupt;
mod say;

use std::io::{self, Write};
use std::process::ExitCode;

use podwire_agent::commands::output::is_unread;
use podwire_agent::error::chain;

fn main() -> ExitCode {
    match cli::run() {
        Ok(code) => ExitCode::from(code),
        // As `say` has it: who has read enough ends this process quietly.
        Err(error) if is_unread(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // Without a place to say it the exit says enough.
            let _ = writeln!(io::stderr(), "podwire-lab: {}", chain(&error));
            ExitCode::FAILURE
        }
    }
}
