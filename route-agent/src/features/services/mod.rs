//! The Service proxy.
pub mod claims;
pub mod config;
pub mod delta;
pub mod endpoints;
pub mod layout;
pub mod networks;
pub mod plan;
#[cfg(test)]
mod samples;
pub mod service;
