//! Ctrl-C while a lab is being raised or shown: the prompt comes back when the lab is gone.
//!
//! The lab would end by itself when this process does, but a moment later, and without a word. A
//! second Ctrl-C leaves it to that.

use std::io::{self, BufReader, Read, Write};
use std::process::exit;
use std::thread;

use podwire_lab::error::{Error, Result};
use podwire_lab::lab;

/// From now on, SIGINT or SIGTERM takes the lab `name` down before this process ends.
pub fn takes_down(name: &str) -> Result<()> {
    let signals = podwire_kernel::process::catch_interrupts().map_err(|source| Error::Kernel {
        place: "podwire-lab".into(),
        source,
    })?;
    let name = name.to_owned();
    thread::spawn(move || {
        let mut signals = BufReader::new(signals).bytes().map_while(io::Result::ok);
        let Some(signal) = signals.next() else { return };
        // As a shell tells that a signal ended a program.
        let code = 128 + i32::from(signal);
        thread::spawn(move || take_down(&name, code));
        if signals.next().is_some() {
            exit(code);
        }
    });
    Ok(())
}

fn take_down(name: &str, code: i32) -> ! {
    // What is shown of a lab that is going away is not worth reading: nothing else prints. That goes
    // for the error of the main thread as well, which misses the lab and would end this process
    // with a code of its own: so the locks are held until the exit.
    let (mut out, _err) = (io::stdout().lock(), io::stderr().lock());
    let _ = writeln!(out, "\nInterrupted: lab {name} goes down again ...");
    let said = match lab::abandon(name) {
        Ok(()) => "Nothing of it is left.".to_owned(),
        Err(error) => error.to_string(),
    };
    let _ = writeln!(out, "{said}");
    exit(code);
}
