//! What `podwire-agent status` shows: the agent's answer on its socket, as plain values.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

/// The state of the node, as the agent sees it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// True if single endpoints were asked for; else Services only have their number, because with
    /// 10,000 Services they take megabytes.
    pub wide: bool,
    /// The Node that stands for this machine.
    pub node: String,
    /// The agent's version; empty from an agent that does not say it yet.
    #[serde(default)]
    pub version: String,
    /// True once the source has delivered everything; nothing is written before.
    pub listed: bool,
    /// The interface to the other nodes.
    pub uplink: Option<UplinkReport>,
    /// Routes to podCIDRs, sorted by destination.
    pub routes: Vec<RouteReport>,
    /// The CNI configuration, if it is written.
    pub cni_conf: Option<CniConfReport>,
    /// Pods on this node, sorted by address.
    pub pods: Vec<PodReport>,
    /// Services that the kernel has, sorted by name.
    pub services: Vec<ServiceReport>,
    /// NetworkPolicies, unless they are switched off.
    #[serde(default)]
    pub policies: Option<PoliciesReport>,
    /// Packets that rules refused or dropped since they were made, by reason; without those that
    /// policies denied, and only where rules log.
    #[serde(default)]
    pub refused: BTreeMap<String, u64>,
    /// The features, in the order in which they are synced.
    pub features: Vec<FeatureReport>,
    /// Everything that is wrong.
    pub warnings: Vec<WarningReport>,
    /// Where the kernel or the disk differs from what is wanted, one sentence each.
    pub differences: Vec<String>,
}

impl Report {
    /// More packets that rules of some table refused or dropped.
    pub fn add_refused(&mut self, more: BTreeMap<String, u64>) {
        for (reason, packets) in more {
            *self.refused.entry(reason).or_default() += packets;
        }
    }
}

/// NetworkPolicies, as far as they concern this node.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PoliciesReport {
    /// How many there are in the cluster. Without any no table is there, and nothing is judged.
    pub in_cluster: usize,
    /// How many of them select a pod of this node.
    pub here: usize,
    /// The pods of this node that are isolated in some direction, sorted by name.
    pub isolated: Vec<IsolatedReport>,
    /// The policies that isolate them, sorted by name.
    #[serde(default)]
    pub isolating: Vec<IsolatingReport>,
    /// What was dropped since the rules were made.
    pub denied: DeniedReport,
}

/// An isolated pod.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct IsolatedReport {
    /// `namespace/name`.
    pub pod: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// The policies that isolate it for ingress.
    pub ingress: Vec<String>,
    /// The policies that isolate it for egress.
    pub egress: Vec<String>,
}

/// A policy that isolates pods, and what it says, each rule in words.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct IsolatingReport {
    /// Its name, as in [`IsolatedReport`].
    pub name: String,
    /// What it says of what comes to them, such as `tcp 80 from app=web`; none if nothing.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub ingress: Option<Vec<String>>,
    /// What it says of what they send; none if nothing.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub egress: Option<Vec<String>>,
}

/// Packets that were dropped.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct DeniedReport {
    /// By policies for ingress.
    pub ingress: u64,
    /// By policies for egress.
    pub egress: u64,
    /// To or from an address of this node about which nothing is known (yet).
    pub undecided: u64,
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

/// A warning that applies now.
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

/// The file by which the container runtime is configured to use the plugin.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct CniConfReport {
    /// Where it is.
    pub path: PathBuf,
    /// True if it is there. It appears when everything that pods need is in place.
    pub present: bool,
    /// True if it says what the agent wants it to say.
    pub current: bool,
    /// What the agent waits for before it writes the file again.
    pub waits: Option<String>,
    /// Other configurations that sort before it: the container runtime takes the first of them.
    pub before: Vec<String>,
    /// Other configurations that sort after it: the container runtime does not use them.
    pub after: Vec<String>,
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
    /// True for the podCIDR of a Node that is gone: refused for a while, and no route.
    #[serde(default)]
    pub refused: bool,
    /// True if the kernel has it.
    pub present: bool,
}

/// A pod's link on this node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PodReport {
    /// The link's end on this node.
    pub link: String,
    /// `namespace/name`, if the runtime passed them to the plugin.
    pub pod: Option<String>,
    /// The container ID.
    pub container_id: String,
    /// The interface in the pod.
    pub ifname: String,
    /// The addresses leased to it.
    pub addresses: Vec<IpAddr>,
    /// The MTU of the link in bytes, if the link is there.
    #[serde(default)]
    pub mtu: Option<u32>,
    /// True if the link is there; a lease without one is released after a while.
    pub present: bool,
}

/// A Service as the kernel has it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ServiceReport {
    /// `namespace/name`.
    pub name: String,
    /// Its ports, in the order of the object, those of IPv4 before those of IPv6.
    pub ports: Vec<ServicePortReport>,
}

/// One port of a Service, in one IP family.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ServicePortReport {
    /// The port's name; empty for a single unnamed port.
    pub name: String,
    /// `tcp`, `udp` or `sctp`.
    pub protocol: String,
    /// Where it answers, as a person would type it: `10.200.1.63:9000`, `[fd00::1]:80`; a node
    /// port as `*:31662`.
    pub fronts: Vec<String>,
    /// `random`, `round-robin` or `source-hash`.
    pub balancing: String,
    /// How long a client stays with its endpoint, in seconds, if it does.
    pub affinity: Option<u32>,
    /// How many endpoints may answer.
    pub endpoint_count: usize,
    /// The endpoints; empty unless asked for.
    pub endpoints: Vec<EndpointReport>,
    /// New connections since its elements were made, over all fronts; none if they are not counted.
    pub connections: Option<u64>,
}

/// One endpoint of a Service port.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EndpointReport {
    /// Its address and port.
    pub address: SocketAddr,
    /// True if it runs on this node.
    pub here: bool,
    /// New connections that it got; none if they are not counted.
    pub connections: Option<u64>,
}
