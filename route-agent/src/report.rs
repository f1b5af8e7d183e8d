//! What `podwire-agent status` shows: the agent's answer on its socket, as plain values.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

/// The state of the node, as the agent sees it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The Node that stands for this machine.
    pub node: String,
    /// True once the source has delivered everything; nothing is written before.
    pub listed: bool,
    /// The interface to the other nodes.
    pub uplink: Option<UplinkReport>,
    /// Routes to podCIDRs, sorted by destination.
    pub routes: Vec<RouteReport>,
    /// Pods on this node, sorted by link.
    pub pods: Vec<PodReport>,
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

/// The interface to the other nodes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct UplinkReport {
    /// Its name.
    pub name: String,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// True if it is up.
    pub up: bool,
    /// Its addresses.
    pub addresses: Vec<IpNetwork>,
}

/// A route to the pods of one Node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RouteReport {
    /// The Node.
    pub node: String,
    /// The podCIDR.
    pub destination: IpNetwork,
    /// The next hop: that Node's InternalIP.
    pub gateway: Option<IpAddr>,
    /// The interface.
    pub link: Option<String>,
    /// True for our own podCIDR, of which addresses without a pod are refused.
    pub unreachable: bool,
    /// True if the kernel has it.
    pub present: bool,
}

/// A pod's link on this node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PodReport {
    /// The link's end on this node.
    pub link: String,
    /// `namespace/name`, if the runtime told the plugin.
    pub pod: Option<String>,
    /// The container ID.
    pub container_id: String,
    /// The interface in the pod.
    pub ifname: String,
    /// The addresses leased to it.
    pub addresses: Vec<IpAddr>,
    /// True if the link is there; a lease without one is released after a while.
    pub present: bool,
}
