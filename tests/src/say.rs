//! Printing for people, who may stop reading at any time (`podwire-lab pods | head`).

use std::fmt::Display;
use std::io::{self, ErrorKind, Write};
use std::process::exit;

/// Prints a line. If no one reads any more, this process ends quietly, as other programs do; if it
/// cannot be written for another reason, it says so and ends.
pub fn say(line: impl Display) {
    match write(line) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::BrokenPipe => exit(0),
        Err(error) => {
            eprintln!("podwire-lab: cannot write to standard output: {error}");
            exit(1);
        }
    }
}

/// Prints a line that may as well be missed: what is being done goes on.
pub fn mention(line: impl Display) {
    let _ = write(line);
}

fn write(line: impl Display) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush())
}
