//! The connectivity test: pods on every node, and every way that Podwire promises between them.
//!
//! [`plan`] says what is tried ([`case`] is one thing of it), [`ground`] where, [`probe`] with which
//! command, and [`verdict`] what its output means; [`run`] does it, [`report`] and [`junit`] tell what
//! came of it, and [`command`] is how people start it.

pub mod case;
pub mod command;
pub mod explain;
#[cfg(test)]
pub(crate) mod fake;
pub mod ground;
pub mod junit;
pub mod kubernetes;
pub mod objects;
pub mod plan;
pub mod probe;
pub mod report;
pub mod run;
#[cfg(test)]
mod tests;
pub mod verdict;
