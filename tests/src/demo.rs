//! `podwire-lab demo`: the walkthrough from nothing to nothing.

use std::io;
use std::time::Instant;

use podwire_lab::error::{Error, Result};
use podwire_lab::lab::Lab;
use podwire_lab::topology::{Families, Topology};
use podwire_lab::{tools, walkthrough};

use crate::cli;
use crate::interrupt;
use crate::say::say;

/// Raises a lab, shows the walkthrough and takes the lab down, or lets it stay. Answers with the
/// exit status: 0 only if every observation held.
pub fn run(name: Option<&str>, keep: bool) -> Result<u8> {
    tools::require()?;
    let start = Instant::now();
    let entry = cli::claim(name, "demo")?;
    interrupt::takes_down(entry.name())?;
    let lab = Lab::up(entry, &Topology::walkthrough(Families::V4), &cli::progress)?;
    cli::progress("the pods");
    walkthrough::start_pods(&lab)?;
    cli::progress("the Services");
    walkthrough::start_services(&lab)?;
    say(format_args!(
        "Lab {} is up after {:.1} s.\n",
        lab.name(),
        start.elapsed().as_secs_f64()
    ));
    let code = show(&lab)?;
    say(format_args!(
        "This took {:.1} s.",
        start.elapsed().as_secs_f64()
    ));
    if keep {
        let invitation = walkthrough::invitation(&lab)?;
        lab.stay()?;
        say(format_args!("\nThe lab stays up. Try:"));
        say(invitation);
    } else {
        say(format_args!(
            "The lab is down again and the machine is as it was.\n"
        ));
        say(format_args!(
            "To look around by yourself, raise it once more, and it stays:\n"
        ));
        say(format_args!("  make lab"));
        drop(lab);
    }
    Ok(code)
}

/// Shows the walkthrough in a lab that was up before and stays.
pub fn show_in(lab: &Lab) -> Result<u8> {
    walkthrough::require(lab)?;
    let _lock = lab.lock(cli::busy)?;
    interrupt::restores(lab.name())?;
    show(lab)
}

/// Shows the walkthrough in a lab.
fn show(lab: &Lab) -> Result<u8> {
    tools::require()?;
    let mut page = walkthrough::Page::terminal();
    let printed = |result: io::Result<()>| result.map_err(Error::file("write", "the terminal"));
    printed(page.text(INTRODUCTION))?;
    let verdict = walkthrough::show(lab, &mut page)?;
    let path = walkthrough::path(lab, "pod1", "pod2")?;
    let way = format!("\nThe way of a packet from pod1 to pod2 and back:\n\n{path}\n");
    printed(page.verbatim(&way))?;
    say(format_args!(
        "{} of {} observations hold.",
        verdict.held, verdict.shown
    ));
    Ok(u8::from(!verdict.is_good()))
}

const INTRODUCTION: &str = "\
    Four nodes are up, each in network namespaces of its own, all on one network \
    (172.18.0.0/16). On each runs podwire-agent; for each pod the plugin podwire was called, as a \
    container runtime calls it. Below are real commands with their real output; a check mark \
    stands for what was found in it.";
