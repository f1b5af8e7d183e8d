//! Which Node has which podCIDR: no two may overlap, nor may one overlap the nodes' own network, or have the
//! API server in it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnetwork::IpNetwork;

use crate::cidr;
use crate::snapshot::{Node, Snapshot};
use crate::uplink::Uplink;

/// A podCIDR that a Node has been given.
#[derive(Debug)]
pub struct PodCidr<'a> {
    last: u128,
    /// The podCIDR.
    pub network: IpNetwork,
    /// The Node's name.
    pub node: &'a Arc<str>,
}

/// The claims that hold, by family and first address. They never overlap.
pub type Claims<'a> = BTreeMap<(bool, u128), PodCidr<'a>>;

/// Where the API servers answer: [`Snapshot::api_servers`].
pub type ApiServers = BTreeMap<IpAddr, BTreeSet<u16>>;

/// Notes that a Node has a podCIDR, unless it collides.
fn claim<'a>(
    network: IpNetwork,
    node: &'a Node,
    uplink: Option<&Uplink>,
    api_servers: &ApiServers,
    claims: &mut Claims<'a>,
) -> Result<(), String> {
    if let Some(why) = collision(network, uplink, api_servers, claims) {
        return Err(why);
    }
    let (v6, (first, last)) = (network.is_ipv6(), cidr::bounds(network));
    claims.insert(
        (v6, first),
        PodCidr {
            last,
            network,
            node: &node.name,
        },
    );
    Ok(())
}

/// Why a podCIDR is left out beside these claims, if it is.
pub fn collision(
    network: IpNetwork,
    uplink: Option<&Uplink>,
    api_servers: &ApiServers,
    claims: &Claims<'_>,
) -> Option<String> {
    if let Some(uplink) = uplink
        && let Some(nodes) = uplink
            .networks()
            .find(|nodes| cidr::overlap(**nodes, network) && !leads_to(uplink, **nodes, network))
    {
        return Some(format!(
            "podCIDR {network} overlaps {nodes}, the nodes' own network on {}; it is left out",
            uplink.name
        ));
    }
    // With a route for it, the agent could not reach the API server and would never hear of a correction.
    let range = network.network()..=network.broadcast();
    if let Some((address, _)) = api_servers.range(range).next() {
        return Some(format!(
            "podCIDR {network} contains {address}, the address of the API server; it is left out"
        ));
    }
    let (v6, (first, last)) = (network.is_ipv6(), cidr::bounds(network));
    let (_, pod_cidr) = claims.range(..=(v6, last)).next_back()?;
    (pod_cidr.network.is_ipv6() == v6 && pod_cidr.last >= first).then(|| {
        format!(
            "podCIDR {network} overlaps {} of Node {}, which keeps it; it is left out",
            pod_cidr.network, pod_cidr.node
        )
    })
}

/// Whether this on-link network is no network of nodes but a way to the podCIDR that others made, as
/// wg-quick does: no address of the uplink is in it.
fn leads_to(uplink: &Uplink, on_link: IpNetwork, pod_cidr: IpNetwork) -> bool {
    let (first, last) = (on_link.network(), on_link.broadcast());
    let has_address = uplink
        .addresses
        .iter()
        .any(|own| on_link.contains(own.ip()));
    pod_cidr.contains(first) && pod_cidr.contains(last) && !has_address
}

/// Who has the podCIDR in which an address lies.
pub fn holder<'a, 'b>(claims: &'b Claims<'a>, address: IpAddr) -> Option<&'b PodCidr<'a>> {
    let key = (address.is_ipv6(), cidr::number(address));
    let (_, pod_cidr) = claims.range(..=key).next_back()?;
    pod_cidr.network.contains(address).then_some(pod_cidr)
}

/// Who asks for which podCIDR, those first who win where two overlap: ourselves, then the older
/// Node, so that one that joins cannot take traffic away. A Node that does not say how old it is
/// (a manifest need not) wins where it has the podCIDR already, and nowhere else.
fn in_order<'a>(
    snapshot: &'a Snapshot,
    own: &Arc<str>,
    holders: &Holders,
) -> Vec<(&'a Node, IpNetwork)> {
    let nodes = snapshot.nodes.values();
    let mut all: Vec<(&Node, IpNetwork)> = nodes
        .flat_map(|node| node.pod_cidrs.iter().map(move |network| (node, *network)))
        .collect();
    all.sort_by_key(|(node, network)| {
        let has_it = holders.get(network) == Some(&node.name);
        let age = node.created.unwrap_or(if has_it { 0 } else { u64::MAX });
        (node.name != *own, age, !has_it)
    });
    all
}

/// Nodes by the podCIDR that they have.
pub type Holders = BTreeMap<IpNetwork, Arc<str>>;

/// The claims that hold, as [`PodCidrs::settle`] has decided.
pub fn settled(snapshot: &Snapshot) -> Claims<'_> {
    let (mut claims, nowhere) = (Claims::new(), ApiServers::new());
    for node in snapshot.nodes.values() {
        for network in snapshot.pod_cidrs_of(node) {
            let _ = claim(network, node, None, &nowhere, &mut claims);
        }
    }
    claims
}

/// The claims that hold. `holders` are who has which podCIDR now.
pub fn claims_that_hold<'a>(
    snapshot: &'a Snapshot,
    own: &Arc<str>,
    uplink: Option<&Uplink>,
    holders: &Holders,
) -> Claims<'a> {
    let (mut claims, api_servers) = (Claims::new(), snapshot.api_servers());
    for (node, network) in in_order(snapshot, own, holders) {
        // Who is left out is named in a warning of the routes.
        let _ = claim(network, node, uplink, &api_servers, &mut claims);
    }
    claims
}

/// Who has which podCIDR, for all features alike.
#[derive(Default)]
pub struct PodCidrs {
    holders: Holders,
    before: Option<Before>,
}

/// Who had which podCIDR when an agent ran last.
pub type Before = Box<dyn FnOnce(&Snapshot) -> Holders + Send>;

impl PodCidrs {
    /// `before` is asked at the first decision.
    pub fn after(before: Before) -> Self {
        Self {
            holders: Holders::new(),
            before: Some(before),
        }
    }

    /// Decides it as the cluster and the uplink are now, and notes in the snapshot what is left out.
    pub fn settle(&mut self, snapshot: &mut Snapshot, own: &Arc<str>, uplink: Option<&Uplink>) {
        if let Some(before) = self.before.take() {
            self.holders = before(snapshot);
        }
        let claims = claims_that_hold(snapshot, own, uplink, &self.holders);
        let claims = claims.values();
        let holders: Holders = claims
            .map(|claim| (claim.network, Arc::clone(claim.node)))
            .collect();
        let all = snapshot.nodes.iter().flat_map(|(name, node)| {
            let cidrs = node.pod_cidrs.iter();
            cidrs.map(move |cidr| (*cidr, Arc::clone(name)))
        });
        let left_out = all.filter(|(cidr, name)| holders.get(cidr) != Some(name));
        snapshot.leave_out(left_out.collect());
        // Without the uplink it is not known what its network takes away.
        if uplink.is_some() {
            self.holders = holders;
        }
    }
}
