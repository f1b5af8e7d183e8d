//! What an operator sees and says: health and metrics over HTTP, `status`, `why`, `preflight`,
//! `take-over`.
//!
//! Everything here reads values that the reconcile loop publishes; nothing here programs the
//! kernel, but for `take-over`, which removes what a kube-proxy left behind.

pub mod health;
pub mod health_ports;
pub mod http;
mod install;
pub mod metrics;
pub mod moment;
pub mod preflight;
pub mod site;
pub mod socket;
pub mod status;
pub mod takeover;
pub mod why;

pub use install::{BinDir, Install};
