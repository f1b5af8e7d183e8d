//! Which endpoints may answer for a Service port.
//!
//! In: the EndpointSlices of one Service and where this node is. Out: for each policy the sorted
//! endpoints, and warnings about endpoints that cannot be used. Pure; order of the slices does
//! not matter.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use podwire_kernel::IpFamily;

use crate::cidr;
use crate::snapshot::{EndpointRef, EndpointSlice, Protocol, Snapshot};
use crate::uplink::Uplink;

/// Where a Node says in which zone it is.
const ZONE: &str = "topology.kubernetes.io/zone";

/// Where the agent runs, as far as Services care.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Here<'a> {
    /// The own Node's name.
    pub node: &'a str,
    /// The own Node's zone, if it has one.
    pub zone: Option<&'a str>,
    /// The own Node's addresses.
    pub addresses: &'a [IpAddr],
    /// The Nodes that have gone, sorted.
    pub gone_nodes: &'a [Arc<str>],
    /// The interface to the other nodes.
    pub uplink: Option<&'a Uplink>,
}

impl<'a> Here<'a> {
    /// The place of the Node with this name; little is known of it as long as it has no object.
    pub fn of(name: &'a str, snapshot: &'a Snapshot, uplink: Option<&'a Uplink>) -> Here<'a> {
        let node = snapshot.nodes.get(name);
        let zone = node.and_then(|node| node.labels.get(ZONE));
        Here {
            node: name,
            zone: zone.map(|zone| &**zone),
            addresses: node.map_or(&[], |node| &node.internal_ips),
            gone_nodes: snapshot.gone_nodes(),
            uplink,
        }
    }
}

/// Where a connection is sent: an endpoint's address and port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Backend {
    /// The endpoint's address.
    pub address: IpAddr,
    /// The endpoint's port.
    pub port: u16,
}

/// The endpoints that may answer for one Service port, sorted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selected {
    /// For policy Cluster.
    pub cluster: Vec<Backend>,
    /// For policy Local.
    pub local: Vec<Backend>,
    /// True if some endpoint in the cluster could answer, here or elsewhere.
    pub any: bool,
    /// Those that may go on answering whom they answer: all that serve, whichever of them new connections
    /// go to (as `CleanStaleEntries` in kube-proxy's pkg/proxy/conntrack/cleanup.go).
    pub serving: Vec<Backend>,
}

/// One endpoint after slices have been merged.
#[derive(Debug, Clone, Copy)]
struct Candidate<'a> {
    endpoint: EndpointRef<'a>,
    local: bool,
    /// It is on a Node that has gone, and will be deleted when the controllers notice.
    node_gone: bool,
}

impl Candidate<'_> {
    fn ready(&self) -> bool {
        self.endpoint.ready
    }

    fn draining(&self) -> bool {
        self.endpoint.serving && self.endpoint.terminating
    }

    fn could_answer(&self) -> bool {
        self.ready() || self.draining()
    }

    /// Of two copies of an endpoint in different slices the more useful one counts.
    fn rank(&self) -> (bool, bool, bool) {
        (self.local, self.ready(), self.endpoint.serving)
    }
}

/// What the slices of a Service offer in one family, by name and protocol of the port: each slice is
/// looked through once, and not once for each port of the Service.
#[derive(Debug)]
pub struct Offers<'a> {
    family: IpFamily,
    by_port: HashMap<(&'a str, Protocol), Vec<Offer<'a>>>,
}

/// The endpoints of one slice, at one of its ports.
#[derive(Debug, Clone, Copy)]
struct Offer<'a> {
    slice: &'a EndpointSlice,
    port: u16,
}

impl<'a> Offers<'a> {
    /// What these slices offer.
    pub fn of(slices: impl IntoIterator<Item = &'a EndpointSlice>, family: IpFamily) -> Offers<'a> {
        let mut by_port: HashMap<_, Vec<Offer<'a>>> = HashMap::new();
        for slice in slices {
            let mut endpoints = slice.endpoints.iter();
            if !endpoints.any(|endpoint| IpFamily::of(endpoint.address) == family) {
                continue;
            }
            for port in slice.ports.iter().filter(|port| port.port != 0) {
                let offers = by_port.entry((&*port.name, port.protocol)).or_default();
                let port = port.port;
                offers.push(Offer { slice, port });
            }
        }
        Offers { family, by_port }
    }

    /// The endpoints for the Service port of this name and protocol.
    pub fn select(&self, port_name: &str, protocol: Protocol, here: Here<'_>) -> Selected {
        select(merge(self.at(port_name, protocol), self.family, here), here)
    }

    fn at<'s>(&'s self, port_name: &'s str, protocol: Protocol) -> impl Iterator<Item = Offer<'s>> {
        let offers = self.by_port.get(&(port_name, protocol));
        offers.into_iter().flatten().copied()
    }
}

/// Those that may answer.
fn select(mut candidates: BTreeMap<Backend, Candidate<'_>>, here: Here<'_>) -> Selected {
    // If there is no other, the endpoints of a gone Node stay: what goes there is refused by name.
    if candidates
        .values()
        .any(|c| c.could_answer() && !c.node_gone)
    {
        candidates.retain(|_, candidate| !candidate.node_gone);
    }
    let pick = |wanted: &dyn Fn(&Candidate<'_>) -> bool| -> Vec<Backend> {
        let chosen = candidates.iter().filter(|(_, candidate)| wanted(candidate));
        chosen.map(|(backend, _)| *backend).collect()
    };
    let scope = Scope::from_hints(candidates.values(), here);
    let mut cluster = pick(&|c| c.ready() && scope.admits(c.endpoint, here));
    if cluster.is_empty() {
        cluster = pick(&|c| c.draining());
    }
    let mut local = pick(&|c| c.local && c.ready());
    if local.is_empty() {
        local = pick(&|c| c.local && c.draining());
    }
    let any = candidates.values().any(Candidate::could_answer);
    Selected {
        cluster,
        local,
        any,
        serving: pick(&|c| c.ready() || c.endpoint.serving),
    }
}

/// How many distinct addresses of ready endpoints are on this node, over all ports and families.
pub fn ready_here<'a>(
    slices: impl IntoIterator<Item = &'a EndpointSlice>,
    here: Here<'_>,
) -> usize {
    let mut addresses: Vec<IpAddr> = slices
        .into_iter()
        .flat_map(|slice| &slice.endpoints)
        .filter(|endpoint| endpoint.ready && is_local(endpoint, here))
        .filter(|endpoint| unusable_here(endpoint.address, here.uplink).is_none())
        .map(|endpoint| endpoint.address)
        .collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses.len()
}

