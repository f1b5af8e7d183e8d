//! The network of a cluster, seen from the desk: the verbs of `kubectl podwire` and `podwire-lab`.
//!
//! What an agent knows it answers itself; here the agents of all nodes are asked, and what they say
//! is put together. How a node is reached is behind [`reach::Reach`], so the verbs are the same with
//! an API server, on a node, and in the lab.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test fails by panicking"))]

pub mod cli;
pub mod drops;
pub mod fleet;
pub mod flows;
pub mod on_nodes;
pub mod reach;
pub mod said;
pub mod status;
pub mod stream;
pub mod sysdump;
pub mod test;
pub mod top;
pub mod ui;
pub mod uninstall;

pub mod why;
