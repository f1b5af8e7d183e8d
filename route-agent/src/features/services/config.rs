//! What an operator can choose about the Service proxy.

use ipnetwork::IpNetwork;

use crate::snapshot::Balancing;

/// Settings of the Service proxy; see `docs/services.md`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// How Services without an annotation of their own spread connections.
    pub balancing: Balancing,
    /// Masquerade all traffic to ClusterIPs, also that of pods.
    pub masquerade_all: bool,
    /// Where node ports answer.
    pub node_port_addresses: NodePortAddresses,
    /// Let node ports answer on 127.0.0.1 as well (IPv4 only).
    pub localhost_node_ports: bool,
    /// Answer ping to a ClusterIP instead of refusing it.
    pub cluster_ip_echo: bool,
    /// The Service network, if it is not to be taken from ServiceCIDR objects.
    pub service_cidrs: Vec<IpNetwork>,
    /// The pod network, if it is not to be taken from the Nodes' podCIDRs.
    pub cluster_cidrs: Vec<IpNetwork>,
    /// Count connections per Service and per endpoint.
    pub counters: bool,
}

/// The local addresses on which node ports answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodePortAddresses {
    /// Every local address.
    All,
    /// The InternalIPs of the own Node.
    Primary,
    /// Local addresses within these networks.
    Within(Vec<IpNetwork>),
}

impl Default for Config {
    fn default() -> Self {
        Config {
            balancing: Balancing::Random,
            masquerade_all: false,
            node_port_addresses: NodePortAddresses::All,
            localhost_node_ports: true,
            cluster_ip_echo: false,
            service_cidrs: Vec::new(),
            cluster_cidrs: Vec::new(),
            counters: true,
        }
    }
}
