//! The Podwire node agent: source -> snapshot -> desired -> diff -> kernel.

pub mod operator;
pub mod snapshot;
