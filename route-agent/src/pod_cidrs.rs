//! Which Node has which podCIDR: no two may overlap, nor may one overlap the nodes' own network, or have the
//! API server in it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnetwork::IpNetwork;
use podwire_kernel::IpFamily;

use crate::cidr;
use crate::snapshot::{LeftOut, Node, Snapshot};
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

/// What no podCIDR may take in.
struct Taken<'a> {
    snapshot: &'a Snapshot,
    uplink: Option<&'a Uplink>,
    /// Where API servers answer.
    api_servers: BTreeSet<IpAddr>,
    /// Of those the ones that this agent uses.
    used: BTreeSet<IpAddr>,
}

impl<'a> Taken<'a> {
    /// As the cluster and the uplink are now.
    fn of(snapshot: &'a Snapshot, uplink: Option<&'a Uplink>) -> Self {
        Self {
            snapshot,
            uplink,
            api_servers: snapshot.api_servers().into_keys().collect(),
            used: snapshot.api_servers_used().map(|used| used.ip()).collect(),
        }
    }

    /// Why a podCIDR is left out beside these claims, if it is. Who has it already (`held`) does not lose
    /// it by what others say: other Nodes of their addresses, or whoever may write the slice
    /// of the API servers.
    fn collision(&self, network: IpNetwork, held: bool, claims: &Claims<'_>) -> Option<String> {
        if let Some(uplink) = self.uplink
            && let Some(nodes) = self.nodes_network(uplink, network, held)
        {
            return Some(format!(
                "podCIDR {network} overlaps {nodes}, the nodes' own network on {}; it is left out",
                uplink.name
            ));
        }
        // With a route for it, the agent could not reach the API server and would never hear of a
        // correction.
        let range = network.network()..=network.broadcast();
        let api_servers = if held { &self.used } else { &self.api_servers };
        if let Some(address) = api_servers.range(range).next() {
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

    /// The nodes' own network of which a podCIDR has a part. A network within the podCIDR is none if it is
    /// a way to it that others made, as wg-quick does: no node is in it.
    fn nodes_network<'b>(
        &self,
        uplink: &'b Uplink,
        pod_cidr: IpNetwork,
        held: bool,
    ) -> Option<&'b IpNetwork> {
        let mut own = uplink.addresses.iter();
        let has_own = own.any(|own| pod_cidr.contains(own.ip()));
        let has_node = |network: &IpNetwork| {
            let mut nodes = self.snapshot.nodes.values();
            nodes.any(|node| node.internal_ips.iter().any(|ip| network.contains(*ip)))
        };
        let leads_to = |network: &IpNetwork| {
            let (first, last) = (network.network(), network.broadcast());
            // To a single address is how a gateway is reached.
            let is_network = first != last;
            let is_within = pod_cidr.contains(first) && pod_cidr.contains(last);
            is_network && is_within && !has_own && (held || !has_node(network))
        };
        let mut networks = uplink.networks();
        networks.find(|network| cidr::overlap(**network, pod_cidr) && !leads_to(network))
    }
}

/// Notes that a Node has a podCIDR.
fn claim<'a>(network: IpNetwork, node: &'a Node, claims: &mut Claims<'a>) {
    let (v6, (first, last)) = (network.is_ipv6(), cidr::bounds(network));
    let node = &node.name;
    claims.insert(
        (v6, first),
        PodCidr {
            last,
            network,
            node,
        },
    );
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
    let mut claims = Claims::new();
    for node in snapshot.nodes.values() {
        for network in snapshot.pod_cidrs_of(node) {
            claim(network, node, &mut claims);
        }
    }
    claims
}

/// The claims that hold, and why the others do not. `holders` are who has which podCIDR now.
fn decide<'a>(
    snapshot: &'a Snapshot,
    own: &Arc<str>,
    uplink: Option<&Uplink>,
    holders: &Holders,
) -> (Claims<'a>, LeftOut) {
    let (mut claims, mut left_out) = (Claims::new(), LeftOut::new());
    let taken = Taken::of(snapshot, uplink);
    for (node, network) in in_order(snapshot, own, holders) {
        let held = holders.get(&network) == Some(&node.name);
        match taken.collision(network, held, &claims) {
            None => claim(network, node, &mut claims),
            Some(why) => _ = left_out.insert((network, node.name.clone()), why),
        }
    }
    (claims, left_out)
}

/// Who has which podCIDR, for all features alike.
#[derive(Default)]
pub struct PodCidrs {
    holders: Holders,
    before: Option<Before>,
    /// The uplink with the networks that it had last in each family: who may be in them is there as
    /// well while it is down or has lost its addresses.
    uplink: Option<Uplink>,
}

/// Who had which podCIDR when an agent ran last.
pub type Before = Box<dyn FnOnce(&Snapshot) -> Holders + Send>;

impl PodCidrs {
    /// `before` is asked at the first decision.
    pub fn after(before: Before) -> Self {
        Self {
            before: Some(before),
            ..Self::default()
        }
    }

    /// Decides it as the cluster and the uplink are now, and notes in the snapshot what is left out.
    /// True if that is something else than before.
    pub fn settle(
        &mut self,
        snapshot: &mut Snapshot,
        own: &Arc<str>,
        uplink: Option<&Uplink>,
    ) -> bool {
        if let Some(before) = self.before.take() {
            self.holders = before(snapshot);
        }
        if let Some(uplink) = uplink {
            self.uplink = Some(uplink.as_it_was(self.uplink.take()));
        }
        let uplink = self.uplink.as_ref();
        let (claims, left_out) = decide(snapshot, own, uplink, &self.holders);
        let claims = claims.values();
        let holders: Holders = claims
            .map(|claim| (claim.network, Arc::clone(claim.node)))
            .collect();
        let is_new = snapshot.leave_out(left_out);
        // Without the uplink's network of a family it is not known what that takes away from others. We
        // come first in any case, as soon as there are networks at all.
        let lasts = |cidr: &IpNetwork, name: &Arc<str>| {
            let family = IpFamily::of_network(*cidr);
            uplink.is_some_and(|uplink| {
                uplink.reaches(family) || name == own && !uplink.on_link.is_empty()
            })
        };
        self.holders.retain(|cidr, name| !lasts(cidr, name));
        let now = holders.into_iter().filter(|(cidr, name)| lasts(cidr, name));
        self.holders.extend(now);
        is_new
    }
}
