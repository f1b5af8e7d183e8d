//! Nodes: where they are and which pod addresses they own.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnetwork::IpNetwork;

use crate::snapshot::{Invalid, Labels};

/// A Node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// The Node's name.
    pub name: Arc<str>,
    /// `status.addresses` of type InternalIP, in the order of the object.
    pub internal_ips: Vec<IpAddr>,
    /// `status.addresses` of other types that are IP addresses.
    pub other_ips: Vec<IpAddr>,
    /// `spec.podCIDRs` (or `spec.podCIDR` alone), in the order of the object. No host bits;
    /// they do not overlap, and the plugin takes each of them.
    pub pod_cidrs: Vec<IpNetwork>,
    /// Labels that the proxy reads: zone, hostname and the like.
    pub labels: BTreeMap<Arc<str>, Arc<str>>,
    /// All labels, of which policies may ask.
    pub all_labels: Labels,
    /// Keys of the Node's taints.
    pub taints: Vec<Arc<str>>,
    /// `metadata.creationTimestamp` in seconds since 1970, if the object has one. Of two Nodes
    /// that claim one podCIDR the older keeps it.
    pub created: Option<u64>,
    /// True if the object is being deleted.
    pub deleting: bool,
    /// What could not be used.
    pub invalid: Vec<Invalid>,
}

impl Node {
    /// All of its addresses.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.internal_ips.iter().chain(&self.other_ips).copied()
    }

    /// A Node of which nothing but the name is known.
    pub fn named(name: &str) -> Self {
        Self {
            name: Arc::from(name),
            internal_ips: Vec::new(),
            other_ips: Vec::new(),
            pod_cidrs: Vec::new(),
            labels: BTreeMap::new(),
            all_labels: Labels::none(),
            taints: Vec::new(),
            created: None,
            deleting: false,
            invalid: Vec::new(),
        }
    }
}
