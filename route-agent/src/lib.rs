//! The Podwire node agent: source -> snapshot -> desired -> diff -> kernel.
//!
//! The modules stand on floors, and arrows between them point only downwards;
//! `docs/ARCHITECTURE.md` has the table, and `tests/floors.rs` checks it.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test fails by panicking"))]

pub mod backoff;
pub mod cidr;
pub mod cli;
pub mod clock;
pub mod cluster;
pub mod commands;
pub mod config;
pub mod directory;
pub mod drops;
pub mod error;
pub mod feature;
pub mod features;
pub mod files;
pub mod flows;
pub mod health;
pub mod input;
pub mod metrics;
pub mod notices;
pub mod originals;
pub mod ours;
pub mod pod_cidrs;
pub mod reconcile;
pub mod report;
pub mod ring;
pub mod run;
pub mod serve;
pub mod snapshot;
pub mod source;
pub mod text;
pub mod uplink;
pub mod warnings;
pub mod why;

/// The script that decides how the agent is linked; for its tests.
#[cfg(test)]
#[path = "../build.rs"]
#[allow(dead_code, reason = "only its decisions are tested")]
mod build;
