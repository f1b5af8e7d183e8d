//! The flags of `podwire-agent run`, checked.
//!
//! Plain values that know no part of the agent; every part may know them. Every flag has an environment variable and a default; `docs/configuration.md` explains each.

pub mod apiserver;
pub mod services;
pub mod values;

use std::net::SocketAddr;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::{ArgAction, Args, ValueEnum};
use ipnetwork::IpNetwork;
use tracing_subscriber::filter::Targets;

use crate::cidr;
use crate::config::services::{ExternalIps, NodePortAddresses};
use crate::config::values::{
    BindAddress, absolute_path, bind_address, cidr, duration, hostname, interface_name, log_filter,
    object_name,
};
use crate::ours::{PODS_SOCKET, POLICY_DIR, SOCKET};

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One readable line per event.
    Text,
    /// One JSON object per event.
    Json,
}

/// The run directory, for all commands that ask for it.
#[derive(Debug, Clone, Args)]
pub struct RunDir {
    /// State that need not outlive a reboot: leases, changed settings, the socket.
    #[arg(
        id = "run_dir",
        long = "run-dir",
        env = "PODWIRE_RUN_DIR",
        default_value = "/run/podwire",
        value_name = "DIR",
        value_parser = absolute_path()
    )]
    path: PathBuf,
}

impl Deref for RunDir {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
impl From<PathBuf> for RunDir {
    fn from(path: PathBuf) -> Self {
        Self { path }
    }
}

/// How the agent is to run: the flags of `podwire-agent run`.
#[derive(Debug, Clone, Args)]
pub struct Config {
    /// The Node object that stands for this machine; the host name if not given.
    #[arg(long, env = "NODE_NAME", value_parser = object_name, default_value_t = hostname())]
    pub node_name: Arc<str>,

