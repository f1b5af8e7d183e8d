//! What packets to and from the pods of this node should meet.
//!
//! Pure. `owners` says which pod has an address, `truth` reads the policies literally, packet by
//! packet: it is slow, and what everything else is measured by. `model` says the same in a form
//! that the kernel looks up: every peer has a class (`atoms`, `classes`, `blocks`), and for every
//! class and pod of this node `cells` say what is allowed. A change recomputes what it touches, and
//! `loss` tells whether it takes something away. `wanted` is the outcome.

pub mod atoms;
pub mod blocks;
mod cells;
pub mod classes;
mod compile;
pub mod frame;
pub mod loss;
pub mod model;
pub mod owners;
#[cfg(test)]
pub mod samples;
#[cfg(test)]
mod tests;
pub mod truth;
pub mod wanted;
