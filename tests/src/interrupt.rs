//! Ctrl-C while a lab is being raised or shown: the prompt comes back when the lab is gone, or when a
//! lab that stays is as it was.
//!
//! A lab that is raised would end by itself when this process does, but a moment later, and without a
//! word. A second Ctrl-C leaves it to that.

use std::io::{self, BufReader, Read, Write};
use std::process::exit;
use std::thread;

use nix::sys::signal::Signal;
use podwire_lab::error::{Error, Result};
use podwire_lab::lab::{self, Lab};
use podwire_lab::walkthrough;

/// From now on, SIGINT, SIGTERM or SIGHUP takes the lab `name` down before this process ends.
pub fn takes_down(name: &str) -> Result<()> {
    let name = name.to_owned();
    before_the_end(format!("lab {name} goes down again"), move || {
        lab::abandon(&name)?;
        Ok("Nothing of it is left.")
    })
}

/// From now on, SIGINT, SIGTERM or SIGHUP takes what the walkthrough left in the lab `name` away before this
/// process ends.
pub fn restores(name: &str) -> Result<()> {
    let name = name.to_owned();
    let what = format!("what the walkthrough changed in lab {name} is put back");
    before_the_end(what, move || {
        walkthrough::restore(&Lab::open(Some(&name))?)?;
        Ok("The lab is as it was.")
    })
}

/// From now on, SIGINT, SIGTERM or SIGHUP has `work` done and `what` said before this process ends.
fn before_the_end(
    what: String,
    work: impl FnOnce() -> Result<&'static str> + Send + 'static,
) -> Result<()> {
    let signals = podwire_kernel::process::catch_interrupts().map_err(|source| Error::Kernel {
        place: "podwire-lab".into(),
        source,
    })?;
    thread::spawn(move || {
        let mut signals = BufReader::new(signals).bytes().map_while(io::Result::ok);
        let Some(signal) = signals.next() else { return };
        // As a shell tells that a signal ended a program.
        let code = 128 + i32::from(signal);
        thread::spawn(move || end(&what, work, code));
        // A terminal that closes may say so twice.
        if signals.any(|again| i32::from(again) != Signal::SIGHUP as i32) {
            exit(code);
        }
    });
    Ok(())
}

fn end(what: &str, work: impl FnOnce() -> Result<&'static str>, code: i32) -> ! {
    // What is shown of a lab that is going away is not worth reading: nothing else prints, and the
    // walkthrough, which prints every command, runs no more. That goes for the error of the main
    // thread as well, which misses the lab and would end this process with a code of its own: so the
    // locks are held until the exit.
    let (mut out, _err) = (io::stdout().lock(), io::stderr().lock());
    let _ = writeln!(out, "\nInterrupted: {what} ...");
    let said = match work() {
        Ok(done) => done.to_owned(),
        Err(error) => error.to_string(),
    };
    let _ = writeln!(out, "{said}");
    exit(code);
}
