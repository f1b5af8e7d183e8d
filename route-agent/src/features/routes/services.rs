//! PodCIDRs that lie over the addresses of Services.
//!
//! Both work for a while: until a pod gets an address that a Service has, and is never reached.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ipnetwork::IpNetwork;

use crate::cidr;
use crate::features::routes::claims::{Claims, Taken, holder};
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
    for taken in claims.values() {
        let overlaps = |services: &&IpNetwork| cidr::overlap(**services, taken.network);
        if let Some(services) = networks.iter().find(overlaps) {
            named.insert(taken.network);
            found.say(taken, &format!("overlaps {services}, the Service network"));
        }
    }
    for (name, service) in &snapshot.services {
        for address in &service.cluster_ips {
            let Some(taken) = holder(claims, *address) else {
                continue;
            };
            found.names.insert(name.clone());
            // One of them is enough to find the mistake.
            if named.insert(taken.network) {
                found.say(
                    taken,
                    &format!("contains {address}, the ClusterIP of Service {name}"),
                );
            }
        }
    }
    found
}

impl AmidPods {
    fn say(&mut self, taken: &Taken<'_>, what: &str) {
        let texts = self.texts.entry(taken.node.clone()).or_default();
        texts.push(format!(
            "podCIDR {} {what}; a pod with the address of a Service cannot be reached; give the Node \
             a podCIDR apart from Services",
            taken.network
        ));
    }
}
