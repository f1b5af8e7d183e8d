//! What decided about a packet that a rule refused or dropped, for who has seen that: in the words of
//! the walk, by the same plans. Pure.
//!
//! What is asked about may have changed since; then that is said.

use std::net::IpAddr;

use crate::features::parts::log::Reason;
use crate::snapshot::Protocol;
use crate::why::facts::{Facts, Party};
use crate::why::services::{self, Choice};
use crate::why::{Hop, routes};

/// A packet that a rule refused or dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Refused {
    /// The rule.
    pub reason: Reason,
    /// From where.
    pub source: IpAddr,
    /// To where, as the rule saw it.
    pub destination: IpAddr,
    /// The protocol and the port of the destination, for protocols that have ports.
    pub port: Option<(Protocol, u16)>,
}

/// What decided.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Decided {
    /// The object: a Service, a flag, a policy.
    pub by: String,
    /// Why, in a sentence.
    pub because: String,
}

impl Decided {
    /// By this, because of that.
    pub fn new(by: impl Into<String>, because: impl Into<String>) -> Self {
        Self {
            by: by.into(),
            because: because.into(),
        }
    }
}

impl Refused {
    /// What the rules of Services and of Nodes that are gone go by; none if it is another rule.
    pub fn decided(&self, facts: &Facts<'_>) -> Option<Decided> {
        match self.reason {
            Reason::NoEndpoints | Reason::NoLocalEndpoints | Reason::SourceRange => {
                Some(self.by_service(facts))
            }
            Reason::NoSuchPort => Some(self.by_cluster_ip(facts)),
            Reason::Unallocated => Some(self.by_network(facts)),
            Reason::GoneNode => Some(self.by_gone_node(facts)),
            Reason::Denied { .. }
            | Reason::Undecided
            | Reason::Spoofed
            | Reason::Foreign
            | Reason::Loopback
            | Reason::TooManyConnections => None,
        }
    }

    /// By the Service port that takes it.
    fn by_service(&self, facts: &Facts<'_>) -> Decided {
        let from = facts.party(self.source);
        let found = self.port.and_then(|(protocol, port)| {
            services::find(facts, &from, self.destination, protocol, port)
        });
        let Some(found) = found else {
            let to = self.destination;
            return Decided::new(
                "a Service that is gone",
                format!("No Service has this port of {to} any longer."),
            );
        };
        let by = format!("Service {}", found.title());
        match found.choose(facts, self.source) {
            Choice::Refused(hop) | Choice::Dropped(hop) => Decided::new(by, sentence(hop)),
            Choice::Endpoints(_) => Decided::new(by, "An endpoint may answer it by now."),
        }
    }

    /// By the Service that has the address, and no such port.
    fn by_cluster_ip(&self, facts: &Facts<'_>) -> Decided {
        let to = self.destination;
        let Some(service) = services::with_cluster_ip(facts, to) else {
            let because = format!("No Service has the address {to} any longer.");
            return Decided::new("a Service that is gone", because);
        };
        let by = format!("Service {}", service.name);
        let Some((protocol, port)) = self.port else {
            return Decided::new(by, services::NO_PING);
        };
        match services::find(facts, &Party::Outside, to, protocol, port) {
            Some(_) => Decided::new(by, "The Service has that port by now."),
            None => Decided::new(by, services::no_such_port(service, protocol, port)),
        }
    }

    /// By the network of Services: none has the address.
    fn by_network(&self, facts: &Facts<'_>) -> Decided {
        let to = self.destination;
        let networks = services::networks_of(facts, to).services;
        let network = networks.iter().find(|network| network.contains(to));
        let Some(network) = network else {
            let because = format!("{to} is in no network of Services any longer.");
            return Decided::new("a Service network that is gone", because);
        };
        let by = format!("Service network {network}");
        let because = match services::with_cluster_ip(facts, to) {
            Some(service) => format!("Service {} has the address {to} by now.", service.name),
            None => format!(
                "No Service has the address {to}. {}",
                services::not_assigned(*network)
            ),
        };
        Decided::new(by, because)
    }

    /// By the Node whose podCIDR it was.
    fn by_gone_node(&self, facts: &Facts<'_>) -> Decided {
        match facts.party(self.destination) {
            Party::Gone(cidr, owner) => Decided::new(
                format!("{owner}, which is gone"),
                format!("{}.", routes::gone(cidr, owner)),
            ),
            _ => Decided::new(
                "a Node that is gone",
                "Its podCIDR is not refused any longer.",
            ),
        }
    }
}

/// Why, of a hop.
fn sentence(hop: Hop) -> String {
    hop.why.join(" ")
}
