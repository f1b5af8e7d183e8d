//! Where a model is made, what changes, and what the rules depend on.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use ipnetwork::IpNetwork;

use crate::features::policies::desired::wanted::PortRange;
use crate::snapshot::{Direction, Dirty, ObjectName, Snapshot};

/// Where the model is made: only pods of this node are enforced here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Here {
    /// The node's name.
    pub node: Arc<str>,
    /// Its podCIDRs of the family.
    pub pod_cidrs: Box<[IpNetwork]>,
}

impl Here {
    /// True if an address is in one of the podCIDRs.
    pub fn has(&self, address: IpAddr) -> bool {
        self.pod_cidrs.iter().any(|cidr| cidr.contains(address))
    }
}

/// What changed in a snapshot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changed {
    /// Pods.
    pub pods: BTreeSet<ObjectName>,
    /// Namespaces.
    pub namespaces: BTreeSet<Arc<str>>,
    /// Policies.
    pub policies: BTreeSet<ObjectName>,
}

impl Changed {
    /// Everything that there is.
    pub fn everything(snapshot: &Snapshot) -> Self {
        Self {
            pods: snapshot.pods.keys().cloned().collect(),
            namespaces: BTreeSet::new(),
            policies: snapshot.policies.keys().cloned().collect(),
        }
    }

    /// Takes in more changes.
    pub fn add(&mut self, dirty: &Dirty) {
        self.pods.extend(dirty.pods.iter().cloned());
        self.namespaces.extend(dirty.namespaces.iter().cloned());
        self.policies.extend(dirty.policies.iter().cloned());
    }

    /// True if nothing changed.
    pub fn is_empty(&self) -> bool {
        self.pods.is_empty() && self.namespaces.is_empty() && self.policies.is_empty()
    }
}

/// What the rules depend on, beside what they look up.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Frame {
    /// The node's podCIDRs: addresses in them are checked unless someone decided otherwise.
    pub pod_cidrs: Box<[IpNetwork]>,
    /// The ranges of ports that are looked up.
    pub ranges: BTreeSet<(Direction, PortRange)>,
    /// True if a pod with another address is isolated.
    pub outside: bool,
}
