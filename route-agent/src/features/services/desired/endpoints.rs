//! Which endpoints may answer for a Service port.
//!
//! In: the EndpointSlices of one Service and where this node is. Out: for each policy the sorted
//! endpoints, and warnings about endpoints that cannot be used. Pure; order of the slices does
//! not matter.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use podwire_kernel::IpFamily;

use crate::cidr;
use crate::snapshot::{EndpointRef, EndpointSlice, Protocol, Snapshot};

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
}

impl<'a> Here<'a> {
    /// The place of the Node with this name; little is known of it as long as it has no object.
    pub fn of(name: &'a str, snapshot: &'a Snapshot) -> Here<'a> {
        let node = snapshot.nodes.get(name);
        let zone = node.and_then(|node| node.labels.get(ZONE));
        Here {
            node: name,
            zone: zone.map(|zone| &**zone),
            addresses: node.map_or(&[], |node| &node.internal_ips),
            gone_nodes: snapshot.gone_nodes(),
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

/// The endpoints of one family for the Service port of this name and protocol.
pub fn select<'a>(
    slices: impl IntoIterator<Item = &'a EndpointSlice>,
    port_name: &str,
    protocol: Protocol,
    family: IpFamily,
    here: Here<'_>,
) -> Selected {
    let mut candidates = merge(slices, port_name, protocol, family, here);
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
        .filter(|endpoint| unusable(endpoint.address).is_none())
        .map(|endpoint| endpoint.address)
        .collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses.len()
}

/// What is wrong with a slice, one sentence each.
pub fn warnings(slice: &EndpointSlice) -> Vec<String> {
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
        if let Some(reason) = unusable(endpoint.address) {
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

fn is_local(endpoint: &EndpointRef<'_>, here: Here<'_>) -> bool {
    endpoint.node.is_some_and(|node| **node == *here.node)
}

fn is_on_gone_node(endpoint: &EndpointRef<'_>, here: Here<'_>) -> bool {
    let gone = |node| here.gone_nodes.binary_search(node).is_ok();
    endpoint.node.is_some_and(gone)
}

/// Merges slices: one candidate per address and port.
fn merge<'a>(
    slices: impl IntoIterator<Item = &'a EndpointSlice>,
    port_name: &str,
    protocol: Protocol,
    family: IpFamily,
    here: Here<'_>,
) -> BTreeMap<Backend, Candidate<'a>> {
    let mut merged: BTreeMap<Backend, Candidate<'a>> = BTreeMap::new();
    for slice in slices {
        let matching = |port: &&crate::snapshot::EndpointPort| {
            &*port.name == port_name && port.protocol == protocol && port.port != 0
        };
        for port in slice.ports.iter().filter(matching) {
            for endpoint in &slice.endpoints {
                let address = endpoint.address;
                if IpFamily::of(address) != family || unusable(address).is_some() {
                    continue;
                }
                let local = is_local(&endpoint, here);
                let new = Candidate {
                    endpoint,
                    local,
                    node_gone: !local && is_on_gone_node(&endpoint, here),
                };
                merged
                    .entry(Backend {
                        address,
                        port: port.port,
                    })
                    .and_modify(|old| {
                        if new.rank() > old.rank() {
                            *old = new;
                        }
                    })
                    .or_insert(new);
            }
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
