//! An observation: commands, and checks that decide from their output alone.

use super::stage::Outputs;
use super::step::Step;

/// One thing to see.
#[derive(Debug)]
pub struct Observation {
    /// Its number in the walkthrough.
    pub number: u8,
    /// What is seen, in one sentence.
    pub claim: &'static str,
    /// Why it is so, for a learner.
    pub reason: &'static str,
    /// What a person types, in order.
    pub steps: &'static [Step],
    /// What must be seen.
    pub checks: &'static [Check],
}

/// Something that must be seen in the output.
#[derive(Debug)]
pub struct Check {
    /// What it is, as it is printed beside the check mark.
    pub says: &'static str,
    /// Whether it is so. The outputs are in the order of the steps.
    pub holds: fn(&Outputs) -> bool,
}
