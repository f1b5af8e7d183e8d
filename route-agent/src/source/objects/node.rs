//! Nodes.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde::Deserialize;

use crate::cidr::is_link_local;
use crate::snapshot;
use crate::source::objects::{Checker, Metadata, Names, Text, Unnamed, nullable};

/// A Node.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Node {
    /// Name, labels, times.
    pub metadata: Metadata,
    /// podCIDRs and taints.
    #[serde(deserialize_with = "nullable")]
    pub spec: NodeSpec,
    /// Addresses.
    #[serde(deserialize_with = "nullable")]
    pub status: NodeStatus,
}

/// What Podwire reads of a Node's spec.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct NodeSpec {
    /// The first podCIDR.
    #[serde(rename = "podCIDR")]
    pub pod_cidr: Text,
    /// All podCIDRs; the first is the same as `podCIDR`.
    #[serde(rename = "podCIDRs", deserialize_with = "nullable")]
    pub pod_cidrs: Vec<Text>,
    /// Taints.
    #[serde(deserialize_with = "nullable")]
    pub taints: Vec<Taint>,
}

/// A taint.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Taint {
    /// The taint's key.
    pub key: Text,
}

/// What Podwire reads of a Node's status.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct NodeStatus {
    /// The Node's addresses.
    #[serde(deserialize_with = "nullable")]
    pub addresses: Vec<NodeAddress>,
}

/// An address of a Node.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct NodeAddress {
    /// `InternalIP` is the type that counts.
    #[serde(rename = "type")]
    pub kind: Text,
    /// The address.
    pub address: Text,
}

/// Labels that the proxy reads. The others of a Node are many and would only cost memory.
const LABELS: [&str; 3] = [
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "kubernetes.io/hostname",
];

impl Node {
    /// The snapshot's value of this Node.
    pub fn into_snapshot(self, names: &mut Names) -> Result<snapshot::Node, Unnamed> {
        let name = self.metadata.cluster_name(names)?;
        let mut checker = Checker::default();
        let labels = self
            .metadata
            .labels
            .iter()
            .filter(|(key, _)| LABELS.contains(&&***key))
            .map(|(key, value)| (names.get(key), names.get(value.get().unwrap_or(""))))
            .collect();
        let all_labels = self.metadata.shared_labels(names);
        let taints = self.spec.taints.iter().filter_map(|taint| taint.key.get());
        Ok(snapshot::Node {
            name,
            internal_ips: internal_ips(&self.status, &mut checker),
            other_ips: other_ips(&self.status),
            pod_cidrs: pod_cidrs(&self.spec, &mut checker),
            labels,
            all_labels,
            taints: taints.map(|key| names.get(key)).collect(),
            created: self.metadata.created(),
            deleting: self.metadata.deletion_timestamp.get().is_some(),
            invalid: checker.invalid,
        })
    }
}

fn internal_ips(status: &NodeStatus, checker: &mut Checker) -> Vec<IpAddr> {
    let mut found = Vec::new();
    for address in status
        .addresses
        .iter()
        .filter(|a| a.kind.get() == Some("InternalIP"))
    {
        let field = "status.addresses[InternalIP]";
        let Some(ip) = checker.address(field, &address.address) else {
            continue;
        };
        if ip.is_loopback() || ip.is_multicast() || ip.is_unspecified() || is_link_local(ip) {
            checker.bad(
                field,
                address.address.shown(),
                "cannot be reached from another node",
            );
        } else if !found.contains(&ip) {
            found.push(ip);
        }
    }
    found
}

/// What is no address, such as a host name, is none of these, and not wrong.
fn other_ips(status: &NodeStatus) -> Vec<IpAddr> {
    let addresses = status.addresses.iter();
    let others = addresses.filter(|one| one.kind.get() != Some("InternalIP"));
    let mut found: Vec<IpAddr> = others
        .filter_map(|one| one.address.get()?.parse().ok())
        .collect();
    found.sort_unstable();
    found.dedup();
    found
}

fn pod_cidrs(spec: &NodeSpec, checker: &mut Checker) -> Vec<IpNetwork> {
    let single = std::slice::from_ref(&spec.pod_cidr);
    let (field, given) = match (spec.pod_cidrs.is_empty(), spec.pod_cidr.get()) {
        (false, _) => ("spec.podCIDRs", &spec.pod_cidrs[..]),
        (true, Some(text)) if !text.is_empty() => ("spec.podCIDR", single),
        _ => return Vec::new(),
    };
    let mut found = Vec::new();
    for text in given {
        let Some(network) = checker.cidr(field, text) else {
            continue;
        };
        let ip = network.ip();
        if ip.is_loopback() || ip.is_multicast() || network.prefix() == 0 {
            checker.bad(field, text.shown(), "is not a valid pod network");
        } else if !found.contains(&network) {
            found.push(network);
        }
    }
    found
}
