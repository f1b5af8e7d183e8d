//! The Podwire node agent: source -> snapshot -> desired -> diff -> kernel.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod cidr;
pub mod cli;
pub mod config;
pub mod features;
pub mod files;
pub mod operator;
pub mod originals;
pub mod reconcile;
pub mod report;
pub mod run;
pub mod snapshot;
pub mod source;
pub mod uninstall;
pub mod uplink;
pub mod warnings;

/// An error with all of its causes, on one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
