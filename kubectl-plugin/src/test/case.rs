//! One thing that the connectivity test tries: from where to where, how, and what must come back.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// A family of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// That of an address.
    pub fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// The first address of this family.
    pub fn first(self, addresses: &[IpAddr]) -> Option<IpAddr> {
        addresses.iter().copied().find(|one| Self::of(*one) == self)
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// What is at a place of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// A pod that asks. It serves as well: policies and hairpins need that.
    Client,
    /// A pod that answers, and is an endpoint of the Services.
    Server,
    /// A pod in the network of its node.
    Host,
}

/// A place on a node, by the node's position among those of the plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Spot {
    /// What is there.
    pub role: Role,
    /// On which node.
    pub node: usize,
}

impl Spot {
    /// The client of a node.
    pub fn client(node: usize) -> Self {
        Self {
            role: Role::Client,
            node,
        }
    }

    /// The server of a node.
    pub fn server(node: usize) -> Self {
        Self {
            role: Role::Server,
            node,
        }
    }

    /// The network of a node.
    pub fn host(node: usize) -> Self {
        Self {
            role: Role::Host,
            node,
        }
    }
}

/// A Service of the test.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Service {
    /// All servers, by ClusterIP and by NodePort.
    Web,
    /// All servers, with `externalTrafficPolicy: Local`.
    Local,
    /// All servers, with `sessionAffinity: ClientIP`.
    Sticky,
    /// The client of one node alone.
    Hairpin(usize),
    /// No pod.
    Empty,
    /// All servers, without a ClusterIP.
    Headless,
    /// The cluster's API server, which is not the test's own.
    Api,
}

/// Where a case sends to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// The address of a place.
    Spot(Spot),
    /// The ClusterIP of a Service.
    Service(Service),
    /// The NodePort of a Service at the address of a node.
    NodePort(Service, usize),
    /// The name of a Service, which is looked up.
    Name(Service),
    /// An address outside of the cluster.
    Outside,
}

/// How a case sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// One ICMP echo.
    Ping,
    /// HTTP that names who answers and whom it sees.
    Tcp,
    /// One datagram.
    Udp,
    /// HTTP with 50,000 bytes in each direction.
    Large,
    /// A datagram that fills the MTU of the sender's link, and may not be fragmented.
    FullSize,
    /// A datagram that must be fragmented.
    Fragmented,
    /// Several connections, one after another.
    Repeated,
    /// A question to the cluster's DNS.
    Lookup,
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ping => "ping",
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Large => "TCP with 50,000 bytes each way",
            Self::FullSize => "UDP that fills the MTU",
            Self::Fragmented => "UDP in fragments",
            Self::Repeated => "several TCP connections",
            Self::Lookup => "DNS",
        })
    }
}

/// Who may answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// Only this place.
    Spot(Spot),
    /// One server or another.
    Server,
    /// Each time the same server.
    SameServer,
    /// More than one server, if there are more.
    Servers,
}

/// Whose address the one who answers must see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// The sender's own.
    Sender,
    /// That of a node.
    Node(usize),
    /// Not looked at.
    Any,
}

/// What must come back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// An answer.
    Answer(Who, Seen),
    /// As much as was sent, or as the server reads.
    Echo,
    /// Any reply.
    Reply,
    /// The addresses that the name has.
    Addresses,
    /// A refusal, at once.
    Refused,
    /// No connection.
    Nothing,
}

/// What cases belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Group {
    /// From pod to pod.
    PodToPod,
    /// From nodes to pods.
    NodeToPod,
    /// From pods to nodes.
    PodToNode,
    /// ClusterIPs.
    ClusterIp,
    /// NodePorts of every node.
    NodePort,
    /// NodePorts that keep the client's address.
    NodePortLocal,
    /// A pod that reaches itself through a Service.
    Hairpin,
    /// Clients that stay with an endpoint.
    Affinity,
    /// The cluster's DNS.
    Dns,
    /// The API server through its Service.
    Api,
    /// Outside of the cluster.
    Outside,
    /// Services without endpoints.
    NoEndpoints,
    /// What policies allow.
    PolicyAllows,
    /// What policies forbid.
    PolicyForbids,
}

impl Group {
    /// All, in the order in which they are tried and shown. What must be refused or blocked comes
    /// last: nothing about it settles any more then.
    pub const ALL: [Self; 14] = [
        Self::PodToPod,
        Self::NodeToPod,
        Self::PodToNode,
        Self::ClusterIp,
        Self::NodePort,
        Self::NodePortLocal,
        Self::Hairpin,
        Self::Affinity,
        Self::Dns,
        Self::Api,
        Self::Outside,
        Self::PolicyAllows,
        Self::NoEndpoints,
        Self::PolicyForbids,
    ];

    /// What people call it.
    pub fn title(self) -> &'static str {
        match self {
            Self::PodToPod => "pod to pod",
            Self::NodeToPod => "node to pod",
            Self::PodToNode => "pod to node",
            Self::ClusterIp => "ClusterIP",
            Self::NodePort => "NodePort",
            Self::NodePortLocal => "NodePort, externalTrafficPolicy Local",
            Self::Hairpin => "hairpin",
            Self::Affinity => "session affinity",
            Self::Dns => "DNS",
            Self::Api => "API server",
            Self::Outside => "outside",
            Self::NoEndpoints => "no endpoints",
            Self::PolicyAllows => "allowed by policy",
            Self::PolicyForbids => "forbidden by policy",
        }
    }
}

/// One thing that is tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Case {
    /// What it belongs to.
    pub group: Group,
    /// Over which family.
    pub family: Family,
    /// From where.
    pub from: Spot,
    /// Where to.
    pub to: Target,
    /// How.
    pub way: Way,
    /// What must come back.
    pub want: Want,
}

impl Case {
    /// The node that is at the other end, if it is a certain one: the column of the matrix.
    pub fn to_node(&self) -> Option<usize> {
        match self.to {
            Target::Spot(spot) => Some(spot.node),
            Target::NodePort(_, node) => Some(node),
            Target::Service(_) | Target::Name(_) | Target::Outside => None,
        }
    }

    /// True if an answer is what must not come.
    pub fn must_not_pass(&self) -> bool {
        matches!(self.want, Want::Refused | Want::Nothing)
    }
}

/// What a Service of the test is named.
pub fn name(service: Service) -> String {
    match service {
        Service::Web => "web".to_owned(),
        Service::Local => "local".to_owned(),
        Service::Sticky => "sticky".to_owned(),
        Service::Hairpin(node) => format!("hairpin-{node}"),
        Service::Empty => "empty".to_owned(),
        Service::Headless => "headless".to_owned(),
        Service::Api => "kubernetes".to_owned(),
    }
}
