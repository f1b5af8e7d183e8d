//! The agent binary.

use std::io::{self, Write};
use std::process::ExitCode;

use podwire_agent::cli::Cli;
use podwire_agent::commands::output::is_unread;
use podwire_agent::error::chain;

fn main() -> ExitCode {
    podwire_kernel::process::keep_little_memory();
    match Cli::read().execute() {
        Ok(code) => code,
        Err(error) => {
            if !is_unread(error.as_ref()) {
                // Without a place to say it the exit says enough.
                let _ = writeln!(io::stderr(), "podwire-agent: {}", chain(error.as_ref()));
            }
            ExitCode::FAILURE
        }
    }
}
