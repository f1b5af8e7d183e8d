//! The plugin as runtimes call it: the built binary, in network and mount namespaces of its own,
//! with real packets. Needs root; a test that may not make namespaces fails.
//!
//! `nft`, `ip` and the reference plugins in /usr/lib/cni (Debian: nftables, iproute2,
//! containernetworking-plugins) are asked for a second opinion.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bad_input;
mod bandwidth;
mod cases;
mod concurrency;
mod crash;
mod delegate;
mod examples;
mod gc;
mod host_local;
mod loopback;
mod multus;
mod net;
mod node;
mod owner;
mod podwire;
mod policy;
mod portmap;
mod ptp;
mod reference;
mod start;
mod trace;
mod undo;
