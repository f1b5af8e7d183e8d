//! PodCIDRs that lie over the addresses of Services.
//!
//! Both work for a while: until a pod gets an address that a Service has, and is never reached.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ipnetwork::IpNetwork;

use crate::cidr;
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
/// ClusterIP. `pods` has the Nodes by their podCIDRs, no two of which overlap; `service_cidrs` are
/// the Service networks beside those of the snapshot.
pub fn amid_pods(
    pods: &BTreeMap<IpNetwork, &Arc<str>>,
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
    for (network, node) in pods {
        let overlaps = |services: &&IpNetwork| cidr::overlap(**services, *network);
        if let Some(services) = networks.iter().find(overlaps) {
            named.insert(*network);
            let what = format!("overlaps {services}, the Service network");
            found.say(*network, node, &what);
        }
    }
    for (name, service) in &snapshot.services {
        for address in &service.cluster_ips {
            // The last that does not begin behind the address.
            let before = pods.range(..=cidr::host(*address)).next_back();
            let Some((network, node)) = before.filter(|(network, _)| network.contains(*address))
            else {
                continue;
            };
            found.names.insert(name.clone());
            // One of them is enough to find the mistake.
            if named.insert(*network) {
                let what = format!("contains {address}, the ClusterIP of Service {name}");
                found.say(*network, node, &what);
            }
        }
    }
    found
}

impl AmidPods {
    fn say(&mut self, network: IpNetwork, node: &Arc<str>, what: &str) {
        let texts = self.texts.entry(node.clone()).or_default();
        texts.push(format!(
            "podCIDR {network} {what}; a pod with the address of a Service cannot be reached; give the Node \
             a podCIDR apart from Services"
        ));
    }
}
