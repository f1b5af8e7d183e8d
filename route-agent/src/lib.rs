//! The Podwire node agent: source -> snapshot -> desired -> diff -> kernel.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod cidr;
pub mod config;
pub mod features;
pub mod operator;
pub mod reconcile;
pub mod report;
pub mod snapshot;
pub mod source;
pub mod uplink;
pub mod warnings;
