//! What one node says of a way.

use podwire_agent::why::Trace;
use serde::{Deserialize, Serialize};

/// What one node says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// The node.
    pub node: String,
    /// There or back.
    pub way: Way,
    /// What happens on this node, in words.
    pub title: String,
    /// The hops, or why the node says nothing.
    pub trace: Result<Trace, String>,
    /// True if the node says nothing and the cluster takes it for gone: not the agent alone.
    #[serde(default)]
    pub gone: bool,
    /// True for a node whose port it is: its rules send the packet on to an endpoint elsewhere.
    #[serde(default)]
    pub goes_on: bool,
}

/// In which direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// From the source to the destination.
    There,
    /// The answer.
    Back,
}
