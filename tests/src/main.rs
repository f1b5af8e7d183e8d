//! `podwire-lab`: raise a cluster of network namespaces, look around in it, take it down.

mod cli;
mod demo;
mod interrupt;
mod say;

use std::process::ExitCode;

fn main() -> ExitCode {
    match cli::run() {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("podwire-lab: {error}");
            ExitCode::FAILURE
        }
    }
}
