//! Names of maps and chains, as a person reads them in `nft list ruleset`.

use std::borrow::Cow;

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
    pub const fn map(self) -> &'static str {
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
pub enum FixedChain {
    /// Refuses: the Service has no endpoint.
    NoEndpoints,
    /// Drops: the policy is Local and there is no endpoint on this node.
    NoLocalEndpoints,
    /// External address, policy Local: decides by the source.
    ExternalLocal,
    /// Node port, policy Local: decides by the source.
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
    /// The portal: every new connection comes through here.
    Portal,
    /// Refuses: a ClusterIP, and none of its ports.
    NoSuchPort,
    /// Every reason to masquerade a connection or not.
    WhyMasquerade,
    /// Decides about connections to ClusterIPs.
    ToClusterIp,
    /// Finds what is for an address that no Service has.
    PreroutingUnallocated,
    /// Drops it.
    Unallocated,
}

impl FixedChain {
    /// The chain's name.
    pub const fn name(self) -> &'static str {
        match self {
            FixedChain::NoEndpoints => "no-endpoints",
            FixedChain::NoLocalEndpoints => "no-local-endpoints",
            FixedChain::ExternalLocal => "external-local",
            FixedChain::NodePortLocal => "nodeport-local",
            FixedChain::CheckSource => "check-source",
            FixedChain::OwnChain => "own-chain",
            FixedChain::NodePortOwnChain => "nodeport-own-chain",
            FixedChain::PolicyCluster => "policy-cluster",
            FixedChain::PolicyLocal => "policy-local",
            FixedChain::NodePortPolicyCluster => "nodeport-policy-cluster",
            FixedChain::NodePortPolicyLocal => "nodeport-policy-local",
            FixedChain::Portal => "services",
            FixedChain::NoSuchPort => "no-such-port",
            FixedChain::WhyMasquerade => "why-masquerade",
            FixedChain::ToClusterIp => "to-cluster-ip",
            FixedChain::PreroutingUnallocated => "prerouting-unallocated",
            FixedChain::Unallocated => "unallocated",
        }
    }
}

/// A chain that Services with the same number of endpoints share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SharedChain {
    /// The endpoint map it looks into.
    pub pool: Pool,
    /// By a hash of the source address instead of at random.
    pub hash: bool,
    /// The number of endpoints, at least 1.
    pub count: u32,
}

impl SharedChain {
    /// The chain's name.
    pub fn name(self) -> String {
        let how = if self.hash { "hash" } else { "pick" };
        format!("{}{how}-{}", self.pool.prefix(), self.count)
    }
}

/// A chain of one Service port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OwnChain {
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

impl OwnChain {
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
    Fixed(FixedChain),
    /// There while its Service port is.
    Own(OwnChain),
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

/// A map or set that is always there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FixedMap {
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

impl FixedMap {
    /// All of them, in the order of a packet's way.
    pub const ALL: [FixedMap; 19] = [
        FixedMap::Services,
        FixedMap::Answers,
        FixedMap::Pool(Pool::Endpoints),
        FixedMap::NodePorts,
        FixedMap::Pool(Pool::NodePortEndpoints),
        FixedMap::ClusterIps,
        FixedMap::AllowedSources,
        FixedMap::Allowed,
        FixedMap::Inside,
        FixedMap::Outside,
        FixedMap::Pool(Pool::LocalEndpoints),
        FixedMap::NodePortsInside,
        FixedMap::NodePortsOutside,
        FixedMap::Pool(Pool::NodePortLocalEndpoints),
        FixedMap::OwnChains,
        FixedMap::NodePortOwnChains,
        FixedMap::Hairpin,
        FixedMap::MasqueradeVips,
        FixedMap::MasqueradeNodePorts,
    ];

    /// The map's name.
    pub const fn name(self) -> &'static str {
        match self {
            FixedMap::Services => "services",
            FixedMap::Answers => "answers",
            FixedMap::Pool(pool) => pool.map(),
            FixedMap::NodePorts => "nodeports",
            FixedMap::Inside => "inside",
            FixedMap::Outside => "outside",
            FixedMap::NodePortsInside => "nodeports-inside",
            FixedMap::NodePortsOutside => "nodeports-outside",
            FixedMap::AllowedSources => "allowed-sources",
            FixedMap::Allowed => "allowed",
            FixedMap::OwnChains => "own-chains",
            FixedMap::NodePortOwnChains => "nodeport-own-chains",
            FixedMap::ClusterIps => "cluster-ips",
            FixedMap::MasqueradeVips => "masquerade-vips",
            FixedMap::MasqueradeNodePorts => "masquerade-nodeports",
            FixedMap::Hairpin => "hairpin",
        }
    }

    /// The map with this name.
    pub fn of_name(name: &str) -> Option<FixedMap> {
        FixedMap::ALL.into_iter().find(|map| map.name() == name)
    }
}

/// A map or set with elements of Services.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Map {
    /// Always there.
    Fixed(FixedMap),
    /// Of one Service port with affinity.
    Affinity(AffinityMap),
}

impl Map {
    /// The map's name; `service` is the Service whose element it holds.
    pub fn name(self, service: &ObjectName) -> Cow<'static, str> {
        match self {
            Map::Fixed(map) => map.name().into(),
            Map::Affinity(map) => map.name(service).into(),
        }
    }
}

impl From<FixedMap> for Map {
    fn from(map: FixedMap) -> Map {
        Map::Fixed(map)
    }
}

impl From<AffinityMap> for Map {
    fn from(map: AffinityMap) -> Map {
        Map::Affinity(map)
    }
}
