//! The routes that should be there, and the Nodes that cannot be reached.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use ipnetwork::IpNetwork;
use podwire_kernel::IpFamily;
use podwire_kernel::route::{Route, RouteKind};

use crate::cidr;
use crate::features::routes::services;
use crate::features::routes::unlikely::Likely;
use crate::ours::ROUTE_PROTOCOL as PROTOCOL;
use crate::pod_cidrs::settled;
use crate::snapshot::{Node, ObjectName, Snapshot};
use crate::uplink::Uplink;
use crate::warnings::Warning;

/// The metric of routes to peers; of podCIDRs far from ours see [`metric`]. It keeps them apart
/// from routes of the same destination that others made: neither overwrites the other (the
/// kernel tells routes of one destination apart by metric alone).
pub const METRIC: u32 = 112;

/// 2 to the power of this is how many podCIDRs side by side have the same metric.
const NEIGHBOUR_BITS: u32 = 8;

/// How many different metrics routes to peers have at most.
const METRICS: u32 = 256;

/// The metric of the unreachable route for our own podCIDR: anything else to the same destination,
/// such as a bridge's connected route, comes first.
pub const UNREACHABLE_METRIC: u32 = 1_000_000;

/// What should be there.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Desired {
    /// Routes by their destination.
    pub routes: BTreeMap<IpNetwork, Wanted>,
    /// Nodes, or parts of them, that are left out or in the way of others.
    pub warnings: Vec<Warning>,
    /// Services whose ClusterIP is in a podCIDR.
    pub services_amid_pods: BTreeSet<ObjectName>,
}

/// A route and the Node it is for.
#[derive(Debug, Clone, PartialEq)]
pub struct Wanted {
    /// The Node's name.
    pub node: Arc<str>,
    /// The route.
    pub route: Route,
}

impl Desired {
    /// True if there should be a route to exactly this destination.
    pub fn wants(&self, destination: IpNetwork) -> bool {
        self.routes.contains_key(&destination)
    }

    /// The Node that a destination belongs to.
    pub fn owner(&self, destination: IpNetwork) -> Option<&Arc<str>> {
        self.routes.get(&destination).map(|wanted| &wanted.node)
    }

    /// The Node to whose podCIDR an address belongs.
    pub fn owner_of_address(&self, address: IpAddr) -> Option<&Arc<str>> {
        // They do not overlap, so it is the last that does not begin behind the address.
        let (network, wanted) = self.routes.range(..=cidr::host(address)).next_back()?;
        network.contains(address).then_some(&wanted.node)
    }

    /// PodCIDRs of other Nodes that have a route here and none in `now`, with the Node's name.
    pub fn left_by(&self, now: &Desired) -> Vec<(IpNetwork, String)> {
        self.routes
            .iter()
            .filter(|(network, wanted)| {
                wanted.route.kind == RouteKind::Unicast && !now.wants(**network)
            })
            .map(|(network, wanted)| (*network, format!("Node {}", wanted.node)))
            .collect()
    }

    /// Warnings about routes of others that win over ours and lead elsewhere.
    pub fn shadowed<'a>(
        &'a self,
        foreign: &'a BTreeSet<Route>,
    ) -> impl Iterator<Item = Warning> + 'a {
        foreign.iter().filter_map(|other| {
            let wanted = self.routes.get(&other.destination)?;
            let leads_elsewhere =
                other.gateway != wanted.route.gateway || other.link != wanted.route.link;
            (other.metric <= wanted.route.metric && leads_elsewhere).then(|| {
                Warning::new(
                    format!("Node {}", wanted.node),
                    format!(
                        "a route that is not ours ({other}, protocol {}) wins over ours to {}; \
                         remove it unless it is meant",
                        other.protocol, other.destination
                    ),
                )
            })
        })
    }
}

/// Why nothing can be said about routes, which then stay as they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoUplink {
    /// There is none; the loop, which looks for it, has reported that.
    NotFound,
    /// There is one that does not work.
    Unusable(Warning),
}

impl NoUplink {
    /// What is still to be reported.
    pub fn warning(self) -> Option<Warning> {
        match self {
            NoUplink::NotFound => None,
            NoUplink::Unusable(warning) => Some(warning),
        }
    }
}

/// What the routes follow from.
#[derive(Debug, Clone, Copy)]
pub struct Given<'a> {
    /// The cluster.
    pub snapshot: &'a Snapshot,
    /// The Nodes come from manifests: no controller gives them anything.
    pub handwritten: bool,
    /// The name of the own Node.
    pub own: &'a Arc<str>,
    /// The interface to the other nodes.
    pub uplink: Option<&'a Uplink>,
    /// The Service networks that flags name.
    pub service_cidrs: &'a [IpNetwork],
    /// What podCIDRs are likely.
    pub likely: Likely<'a>,
}

