//! What the walk goes by: who has which address and which name. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnetwork::IpNetwork;

use crate::config::Config;
use crate::pod_cidrs::{Claims, holder};
use crate::snapshot::{Node, ObjectName, Service, Snapshot};
use crate::uplink::Uplink;
use crate::why::Pod;
use crate::why::host_ports::HostPort;
use crate::why::question::{Host, QuestionError, service_in_dns};

/// Everything that the walk goes by.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// The cluster.
    pub snapshot: &'a Snapshot,
    /// The flags.
    pub config: &'a Config,
    /// The interface to the other nodes.
    pub uplink: Option<&'a Uplink>,
    /// The pods on this node.
    pub pods: &'a [Pod],
    /// Which Node has which podCIDR, where several ask for the same addresses.
    pub claims: &'a Claims<'a>,
    /// The addresses of this node.
    pub node_addresses: &'a [IpAddr],
    /// PodCIDRs without a Node, which are refused for a while, with whose they were.
    pub gone_cidrs: &'a [(IpNetwork, String)],
    /// The ports of this node that lead to containers.
    pub host_ports: &'a [HostPort],
    /// Whose the addresses of the pods here are, as the rules of policies have it. Empty while no one
    /// knows.
    pub owners: &'a BTreeMap<IpAddr, ObjectName>,
}

/// Who has an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Party<'a> {
    /// A pod on this node.
    Pod(&'a Pod),
    /// This node.
    OwnNode,
    /// No one: it lies in this node's podCIDR, but no pod has it.
    NoPod(IpNetwork),
    /// A pod on that Node, if there is one.
    PodOf(&'a Node, IpNetwork),
    /// That Node.
    Node(&'a Node),
    /// No one: the podCIDR of a Node that is gone, and whose it was.
    Gone(IpNetwork, &'a str),
    /// Any other.
    Outside,
}

impl<'a> Facts<'a> {
    pub(super) fn own_node(&self) -> Option<&'a Node> {
        self.snapshot.nodes.get(&self.config.node_name)
    }

    /// This node's podCIDRs.
    pub(super) fn own_pod_cidrs(&self) -> Vec<IpNetwork> {
        self.snapshot.own_pod_cidrs(self.own_node())
    }

    /// True if the address is one of this node's.
    pub(super) fn is_own(&self, address: IpAddr) -> bool {
        address.is_loopback()
            || self.node_addresses.contains(&address)
            || self
                .own_node()
                .is_some_and(|node| node.internal_ips.contains(&address))
    }

    /// Who has this address.
    pub(super) fn party(&self, address: IpAddr) -> Party<'a> {
        if let Some(pod) = self
            .pods
            .iter()
            .find(|pod| pod.addresses.contains(&address))
        {
            return Party::Pod(pod);
        }
        if self.is_own(address) {
            return Party::OwnNode;
        }
        let mut nodes = self.snapshot.nodes.values();
        if let Some(node) = nodes.find(|node| node.internal_ips.contains(&address)) {
            return Party::Node(node);
        }
        if let Some((node, cidr)) = self.holder(address) {
            return match node.name == self.config.node_name {
                true => Party::NoPod(cidr),
                false => Party::PodOf(node, cidr),
            };
        }
        if let Some(cidr) = self.own_without_node(address) {
            return Party::NoPod(cidr);
        }
        let gone = |(network, _): &&(IpNetwork, String)| network.contains(address);
        match self.gone_cidrs.iter().find(gone) {
            Some((network, owner)) => Party::Gone(*network, owner),
            None => Party::Outside,
        }
    }

    /// The Node that has the podCIDR of an address, and that podCIDR.
    pub(super) fn holder(&self, address: IpAddr) -> Option<(&'a Node, IpNetwork)> {
        let taken = holder(self.claims, address)?;
        let node = self.snapshot.nodes.get(taken.node)?;
        Some((node, taken.network))
    }

    fn is_near(&self, address: IpAddr) -> bool {
        let mut networks = self.uplink.into_iter().flat_map(Uplink::networks);
        networks.any(|network| network.contains(address))
    }

    /// The podCIDR of an address, if it is one of this node while its Node is gone.
    fn own_without_node(&self, address: IpAddr) -> Option<IpNetwork> {
        let mut own = self.own_pod_cidrs().into_iter();
        own.find(|cidr| cidr.contains(address) && !self.is_near(address))
    }

    /// The Node that asks in vain for a podCIDR in which an address lies that no one has, and that
    /// podCIDR.
    pub(super) fn asks_in_vain(&self, address: IpAddr) -> Option<(&'a Node, IpNetwork)> {
        let of = |node: &'a Node| {
            let mut cidrs = node.pod_cidrs.iter();
            Some((node, *cidrs.find(|cidr| cidr.contains(address))?))
        };
        let mut nodes = self.snapshot.nodes.values();
        nodes.find_map(of).filter(|_| !self.is_near(address))
    }

    /// The gateway of a pod address: the first address of its podCIDR.
    pub(super) fn gateway(&self, address: IpAddr) -> Option<IpAddr> {
        let cidrs = self.own_pod_cidrs();
        let cidr = cidrs.iter().find(|cidr| cidr.contains(address))?;
        match cidr.network() {
            IpAddr::V4(first) => u32::from(first)
                .checked_add(1)
                .map(|ip| IpAddr::V4(ip.into())),
            IpAddr::V6(first) => u128::from(first)
                .checked_add(1)
                .map(|ip| IpAddr::V6(ip.into())),
        }
    }

    pub(super) fn uplink_name(&self) -> &'a str {
        self.uplink.map_or("the uplink", |uplink| &uplink.name)
    }
}

