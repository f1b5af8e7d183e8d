//! The only crate of Podwire that talks to the Linux kernel.
//!
//! Everything here is blocking and works on plain values: a [`netlink::Socket`] for any netlink
//! protocol, and on top of it links, addresses, routes, neighbours, traffic control, nftables and
//! conntrack. A socket stays in the network namespace it was opened in, whatever its thread does
//! afterwards, so one thread can serve several namespaces.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test fails by panicking"))]

pub mod address;
pub mod conntrack;
pub mod error;
pub mod foreign;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod ip;
pub mod link;
#[cfg(feature = "monitor")]
pub mod monitor;
pub mod neigh;
pub mod netlink;
pub mod netns;
#[cfg(feature = "monitor")]
pub mod nflog;
pub mod nft;
mod packet;
pub mod process;
pub mod request;
pub mod route;
pub mod scope;
pub mod sysctl;
pub mod tc;

pub use error::{Cause, Error, Result};
pub use ip::{IpFamily, Protocol};
pub use request::{Requests, RouteSocket};
pub use scope::Scope;
