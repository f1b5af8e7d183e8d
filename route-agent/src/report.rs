//! What `podwire-agent status` shows: the agent's answer on its socket, as plain values.

use serde::{Deserialize, Serialize};

/// The state of the node, as the agent sees it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The features, in the order in which they are synced.
    pub features: Vec<FeatureReport>,
    /// Everything that is wrong.
    pub warnings: Vec<WarningReport>,
    /// Where the kernel or the disk differs from what is wanted, one sentence each.
    pub differences: Vec<String>,
}

/// How one feature does.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct FeatureReport {
    /// The feature's name.
    pub name: String,
    /// Why the last sync failed, if it did.
    pub error: Option<String>,
    /// How often it was synced since the agent started.
    pub syncs: u64,
    /// How many writes that took.
    pub writes: u64,
}

/// A warning that stands.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct WarningReport {
    /// Who raised it.
    pub feature: String,
    /// What it is about.
    pub object: String,
    /// What is wrong.
    pub text: String,
}
