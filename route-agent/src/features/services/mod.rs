//! The Service proxy.
pub mod claims;
pub mod config;
pub mod endpoints;
pub mod layout;
pub mod plan;
#[cfg(test)]
mod samples;
pub mod service;