fn matches(name: &str, full: &str) -> bool {
    full == name || full.split_once('/').is_some_and(|(_, short)| short == name)
}

/// The pod of this name; none if there is no such pod here.
fn pod_named<'a>(facts: &Facts<'a>, name: &str) -> Result<Option<&'a Pod>, QuestionError> {
    let full = |pod: &'a Pod| pod.name.as_deref().filter(|full| matches(name, full));
    let mut found = facts.pods.iter().filter_map(|pod| Some((pod, full(pod)?)));
    match (found.next(), found.next()) {
        (None, _) => Ok(None),
        (Some((pod, first)), second) => match second {
            Some((_, second)) if first != second => Err(QuestionError::Ambiguous {
                given: name.to_owned(),
                first: first.to_owned(),
                second: second.to_owned(),
            }),
            _ => Ok(Some(pod)),
        },
    }
}

pub(super) fn source(facts: &Facts<'_>, host: &Host, to: IpAddr) -> Result<IpAddr, QuestionError> {
    let (text, addresses): (String, Vec<IpAddr>) = match host {
        Host::Ip(ip) => (ip.to_string(), vec![*ip]),
        Host::Name(name) => {
            if let Some(pod) = pod_named(facts, name)? {
                (format!("pod {name}"), pod.addresses.clone())
            } else if let Some(node) = facts.snapshot.nodes.get(name.as_str()) {
                (format!("Node {name}"), node.internal_ips.clone())
            } else {
                return Err(QuestionError::Unknown {
                    given: format!("pod {name}"),
                    hint: "ask on the node where the pod runs, or give an address; \
                           `podwire-agent status` lists the pods here",
                });
            }
        }
    };
    let fitting = addresses
        .into_iter()
        .find(|ip| ip.is_ipv4() == to.is_ipv4());
    fitting.ok_or_else(|| QuestionError::Families {
        source_text: text,
        family: if to.is_ipv4() { "IPv4" } else { "IPv6" },
        destination: to.to_string(),
    })
}

/// The Service of this name: of several the one in the namespace of who asks for it, as DNS has it.
fn service_named<'a>(
    facts: &Facts<'a>,
    name: &str,
    namespace: Option<&str>,
) -> Result<Option<&'a Service>, QuestionError> {
    let in_dns = service_in_dns(name);
    let services = facts.snapshot.services.values();
    let found = services.filter(|service| {
        let full = service.name.to_string();
        matches(name, &full) || in_dns.as_ref() == Some(&full)
    });
    let found: Vec<&Service> = found.collect();
    let is_near = |service: &&&Service| namespace == Some(&*service.name.namespace);
    match (found.as_slice(), found.iter().find(is_near)) {
        (_, Some(near)) => Ok(Some(near)),
        ([first, second, ..], None) => Err(QuestionError::Ambiguous {
            given: name.to_owned(),
            first: first.name.to_string(),
            second: second.name.to_string(),
        }),
        (found, None) => Ok(found.first().copied()),
    }
}

/// The namespace of who sends, if it is a pod, and the addresses to send from.
fn sender<'a>(
    facts: &Facts<'a>,
    host: &Host,
) -> Result<(Option<&'a str>, Vec<IpAddr>), QuestionError> {
    let (pod, node) = match host {
        Host::Ip(ip) => {
            let pod = facts.pods.iter().find(|pod| pod.addresses.contains(ip));
            return Ok((pod.and_then(namespace_of), vec![*ip]));
        }
        Host::Name(name) => (
            pod_named(facts, name)?,
            facts.snapshot.nodes.get(name.as_str()),
        ),
    };
    let addresses = pod.map(|pod| &pod.addresses);
    let addresses = addresses.or(node.map(|node| &node.internal_ips));
    let namespace = pod.and_then(namespace_of);
    Ok((namespace, addresses.cloned().unwrap_or_default()))
}

fn namespace_of(pod: &Pod) -> Option<&str> {
    Some(pod.name.as_deref()?.split_once('/')?.0)
}

pub(super) fn destination(
    facts: &Facts<'_>,
    host: &Host,
    source: &Host,
) -> Result<IpAddr, QuestionError> {
    let name = match host {
        Host::Ip(ip) => return Ok(*ip),
        Host::Name(name) => name,
    };
    let (namespace, from) = sender(facts, source)?;
    // Of a family that the source has, if there is one.
    let fitting = |all: &[IpAddr]| {
        let fits = |to: &&IpAddr| from.iter().any(|own| own.is_ipv4() == to.is_ipv4());
        all.iter().find(fits).or(all.first()).copied()
    };
    let service = service_named(facts, name, namespace)?;
    let pod = pod_named(facts, name)?;
    let node = facts.snapshot.nodes.get(name.as_str());
    let address = service
        .and_then(|service| fitting(&service.cluster_ips))
        .or_else(|| fitting(&pod?.addresses))
        .or_else(|| fitting(&node?.internal_ips));
    address.ok_or_else(|| QuestionError::Unknown {
        given: format!("\"{name}\""),
        hint: "it is not a Service with a ClusterIP, a pod on this node, or a Node; give an address",
    })
}