/// What should be there.
pub fn desired(given: &Given<'_>) -> Result<Desired, NoUplink> {
    let Given { snapshot, own, .. } = *given;
    let uplink = given.uplink.ok_or(NoUplink::NotFound)?;
    usable(uplink)?;
    let mut desired = Desired::default();
    let mut faults: BTreeMap<&Arc<str>, Vec<String>> = BTreeMap::new();
    let mut lacking = BTreeSet::new();
    let nodes = snapshot.nodes.values();
    let all = nodes.flat_map(|node| node.pod_cidrs.iter().map(move |network| (node, *network)));
    for (node, network) in all {
        if let Some(why) = snapshot.why_left_out(node, network) {
            faults.entry(&node.name).or_default().push(why.to_owned());
            continue;
        }
        if node.name != *own && is_lacking(network, node, uplink) {
            lacking.insert(IpFamily::of_network(network).name());
            continue;
        }
        match route(network, node, own, uplink, snapshot) {
            Ok(route) => {
                if let Some(doubts) = given.likely.doubts(network) {
                    faults.entry(&node.name).or_default().push(format!(
                        "podCIDR {network} {doubts}; what else is there cannot be reached from this \
                         cluster; if it is not meant, delete the Node, and create it with another"
                    ));
                }
                let node = node.name.clone();
                desired.routes.insert(network, Wanted { node, route });
            }
            Err(text) => faults.entry(&node.name).or_default().push(text),
        }
    }
    shared_addresses(given, &mut faults);
    desired.warnings.extend(lacking.into_iter().map(|family| {
        let text = format!(
            "has no address of {family}: no podCIDR of {family} can be reached until it has one; give \
             it one on the nodes' network, or name another interface with --uplink"
        );
        Warning::new(format!("uplink {}", uplink.name), text)
    }));
    let mut amid_pods = services::amid_pods(&settled(snapshot), snapshot, given.service_cidrs);
    desired.services_amid_pods = amid_pods.names;
    if !snapshot.nodes.contains_key(own) {
        desired.warnings.push(Warning::new(
            format!("Node {own}"),
            "does not exist, but this machine goes by that name; pods cannot start; fix \
             --node-name or create the Node",
        ));
    }
    for (name, node) in &snapshot.nodes {
        let mut texts: Vec<String> = node.invalid.iter().map(ToString::to_string).collect();
        if node.pod_cidrs.is_empty() {
            texts.push(no_pod_cidr(node, given.handwritten));
        }
        texts.extend(faults.remove(name).unwrap_or_default());
        texts.extend(amid_pods.texts.remove(name).unwrap_or_default());
        let object = format!("Node {name}");
        let warnings = texts.into_iter().map(|text| Warning::new(&object, text));
        desired.warnings.extend(warnings);
    }
    Ok(desired)
}

/// Notes the peers that have an InternalIP of another. One that has ours gets no route and hears so.
fn shared_addresses<'a>(given: &Given<'a>, faults: &mut BTreeMap<&'a Arc<str>, Vec<String>>) {
    let mut first: BTreeMap<IpAddr, &Arc<str>> = BTreeMap::new();
    let nodes = given.snapshot.nodes.iter();
    for (name, node) in nodes.filter(|(name, _)| *name != given.own) {
        for ip in &node.internal_ips {
            let other = *first.entry(*ip).or_insert(name);
            if other != name {
                faults.entry(name).or_default().push(format!(
                    "InternalIP {ip} is that of Node {other}, too; the pods of one of the two \
                     cannot be reached until it has another"
                ));
            }
        }
    }
}

fn usable(uplink: &Uplink) -> Result<(), NoUplink> {
    let text = if !uplink.up {
        "is down; the routes over it are put back once it is up"
    } else if uplink.on_link.is_empty() {
        "has no address; routes stay as they are until it has one"
    } else {
        return Ok(());
    };
    let warning = Warning::new(format!("uplink {}", uplink.name), text);
    Err(NoUplink::Unusable(warning))
}

fn no_pod_cidr(node: &Node, handwritten: bool) -> String {
    if node
        .invalid
        .iter()
        .any(|invalid| invalid.field.starts_with("spec.podCIDR"))
    {
        "has no podCIDR that can be used; its pods cannot be reached".to_owned()
    } else if handwritten {
        "has no podCIDR, and without an API server none is given to it: its pods cannot be reached; \
         write a free network of the cluster's pods into its spec.podCIDRs"
            .to_owned()
    } else {
        "has no podCIDR yet; its pods cannot be reached until it has (kube-controller-manager \
         gives it one with --allocate-node-cidrs)"
            .to_owned()
    }
}

