//! `kubectl podwire`.

use std::io::{self, Write};
use std::process::ExitCode;

use podwire_agent::commands::output::is_unread;
use podwire_agent::error::chain;
use podwire_agent::run::runtime;
use podwire_desk::cli::Cli;

fn main() -> ExitCode {
    let cli = Cli::read();
    let done = match runtime() {
        Ok(runtime) => {
            let done = runtime.block_on(cli.execute());
            // A relay may wait for an answer that no one wants any longer.
            runtime.shutdown_background();
            done
        }
        Err(error) => Err(error.into()),
    };
    done.unwrap_or_else(|error| {
        if !is_unread(error.as_ref()) {
            // Without a place to say it the exit says enough.
            let _ = writeln!(io::stderr(), "kubectl-podwire: {}", chain(error.as_ref()));
        }
        ExitCode::FAILURE
    })
}
