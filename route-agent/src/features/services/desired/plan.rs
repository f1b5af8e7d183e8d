//! What the kernel must do for one Service, in one family.
//!
//! In: a Service, its EndpointSlices, where this node is, and what the Service was granted of
//! what it claims. Out: a [`Plan`], or none if there is nothing to program. Pure.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use ipnetwork::IpNetwork;
use podwire_kernel::IpFamily;

use crate::cidr::without_contained;
use crate::features::services::desired::endpoints::{Backend, Here, Offers, Selected};
use crate::features::services::desired::frontends::{self, Claim, Frontend};
use crate::features::services::desired::room::{AT_AN_ADDRESS, LeftOut, MOST_ENDPOINTS, Room};
use crate::snapshot::{Balancing, EndpointSlice, Protocol, Service, TrafficPolicy};

/// What the kernel must do for one Service, in one family.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// The ClusterIPs, whose unknown ports are refused.
    pub cluster_ips: Box<[IpAddr]>,
    /// The ports, in the order of the object.
    pub ports: Box<[PortPlan]>,
    /// The ports that are not among them because there is no room for so much.
    pub left_out: Option<LeftOut>,
}

/// What the kernel must do for one port of a Service, in one family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortPlan {
    /// The port's name; empty for the single unnamed port.
    pub name: Arc<str>,
    /// The protocol.
    pub protocol: Protocol,
    /// The port of the ClusterIP.
    pub port: u16,
    /// How new connections are spread.
    pub balancing: Balancing,
    /// How long a client is remembered, in seconds, if at all.
    pub affinity: Option<u32>,
    /// Who may answer through the ClusterIP.
    pub internal: TrafficPolicy,
    /// Who may answer through the other addresses and the node port.
    pub external: TrafficPolicy,
    /// Where the port can be reached.
    pub frontends: Box<[Frontend]>,
    /// Who may use the load-balancer addresses, without overlaps; everybody if there are none.
    pub sources: Option<Box<[IpNetwork]>>,
    /// The endpoints for policy Cluster. The position is the slot in the kernel's map.
    pub cluster: Box<[Backend]>,
    /// The endpoints for policy Local, likewise.
    pub local: Box<[Backend]>,
    /// True if some endpoint in the cluster could answer, here or elsewhere.
    pub any: bool,
    /// Of UDP: the endpoints that may go on answering whom they answer, sorted; see
    /// [`Selected::serving`].
    pub serving: Box<[Backend]>,
}

/// Computes the plan of a Service.
pub fn desired<'a>(
    service: &Service,
    slices: impl Iterator<Item = &'a EndpointSlice>,
    family: IpFamily,
    here: Here<'_>,
    default_balancing: Balancing,
    granted: impl Fn(&Claim) -> bool,
) -> Option<Plan> {
    let cluster_ips: Box<[IpAddr]> = frontends::cluster_ips(service, family)
        .filter(|address| granted(&Claim::cluster_ip(*address)))
        .collect();
    let offers = Offers::of(slices, family);
    let mut room = Room::default();
    let mut ports = Vec::new();
    for port in frontends::ports(service) {
        let is_granted = |front: &Frontend| {
            let address_granted = match front {
                Frontend::ClusterIp(address) => cluster_ips.contains(address),
                _ => true,
            };
            address_granted && granted(&Claim::of(front, port))
        };
        let frontends: Box<[Frontend]> = frontends::of_port(service, port, family)
            .into_iter()
            .filter(is_granted)
            .collect();
        if frontends.is_empty() || room.is_full() {
            continue;
        }
        let Selected {
            cluster,
            local,
            any,
            serving,
        } = offers.select(&port.name, port.protocol, here);
        let is_udp = port.protocol == Protocol::Udp;
        let plan = PortPlan {
            name: port.name.clone(),
            protocol: port.protocol,
            port: port.port,
            balancing: service.balancing.unwrap_or(default_balancing),
            affinity: frontends::affinity(service),
            internal: service.internal_policy,
            external: service.external_policy,
            sources: sources(service, &frontends, family, here.addresses),
            frontends,
            cluster: cluster.into(),
            local: local.into(),
            any,
            serving: if is_udp {
                serving.into()
            } else {
                Box::default()
            },
        };
        if room.take((plan.protocol, plan.port), plan.elements()) {
            ports.push(plan);
        }
    }
    let plan = Plan {
        cluster_ips,
        ports: ports.into(),
        left_out: room.left_out(),
    };
    let is_something =
        !plan.ports.is_empty() || !plan.cluster_ips.is_empty() || plan.left_out.is_some();
    is_something.then_some(plan)
}

