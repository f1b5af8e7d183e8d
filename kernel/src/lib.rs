//! The only crate of Podwire that talks to the Linux kernel.
//!
//! Everything here is blocking and works on plain values: a [`netlink::Socket`] for any netlink
//! protocol, and on top of it links, addresses, routes, neighbours, traffic control, nftables and
//! conntrack. A socket stays in the network namespace it was opened in, whatever its thread does
//! afterwards, so one thread can serve several namespaces.

pub mod error;
pub mod netlink;

pub use error::{Cause, Error, Result};