fn route(
    network: IpNetwork,
    node: &Node,
    own: &Arc<str>,
    uplink: &Uplink,
    snapshot: &Snapshot,
) -> Result<Route, String> {
    let ourselves = snapshot.nodes.get(own);
    let route = Route {
        protocol: PROTOCOL,
        metric: metric(network, ourselves),
        ..Route::to(network)
    };
    if node.name == *own {
        let (kind, metric) = (RouteKind::Unreachable, UNREACHABLE_METRIC);
        return Ok(Route {
            kind,
            metric,
            ..route
        });
    }
    let own_ips = ourselves.map_or(&[][..], |own| &own.internal_ips);
    let gateway = gateway_of(network, node, uplink, own_ips)?;
    Ok(Route {
        gateway: Some(gateway),
        link: Some(uplink.index),
        ..route
    })
}

/// The metric of a route: [`METRIC`] for the 256 podCIDRs around our own, which is all of them in
/// most clusters, and a number up to 255 higher for each further 256.
///
/// The kernel keeps IPv4 next hops in a hash table by protocol, metric and link, but not by gateway
/// (`fib_info_hashfn_1`, net/ipv4/fib_semantics.c), and compares a new one with all in its bucket:
/// with one metric, 5,000 routes cost 12 million comparisons, nine times all the rest. A route
/// keeps its metric while its podCIDR and ours stay the same, so that a changed next hop is still
/// one write.
fn metric(network: IpNetwork, own: Option<&Node>) -> u32 {
    let IpNetwork::V4(v4) = network else {
        return METRIC;
    };
    let block = |address: Ipv4Addr| {
        let number = u64::from(address.to_bits()) >> (32 - v4.prefix());
        // At most 24 bits are left.
        (number >> NEIGHBOUR_BITS) as u32
    };
    let own = own.and_then(|node| {
        node.pod_cidrs.iter().find_map(|cidr| match cidr {
            IpNetwork::V4(cidr) => Some(cidr.network()),
            IpNetwork::V6(_) => None,
        })
    });
    let distance = own.map_or(0, |own| block(v4.network()) ^ block(own));
    METRIC + distance % METRICS
}

/// True if a Node could be reached at this podCIDR, but for the uplink, which has no network of its family.
fn is_lacking(network: IpNetwork, node: &Node, uplink: &Uplink) -> bool {
    let family = IpFamily::of_network(network);
    node.internal_ips
        .iter()
        .any(|ip| IpFamily::of(*ip) == family)
        && !uplink.reaches(family)
}

/// The InternalIP of the podCIDR's family that is on the uplink's network, or why none can be it.
pub fn gateway_of(
    network: IpNetwork,
    node: &Node,
    uplink: &Uplink,
    own_ips: &[IpAddr],
) -> Result<IpAddr, String> {
    if !uplink.up {
        return Err(format!(
            "cannot be reached at {network}: {} is down",
            uplink.name
        ));
    }
    let family = IpFamily::of_network(network).name();
    let ips = node
        .internal_ips
        .iter()
        .filter(|ip| ip.is_ipv6() == network.is_ipv6());
    let ours = |ip: &IpAddr| {
        own_ips.contains(ip) || uplink.addresses.iter().any(|address| address.ip() == *ip)
    };
    let on_link = |ip: &IpAddr| uplink.on_link.iter().any(|network| network.contains(*ip));
    let no_host = |ip: &IpAddr| uplink.no_host(*ip).is_some();
    let Some(first) = ips.clone().next() else {
        return Err(format!(
            "has no InternalIP of {family}; {network} cannot be reached"
        ));
    };
    let mut hosts = ips.clone().filter(|ip| !no_host(ip));
    let hop = hosts.find(|ip| on_link(ip));
    match hop.or_else(|| ips.clone().find(|ip| on_link(ip))) {
        Some(ip) if no_host(ip) => Err(format!(
            "InternalIP {ip} is the first or the last address of the network of {}, which no node \
             can have; {network} cannot be reached",
            uplink.name
        )),
        Some(ip) if ours(ip) => Err(format!(
            "InternalIP {ip} is this node's own address; {network} cannot be reached"
        )),
        Some(ip) => Ok(*ip),
        None if is_lacking(network, node, uplink) => Err(format!(
            "cannot be reached at {network}: {} has no address of {family}",
            uplink.name
        )),
        None => {
            let networks = uplink
                .on_link
                .iter()
                .filter(|n| n.is_ipv6() == network.is_ipv6());
            let networks: Vec<String> = networks.map(ToString::to_string).collect();
            Err(format!(
                "InternalIP {first} is not on the network of {} ({}); {network} cannot be \
                 reached: all nodes must be on one L2 network",
                uplink.name,
                networks.join(", ")
            ))
        }
    }
}
