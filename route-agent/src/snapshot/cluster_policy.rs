//! ClusterNetworkPolicies, as their rules are meant.
//!
//! What could not be read has been closed: a rule that accepts is not here, one that denies or passes
//! is here as one that denies everything.

use std::fmt;
use std::sync::Arc;

use crate::snapshot::{Direction, Few, Invalid, ObjectName, Peer, PodSet, PolicyRule, Snapshot};

/// Before or behind NetworkPolicies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tier {
    /// Before them.
    Admin,
    /// Behind them, for pods that none of them isolates.
    Baseline,
}

impl Tier {
    /// As policies write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Admin => "Admin",
            Self::Baseline => "Baseline",
        }
    }
}

/// What a rule does with its traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// Allows it, whatever comes later.
    Accept,
    /// Drops it, whatever comes later.
    Deny,
    /// Leaves the tier.
    Pass,
}

impl Action {
    /// What it does, for sentences about a rule.
    pub const fn verb(self) -> &'static str {
        match self {
            Self::Accept => "accepts",
            Self::Deny => "denies",
            Self::Pass => "passes",
        }
    }
}

/// A ClusterNetworkPolicy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterNetworkPolicy {
    /// The policy's name.
    pub name: Arc<str>,
    /// Its tier.
    pub tier: Tier,
    /// True if its place, or whom it is about, is not understood: it comes before all others of its tier.
    pub in_doubt: bool,
    /// Within the tier the lowest comes first. Of two with the same the name decides, so that all
    /// nodes agree.
    pub priority: u16,
    /// Which pods it selects, other than those with their node's network.
    pub subject: PodSet,
    /// What it does with what comes to them; the first rule that matches counts.
    pub ingress: Box<[TierRule]>,
    /// What it does with what they send.
    pub egress: Box<[TierRule]>,
    /// What could not be used.
    pub invalid: Few<Invalid>,
}

impl ClusterNetworkPolicy {
    /// The rules of a direction.
    pub fn rules(&self, direction: Direction) -> &[TierRule] {
        match direction {
            Direction::Ingress => &self.ingress,
            Direction::Egress => &self.egress,
        }
    }

    /// True if pods of a Namespace may be peers that a rule does not accept.
    pub fn may_refuse(&self, namespace: &Arc<str>, snapshot: &Snapshot) -> bool {
        let rules = self.ingress.iter().chain(&self.egress);
        let rules = rules.filter(|rule| rule.action != Action::Accept);
        let mut peers = rules.flat_map(|rule| rule.traffic.peers.iter().flatten());
        peers.any(|peer| matches!(peer, Peer::Anywhere(pods) if pods.reaches(namespace, snapshot)))
    }

    /// Its place among all of them: the first counts.
    pub fn rank(&self) -> Rank {
        Rank {
            tier: self.tier,
            is_certain: !self.in_doubt,
            priority: self.priority,
            name: self.name.clone(),
        }
    }
}

/// The place of a ClusterNetworkPolicy among all of them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rank {
    /// Its tier.
    pub tier: Tier,
    /// False for those that come first because they are not understood.
    pub is_certain: bool,
    /// Its priority within the tier.
    pub priority: u16,
    /// Its name.
    pub name: Arc<str>,
}

/// A rule of a ClusterNetworkPolicy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TierRule {
    /// What its author calls it.
    pub name: Option<Arc<str>>,
    /// What it does.
    pub action: Action,
    /// With which traffic.
    pub traffic: PolicyRule,
}

impl TierRule {
    /// What becomes of pods of which it cannot be said whether it is about them, as too little is
    /// known of their Namespace: one that accepts is not, any other denies.
    pub fn in_doubt(&self) -> Option<Self> {
        let peers = self.traffic.peers.iter().flatten();
        let peers = peers.filter(|_| self.action != Action::Accept);
        let peers: Box<[Peer]> = peers
            .filter_map(|peer| match peer {
                Peer::Anywhere(pods) => pods.in_doubt().map(Peer::Anywhere),
                _ => None,
            })
            .collect();
        (!peers.is_empty()).then(|| Self {
            name: self.name.clone(),
            action: Action::Deny,
            traffic: PolicyRule {
                peers: Some(peers),
                ports: self.traffic.ports.clone(),
            },
        })
    }
}

/// The name of a policy of either kind.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PolicyName {
    /// A ClusterNetworkPolicy.
    Cluster(Arc<str>),
    /// A NetworkPolicy.
    Namespaced(ObjectName),
}

impl fmt::Display for PolicyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cluster(name) => write!(f, "ClusterNetworkPolicy {name}"),
            Self::Namespaced(name) => name.fmt(f),
        }
    }
}
