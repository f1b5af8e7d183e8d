//! nftables against the real kernel, each test in a network namespace of its own, with `nft` as
//! the oracle of what a person sees.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod commit;
mod foreign;
mod golden;
mod lab;
mod packets;
