//! What an operator can choose about the Service proxy: the flags of `podwire-agent run` under the
//! heading Services. `docs/configuration.md` explains each.

use std::net::IpAddr;
use std::time::Duration;

use clap::{ArgAction, Args};
use ipnetwork::IpNetwork;

use crate::cidr::LOOPBACK_V4;
use crate::config::values::{cidr, seconds};
use crate::snapshot::Balancing;

/// Settings of the Service proxy.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
#[command(next_help_heading = "Services")]
// The default group name is that of the type, and two flattened types are called Config.
#[group(skip)]
pub struct Config {
    /// Program Services. Off if another proxy does it.
    #[arg(long = "services", env = "PODWIRE_SERVICES", default_value_t = true,
          action = ArgAction::Set)]
    pub enabled: bool,

    /// How new connections are spread over endpoints: random, round-robin or source-hash. The
    /// annotation podwire.io/balancing chooses for one Service.
    #[arg(long, env = "PODWIRE_BALANCING", default_value = "random", value_parser = balancing)]
    pub balancing: BalancingFlag,

    /// Masquerade all traffic to Services, also that of pods.
    #[arg(long, env = "PODWIRE_MASQUERADE_ALL", default_value_t = false, action = ArgAction::Set)]
    pub masquerade_all: bool,

    /// The local addresses on which node ports answer: all, primary (the Node's InternalIPs), or
    /// CIDRs, comma-separated.
    #[arg(long = "nodeport-addresses", env = "PODWIRE_NODEPORT_ADDRESSES", default_value = "all",
          value_name = "all|primary|CIDRS", value_parser = node_port_addresses)]
    pub node_port_addresses: NodePortAddresses,

    /// The addresses that Services may have as external IPs: all, none, or CIDRs, comma-separated.
    /// Addresses of nodes, pods, the API server and other Services, and link-local ones, are never
    /// given.
    #[arg(long = "external-ips", env = "PODWIRE_EXTERNAL_IPS", default_value = "all",
          value_name = "all|none|CIDRS", value_parser = external_ips)]
    pub external_ips: ExternalIps,

    /// Let node ports answer on 127.0.0.1 as well (IPv4 only).
    #[arg(long = "localhost-nodeports", env = "PODWIRE_LOCALHOST_NODEPORTS",
          default_value_t = true, action = ArgAction::Set)]
    pub localhost_node_ports: bool,

    /// Answer ping to a ClusterIP, instead of saying that it does not do that.
    #[arg(long, env = "PODWIRE_CLUSTER_IP_ECHO", default_value_t = false,
          action = ArgAction::Set)]
    pub cluster_ip_echo: bool,

    /// The Service network (comma-separated CIDRs); taken from ServiceCIDR objects if not given.
    #[arg(long = "service-cidr", env = "PODWIRE_SERVICE_CIDR", value_name = "CIDRS",
          value_delimiter = ',', value_parser = cidr)]
    pub service_cidrs: Vec<IpNetwork>,

    /// The pod network (comma-separated CIDRs); taken from the Nodes' podCIDRs if not given.
    #[arg(long = "cluster-cidr", env = "PODWIRE_CLUSTER_CIDR", value_name = "CIDRS",
          value_delimiter = ',', value_parser = cidr)]
    pub cluster_cidrs: Vec<IpNetwork>,

    /// Count connections per Service and per endpoint.
    #[arg(long = "service-counters", env = "PODWIRE_SERVICE_COUNTERS", default_value_t = true,
          action = ArgAction::Set)]
    pub counters: bool,

    /// Tracked connections per CPU core; net.netfilter.nf_conntrack_max is raised to that. 0 leaves
    /// it alone.
    #[arg(
        long,
        env = "PODWIRE_CONNTRACK_MAX_PER_CORE",
        default_value_t = 32_768,
        value_name = "CONNECTIONS"
    )]
    pub conntrack_max_per_core: u32,

    /// The least that net.netfilter.nf_conntrack_max is raised to.
    #[arg(
        long,
        env = "PODWIRE_CONNTRACK_MIN",
        default_value_t = 131_072,
        value_name = "CONNECTIONS"
    )]
    pub conntrack_min: u32,

    /// How long an idle TCP connection is tracked; 0s leaves the setting alone.
    #[arg(long, env = "PODWIRE_CONNTRACK_TCP_TIMEOUT_ESTABLISHED", default_value = "24h",
          value_name = "DURATION", value_parser = seconds)]
    pub conntrack_tcp_timeout_established: Duration,

    /// How long a TCP connection that one side has closed is tracked; 0s leaves the setting alone.
    #[arg(long, env = "PODWIRE_CONNTRACK_TCP_TIMEOUT_CLOSE_WAIT", default_value = "1h",
          value_name = "DURATION", value_parser = seconds)]
    pub conntrack_tcp_timeout_close_wait: Duration,

    /// Take TCP packets outside the window for part of their connection.
    #[arg(long, env = "PODWIRE_CONNTRACK_TCP_BE_LIBERAL", default_value_t = false,
          action = ArgAction::Set)]
    pub conntrack_tcp_be_liberal: bool,
}

/// `--balancing`. A value that makes no sense must not keep a node without a network: `random` is
/// used, and a warning says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BalancingFlag {
    /// What is used.
    pub balancing: Balancing,
    /// What was given, if it made no sense.
    pub bad: Option<String>,
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

