//! Names of maps and chains, as a person reads them in `nft list ruleset`.

use crate::snapshot::{ObjectName, Protocol};

/// The endpoint maps. Each is keyed by where the connection was sent, and the slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Pool {
    /// For addresses: ClusterIPs, external IPs and load-balancer addresses.
    Endpoints,
    /// For external addresses with policy Local: endpoints of this node.
    LocalEndpoints,
    /// For node ports.
    NodePortEndpoints,
    /// For node ports with policy Local: endpoints of this node.
    NodePortLocalEndpoints,
}

impl Pool {
    /// The map's name.
    pub fn map(self) -> &'static str {
        match self {
            Pool::Endpoints => "endpoints",
            Pool::LocalEndpoints => "local-endpoints",
            Pool::NodePortEndpoints => "nodeport-endpoints",
            Pool::NodePortLocalEndpoints => "nodeport-local-endpoints",
        }
    }

    /// What the names of its chains begin with.
    fn prefix(self) -> &'static str {
        match self {
            Pool::Endpoints => "",
            Pool::LocalEndpoints => "local-",
            Pool::NodePortEndpoints => "nodeport-",
            Pool::NodePortLocalEndpoints => "nodeport-local-",
        }
    }

    /// True if its key begins with an address.
    pub fn has_address(self) -> bool {
        matches!(self, Pool::Endpoints | Pool::LocalEndpoints)
    }
}

/// A chain that is always there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fixed {
    /// Refuses: the Service has no endpoint.
    NoEndpoints,
    /// Drops: the policy is Local and there is no endpoint on this node.
    NoLocalEndpoints,
    /// External address, policy Local: who asks?
    ExternalLocal,
    /// Node port, policy Local: who asks?
    NodePortLocal,
    /// Load-balancer address with source ranges.
    CheckSource,
    /// To the chain of this very Service port.
    OwnChain,
    /// To the chain of the Service port that has this node port.
    NodePortOwnChain,
    /// Reason to masquerade: policy Cluster.
    PolicyCluster,
    /// Reason not to masquerade, but for the node itself: policy Local.
    PolicyLocal,
    /// The same two, once it is sure that the connection came to a node port.
    NodePortPolicyCluster,
    /// See there.
    NodePortPolicyLocal,
}

impl Fixed {
    /// The chain's name.
    pub fn name(self) -> &'static str {
        match self {
            Fixed::NoEndpoints => "no-endpoints",
            Fixed::NoLocalEndpoints => "no-local-endpoints",
            Fixed::ExternalLocal => "external-local",
            Fixed::NodePortLocal => "nodeport-local",
            Fixed::CheckSource => "check-source",
            Fixed::OwnChain => "own-chain",
            Fixed::NodePortOwnChain => "nodeport-own-chain",
            Fixed::PolicyCluster => "policy-cluster",
            Fixed::PolicyLocal => "policy-local",
            Fixed::NodePortPolicyCluster => "nodeport-policy-cluster",
            Fixed::NodePortPolicyLocal => "nodeport-policy-local",
        }
    }
}

/// A chain that Services with the same number of endpoints share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Shared {
    /// The endpoint map it looks into.
    pub pool: Pool,
    /// By a hash of the source address instead of at random.
    pub hash: bool,
    /// The number of endpoints, at least 1.
    pub count: u32,
}

impl Shared {
    /// The chain's name.
    pub fn name(self) -> String {
        let how = if self.hash { "hash" } else { "pick" };
        format!("{}{how}-{}", self.pool.prefix(), self.count)
    }
}

/// A chain of one Service port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Own {
    /// The port's protocol.
    pub protocol: Protocol,
    /// The port's number.
    pub port: u16,
    /// What it is for.
    pub kind: OwnKind,
}

/// What a chain of one Service port is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OwnKind {
    /// Clients are remembered; any endpoint.
    Affinity,
    /// Clients are remembered; endpoints of this node.
    AffinityLocal,
    /// One endpoint after another, out of a map.
    RoundRobin(Pool),
}

impl Own {
    /// The chain's name.
    pub fn name(self, service: &ObjectName) -> String {
        let prefix = match self.kind {
            OwnKind::Affinity => "affinity",
            OwnKind::AffinityLocal => "affinity-local",
            OwnKind::RoundRobin(pool) => {
                return format!(
                    "{}round-robin/{}",
                    pool.prefix(),
                    port_path(service, self.protocol, self.port)
                );
            }
        };
        format!("{prefix}/{}", port_path(service, self.protocol, self.port))
    }
}

fn port_path(service: &ObjectName, protocol: Protocol, port: u16) -> String {
    format!(
        "{}/{}/{}-{port}",
        service.namespace,
        service.name,
        protocol.name()
    )
}

