//! Where a model is made, what changes, and what the rules depend on.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use ipnetwork::IpNetwork;

use crate::features::policies::desired::attachments::Touched;
use crate::features::policies::desired::wanted::{PortRange, Verdict};
use crate::snapshot::{Direction, Dirty, ObjectName, PolicyName, Snapshot};

/// Where the model is made: only pods of this node are enforced here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Here {
    /// The node's name.
    pub node: Arc<str>,
    /// Its podCIDRs of the family.
    pub pod_cidrs: Box<[IpNetwork]>,
    /// Every pod's Namespace is there, as an API server has it: of one that is missing the labels are
    /// not known.
    pub has_all_namespaces: bool,
}

impl Here {
    /// True if an address is in one of the podCIDRs.
    pub fn has(&self, address: IpAddr) -> bool {
        self.pod_cidrs.iter().any(|cidr| cidr.contains(address))
    }
}

/// What changed in a snapshot, and in what is attached here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changed {
    /// Pods.
    pub pods: BTreeSet<ObjectName>,
    /// Namespaces.
    pub namespaces: BTreeSet<Arc<str>>,
    /// Policies.
    pub policies: BTreeSet<PolicyName>,
    /// Nodes.
    pub nodes: BTreeSet<Arc<str>>,
    /// Addresses of attachments.
    pub addresses: BTreeSet<IpAddr>,
}

impl Changed {
    /// Everything that there is.
    pub fn everything(snapshot: &Snapshot) -> Self {
        Self {
            pods: snapshot.pods.keys().cloned().collect(),
            policies: policies(snapshot).collect(),
            ..Self::default()
        }
    }

    /// Takes in changes of attachments.
    pub fn touch(&mut self, touched: Touched) {
        self.pods.extend(touched.pods);
        self.addresses.extend(touched.addresses);
    }

    /// Takes in more changes.
    pub fn add(&mut self, dirty: &Dirty) {
        self.pods.extend(dirty.pods.iter().cloned());
        self.namespaces.extend(dirty.namespaces.iter().cloned());
        let namespaced = dirty.policies.iter().cloned();
        self.policies.extend(namespaced.map(PolicyName::Namespaced));
        let cluster = dirty.cluster_policies.iter().cloned();
        self.policies.extend(cluster.map(PolicyName::Cluster));
        self.nodes.extend(dirty.nodes.iter().cloned());
    }

    /// True if nothing changed.
    pub fn is_empty(&self) -> bool {
        self.pods.is_empty()
            && self.namespaces.is_empty()
            && self.policies.is_empty()
            && self.addresses.is_empty()
            && self.nodes.is_empty()
    }
}

/// All policies that there are.
pub fn policies(snapshot: &Snapshot) -> impl Iterator<Item = PolicyName> {
    let cluster = snapshot.cluster_policies.keys().cloned();
    let namespaced = snapshot.policies.keys().cloned();
    let cluster = cluster.map(PolicyName::Cluster);
    cluster.chain(namespaced.map(PolicyName::Namespaced))
}

/// A range of ports that is looked up, and for what.
pub type RangeLookup = (Direction, Verdict, PortRange);

/// What the rules depend on, beside what they look up.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Frame {
    /// The node's podCIDRs: addresses in them are checked unless someone decided otherwise.
    pub pod_cidrs: Box<[IpNetwork]>,
    /// The ranges of ports that are looked up.
    pub ranges: BTreeSet<RangeLookup>,
    /// True if something may be denied that would be allowed otherwise.
    pub denies: bool,
    /// True if something with another address may be closed.
    pub outside: bool,
    /// True if what is dropped is logged.
    pub log: bool,
}

#[cfg(test)]
impl Frame {
    /// True if rules of this frame look up all that those of another one do.
    pub fn covers(&self, other: &Self) -> bool {
        self.pod_cidrs == other.pod_cidrs
            && self.ranges.is_superset(&other.ranges)
            && self.denies >= other.denies
            && self.outside >= other.outside
    }
}