    /// Read cluster objects from the Kubernetes manifests (YAML, JSON) in this directory.
    #[arg(long, env = "PODWIRE_MANIFESTS", value_name = "DIR", value_parser = absolute_path(),
          conflicts_with_all = ["servers", "kubeconfig"])]
    pub manifests: Option<PathBuf>,

    /// Where the API server is, if there are no manifests.
    #[command(flatten)]
    pub kubernetes: apiserver::Options,

    /// The interface to the other nodes; if not given, the one that holds this Node's InternalIP,
    /// else that of the default route.
    #[arg(long, env = "PODWIRE_UPLINK", value_name = "INTERFACE", value_parser = interface_name)]
    pub uplink: Option<String>,

    /// MTU of new pod links in bytes; follows the uplink if not given.
    #[arg(long, env = "PODWIRE_MTU", value_name = "BYTES",
          value_parser = clap::value_parser!(u32).range(1280..=65535))]
    pub mtu: Option<u32>,

    /// Write the CNI configuration for the container runtime.
    #[arg(long, env = "PODWIRE_CNI_CONF", default_value_t = true, action = ArgAction::Set)]
    pub cni_conf: bool,

    /// Where the container runtime reads its CNI configuration.
    #[arg(
        long,
        env = "PODWIRE_CNI_CONF_DIR",
        default_value = "/etc/cni/net.d",
        value_name = "DIR",
        value_parser = absolute_path()
    )]
    pub cni_conf_dir: PathBuf,

    /// Where leases, changed settings and the socket are.
    #[command(flatten)]
    pub run_dir: RunDir,

    /// How long address and host ports of a pod whose link is gone stay reserved (for example 60s).
    #[arg(long, env = "PODWIRE_LEASE_GRACE", default_value = "60s", value_name = "DURATION",
          value_parser = duration)]
    pub lease_grace: Duration,

    /// Masquerade pod traffic that leaves the cluster.
    #[arg(long, env = "PODWIRE_MASQUERADE", default_value_t = true, action = ArgAction::Set)]
    pub masquerade: bool,

    /// Destinations outside the cluster that see pod addresses as they are (comma-separated).
    #[arg(long, env = "PODWIRE_NON_MASQUERADE_CIDRS", value_name = "CIDRS",
          value_delimiter = ',', value_parser = cidr)]
    pub non_masquerade_cidrs: Vec<IpNetwork>,

    /// Drop packets from a pod whose source is not that pod's address.
    #[arg(long, env = "PODWIRE_ANTI_SPOOF", default_value_t = true, action = ArgAction::Set)]
    pub anti_spoof: bool,

    /// Enforce NetworkPolicies. Off, nothing is read for them, and no pod is isolated.
    #[arg(long, env = "PODWIRE_NETWORK_POLICY", default_value_t = true, action = ArgAction::Set)]
    pub network_policy: bool,

    /// Tell pods by Events what NetworkPolicies drop: one for each pod and direction in 10 minutes.
    #[arg(long, env = "PODWIRE_POLICY_EVENTS", default_value_t = true, action = ArgAction::Set)]
    pub policy_events: bool,

    /// Keep a history of the connections that begin and end on this node, for `podwire-agent flows`. Off,
    /// they are noticed only while someone asks.
    #[arg(long, env = "PODWIRE_FLOWS", default_value_t = false, action = ArgAction::Set,
        num_args = 0..=1, default_missing_value = "true")]
    pub flows: bool,

    /// How many connections a pod may have open at a time; 0 for no limit.
    #[arg(
        long,
        env = "PODWIRE_POD_CONNECTIONS",
        value_name = "NUMBER",
        default_value_t = 0
    )]
    pub pod_connections: u32,

    /// The Service proxy.
    #[command(flatten)]
    pub services: services::Config,

    /// Where /healthz, /livez and /metrics answer; empty for nowhere.
    #[arg(long, env = "PODWIRE_HEALTHZ_BIND_ADDRESS", default_value = "[::]:10256",
          value_name = "ADDRESS:PORT", value_parser = bind_address)]
    pub healthz_bind_address: BindAddress,

    /// Where /metrics answers as well, as kube-proxy's does; empty for nowhere.
    #[arg(long, env = "PODWIRE_METRICS_BIND_ADDRESS", default_value = "127.0.0.1:10249",
          value_name = "ADDRESS:PORT", value_parser = bind_address)]
    pub metrics_bind_address: BindAddress,

    /// A change that is not in the kernel after this time makes /livez and /healthz answer 503.
    #[arg(long, env = "PODWIRE_HEALTH_TIMEOUT", default_value = "60s", value_name = "DURATION",
          value_parser = duration)]
    pub health_timeout: Duration,

    /// How log lines are written.
    #[arg(long, env = "PODWIRE_LOG_FORMAT", default_value = "text")]
    pub log_format: LogFormat,

    /// What is logged: off, error, warn, info, debug, trace, or that of a module (`podwire_agent=debug`);
    /// separate several by commas.
    #[arg(
        long,
        env = "PODWIRE_LOG",
        default_value = "info",
        value_name = "FILTER",
        value_parser = log_filter
    )]
    pub log: Targets,
}

impl Config {
    /// The directory of the IPAM's leases, as the CNI configuration names it.
    pub fn lease_dir(&self) -> PathBuf {
        self.run_dir.join("ipam")
    }

    /// Networks of IPv4 that are written as IPv6 become what Kubernetes reads them as: no packet has
    /// such an address. Says of each flag what was read so.
    pub fn read_mapped_networks(&mut self) -> Vec<String> {
        let services = &mut self.services;
        let node_ports = match &mut services.node_port_addresses {
            NodePortAddresses::Within(networks) => networks.as_mut_slice(),
            NodePortAddresses::All | NodePortAddresses::Primary => &mut [],
        };
        let external_ips = match &mut services.external_ips {
            ExternalIps::Within(networks) => networks.as_mut_slice(),
            ExternalIps::All | ExternalIps::None => &mut [],
        };
        let mut read = Vec::new();
        for (flag, networks) in [
            ("non-masquerade-cidrs", &mut self.non_masquerade_cidrs[..]),
            ("nodeport-addresses", node_ports),
            ("external-ips", external_ips),
            ("service-cidr", &mut services.service_cidrs),
            ("cluster-cidr", &mut services.cluster_cidrs),
        ] {
            for network in networks {
                if let Some(meant) = cidr::unmapped(*network) {
                    read.push(format!("--{flag}: {network} is read as {meant}"));
                    *network = meant;
                }
            }
        }
        read
    }

