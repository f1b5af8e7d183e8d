//! Host ports that something else of the node has: another attachment, the agent itself, or a Service
//! as a node port or for its health check. The scheduler keeps pods that ask for the same port apart,
//! but knows nothing of Services. Pure.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;
use podwire::attachment::{HostPort, Record, key_of};
use podwire_kernel::Protocol;

use crate::cidr::EVERYWHERE;
use crate::feature::World;
use crate::snapshot::{Dirty, ObjectName, Service, ServiceKind, TrafficPolicy};
use crate::warnings::Warning;

/// A port as a host port has it.
type Port = (Protocol, u16);

/// The host ports of this node, and who else has one of them.
#[derive(Debug, Default)]
pub struct Contested {
    ports: Vec<Port>,
    /// Where node ports answer.
    node_ports: Vec<IpNetwork>,
    /// Which of them Services have, and as what.
    services: BTreeMap<ObjectName, Vec<(Port, &'static str)>>,
}

impl Contested {
    /// As the records and the cluster are now, with a warning for each host port that is another's.
    pub fn of(records: &[Record], world: &World<'_>) -> (Self, Vec<Warning>) {
        let ports = records.iter().flat_map(|record| &record.host_ports);
        let mut contested = Self {
            ports: ports.map(|port| (port.protocol, port.host_port)).collect(),
            node_ports: node_ports(world),
            services: BTreeMap::new(),
        };
        let mut warnings = given_twice(records);
        if contested.ports.is_empty() {
            return (contested, warnings);
        }
        for (address, flag) in world.config.own_addresses() {
            let what = format!("a port of the agent itself ({flag})");
            let at = match address.ip() {
                // It takes IPv4 as well.
                IpAddr::V6(Ipv6Addr::UNSPECIFIED) => EVERYWHERE.into(),
                IpAddr::V4(Ipv4Addr::UNSPECIFIED) => EVERYWHERE[..1].to_vec(),
                single => vec![single.into()],
            };
            warnings.extend(named(records, (Protocol::Tcp, address.port()), &at, &what));
        }
        for service in world.snapshot.services.values() {
            let shared = contested.shared_with(service);
            for (port, what) in &shared {
                let what = format!("{what} of Service {}", service.name);
                warnings.extend(named(records, *port, &contested.node_ports, &what));
            }
            if !shared.is_empty() {
                contested.services.insert(service.name.clone(), shared);
            }
        }
        (contested, warnings)
    }

    /// True if host ports have come to be a Service's, or are no longer, by what changed.
    pub fn is_changed_by(&self, dirty: &Dirty, world: &World<'_>) -> bool {
        if self.ports.is_empty() {
            return false;
        }
        let differs = |name: &ObjectName| {
            let service = world.snapshot.services.get(name);
            let now = service.map(|service| self.shared_with(service));
            now.filter(|now| !now.is_empty()).as_ref() != self.services.get(name)
        };
        dirty.services.iter().any(differs)
            || dirty.nodes.contains(world.own_name()) && node_ports(world) != self.node_ports
    }

    /// The host ports that a Service has as well.
    fn shared_with(&self, service: &Service) -> Vec<(Port, &'static str)> {
        let all = ports_of(service);
        all.filter(|(port, _)| self.ports.contains(port)).collect()
    }
}

/// Where node ports answer on this node, and health checks with them.
fn node_ports(world: &World<'_>) -> Vec<IpNetwork> {
    let own_ips = world.own_node().map_or(&[][..], |node| &node.internal_ips);
    let networks = world.config.services.node_ports_at(own_ips);
    networks.unwrap_or_else(|| EVERYWHERE.into())
}

/// Names host ports that several attachments have: the youngest, which comes last, gets the
/// connections, and the others none.
pub(super) fn given_twice(records: &[Record]) -> Vec<Warning> {
    let mut given = BTreeMap::new();
    let mut warnings = Vec::new();
    for record in records {
        for port in &record.host_ports {
            let families = [true, false].into_iter();
            let families = families.filter(|v4| record.address(*v4).is_some());
            for place in families.filter_map(|v4| key_of(port, v4)) {
                let Some(before) = given.insert(place, record) else {
                    continue;
                };
                if key(before) == key(record) {
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

/// What tells attachments apart.
pub(super) fn key(record: &Record) -> (String, String) {
    (record.container_id.clone(), record.ifname.clone())
}

/// A record's pod as a person would name it.
fn whose(record: &Record) -> String {
    match &record.pod {
        Some((namespace, name)) => format!("Pod {namespace}/{name}"),
        None => format!("container {}", record.container_id),
    }
}

/// A warning for each record with a port that is something else as well, somewhere in these networks.
fn named(
    records: &[Record],
    (protocol, number): Port,
    at: &[IpNetwork],
    what: &str,
) -> impl Iterator<Item = Warning> {
    let meets = move |port: &HostPort| {
        (port.protocol, port.host_port) == (protocol, number)
            && at.iter().any(|network| match port.host_ip {
                Some(all) if all.is_unspecified() => all.is_ipv4() == network.is_ipv4(),
                Some(address) => network.contains(address),
                None => true,
            })
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
fn ports_of(service: &Service) -> impl Iterator<Item = (Port, &'static str)> {
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
