//! Printing for people, who may stop reading at any time (`podwire-lab pods | head`).

use std::fmt::Display;
use std::io::{self, Write};

/// Prints a line. If no one reads any more, this process ends quietly, as other programs do.
pub fn say(line: impl Display) {
    let mut out = io::stdout().lock();
    if writeln!(out, "{line}").and_then(|()| out.flush()).is_err() {
        std::process::exit(0);
    }
}
