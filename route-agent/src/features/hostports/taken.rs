//! Host ports that something else of the node has: another attachment, the agent itself, or a Service
//! as a node port or for its health check. The scheduler keeps pods that ask for the same port apart,
//! but knows nothing of Services. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};

use podwire::attachment::{HostPort, Record, keys};
use podwire_kernel::Protocol;

use crate::config::Config;
use crate::snapshot::{ObjectName, Service, ServiceKind, Snapshot, TrafficPolicy};
use crate::warnings::Warning;

/// The host ports of this node, and who else has one of them.
#[derive(Debug, Default)]
pub struct Taken {
    ports: Vec<(Protocol, u16)>,
    services: BTreeSet<ObjectName>,
}

impl Taken {
    /// As the records and the cluster are now, with a warning for each host port that is another's.
    pub fn of(records: &[Record], config: &Config, snapshot: &Snapshot) -> (Self, Vec<Warning>) {
        let mut taken = Self::default();
        let ports = records.iter().flat_map(|record| &record.host_ports);
        taken.ports = ports.map(|port| (port.protocol, port.host_port)).collect();
        let mut warnings = given_twice(records);
        if taken.ports.is_empty() {
            return (taken, warnings);
        }
        for (address, flag) in config.own_addresses() {
            let what = format!("a port of the agent itself ({flag})");
            let key = (Protocol::Tcp, address.port());
            warnings.extend(named(records, key, address.ip(), &what));
        }
        for service in snapshot.services.values() {
            for (key, what) in ports_of(service) {
                if taken.has(key) {
                    let what = format!("{what} of Service {}", service.name);
                    let all = Ipv6Addr::UNSPECIFIED.into();
                    warnings.extend(named(records, key, all, &what));
                    taken.services.insert(service.name.clone());
                }
            }
        }
        (taken, warnings)
    }

    /// True if a Service that changed has, or had, one of the host ports.
    pub fn concerns(&self, name: &ObjectName, snapshot: &Snapshot) -> bool {
        let mut now = snapshot.services.get(name).into_iter().flat_map(ports_of);
        self.services.contains(name) || now.any(|(key, _)| self.has(key))
    }

    fn has(&self, key: (Protocol, u16)) -> bool {
        self.ports.contains(&key)
    }
}

/// Names host ports that several attachments have: the youngest, which comes last, gets the
/// connections, and the others none.
pub(super) fn given_twice(records: &[Record]) -> Vec<Warning> {
    let same = |a: &Record, b: &Record| a.container_id == b.container_id && a.ifname == b.ifname;
    let mut given = BTreeMap::new();
    let mut warnings = Vec::new();
    for record in records {
        for port in &record.host_ports {
            for key in keys(port) {
                let Some(before) = given.insert(key, record) else {
                    continue;
                };
                if same(before, record) {
                    continue;
                }
                let text = format!(
                    "has hostPort {}/{}, which {} of this node has had before and gets no \
                     connections through any longer; give one of them another port",
                    port.host_port,
                    port.protocol,
                    whose(before)
                );
                warnings.push(Warning::new(whose(record), text));
            }
        }
    }
    warnings
}

/// A record's pod as a person would name it.
fn whose(record: &Record) -> String {
    match &record.pod {
        Some((namespace, name)) => format!("Pod {namespace}/{name}"),
        None => format!("container {}", record.container_id),
    }
}

/// A warning for each record with a port that is something else as well, at this address of the node.
fn named(
    records: &[Record],
    (protocol, number): (Protocol, u16),
    at: IpAddr,
    what: &str,
) -> impl Iterator<Item = Warning> {
    let meets = move |port: &HostPort| {
        let one =
            |address: IpAddr| at.is_unspecified() || address.is_unspecified() || address == at;
        (port.protocol, port.host_port) == (protocol, number) && port.host_ip.is_none_or(one)
    };
    let having = records.iter();
    let having = having.filter(move |record| record.host_ports.iter().any(meets));
    having.map(move |record| {
        let text = format!(
            "has hostPort {number}/{protocol}, which is {what} as well: only one of the two gets what \
             comes there; give the pod another port"
        );
        Warning::new(whose(record), text)
    })
}

/// The ports that a Service asks of every node.
fn ports_of(service: &Service) -> impl Iterator<Item = ((Protocol, u16), &'static str)> {
    let balanced = service.kind == ServiceKind::LoadBalancer;
    let on_nodes = balanced || service.kind == ServiceKind::NodePort;
    let ports = service.ports.iter().filter(move |_| on_nodes);
    let node_ports = ports.filter_map(|port| {
        let number = port.node_port?;
        Some(((port.protocol, number), "a node port"))
    });
    let is_checked = balanced && service.external_policy == TrafficPolicy::Local;
    let check = service.health_check_node_port.filter(|_| is_checked);
    let check = check.map(|number| ((Protocol::Tcp, number), "the healthCheckNodePort"));
    node_ports.chain(check)
}