/// Where a verdict of a Service's element leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Chain {
    /// Always there.
    Fixed(Fixed),
    /// There while its Service port is.
    Own(Own),
}

impl Chain {
    /// The chain's name; `service` is the Service whose element leads there.
    pub fn name(self, service: &ObjectName) -> String {
        match self {
            Chain::Fixed(chain) => chain.name().to_owned(),
            Chain::Own(chain) => chain.name(service),
        }
    }
}

/// A map or set with elements of Services.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Map {
    /// Address, protocol and port of each Service port to its answer.
    Services,
    /// Each answer to its chain.
    Answers,
    /// An endpoint map.
    Pool(Pool),
    /// Protocol and node port to its answer.
    NodePorts,
    /// External address with policy Local, asked from this node or its pods.
    Inside,
    /// External address with policy Local, asked from elsewhere.
    Outside,
    /// Node port with policy Local, asked from this node or its pods.
    NodePortsInside,
    /// Node port with policy Local, asked from elsewhere.
    NodePortsOutside,
    /// Which source may use a load-balancer address (a set with intervals).
    AllowedSources,
    /// Load-balancer address with source ranges to its answer.
    Allowed,
    /// Address, protocol, port and answer to the chain of that very Service port.
    OwnChains,
    /// Protocol, node port and answer to the chain of that very Service port.
    NodePortOwnChains,
    /// The ClusterIPs (a set).
    ClusterIps,
    /// External addresses to the reason to masquerade or not.
    MasqueradeVips,
    /// Node ports to the reason to masquerade or not.
    MasqueradeNodePorts,
    /// Endpoints of this node that may reach themselves (a set).
    Hairpin,
    /// A map of one Service port with affinity.
    Affinity(AffinityMap),
}

/// The maps of a Service port with affinity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AffinityMap {
    /// The port's protocol.
    pub protocol: Protocol,
    /// The port's number.
    pub port: u16,
    /// For endpoints of this node only.
    pub local: bool,
    /// What it holds.
    pub holds: AffinityHolds,
}

/// What an affinity map holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AffinityHolds {
    /// Client to endpoint number; filled by the kernel, shared by all chains of the port.
    Clients,
    /// Slot to endpoint number.
    Choices,
    /// Endpoint number to endpoint.
    Endpoints,
}

impl AffinityMap {
    /// The map's name.
    pub fn name(self, service: &ObjectName) -> String {
        let prefix = if self.local {
            "affinity-local"
        } else {
            "affinity"
        };
        let holds = match self.holds {
            AffinityHolds::Clients => "clients",
            AffinityHolds::Choices => "choices",
            AffinityHolds::Endpoints => "endpoints",
        };
        format!(
            "{prefix}/{}/{holds}",
            port_path(service, self.protocol, self.port)
        )
    }
}

impl Map {
    /// The maps and sets that are always there, in the order of a packet's way.
    pub const FIXED: [Map; 19] = [
        Map::Services,
        Map::Answers,
        Map::Pool(Pool::Endpoints),
        Map::NodePorts,
        Map::Pool(Pool::NodePortEndpoints),
        Map::ClusterIps,
        Map::AllowedSources,
        Map::Allowed,
        Map::Inside,
        Map::Outside,
        Map::Pool(Pool::LocalEndpoints),
        Map::NodePortsInside,
        Map::NodePortsOutside,
        Map::Pool(Pool::NodePortLocalEndpoints),
        Map::OwnChains,
        Map::NodePortOwnChains,
        Map::Hairpin,
        Map::MasqueradeVips,
        Map::MasqueradeNodePorts,
    ];

    /// The name of a map that is always there.
    pub fn fixed_name(self) -> Option<&'static str> {
        Some(match self {
            Map::Services => "services",
            Map::Answers => "answers",
            Map::Pool(pool) => pool.map(),
            Map::NodePorts => "nodeports",
            Map::Inside => "inside",
            Map::Outside => "outside",
            Map::NodePortsInside => "nodeports-inside",
            Map::NodePortsOutside => "nodeports-outside",
            Map::AllowedSources => "allowed-sources",
            Map::Allowed => "allowed",
            Map::OwnChains => "own-chains",
            Map::NodePortOwnChains => "nodeport-own-chains",
            Map::ClusterIps => "cluster-ips",
            Map::MasqueradeVips => "masquerade-vips",
            Map::MasqueradeNodePorts => "masquerade-nodeports",
            Map::Hairpin => "hairpin",
            Map::Affinity(_) => return None,
        })
    }

    /// The map's name; `service` is the Service whose element it holds.
    pub fn name(self, service: &ObjectName) -> std::borrow::Cow<'static, str> {
        match self {
            Map::Affinity(map) => map.name(service).into(),
            fixed => fixed.fixed_name().unwrap_or_default().into(),
        }
    }
}
