//! The Podwire CNI plugin.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod arguments;
pub mod attachment;
pub mod environment;
pub mod hash;
pub mod json;
pub mod lease;
pub mod range;
pub mod result;
pub mod version;
