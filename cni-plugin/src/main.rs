//! The CNI plugin: reads a call, does it, prints the answer.

use std::io::Write;
use std::process::ExitCode;

use podwire::plugin::{Answer, Plugin};

fn main() -> ExitCode {
    let program = std::env::args_os().next().unwrap_or_default();
    let plugin = Plugin::named(&program);
    print(&plugin.answer(|name| std::env::var_os(name), std::io::stdin()))
}

/// Prints the answer as the reference plugins do, with four spaces for each level.
fn print(answer: &Answer) -> ExitCode {
    if let Some(about) = &answer.about {
        eprintln!("{about}");
    }
    if let Some(output) = &answer.output {
        let text = podwire::plugin::text(output);
        if let Err(error) = std::io::stdout().write_all(text.as_bytes()) {
            // The runtime does not listen; the exit status is all there is left.
            eprintln!("podwire: cannot write the answer: {error}");
            return ExitCode::FAILURE;
        }
    }
    if answer.success {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
