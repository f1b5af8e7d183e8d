//! Whose addresses are these? Answers are remembered for a moment, so that thousands of connections in a
//! second between the same pods cost one question.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipnetwork::IpNetwork;
use podwire_kernel::{IpFamily, Protocol};

use crate::feature::World;
use crate::flows::flow::{Name, Party};
use crate::snapshot::ServiceKind;
use crate::why;

/// An address may get another pod, and a port another Service, which shows after this time at the
/// latest.
const REMEMBERED: Duration = Duration::from_secs(2);
/// More addresses than this are forgotten at once: a pod may speak to as many as it likes.
const MOST: usize = 20_000;

/// Who has an address.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Owner {
    pod: Option<Name>,
    node: Option<Name>,
}

/// A destination that may be one of a Service.
type Port = (IpAddr, u8, u16);

/// What is remembered.
#[derive(Debug, Default)]
pub struct Names {
    owners: HashMap<IpAddr, Owner>,
    services: HashMap<Port, Option<Name>>,
    since: Option<Instant>,
}

/// What must be asked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unknown {
    addresses: HashSet<IpAddr>,
    ports: HashSet<Port>,
}

/// What was found out.
#[derive(Debug, Default)]
pub struct Found {
    owners: Vec<(IpAddr, Owner)>,
    services: Vec<(Port, Option<Name>)>,
}

impl Unknown {
    /// True if all is known.
    pub fn is_empty(&self) -> bool {
        self.addresses.is_empty() && self.ports.is_empty()
    }
}

impl Names {
    /// What of these addresses and destinations is not remembered.
    pub fn unknown(
        &mut self,
        addresses: impl Iterator<Item = IpAddr>,
        ports: impl Iterator<Item = Port>,
        now: Instant,
    ) -> Unknown {
        let old = self.since.is_none_or(|since| now >= since + REMEMBERED);
        if old || self.owners.len() > MOST || self.services.len() > MOST {
            *self = Self {
                since: Some(now),
                ..Self::default()
            };
        }
        Unknown {
            addresses: addresses
                .filter(|address| !self.owners.contains_key(address))
                .collect(),
            ports: ports
                .filter(|port| !self.services.contains_key(port))
                .collect(),
        }
    }

    /// Remembers what was found.
    pub fn learn(&mut self, found: Found) {
        self.owners.extend(found.owners);
        self.services.extend(found.services);
    }

    /// An end of a connection, with names.
    pub fn party(&self, address: IpAddr, port: Option<u16>) -> Party {
        let owner = self.owners.get(&address).cloned().unwrap_or_default();
        Party {
            address,
            port,
            pod: owner.pod,
            node: owner.node,
        }
    }

    /// The port of a Service at a destination.
    pub fn service(&self, port: Port) -> Option<&Name> {
        self.services.get(&port)?.as_ref()
    }
}

/// Looks up what is unknown; `here` are the pods of this node, by their links.
pub fn look(unknown: &Unknown, world: &World<'_>, here: &[why::Pod]) -> Found {
    let mut pods: HashMap<IpAddr, Name> = HashMap::new();
    // With NetworkPolicies all pods are known, else those of this node.
    for pod in world.snapshot.pods.values() {
        if pod.finished || pod.host_network {
            continue;
        }
        for address in IpFamily::ALL
            .into_iter()
            .filter_map(|family| pod.address(family))
        {
            if unknown.addresses.contains(&address) {
                pods.insert(address, Name(pod.name.to_string().into()));
            }
        }
    }
    for pod in here {
        let Some(name) = &pod.name else { continue };
        for address in &pod.addresses {
            if unknown.addresses.contains(address) {
                pods.insert(*address, Name(name.as_str().into()));
            }
        }
    }
    let nodes = Nodes::of(world);
    let addresses = unknown.addresses.iter();
    let owners = addresses.map(|address| {
        let owner = Owner {
            pod: pods.remove(address),
            node: nodes.of_address(*address).cloned().map(Name),
        };
        (*address, owner)
    });
    Found {
        owners: owners.collect(),
        services: services(unknown, world, &nodes),
    }
}

/// The Nodes by what they have: a question may be about a hundred thousand addresses.
#[derive(Default)]
struct Nodes<'a> {
    addresses: HashMap<IpAddr, &'a Arc<str>>,
    /// By their length, which is the same for most, and their network.
    pod_cidrs: BTreeMap<u8, HashMap<IpAddr, &'a Arc<str>>>,
}

impl<'a> Nodes<'a> {
    fn of(world: &World<'a>) -> Self {
        let mut all = Self::default();
        for node in world.snapshot.nodes.values() {
            let addresses = node.addresses().map(|address| (address, &node.name));
            all.addresses.extend(addresses);
            for cidr in world.snapshot.pod_cidrs_of(node) {
                let same = all.pod_cidrs.entry(cidr.prefix()).or_default();
                same.insert(cidr.network(), &node.name);
            }
        }
        all
    }

