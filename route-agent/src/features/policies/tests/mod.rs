//! Tables in a real kernel: each test in a network namespace of its own, with `nft` as the oracle.

mod attached;
mod bench;
mod golden;
mod kernel;
pub mod road;