    /// Where the agent itself answers other machines and this one, and the flags that say so.
    pub fn own_addresses(&self) -> impl Iterator<Item = (SocketAddr, &'static str)> {
        let bound = [
            (&self.metrics_bind_address, "--metrics-bind-address"),
            (&self.healthz_bind_address, "--healthz-bind-address"),
        ];
        let bound = bound.into_iter();
        bound.filter_map(|(bound, flag)| Some((bound.0?, flag)))
    }

    /// The socket that answers the operator's commands.
    pub fn socket(&self) -> PathBuf {
        self.run_dir.join(SOCKET)
    }

    /// The socket on which the plugin tells of attachments.
    pub fn pods_socket(&self) -> PathBuf {
        self.run_dir.join(PODS_SOCKET)
    }

    /// What the plugin has to know about policies.
    pub fn policy_dir(&self) -> PathBuf {
        self.run_dir.join(POLICY_DIR)
    }
}

/// The flags alone, as a program.
#[cfg(test)]
#[derive(clap::Parser)]
struct Flags {
    #[command(flatten)]
    config: Config,
}

/// The configuration that these flags make, or what is wrong with them.
#[cfg(test)]
pub(crate) fn try_test_config(flags: &[&str]) -> Result<Config, String> {
    let all = ["podwire-agent"].into_iter().chain(flags.iter().copied());
    <Flags as clap::Parser>::try_parse_from(all)
        .map(|flags| flags.config)
        .map_err(|error| error.to_string())
}

