//! NetworkPolicies.

pub mod desired;
