//! The policies, read literally: may this packet pass?
//!
//! Nothing is prepared or remembered, so it is easy to compare with the words of the API. Addresses
//! and ports are those of the forward hook: after a destination was translated, before a source is.
//! Traffic between a node and its own pods never comes here, it is always allowed.

use std::collections::BTreeSet;
use std::net::IpAddr;

use podwire_kernel::IpFamily;

use crate::features::policies::desired::attachments::Attachments;
use crate::features::policies::desired::owners::Owners;
use crate::snapshot::{
    Action, ClusterNetworkPolicy, Direction, NetworkPolicy, ObjectName, Peer, Pod, PolicyPort,
    PolicyRule, PortMatch, Protocol, Snapshot, Tier, TierRule,
};

/// What of a packet matters beside its addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Traffic {
    /// To a port.
    Port(Protocol, u16),
    /// Of a protocol without ports, such as ICMP: only rules without ports speak of it.
    Portless,
}

/// True if a ClusterNetworkPolicy may select a pod, and the labels that decide are missing: those of its
/// Namespace, which is not known.
pub fn is_in_doubt(pod: &Pod, snapshot: &Snapshot) -> bool {
    let mut policies = snapshot.cluster_policies.values();
    !snapshot.namespaces.contains_key(&pod.name.namespace)
        && policies.any(|policy| policy.subject.may_select(pod, snapshot))
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

    /// Of this cluster, for questions about these addresses alone.
    pub fn about(snapshot: &'a Snapshot, addresses: &BTreeSet<IpAddr>) -> Self {
        Self {
            snapshot,
            v4: Owners::about(snapshot, IpFamily::V4, addresses),
            v6: Owners::about(snapshot, IpFamily::V6, addresses),
        }
    }

    /// Of this cluster, for questions about the addresses of these pods, and of no pod.
    pub fn of_owners<'o>(
        snapshot: &'a Snapshot,
        owners: impl IntoIterator<Item = (&'o IpAddr, &'o ObjectName)>,
    ) -> Self {
        let none = Self {
            snapshot,
            v4: Owners::default(),
            v6: Owners::default(),
        };
        none.and_of(owners)
    }

    /// For questions about the addresses of these pods as well.
    pub fn and_of<'o>(
        mut self,
        owners: impl IntoIterator<Item = (&'o IpAddr, &'o ObjectName)>,
    ) -> Self {
        for (address, name) in owners {
            match address {
                IpAddr::V4(_) => self.v4.add(*address, name),
                IpAddr::V6(_) => self.v6.add(*address, name),
            }
        }
        self
    }

    /// The cluster.
    pub fn snapshot(&self) -> &'a Snapshot {
        self.snapshot
    }

    /// The pod that has an address.
    pub fn pod(&self, address: IpAddr) -> Option<&'a Pod> {
        let owners = match address {
            IpAddr::V4(_) => &self.v4,
            IpAddr::V6(_) => &self.v6,
        };
        owners.owner(address, self.snapshot, &Attachments::default())
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
        match self.action_of(Tier::Admin, direction, pod, peer, traffic) {
            Some(Action::Accept) => return true,
            Some(Action::Deny) => return false,
            Some(Action::Pass) | None => {}
        }
        let mut isolated = false;
        for policy in isolating(self.snapshot, pod, direction) {
            isolated = true;
            let rules = policy.rules(direction).unwrap_or_default();
            let own = &policy.name.namespace;
            let mut rules = rules.iter();
            if rules.any(|rule| self.is_in_rule(own, rule, direction, pod, peer, traffic)) {
                return true;
            }
        }
        !isolated
            && self.action_of(Tier::Baseline, direction, pod, peer, traffic) != Some(Action::Deny)
    }

    /// What the first rule of a tier does that matches.
    fn action_of(
        &self,
        tier: Tier,
        direction: Direction,
        pod: &Pod,
        peer: IpAddr,
        traffic: Traffic,
    ) -> Option<Action> {
        let policies = selecting(self.snapshot, pod, tier).into_iter();
        let mut rules = policies.flat_map(|policy| policy.rules(direction));
        let is_in =
            |rule: &TierRule| self.is_in_rule("", &rule.traffic, direction, pod, peer, traffic);
        rules.find_map(|rule| match is_in(rule) {
            true => Some(rule.action),
            false => self.doubt(rule, peer).filter(is_in).map(|one| one.action),
        })
    }

    /// What a rule does with who may be one that it is about: a pod of a Namespace that is not known.
    pub(super) fn doubt(&self, rule: &TierRule, peer: IpAddr) -> Option<TierRule> {
        let pod = self.pod(peer)?;
        let known = self.snapshot.namespaces.contains_key(&pod.name.namespace);
        (!known).then(|| rule.in_doubt()).flatten()
    }

    /// Whether traffic is one of a rule; `own` is the namespace of its policy, if it has one.
    fn is_in_rule(
        &self,
        own: &str,
        rule: &PolicyRule,
        direction: Direction,
        local: &Pod,
        peer: IpAddr,
        traffic: Traffic,
    ) -> bool {
        let over = |one: Option<&Peer>| {
            let destination = self.destination(one, direction, local, peer);
            let ports = rule.ports.as_deref();
            ports.is_none_or(|ports| ports.iter().any(|one| is_over(one, destination, traffic)))
        };
        let Some(peers) = &rule.peers else {
            return over(None);
        };
        // The ports are the same for all peers that are meant as pods, and for all others: there may be
        // thousands of each.
        let is_meant = |as_pod| {
            let mut peers = peers.iter().filter(|one| is_pod(one) == as_pod);
            let first = peers.next();
            first.is_some_and(|first| {
                over(Some(first)) && peers.chain([first]).any(|one| self.is_peer(own, one, peer))
            })
        };
        is_meant(true) || is_meant(false)
    }

    /// The pod whose names for ports count: a port by its name is one of the destination, if that is
    /// meant as a pod.
    pub(super) fn destination<'p>(
        &'p self,
        meant: Option<&Peer>,
        direction: Direction,
        local: &'p Pod,
        peer: IpAddr,
    ) -> Option<&'p Pod> {
        let as_pod = meant.is_none_or(is_pod);
        match direction {
            Direction::Ingress => Some(local),
            Direction::Egress => self.pod(peer).filter(|_| as_pod),
        }
    }

    /// Whether an address is one of those that a rule means.
    pub(super) fn is_peer(&self, own: &str, peer: &Peer, address: IpAddr) -> bool {
        match peer {
            Peer::Block(block) => block.contains(address),
            Peer::Here(pods) => self
                .pod(address)
                .is_some_and(|pod| *pod.name.namespace == *own && pods.selects(&pod.labels)),
            Peer::Anywhere(pods) => {
                let pod = self.pod(address);
                pod.is_some_and(|pod| pods.has_peer(pod, self.snapshot))
            }
            Peer::Nodes(nodes) => {
                let mut all = self.snapshot.nodes.values();
                all.any(|node| {
                    nodes.selects(&node.all_labels) && node.addresses().any(|one| one == address)
                })
            }
            Peer::Elsewhere { namespaces, pods } => self.pod(address).is_some_and(|pod| {
                let namespace = self.snapshot.namespaces.get(&pod.name.namespace);
                namespace.is_some_and(|one| namespaces.selects(&one.labels))
                    && pods.selects(&pod.labels)
            }),
        }
    }
}

/// Whether a peer is meant as a pod.
fn is_pod(peer: &Peer) -> bool {
    !matches!(peer, Peer::Block(_) | Peer::Nodes(_))
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

/// The ClusterNetworkPolicies of a tier that select a pod; the first counts.
pub fn selecting<'a>(
    snapshot: &'a Snapshot,
    pod: &Pod,
    tier: Tier,
) -> Vec<&'a ClusterNetworkPolicy> {
    let policies = snapshot.cluster_policies.values();
    let mut policies: Vec<_> = policies
        .filter(|policy| policy.tier == tier && policy.subject.selects(pod, snapshot))
        .collect();
    policies.sort_by_cached_key(|policy| policy.rank());
    policies
}

/// Whether traffic is over a port.
pub(super) fn is_over(port: &PolicyPort, destination: Option<&Pod>, traffic: Traffic) -> bool {
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
