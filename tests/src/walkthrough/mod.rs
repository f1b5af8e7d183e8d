//! The walkthrough: what a learner sees, command by command, and whether it is so.

mod pods;

pub use pods::{invitation, start_pods};
