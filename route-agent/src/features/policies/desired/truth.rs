//! The policies, read literally: may this packet pass?
//!
//! Nothing is prepared or remembered, so it is easy to compare with the words of the API. Addresses
//! and ports are those of the forward hook: after a destination was translated, before a source is.
//! Traffic between a node and its own pods never comes here, it is always allowed.

use std::net::IpAddr;

use podwire_kernel::IpFamily;

use crate::features::policies::desired::owners::Owners;
use crate::snapshot::{
    Direction, NetworkPolicy, Peer, Pod, PolicyPort, PolicyRule, PortMatch, Protocol, Snapshot,
};

/// What of a packet matters beside its addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Traffic {
    /// To a port.
    Port(Protocol, u16),
    /// Of a protocol without ports, such as ICMP: only rules without ports speak of it.
    Portless,
}

/// The policies of a cluster, and whom they are about.
#[derive(Debug)]
pub struct Truth<'a> {
    snapshot: &'a Snapshot,
    v4: Owners,
    v6: Owners,
}

impl<'a> Truth<'a> {
    /// Of this cluster.
    pub fn of(snapshot: &'a Snapshot) -> Self {
        Self {
            snapshot,
            v4: Owners::of(snapshot, IpFamily::V4),
            v6: Owners::of(snapshot, IpFamily::V6),
        }
    }

    /// The pod that has an address.
    pub fn pod(&self, address: IpAddr) -> Option<&'a Pod> {
        let owners = match address {
            IpAddr::V4(_) => &self.v4,
            IpAddr::V6(_) => &self.v6,
        };
        owners.owner(address, self.snapshot)
    }

    /// Whether the first packet of a connection may pass.
    pub fn allowed(&self, from: IpAddr, to: IpAddr, traffic: Traffic) -> bool {
        from == to
            || self.allowed_by(Direction::Egress, from, to, traffic)
                && self.allowed_by(Direction::Ingress, to, from, traffic)
    }

    /// Whether the policies of one end allow it: `local` is that end, `peer` the other one.
    fn allowed_by(
        &self,
        direction: Direction,
        local: IpAddr,
        peer: IpAddr,
        traffic: Traffic,
    ) -> bool {
        let Some(pod) = self.pod(local) else {
            return true;
        };
        let mut isolated = false;
        for policy in isolating(self.snapshot, pod, direction) {
            isolated = true;
            let rules = policy.rules(direction).unwrap_or_default();
            let mut rules = rules.iter();
            if rules.any(|rule| self.is_in_rule(policy, rule, direction, pod, peer, traffic)) {
                return true;
            }
        }
        !isolated
    }

    fn is_in_rule(
        &self,
        policy: &NetworkPolicy,
        rule: &PolicyRule,
        direction: Direction,
        local: &Pod,
        peer: IpAddr,
        traffic: Traffic,
    ) -> bool {
        let over = |destination: Option<&Pod>| {
            let ports = rule.ports.as_deref();
            ports.is_none_or(|ports| ports.iter().any(|one| is_over(one, destination, traffic)))
        };
        // A port by its name is one of the destination, if that is meant as a pod.
        let destination = |as_pod: bool| match direction {
            Direction::Ingress => Some(local),
            Direction::Egress => self.pod(peer).filter(|_| as_pod),
        };
        let Some(peers) = &rule.peers else {
            return over(destination(true));
        };
        peers.iter().any(|one| {
            let as_pod = !matches!(one, Peer::Block(_));
            self.is_peer(policy, one, peer) && over(destination(as_pod))
        })
    }

    fn is_peer(&self, policy: &NetworkPolicy, peer: &Peer, address: IpAddr) -> bool {
        match peer {
            Peer::Block(block) => block.contains(address),
            Peer::Here(pods) => self.pod(address).is_some_and(|pod| {
                pod.name.namespace == policy.name.namespace && pods.selects(&pod.labels)
            }),
            Peer::Elsewhere { namespaces, pods } => self.pod(address).is_some_and(|pod| {
                let namespace = self.snapshot.namespaces.get(&pod.name.namespace);
                namespace.is_some_and(|one| namespaces.selects(&one.labels))
                    && pods.selects(&pod.labels)
            }),
        }
    }
}

/// The policies that isolate a pod in a direction.
pub fn isolating<'a>(
    snapshot: &'a Snapshot,
    pod: &'a Pod,
    direction: Direction,
) -> impl Iterator<Item = &'a NetworkPolicy> {
    snapshot
        .policies_in(&pod.name.namespace)
        .filter(move |policy| policy.rules(direction).is_some())
        .filter(|policy| policy.subject.selects(&pod.labels))
}

fn is_over(port: &PolicyPort, destination: Option<&Pod>, traffic: Traffic) -> bool {
    let Traffic::Port(protocol, number) = traffic else {
        return false;
    };
    protocol == port.protocol
        && match &port.ports {
            PortMatch::All => true,
            PortMatch::Numbers { first, last } => (*first..=*last).contains(&number),
            PortMatch::Named(name) => {
                destination.is_some_and(|pod| pod.port(name, protocol) == Some(number))
            }
        }
}
