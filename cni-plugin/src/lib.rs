//! The Podwire CNI plugin: one binary that is `podwire`, or by its name one of the reference
//! plugins `ptp`, `host-local`, `portmap`, `loopback` and `bandwidth`.
//!
//! [`plugin`] takes a call apart and carries it out. What others need to know about what the
//! plugin leaves behind is in [`attachment`] (links, records) and [`lease`] (addresses).

#![cfg_attr(
    test,
    expect(clippy::unwrap_used, reason = "a test fails by panicking")
)]
#![deny(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "they panic if no process reads: `streams::log` does not"
)]

pub mod arguments;
pub mod attachment;
pub mod config;
pub mod environment;
pub mod error;
pub mod exposure;
pub mod files;
pub mod hash;
pub mod ipam;
pub mod json;
pub mod lease;
pub mod link;
pub mod mtu;
pub mod plugin;
pub mod policy;
pub mod range;
pub mod result;
pub mod streams;
pub mod text;
pub mod version;
