//! PodCIDRs that lie over the addresses of Services.
//!
//! Both work for a while: until a pod gets an address that a Service has, and is never reached.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ipnetwork::IpNetwork;

use crate::cidr;
use crate::pod_cidrs::{Claims, PodCidr, holder};
use crate::snapshot::{ObjectName, Snapshot};

/// What was found.
#[derive(Debug, Default)]
pub struct AmidPods {
    /// The Services whose ClusterIP is in a podCIDR.
    pub names: BTreeSet<ObjectName>,
    /// What to say of which Node.
    pub texts: BTreeMap<Arc<str>, Vec<String>>,
}

/// Looks for podCIDRs that overlap a Service network or, where no network is known to, contain a
/// ClusterIP. `service_cidrs` are the networks that flags name.
pub fn amid_pods(
    claims: &Claims<'_>,
    snapshot: &Snapshot,
    service_cidrs: &[IpNetwork],
) -> AmidPods {
    let mut found = AmidPods::default();
    let mut named: BTreeSet<IpNetwork> = BTreeSet::new();
    let objects = snapshot.service_cidrs.values();
    let networks: Vec<IpNetwork> = objects
        .flat_map(|object| &object.cidrs)
        .chain(service_cidrs)
        .copied()
        .collect();
    for pod_cidr in claims.values() {
        let overlaps = |services: &&IpNetwork| cidr::overlap(**services, pod_cidr.network);
        if let Some(services) = networks.iter().find(overlaps) {
            named.insert(pod_cidr.network);
            found.say(
                pod_cidr,
                &format!("overlaps {services}, the Service network"),
            );
        }
    }
    for (name, service) in &snapshot.services {
        for address in &service.cluster_ips {
            let Some(pod_cidr) = holder(claims, *address) else {
                continue;
            };
            found.names.insert(name.clone());
            // One of them is enough to find the mistake.
            if named.insert(pod_cidr.network) {
                found.say(
                    pod_cidr,
                    &format!("contains {address}, the ClusterIP of Service {name}"),
                );
            }
        }
    }
    found
}

impl AmidPods {
    fn say(&mut self, pod_cidr: &PodCidr<'_>, what: &str) {
        let texts = self.texts.entry(pod_cidr.node.clone()).or_default();
        texts.push(format!(
            "podCIDR {} {what}; a pod with the address of a Service cannot be reached; give the Node \
             a podCIDR apart from Services",
            pod_cidr.network
        ));
    }
}
