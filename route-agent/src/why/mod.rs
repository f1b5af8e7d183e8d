//! The way of a packet, hop by hop, with what decides at each.
//!
//! The walk itself is pure: it goes through the same snapshot and the same plans as the features
//! do ([`walk`]). It notes what the kernel should say at each hop; [`check`] asks the kernel, adds
//! what it holds, and names the differences.

mod check;
mod elements;
mod facts;
mod host_ports;
mod kernel;
mod live;
mod near;
mod owners;
mod policies;
mod question;
mod refusals;
mod routes;
mod services;
#[cfg(test)]
mod tests;
mod walk;
mod ways;

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use podwire_kernel::IpFamily;
use serde::{Deserialize, Serialize};

use crate::features::policies::desired::truth::Traffic;
use crate::snapshot::Direction;
use crate::text::printable;

pub use check::check;
pub use facts::Facts;
pub use host_ports::HostPort;
pub use kernel::{Entry, Kernel, Way};
pub use live::Live;
pub use question::{Host, Question, QuestionError, Transport, service_in_dns};
pub use refusals::{Decided, Refused};
pub use walk::walk;

/// What happens where the receiver sees this node instead of who sends.
pub const MASQUERADED: &str = "The source is replaced by this node's address (masquerade)";

/// A pod on this node, as its link says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pod {
    /// `namespace/name`, if the runtime gave it to the plugin.
    pub name: Option<String>,
    /// True if it is a pod's whose name has no room in the alias of its link.
    pub unnamed: bool,
    /// The container ID.
    pub container_id: String,
    /// The interface in the pod.
    pub ifname: String,
    /// The link's end on this node.
    pub link: String,
    /// True if that end is up.
    pub up: bool,
    /// The addresses to which a route leads through the link.
    pub addresses: Vec<IpAddr>,
}

/// The way of a packet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trace {
    /// The Node on which this was asked.
    pub node: String,
    /// Who sends.
    pub source: String,
    /// Where to.
    pub destination: String,
    /// The hops in order.
    pub hops: Vec<Hop>,
    /// How it ends.
    pub end: End,
    /// One sentence about the end.
    pub conclusion: String,
    /// Where the kernel differs from what is wanted.
    pub differences: Vec<String>,
}

/// How a way ends, seen from this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum End {
    /// It arrives at a pod or process on this node.
    Arrives,
    /// It leaves this node on its way; others decide the rest.
    Leaves,
    /// An error is sent back.
    Refused,
    /// It vanishes, or goes where nothing of ours leads on to who has the address.
    Dropped,
    /// This node has no say in it.
    Elsewhere,
}

/// One step.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hop {
    /// What happens.
    pub what: String,
    /// Why, one sentence each.
    pub why: Vec<String>,
    /// A command that shows it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub see: Option<String>,
    /// What the kernel holds about it.
    pub kernel: Vec<String>,
    /// Where the kernel differs here from what is wanted; the trace has them all.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub differs: Vec<String>,
    /// What may stop a packet here, and is not Podwire's to decide or to know.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub suspects: Vec<String>,
    /// Those endpoints of a Service that cannot be reached while others can, way by way.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub lost: Vec<Lost>,
    /// Those endpoints of a Service on the way to which policies drop it here, while others get it.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub denied: Vec<IpAddr>,
    /// What to ask the kernel.
    #[serde(skip)]
    pub checks: Vec<Check>,
}

/// Endpoints that cannot be reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lost {
    /// Their addresses.
    pub endpoints: Vec<IpAddr>,
    /// Which they are and why, in a sentence.
    pub why: String,
}

/// A question to the kernel, with the answer that is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Check {
    /// Which way would a packet take from here?
    Route {
        /// To this address.
        to: IpAddr,
        /// What is wanted.
        wanted: Wanted,
    },
    /// Is the element there that leads to the endpoints of a Service?
    Portal {
        /// In the table of this family.
        family: IpFamily,
        /// The map.
        map: String,
        /// The element's key.
        key: Vec<u8>,
        /// The chain that it must lead to.
        wanted: Option<String>,
    },
    /// Are these the endpoints?
    Endpoints {
        /// In the table of this family.
        family: IpFamily,
        /// The map.
        map: String,
        /// What the keys begin with; the slot follows.
        key: Vec<u8>,
        /// The endpoints.
        wanted: Vec<SocketAddr>,
    },
    /// Is this client remembered?
    Client {
        /// In the table of this family.
        family: IpFamily,
        /// The map of clients.
        map: String,
        /// The client.
        client: IpAddr,
        /// The endpoints by their numbers.
        endpoints: Vec<(u32, SocketAddr)>,
    },
    /// Do the elements of policies say the same?
    Policies(Asked),
    /// Does another program drop what passes here?
    Droppers {
        /// In this family.
        family: IpFamily,
        /// The hook, as `NF_INET_*`.
        hook: u32,
    },
}

/// What policies should say of a packet at one of its ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    /// As seen from the local pod.
    pub direction: Direction,
    /// The pod of this node.
    pub local: IpAddr,
    /// The other end.
    pub peer: IpAddr,
    /// Over what.
    pub traffic: Traffic,
    /// Whether the pod's address is in one of this node's podCIDRs.
    pub inside: bool,
    /// Whether it passes.
    pub passes: bool,
}

/// The way that a packet should take.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wanted {
    /// Straight through a link.
    Link(String),
    /// Through a gateway.
    Gateway(IpAddr),
    /// None: a route says so.
    Unreachable,
    /// Any that leads somewhere.
    Somewhere,
    /// The same, and the packet gets another destination before it is sent.
    Replaced,
    /// Nothing here decides; it is only shown.
    Any,
}

impl Hop {
    fn new(what: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            ..Self::default()
        }
    }

    fn because(mut self, why: impl Into<String>) -> Self {
        self.why.push(why.into());
        self
    }

    fn suspect(mut self, what: impl Into<String>) -> Self {
        self.suspects.push(what.into());
        self
    }

    fn see(mut self, command: impl Into<String>) -> Self {
        self.see = Some(command.into());
        self
    }

    fn ask(mut self, check: Check) -> Self {
        self.checks.push(check);
        self
    }
}

impl fmt::Display for Trace {
    /// For people. Names in it may be of anyone's choice: what is not printable is escaped.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head = format!(
            "From {} to {}, seen from node {}",
            self.source, self.destination, self.node
        );
        writeln!(f, "{}", printable(&head))?;
        for (number, hop) in (1..).zip(&self.hops) {
            writeln!(f, "\n{number}. {}", printable(&hop.what))?;
            for why in &hop.why {
                writeln!(f, "   {}", printable(why))?;
            }
            for line in &hop.kernel {
                writeln!(f, "   kernel: {}", printable(line))?;
            }
            if let Some(command) = &hop.see {
                writeln!(f, "   see: {}", printable(command))?;
            }
        }
        let mark = match self.end {
            End::Arrives | End::Leaves => "=>",
            End::Refused | End::Dropped => "=x",
            End::Elsewhere => "=?",
        };
        writeln!(f, "\n{mark} {}", printable(&self.conclusion))?;
        let lost = self.hops.iter().flat_map(|hop| &hop.lost);
        let lost: Vec<&String> = lost.map(|lost| &lost.why).collect();
        for (title, lines) in [
            ("Cannot be reached:", lost),
            (
                "The kernel differs from what is wanted:",
                self.differences.iter().collect(),
            ),
        ] {
            if !lines.is_empty() {
                writeln!(f, "\n{title}")?;
            }
            for line in lines {
                writeln!(f, "   {}", printable(line))?;
            }
        }
        Ok(())
    }
}
