//! NetworkPolicies, as their rules are meant.
//!
//! What could not be read has been left out in the closed direction: the rule or the peer is not
//! here, so it allows nothing, and the policy isolates all the same.

use std::fmt;
use std::sync::Arc;

use ipnetwork::IpNetwork;

use crate::snapshot::{Few, Invalid, ObjectName, Protocol, Selector};

/// A direction, as seen from the pod that a policy selects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// To the pod.
    Ingress,
    /// From the pod.
    Egress,
}

impl Direction {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Ingress, Self::Egress];

    /// As policies write it, in lower case.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A NetworkPolicy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkPolicy {
    /// The policy's name.
    pub name: ObjectName,
    /// Which pods of its namespace it selects.
    pub subject: Selector,
    /// What may come to them; `None` if it does not isolate them for ingress.
    pub ingress: Option<Box<[PolicyRule]>>,
    /// Where they may go; `None` if it does not isolate them for egress.
    pub egress: Option<Box<[PolicyRule]>>,
    /// What could not be used.
    pub invalid: Few<Invalid>,
}

impl NetworkPolicy {
    /// The rules of a direction, if the policy isolates in it.
    pub fn rules(&self, direction: Direction) -> Option<&[PolicyRule]> {
        match direction {
            Direction::Ingress => self.ingress.as_deref(),
            Direction::Egress => self.egress.as_deref(),
        }
    }
}

/// A rule: traffic of one of its ports with one of its peers is allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyRule {
    /// With whom; `None` for anyone.
    pub peers: Option<Box<[Peer]>>,
    /// Over what; `None` for everything, ports or not.
    pub ports: Option<Box<[PolicyPort]>>,
}

/// With whom a rule allows traffic.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Peer {
    /// Pods with these labels in the policy's own namespace.
    Here(Selector),
    /// Pods with labels, in Namespaces with labels.
    Elsewhere {
        /// Which Namespaces.
        namespaces: Selector,
        /// Which of their pods.
        pods: Selector,
    },
    /// Addresses, of pods as well.
    Block(Block),
}

/// A network with holes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Block {
    /// The network, without host bits.
    pub network: IpNetwork,
    /// What of it does not belong; sorted.
    pub except: Box<[IpNetwork]>,
}

impl Block {
    /// True if the address belongs to it.
    pub fn contains(&self, address: std::net::IpAddr) -> bool {
        self.network.contains(address) && !self.except.iter().any(|hole| hole.contains(address))
    }
}

impl fmt::Display for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.network)?;
        for (place, hole) in self.except.iter().enumerate() {
            f.write_str(if place == 0 { " except " } else { ", " })?;
            write!(f, "{hole}")?;
        }
        Ok(())
    }
}

/// Over what a rule allows traffic.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PolicyPort {
    /// The protocol.
    pub protocol: Protocol,
    /// The ports of the destination.
    pub ports: PortMatch,
}

/// Ports of the destination.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PortMatch {
    /// All.
    All,
    /// From one to another, both included.
    Numbers {
        /// The first.
        first: u16,
        /// The last; for a single port the first again.
        last: u16,
    },
    /// The one that the destination's container calls so.
    Named(Arc<str>),
}