impl PortPlan {
    /// At most so many elements the kernel needs for it (`layout::elements` makes them).
    fn elements(&self) -> usize {
        let count = |backends: &[Backend]| backends.len().min(MOST_ENDPOINTS);
        let (cluster, local) = (count(&self.cluster), count(&self.local));
        let ranges = self.sources.as_deref().map_or(0, <[_]>::len);
        let remembers = self.affinity.is_some();
        let at = |front: &Frontend| {
            let endpoints = match (front, self.internal, self.external) {
                _ if remembers => 0,
                (Frontend::ClusterIp(_), TrafficPolicy::Cluster, _) => cluster,
                (Frontend::ClusterIp(_), TrafficPolicy::Local, _) => local,
                (_, _, TrafficPolicy::Cluster) => cluster,
                (_, _, TrafficPolicy::Local) => cluster + local,
            };
            let ranges = match front {
                Frontend::LoadBalancer(_) => ranges,
                _ => 0,
            };
            AT_AN_ADDRESS + endpoints + ranges
        };
        // Who remembers clients has its endpoints once for all addresses, by slot and by number.
        let shared = if remembers { 2 * (cluster + local) } else { 0 };
        let all = self.frontends.iter().map(at);
        all.fold(shared, usize::saturating_add)
    }
}

impl Plan {
    /// Keeps every endpoint that was there before in its slot, so that a change touches only the
    /// elements that differ and the counters of the others go on.
    pub fn settle(&mut self, before: &Plan) {
        let key = |port: &PortPlan| (port.protocol, port.port);
        let before: HashMap<_, _> = before.ports.iter().map(|old| (key(old), old)).collect();
        for port in &mut self.ports {
            if let Some(old) = before.get(&key(port)) {
                port.cluster = settle(&old.cluster, &port.cluster);
                port.local = settle(&old.local, &port.local);
            }
        }
    }

    /// Everything that the Service has been granted.
    pub fn claims(&self) -> impl Iterator<Item = Claim> {
        let addresses = self
            .cluster_ips
            .iter()
            .map(|address| Claim::cluster_ip(*address));
        let ports = self.ports.iter().flat_map(|port| {
            port.frontends
                .iter()
                .map(|front| Claim::at(front, port.protocol, port.port))
        });
        addresses.chain(ports)
    }
}

/// The endpoints of `wanted` with those of `before` in their old slots; gaps are filled first by
/// new endpoints, then from the end.
pub fn settle(before: &[Backend], wanted: &[Backend]) -> Box<[Backend]> {
    let mut new: BTreeSet<Backend> = wanted.iter().copied().collect();
    let mut slots: Vec<Option<Backend>> = before.iter().map(|backend| new.take(backend)).collect();
    let mut new = new.into_iter();
    for slot in slots.iter_mut().filter(|slot| slot.is_none()) {
        match new.next() {
            Some(backend) => *slot = Some(backend),
            None => break,
        }
    }
    slots.extend(new.map(Some));
    let mut at = 0;
    while at < slots.len() {
        if slots[at].is_none() {
            slots.swap_remove(at);
        } else {
            at += 1;
        }
    }
    slots.into_iter().flatten().collect()
}

/// Who may use the load-balancer addresses of this family: none if everybody may.
///
/// A range within another is left out, because the kernel refuses overlapping intervals. If
/// ranges are given but none is of this family, no one may.
///
/// A load balancer may put its address on the node's own interfaces. Then the node's connections to
/// it have it as their source as well, so it may be the source if the node's own address may.
fn sources(
    service: &Service,
    frontends: &[Frontend],
    family: IpFamily,
    node: &[IpAddr],
) -> Option<Box<[IpNetwork]>> {
    let vips: Vec<IpAddr> = frontends
        .iter()
        .filter(|front| matches!(front, Frontend::LoadBalancer(_)))
        .filter_map(Frontend::address)
        .collect();
    if vips.is_empty() || !frontends::restricts_sources(service) {
        return None;
    }
    let mut of_family = node
        .iter()
        .filter(|address| IpFamily::of(**address) == family);
    let from_node = of_family.any(|address| {
        let ranges = &service.source_ranges;
        ranges.iter().any(|range| range.contains(*address))
    });
    let itself = vips.into_iter().filter(|_| from_node).map(IpNetwork::from);
    let ours = service
        .source_ranges
        .iter()
        .filter(|range| IpFamily::of(range.ip()) == family);
    Some(without_contained(ours.copied().chain(itself)).into())
}

#[cfg(test)]
mod tests;
