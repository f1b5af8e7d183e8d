//! What the agent keeps right, one file or folder each. Features never call each other.

pub mod routes;
pub mod services;
