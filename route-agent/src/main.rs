//! The agent binary.

use std::process::ExitCode;

use podwire_agent::cli::Cli;

fn main() -> ExitCode {
    podwire_kernel::process::keep_little_memory();
    match Cli::read().execute() {
        Ok(code) => code,
        Err(error) => {
            eprintln!(
                "podwire-agent: {}",
                podwire_agent::error::chain(error.as_ref())
            );
            ExitCode::FAILURE
        }
    }
}
