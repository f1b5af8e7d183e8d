//! What the plugin and the agent call the parts of the tables of policies.

/// The nftables table of NetworkPolicies, in both families.
pub const TABLE: &str = "podwire-policy";
/// Its sets of local pods to and from which everything is allowed.
pub const OPEN: [&str; 2] = ["open-in", "open-out"];
/// Its set of verdicts that are remembered.
pub const ALLOWED: &str = "allowed";