/// The addresses that Services may have as external IPs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum ExternalIps {
    /// Every one that nothing else of the cluster has.
    #[default]
    All,
    /// None.
    None,
    /// Those within these networks.
    Within(Vec<IpNetwork>),
}

impl Default for Config {
    fn default() -> Self {
        Config {
            enabled: true,
            balancing: BalancingFlag {
                balancing: Balancing::Random,
                bad: None,
            },
            masquerade_all: false,
            node_port_addresses: NodePortAddresses::All,
            external_ips: ExternalIps::All,
            localhost_node_ports: true,
            cluster_ip_echo: false,
            service_cidrs: Vec::new(),
            cluster_cidrs: Vec::new(),
            counters: true,
            conntrack_max_per_core: 32_768,
            conntrack_min: 131_072,
            conntrack_tcp_timeout_established: Duration::from_secs(24 * 3600),
            conntrack_tcp_timeout_close_wait: Duration::from_secs(3600),
            conntrack_tcp_be_liberal: false,
        }
    }
}

impl Config {
    /// Where node ports answer on a Node with these InternalIPs; `None` for every local address.
    pub fn node_ports_at(&self, internal_ips: &[IpAddr]) -> Option<Vec<IpNetwork>> {
        let mut networks = match &self.node_port_addresses {
            NodePortAddresses::All => return None,
            NodePortAddresses::Primary => internal_ips.iter().copied().map(From::from).collect(),
            NodePortAddresses::Within(networks) => networks.clone(),
        };
        let localhost = self.localhost_node_ports.then_some(LOOPBACK_V4);
        networks.extend(localhost.map(IpNetwork::V4));
        Some(networks)
    }
}

#[expect(
    clippy::unnecessary_wraps,
    reason = "clap wants a Result, though nothing is refused"
)]
fn balancing(text: &str) -> Result<BalancingFlag, std::convert::Infallible> {
    let known = match text.trim() {
        "random" => Some(Balancing::Random),
        "round-robin" => Some(Balancing::RoundRobin),
        "source-hash" => Some(Balancing::SourceHash),
        _ => None,
    };
    let bad = known.is_none().then(|| text.to_owned());
    Ok(BalancingFlag {
        balancing: known.unwrap_or(Balancing::Random),
        bad,
    })
}

fn node_port_addresses(text: &str) -> Result<NodePortAddresses, String> {
    match text.trim() {
        "all" | "" => Ok(NodePortAddresses::All),
        "primary" => Ok(NodePortAddresses::Primary),
        cidrs => networks(cidrs).map(NodePortAddresses::Within),
    }
}

fn external_ips(text: &str) -> Result<ExternalIps, String> {
    match text.trim() {
        "all" | "" => Ok(ExternalIps::All),
        "none" => Ok(ExternalIps::None),
        cidrs => networks(cidrs).map(ExternalIps::Within),
    }
}

fn networks(cidrs: &str) -> Result<Vec<IpNetwork>, String> {
    cidrs.split(',').map(|text| cidr(text.trim())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{test_config, try_test_config};

    fn parse(flags: &[&str]) -> Config {
        test_config(flags).services
    }

    #[test]
    fn the_defaults_of_the_flags_are_the_defaults() {
        assert_eq!(parse(&[]), Config::default());
    }

    #[test]
    fn node_port_addresses_are_all_primary_or_networks() {
        let given =
            |text: &str| parse(&[&format!("--nodeport-addresses={text}")]).node_port_addresses;
        assert_eq!(given("primary"), NodePortAddresses::Primary);
        assert_eq!(given("all"), NodePortAddresses::All);
        let two = vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()];
        assert_eq!(
            given("10.0.0.0/8, fd00::/8"),
            NodePortAddresses::Within(two)
        );
        for bad in ["nodes", "10.0.0.0/8,x", "10.0.0.0"] {
            let flag = format!("--nodeport-addresses={bad}");
            assert!(try_test_config(&[&flag]).is_err(), "{bad} was taken");
        }
    }

    #[test]
    fn a_time_that_the_kernel_would_take_for_none_is_refused() {
        for which in ["established", "close-wait"] {
            let flag = |time| format!("--conntrack-tcp-timeout-{which}={time}");
            for bad in ["1ms", "500ms", "999ms"] {
                assert!(try_test_config(&[&flag(bad)]).is_err(), "{bad} was taken");
            }
            for good in ["0s", "0ms", "1s", "1000ms", "24h"] {
                assert!(
                    try_test_config(&[&flag(good)]).is_ok(),
                    "{good} was refused"
                );
            }
        }
    }

    #[test]
    fn external_ips_are_all_none_or_networks() {
        let given = |text: &str| parse(&[&format!("--external-ips={text}")]).external_ips;
        assert_eq!(given("all"), ExternalIps::All);
        assert_eq!(given("none"), ExternalIps::None);
        let one = vec!["192.0.2.0/24".parse().unwrap()];
        assert_eq!(given("192.0.2.0/24"), ExternalIps::Within(one));
        assert!(try_test_config(&["--external-ips=some"]).is_err());
    }

    #[test]
    fn a_balancing_that_makes_no_sense_falls_back() {
        let given = |text: &str| parse(&[&format!("--balancing={text}")]).balancing;
        assert_eq!(given("round-robin").balancing, Balancing::RoundRobin);
        assert_eq!(given("source-hash").balancing, Balancing::SourceHash);
        let bad = given("fastest");
        assert_eq!(
            (bad.balancing, bad.bad.as_deref()),
            (Balancing::Random, Some("fastest"))
        );
    }
}
