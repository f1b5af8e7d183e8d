//! The Service proxy.
pub mod config;
pub mod endpoints;
