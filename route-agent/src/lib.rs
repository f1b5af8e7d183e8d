//! The Podwire node agent: source -> snapshot -> desired -> diff -> kernel.

pub mod snapshot;
