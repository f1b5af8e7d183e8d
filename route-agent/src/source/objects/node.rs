//! Nodes.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use podwire::range::{RangeError, check_subnet};
use serde::Deserialize;

use crate::cidr::{is_link_local, no_destination, overlap};
use crate::snapshot;
use crate::source::objects::{Checker, Metadata, Names, Text, Unnamed, lenient, nullable};

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
            other_ips: other_ips(&self.status, &mut checker),
            pod_cidrs: pod_cidrs(&self.spec, &mut checker),
            labels,
            all_labels,
            taints: taints.map(|key| names.get(key)).collect(),
            created: self.metadata.created(&mut checker),
            deleting: self.metadata.deletion_timestamp.get().is_some(),
            invalid: checker.invalid,
        })
    }
}

/// More than these are not read of a Node. Kubernetes has a podCIDR of each family, and a machine rarely
/// more than a few dozen addresses; each is compared with the others.
const MOST_POD_CIDRS: usize = 250;
const MOST_INTERNAL_IPS: usize = 1000;

fn internal_ips(status: &NodeStatus, checker: &mut Checker) -> Vec<IpAddr> {
    let field = "status.addresses[InternalIP]";
    let addresses = status.addresses.iter();
    let internal = addresses.filter(|a| a.kind.get() == Some("InternalIP"));
    let mut found = Vec::new();
    for (place, address) in internal.enumerate() {
        if place == MOST_INTERNAL_IPS {
            let reason = "is one more than the 1000 that are read of a Node";
            checker.bad(field, address.address.shown(), reason);
            break;
        }
        let Some(ip) = checker.address(field, &address.address) else {
            continue;
        };
        let link_local = is_link_local(ip).then_some("cannot be reached from another node");
        if let Some(reason) = no_destination(ip).or(link_local) {
            checker.bad(field, address.address.shown(), reason);
        } else if !found.contains(&ip) {
            found.push(ip);
        }
    }
    found
}

/// What is no address, such as a host name, is none of these, and not wrong.
fn other_ips(status: &NodeStatus, checker: &mut Checker) -> Vec<IpAddr> {
    let addresses = status.addresses.iter();
    let others = addresses.filter(|one| one.kind.get() != Some("InternalIP"));
    let mut found: Vec<IpAddr> = others
        .filter_map(|one| {
            let read = lenient::address(one.address.get()?)?;
            Some(checker.noting("status.addresses", &one.address, read))
        })
        .collect();
    found.sort_unstable();
    found.dedup();
    found
}

fn pod_cidrs(spec: &NodeSpec, checker: &mut Checker) -> Vec<IpNetwork> {
    checker.beside(
        "spec.podCIDR",
        &spec.pod_cidr,
        spec.pod_cidrs.first(),
        |text| lenient::network(text.trim()),
        "is not the first of spec.podCIDRs, which counts",
    );
    let single = std::slice::from_ref(&spec.pod_cidr);
    let (field, given) = match (spec.pod_cidrs.is_empty(), spec.pod_cidr.get()) {
        (false, _) => ("spec.podCIDRs", &spec.pod_cidrs[..]),
        (true, Some(text)) if !text.is_empty() => ("spec.podCIDR", single),
        _ => return Vec::new(),
    };
    let mut found = Vec::new();
    for (place, text) in given.iter().enumerate() {
        if place == MOST_POD_CIDRS {
            let reason = "is one more than the 250 that are read of a Node";
            checker.bad(field, text.shown(), reason);
            break;
        }
        let Some(network) = checker.cidr(field, text) else {
            continue;
        };
        if found.contains(&network) {
            continue;
        }
        match no_pod_network(network, &found) {
            Some(reason) => checker.bad(field, text.shown(), reason),
            None => found.push(network),
        }
    }
    found
}

/// Why pods cannot have addresses of this network beside the other networks of their Node, if they
/// cannot. One network that the plugin or the kernel refuses would stop all pods of the Node.
fn no_pod_network(network: IpNetwork, others: &[IpNetwork]) -> Option<&'static str> {
    let ip = network.ip();
    if ip.is_loopback() || ip.is_multicast() || is_link_local(ip) {
        return Some("is not a valid pod network");
    }
    match check_subnet(network) {
        Err(RangeError::TooSmall { .. }) => Some("has no room for a gateway and a pod"),
        Err(_) => Some("is not a valid pod network"),
        Ok(()) => {
            let mut others = others.iter();
            let meets = others.any(|other| overlap(*other, network));
            meets.then_some("overlaps another podCIDR of this Node")
        }
    }
}
