//! What Podwire comes in: manifests, a chart, overlays for distributions, a workflow.
//!
//! What needs helm or kustomize is run by `make chart-test`; the rest by every `cargo test`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod chart;
mod flags;
mod objects;
mod overlays;
mod removal;
mod rendered;
mod workflow;
