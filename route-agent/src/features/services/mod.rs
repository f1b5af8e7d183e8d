//! The Service proxy.

pub mod claims;
pub mod config;
pub mod delta;
pub mod endpoints;
mod frame;
mod held;
#[cfg(test)]
mod kernel_tests;
pub mod layout;
pub mod networks;
pub mod plan;
mod resync;
#[cfg(test)]
mod samples;
pub mod service;
pub mod table;
mod write;