/// What is wrong with a slice, one sentence each.
pub fn warnings(slice: &EndpointSlice, uplink: Option<&Uplink>) -> Vec<String> {
    let name = &slice.name.name;
    let mut texts: Vec<String> = Vec::new();
    for bad in &slice.invalid {
        texts.push(format!(
            "{} `{}` of EndpointSlice {name} {}",
            bad.field,
            bad.value,
            bad.consequence()
        ));
    }
    for endpoint in &slice.endpoints {
        if let Some(reason) = unusable_here(endpoint.address, uplink) {
            let address = endpoint.address;
            texts.push(format!(
                "endpoint {address} of EndpointSlice {name} is left out: {reason}"
            ));
        }
    }
    texts
}

/// Why an address cannot be an endpoint, if it cannot.
///
/// The API server refuses these in Endpoints, but not in every EndpointSlice; a packet sent to
/// one would stay on the node or go nowhere.
pub fn unusable(address: IpAddr) -> Option<&'static str> {
    if let Some(reason) = cidr::no_destination(address) {
        return Some(reason);
    }
    cidr::is_link_local(address).then_some("is a link-local address, which no other node can reach")
}

/// The same, with what no machine beside this one can have.
fn unusable_here(address: IpAddr, uplink: Option<&Uplink>) -> Option<&'static str> {
    unusable(address).or_else(|| uplink?.no_host(address))
}

fn is_local(endpoint: &EndpointRef<'_>, here: Here<'_>) -> bool {
    endpoint.node.is_some_and(|node| **node == *here.node)
}

fn is_on_gone_node(endpoint: &EndpointRef<'_>, here: Here<'_>) -> bool {
    let gone = |node| here.gone_nodes.binary_search(node).is_ok();
    endpoint.node.is_some_and(gone)
}

/// Merges slices: one candidate per address and port.
fn merge<'a>(
    offers: impl Iterator<Item = Offer<'a>>,
    family: IpFamily,
    here: Here<'_>,
) -> BTreeMap<Backend, Candidate<'a>> {
    let mut merged: BTreeMap<Backend, Candidate<'a>> = BTreeMap::new();
    for Offer { slice, port } in offers {
        for endpoint in &slice.endpoints {
            let address = endpoint.address;
            if IpFamily::of(address) != family || unusable_here(address, here.uplink).is_some() {
                continue;
            }
            let local = is_local(&endpoint, here);
            let new = Candidate {
                endpoint,
                local,
                node_gone: !local && is_on_gone_node(&endpoint, here),
            };
            merged
                .entry(Backend { address, port })
                .and_modify(|old| {
                    if new.rank() > old.rank() {
                        *old = new;
                    }
                })
                .or_insert(new);
        }
    }
    merged
}

/// How near an endpoint must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scope {
    Node,
    Zone,
    Anywhere,
}

impl Scope {
    /// Hints count only if every ready endpoint has them and one of them names this place;
    /// otherwise some client would be left without an endpoint.
    fn from_hints<'a>(
        candidates: impl Iterator<Item = &'a Candidate<'a>> + Clone,
        here: Here<'_>,
    ) -> Scope {
        let ready = || candidates.clone().filter(|c| c.ready()).map(|c| c.endpoint);
        if ready().next().is_none() {
            return Scope::Anywhere;
        }
        let all_hint_nodes = ready().all(|e| e.hints.is_some_and(|hints| !hints.nodes.is_empty()));
        if all_hint_nodes && ready().any(|e| Scope::Node.admits(e, here)) {
            return Scope::Node;
        }
        let all_hint_zones = ready().all(|e| e.hints.is_some_and(|hints| !hints.zones.is_empty()));
        if all_hint_zones && ready().any(|e| Scope::Zone.admits(e, here)) {
            return Scope::Zone;
        }
        Scope::Anywhere
    }

    fn admits(self, endpoint: EndpointRef<'_>, here: Here<'_>) -> bool {
        let hints = endpoint.hints;
        match self {
            Scope::Node => hints.is_some_and(|h| h.nodes.iter().any(|node| **node == *here.node)),
            Scope::Zone => hints.is_some_and(|h| h.zones.iter().any(|z| Some(&**z) == here.zone)),
            Scope::Anywhere => true,
        }
    }
}

#[cfg(test)]
mod tests;
