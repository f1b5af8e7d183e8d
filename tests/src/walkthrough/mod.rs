//! The walkthrough: what a learner sees, command by command, and whether it is so.
//!
//! An [`Observation`] is data: what is claimed, the commands that a person would type, and
//! checks that decide from nothing but the commands' output. [`show`] runs the commands in a lab
//! that is up, prints what happens and answers how many observations hold.

mod checks;
mod clusterip;
mod links;
mod nodeport;
mod observation;
mod page;
mod picture;
mod pods;
mod policies;
mod restore;
mod stage;
mod step;
mod written;

use std::io::{self, Write};

pub use observation::{Check, Observation};
pub use page::Page;
pub use picture::path;
pub use pods::{invitation, require, start_pods, start_services};
pub use restore::restore;
pub use stage::Outputs;
pub use step::Step;

use crate::error::{Error, Result};
use crate::lab::Lab;

/// How many observations were shown, and how many of them held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// Shown.
    pub shown: usize,
    /// Held.
    pub held: usize,
}

impl Verdict {
    /// Whether all of them held.
    pub fn is_good(self) -> bool {
        self.shown > 0 && self.shown == self.held
    }
}

/// All observations, in the order in which they are shown.
pub fn observations() -> impl Iterator<Item = &'static Observation> {
    links::OBSERVATIONS
        .iter()
        .chain(&clusterip::OBSERVATIONS)
        .chain(&nodeport::OBSERVATIONS)
        .chain(&policies::OBSERVATIONS)
}

/// Shows every observation in a lab that runs the walkthrough's pods. However that ends, nothing of it
/// stays in the lab; what an earlier one left goes first.
pub fn show<W: Write>(lab: &Lab, page: &mut Page<W>) -> Result<Verdict> {
    if restore(lab)? {
        let text = "A walkthrough was interrupted in this lab; what it left was taken away first.";
        page.text(text)
            .map_err(Error::file("write", "the terminal"))?;
    }
    let verdict = show_all(lab, page);
    restore(lab)?;
    verdict
}

fn show_all<W: Write>(lab: &Lab, page: &mut Page<W>) -> Result<Verdict> {
    let mut verdict = Verdict { shown: 0, held: 0 };
    for observation in observations() {
        verdict.shown += 1;
        verdict.held += usize::from(show_one(lab, observation, page)?);
    }
    Ok(verdict)
}

/// Shows one observation and answers whether it holds. A command that cannot be run at all
/// counts against it, and the walkthrough goes on.
fn show_one<W: Write>(lab: &Lab, observation: &Observation, page: &mut Page<W>) -> Result<bool> {
    let printed = |error: io::Error| Error::file("write", "the terminal")(error);
    page.claim(observation.number, observation.claim)
        .map_err(printed)?;
    let outputs = match stage::perform(lab, observation.steps, page) {
        Ok(outputs) => outputs,
        Err(error) => {
            page.check(&error.to_string(), false).map_err(printed)?;
            return Ok(false);
        }
    };
    let mut good = true;
    for check in observation.checks {
        let holds = (check.holds)(&outputs);
        page.check(check.says, holds).map_err(printed)?;
        good &= holds;
    }
    page.reason(observation.reason).map_err(printed)?;
    Ok(good)
}