/// The configuration that these flags make.
#[cfg(test)]
pub(crate) fn test_config(flags: &[&str]) -> Config {
    try_test_config(flags).unwrap()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tracing::Level;

    use super::*;

    fn parse(flags: &[&str]) -> Result<Config, String> {
        try_test_config(&[&["--node-name=worker"], flags].concat())
    }

    #[test]
    fn the_defaults_are_valid() {
        let config = parse(&[]).unwrap();
        assert_eq!(config.lease_grace, Duration::from_secs(60));
        assert!(config.masquerade && config.anti_spoof && config.cni_conf);
        assert!(config.network_policy);
        assert!(config.policy_events && !config.flows);
        assert!(parse(&["--flows"]).unwrap().flows);
        assert_eq!(config.healthz_bind_address.0.unwrap().port(), 10256);
        assert_eq!(config.socket(), PathBuf::from("/run/podwire/agent.sock"));
    }

    #[test]
    fn bad_values_are_refused() {
        for flag in [
            "--mtu=100",
            "--mtu=70000",
            "--uplink=a/b",
            "--uplink=sixteen-letters-",
            "--lease-grace=5",
            "--lease-grace=-5s",
            "--lease-grace=99999999999999999999s",
            "--lease-grace=9999999999h",
            "--non-masquerade-cidrs=10.0.0.1/8",
            "--non-masquerade-cidrs=10.0.0.0",
            "--non-masquerade-cidrs=10.0.0.0/33",
            "--healthz-bind-address=10256",
            "--node-name=Worker_1",
            "--node-name=",
            "--masquerade=maybe",
            "--network-policy=maybe",
            "--pod-connections=-1",
            "--log-format=xml",
            "--log=inof",
            "--log=podwire_agent",
            "--log=podwire_agent=debug,wran",
            "--log=podwire_agent=",
            "--log=podwire_agent=debug=info",
            "--log==debug",
            "--log=info,[sync]=trace,=",
        ] {
            assert!(parse(&[flag]).is_err(), "{flag} was taken");
        }
    }

    #[test]
    fn objects_come_from_manifests_or_from_an_api_server() {
        for other in ["--apiserver=https://10.0.0.1:6443", "--kubeconfig=/a"] {
            let said = parse(&["--manifests=/m", other]).unwrap_err();
            assert!(said.contains("cannot be used with"), "{said}");
        }
    }

    #[test]
    fn a_level_with_a_typo_is_answered_with_the_levels() {
        let said = parse(&["--log=inof"]).unwrap_err();
        let expected = "invalid value 'inof' for '--log <FILTER>': \"inof\" is not a log level; use \
                        off, error, warn, info, debug or trace, or a module with its level, such \
                        as podwire_agent=debug";
        assert!(said.contains(expected), "{said}");
    }

    #[test]
    fn levels_are_for_all_or_for_a_module() {
        let logged = |filter: &str| {
            let log = parse(&[&format!("--log={filter}")]).unwrap().log;
            ["podwire_agent::run", "hyper"].map(|module| {
                let levels = [
                    Level::ERROR,
                    Level::WARN,
                    Level::INFO,
                    Level::DEBUG,
                    Level::TRACE,
                ];
                let levels = levels
                    .into_iter()
                    .filter(|level| log.would_enable(module, level));
                levels.count()
            })
        };
        assert_eq!(logged("off"), [0, 0]);
        assert_eq!(logged("WARN"), [2, 2]);
        assert_eq!(logged("info,podwire_agent=debug"), [4, 3]);
        assert_eq!(logged("podwire_agent=debug,info,"), [4, 3]);
        assert_eq!(logged("podwire_agent=trace"), [5, 1]);
        assert_eq!(logged("podwire_agent=debug,hyper=off"), [4, 0]);
        assert_eq!(logged(""), [1, 1]);
    }

    #[test]
    fn lists_and_units_are_understood() {
        let config = parse(&[
            "--non-masquerade-cidrs=10.0.0.0/8,fd00::/8",
            "--lease-grace=250ms",
            "--healthz-bind-address=",
        ])
        .unwrap();
        assert_eq!(config.non_masquerade_cidrs.len(), 2);
        assert_eq!(config.lease_grace, Duration::from_millis(250));
        assert_eq!(config.healthz_bind_address, BindAddress(None));
    }

    #[test]
    fn networks_of_ipv4_written_as_ipv6_are_read_as_kubernetes_reads_them_and_said() {
        let mut config = parse(&[
            "--non-masquerade-cidrs=::ffff:10.0.0.0/104,fd00::/8,::/0",
            "--nodeport-addresses=::ffff:172.18.0.0/112",
            "--external-ips=::ffff:192.0.2.1/128",
            "--service-cidr=10.96.0.0/12,::ffff:10.112.0.0/108",
            "--cluster-cidr=::ffff:0.0.0.0/96",
        ])
        .unwrap();
        let networks = |texts: &[&str]| -> Vec<IpNetwork> {
            texts.iter().map(|text| text.parse().unwrap()).collect()
        };
        let said = config.read_mapped_networks();
        assert_eq!(
            config.non_masquerade_cidrs,
            networks(&["10.0.0.0/8", "fd00::/8", "::/0"])
        );
        let services = &config.services;
        assert_eq!(
            services.node_port_addresses,
            NodePortAddresses::Within(networks(&["172.18.0.0/16"]))
        );
        assert_eq!(
            services.external_ips,
            ExternalIps::Within(networks(&["192.0.2.1/32"]))
        );
        assert_eq!(
            services.service_cidrs,
            networks(&["10.96.0.0/12", "10.112.0.0/12"])
        );
        assert_eq!(services.cluster_cidrs, networks(&["0.0.0.0/0"]));
        assert_eq!(said.len(), 5, "{said:?}");
        assert!(said[0].contains("is read as 10.0.0.0/8"), "{said:?}");
        assert_eq!(config.read_mapped_networks(), [""; 0]);
        let error = parse(&["--service-cidr=::ffff:10.0.0.0/80"]).unwrap_err();
        assert!(error.contains("has host bits set"), "{error}");
    }

    #[test]
    fn an_address_to_listen_on_of_ipv4_written_as_ipv6_is_that_of_ipv4() {
        let config = parse(&["--metrics-bind-address=[::ffff:127.0.0.1]:10249"]).unwrap();
        let expected = "127.0.0.1:10249".parse().unwrap();
        assert_eq!(config.metrics_bind_address, BindAddress(Some(expected)));
    }
}
