//! The lab: a cluster of network namespaces on one machine.
//!
//! [`lab::Lab`] raises it and finds things in it; [`node::Node`] is a machine with its agent and
//! its pods; [`place::Place`] is where closures and commands run; [`runtime`] calls the plugin as
//! containerd does. The program `podwire-lab`, the walkthrough and the integration tests all use
//! these same types.
//!
//! Everything lives in namespaces that one process holds ([`init`]), so nothing is left on the
//! host when that process ends, however it ends.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test fails by panicking"))]

pub mod binaries;
pub mod command;
pub mod connectivity;
pub mod desk;
pub mod error;
pub mod init;
pub mod lab;
pub mod launch;
pub mod layout;
pub mod load;
pub mod manifests;
pub mod node;
pub mod not_run;
pub mod place;
pub mod pod;
pub mod registry;
pub mod runtime;
pub mod serve;
pub mod tools;
pub mod topology;
pub mod wait;
pub mod walkthrough;
pub mod wire;

pub use error::{Error, Result};
pub use lab::Lab;