    /// The Node that has an address, or in whose podCIDR it is.
    fn of_address(&self, address: IpAddr) -> Option<&Arc<str>> {
        let inside = || {
            self.pod_cidrs.iter().rev().find_map(|(length, same)| {
                let network = IpNetwork::new(address, *length).ok()?.network();
                same.get(&network)
            })
        };
        self.addresses.get(&address).or_else(inside).copied()
    }
}

fn services(unknown: &Unknown, world: &World<'_>, nodes: &Nodes<'_>) -> Vec<(Port, Option<Name>)> {
    if unknown.ports.is_empty() {
        return Vec::new();
    }
    let mut found: HashMap<Port, Option<Name>> =
        unknown.ports.iter().map(|port| (*port, None)).collect();
    // A node port is one on each address of a Node.
    let of_nodes: Vec<Port> = unknown
        .ports
        .iter()
        .filter(|(address, ..)| nodes.addresses.contains_key(address))
        .copied()
        .collect();
    for service in world.snapshot.services.values() {
        if service.kind == ServiceKind::ExternalName {
            continue;
        }
        let addresses = service.cluster_ips.iter();
        let addresses = addresses
            .chain(&service.external_ips)
            .chain(&service.load_balancer_vips);
        for port in &service.ports {
            let number = Protocol::number(port.protocol);
            let name = || match port.name.is_empty() {
                true => Name(format!("{}:{}", service.name, port.port).into()),
                false => Name(format!("{}:{}", service.name, port.name).into()),
            };
            for address in addresses.clone() {
                if let Some(found) = found.get_mut(&(*address, number, port.port)) {
                    found.get_or_insert_with(name);
                }
            }
            let Some(node_port) = port.node_port else {
                continue;
            };
            for at in &of_nodes {
                if (at.1, at.2) == (number, node_port)
                    && let Some(found) = found.get_mut(at)
                {
                    found.get_or_insert_with(name);
                }
            }
        }
    }
    found.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::features::services::desired::samples::service;
    use crate::features::test_node::TestNode;
    use crate::snapshot::{Change, Dirty, Node, Object};

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn node_of_a_cluster() -> TestNode {
        let mut node = TestNode::new();
        let worker = Node {
            internal_ips: vec![address("172.18.0.3")],
            pod_cidrs: vec!["10.244.2.0/24".parse().unwrap()],
            ..Node::named("worker2")
        };
        let web = service("kind NodePort; cluster-ip 10.96.0.10; port tcp 80 30080 name=http");
        for object in [Object::Node(worker), Object::Service(web)] {
            node.snapshot
                .apply(Change::Set(object), &mut Dirty::default());
        }
        node
    }

    #[test]
    fn a_pod_cidr_that_is_left_out_gives_its_node_no_address() {
        let mut node = node_of_a_cluster();
        let inside = address("10.244.2.9");
        let cidr = node.snapshot.nodes["worker2"].pod_cidrs[0];
        let name = |node: &TestNode| Nodes::of(&node.world()).of_address(inside).cloned();
        assert_eq!(name(&node).as_deref(), Some("worker2"));
        node.snapshot
            .leave_out([((cidr, "worker2".into()), String::new())].into());
        assert_eq!(name(&node), None);
    }

    #[test]
    fn addresses_and_ports_get_the_names_of_pods_nodes_and_services() {
        let node = node_of_a_cluster();
        let here = [why::Pod {
            name: Some("default/client".into()),
            addresses: vec![address("10.244.1.5")],
            ..why::Pod::default()
        }];
        let asked = ["10.244.1.5", "10.244.2.9", "172.18.0.3", "192.0.2.1"].map(address);
        let ports = [
            (address("10.96.0.10"), 6, 80),
            (address("10.96.0.10"), 17, 80),
            (address("172.18.0.3"), 6, 30080),
            (address("192.0.2.1"), 6, 30080),
        ];
        let mut names = Names::default();
        let now = Instant::now();
        let unknown = names.unknown(asked.into_iter(), ports.into_iter(), now);
        names.learn(look(&unknown, &node.world(), &here));
        let said = |address, port| {
            let party = names.party(address, port);
            (
                party.pod.map(|name| name.to_string()),
                party.node.map(|name| name.to_string()),
            )
        };
        assert_eq!(said(asked[0], None), (Some("default/client".into()), None));
        assert_eq!(said(asked[1], None), (None, Some("worker2".into())));
        assert_eq!(said(asked[2], None), (None, Some("worker2".into())));
        assert_eq!(said(asked[3], None), (None, None));
        let service = ports.map(|port| names.service(port).map(ToString::to_string));
        let web = || Some("default/web:http".to_owned());
        assert_eq!(service, [web(), None, web(), None]);
        // All is known for a while, what is not there as well.
        let again = names.unknown(asked.into_iter(), ports.into_iter(), now);
        assert!(again.is_empty(), "{again:?}");
        let later = names.unknown(asked.into_iter(), ports.into_iter(), now + REMEMBERED);
        assert_eq!(later, unknown);
    }
}
