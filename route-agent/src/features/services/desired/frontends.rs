//! What a Service claims, and what of it cannot be used.
//!
//! Bad fields are left out one by one and named; what is left of the Service is programmed.

use std::collections::BTreeSet;
use std::net::IpAddr;

use podwire_kernel::IpFamily;

use crate::cidr::no_destination;
use crate::features::services::desired::externals::Externals;
use crate::features::services::desired::room::{LeftOut, MOST_PORTALS};
use crate::snapshot::{
    AFFINITY_DEFAULT, AFFINITY_SECONDS, Protocol, Service, ServiceKind, ServicePort,
};

/// One place where a Service port can be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Frontend {
    /// `spec.clusterIPs`.
    ClusterIp(IpAddr),
    /// `status.loadBalancer.ingress[].ip`.
    LoadBalancer(IpAddr),
    /// `spec.externalIPs`.
    ExternalIp(IpAddr),
    /// `spec.ports[].nodePort` on addresses of the node.
    NodePort(u16),
}

impl Frontend {
    /// The address, unless it is a node port.
    pub fn address(&self) -> Option<IpAddr> {
        match self {
            Frontend::ClusterIp(a) | Frontend::LoadBalancer(a) | Frontend::ExternalIp(a) => {
                Some(*a)
            }
            Frontend::NodePort(_) => None,
        }
    }
}

/// Something that only one Service can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Claim {
    /// A ClusterIP as a whole.
    ClusterIp(IpAddr),
    /// A port of an address.
    Vip(IpAddr, Protocol, u16),
    /// A node port.
    NodePort(Protocol, u16),
}

impl Claim {
    /// The claim to a ClusterIP.
    pub fn cluster_ip(address: IpAddr) -> Claim {
        Claim::ClusterIp(address)
    }

    /// The claim that a front of a port makes.
    pub fn of(front: &Frontend, port: &ServicePort) -> Claim {
        Claim::at(front, port.protocol, port.port)
    }

    /// The claim that a front makes for a protocol and port.
    pub fn at(front: &Frontend, protocol: Protocol, port: u16) -> Claim {
        match front {
            Frontend::NodePort(node_port) => Claim::NodePort(protocol, *node_port),
            Frontend::ClusterIp(a) | Frontend::LoadBalancer(a) | Frontend::ExternalIp(a) => {
                Claim::Vip(*a, protocol, port)
            }
        }
    }
}

impl std::fmt::Display for Claim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Claim::ClusterIp(address) => write!(f, "ClusterIP {address}"),
            Claim::Vip(address, protocol, port) => {
                write!(f, "port {port}/{} of {address}", protocol.name())
            }
            Claim::NodePort(protocol, port) => write!(f, "node port {port}/{}", protocol.name()),
        }
    }
}

/// Everything that a Service claims in one family, usable or not granted yet, but for what is refused.
pub fn claims(service: &Service, family: IpFamily, externals: &Externals) -> BTreeSet<Claim> {
    let mut claims: BTreeSet<Claim> = cluster_ips(service, family)
        .filter(|address| externals.refuses_cluster_ip(*address).is_none())
        .map(Claim::cluster_ip)
        .collect();
    for port in ports(service) {
        let refused = |front: &Frontend| match front {
            Frontend::ClusterIp(address) => externals.refuses_cluster_ip(*address).is_some(),
            Frontend::ExternalIp(address) => externals.refuses(*address).is_some(),
            Frontend::LoadBalancer(address) => externals
                .refuses_balanced(*address, service, port)
                .is_some(),
            Frontend::NodePort(number) => externals.has_node_port(port.protocol, *number).is_some(),
        };
        claims.extend(
            of_port(service, port, family)
                .iter()
                .filter(|front| !refused(front))
                .map(|front| Claim::of(front, port)),
        );
    }
    claims
}

/// The ClusterIPs of a family; none if the Service is not for a proxy at all.
pub fn cluster_ips(service: &Service, family: IpFamily) -> impl Iterator<Item = IpAddr> {
    let usable = is_proxied(service);
    let of_family = move |a: &IpAddr| usable && IpFamily::of(*a) == family;
    service
        .cluster_ips
        .iter()
        .copied()
        .filter(of_family)
        .filter(|a| no_destination(*a).is_none())
}

/// The ports that can be used.
pub fn ports(service: &Service) -> impl Iterator<Item = &ServicePort> {
    sound_ports(service).take(ports_with_room(service))
}

/// The ports in which nothing is wrong.
fn sound_ports(service: &Service) -> impl Iterator<Item = &ServicePort> {
    let proxied = is_proxied(service);
    let ports = service.ports.iter();
    ports.filter(move |port| proxied && port_fault(port).is_none())
}

/// For how many ports there is room, all of them being at all addresses.
fn ports_with_room(service: &Service) -> usize {
    let balanced = match service.kind {
        ServiceKind::LoadBalancer => service.load_balancer_vips.len(),
        _ => 0,
    };
    let addresses = service.cluster_ips.len() + service.external_ips.len() + balanced;
    MOST_PORTALS / (addresses + usize::from(has_node_ports(service))).max(1)
}

/// The warning about ports for which there is no room, whatever their endpoints.
fn without_room(service: &Service) -> Option<String> {
    let mut left_out = sound_ports(service).skip(ports_with_room(service));
    let first = left_out.next()?;
    let left_out = LeftOut {
        first: (first.protocol, first.port),
        count: 1 + left_out.count(),
    };
    let most = format!("{MOST_PORTALS} ports at addresses");
    Some(left_out.warning("ports and addresses", &most))
}

/// Where a port can be reached in a family. An address that is both a load-balancer address and
/// an external IP counts as the former, because source ranges apply to it.
pub fn of_port(service: &Service, port: &ServicePort, family: IpFamily) -> Vec<Frontend> {
    if !service
        .cluster_ips
        .iter()
        .any(|address| IpFamily::of(*address) == family)
    {
        return Vec::new();
    }
    let mut known: BTreeSet<IpAddr> = cluster_ips(service, family).collect();
    let mut frontends: Vec<Frontend> = cluster_ips(service, family)
        .map(Frontend::ClusterIp)
        .collect();
    let mut add = |front: Frontend, address: IpAddr| {
        let of_family = IpFamily::of(address) == family;
        if of_family && no_destination(address).is_none() && known.insert(address) {
            frontends.push(front);
        }
    };
    if service.kind == ServiceKind::LoadBalancer {
        for vip in &service.load_balancer_vips {
            add(Frontend::LoadBalancer(*vip), *vip);
        }
    }
    for address in &service.external_ips {
        add(Frontend::ExternalIp(*address), *address);
    }
    if has_node_ports(service) {
        frontends.extend(port.node_port.map(Frontend::NodePort));
    }
    frontends
}

/// The affinity time-out in seconds, within the limits of the API.
pub fn affinity(service: &Service) -> Option<u32> {
    let seconds = service.affinity?;
    let usable = AFFINITY_SECONDS.contains(&seconds);
    Some(if usable { seconds } else { AFFINITY_DEFAULT })
}

/// True if only some sources may use the load-balancer addresses. A range that could not be
/// parsed restricts as well: it must not open the Service to everybody.
pub fn restricts_sources(service: &Service) -> bool {
    let unreadable =
        |bad: &crate::snapshot::Invalid| bad.field.contains("loadBalancerSourceRanges");
    !service.source_ranges.is_empty() || service.invalid.iter().any(unreadable)
}

/// True if this Service is for a proxy: not headless, not ExternalName, with a sane name.
pub fn is_proxied(service: &Service) -> bool {
    service.kind != ServiceKind::ExternalName
        && !service.cluster_ips.is_empty()
        && name_fault(service).is_none()
}

fn has_node_ports(service: &Service) -> bool {
    matches!(
        service.kind,
        ServiceKind::NodePort | ServiceKind::LoadBalancer
    )
}

/// What is wrong with a Service, one sentence each, made one by one: there may be as many as it has
/// addresses.
pub fn warnings(service: &Service) -> impl Iterator<Item = String> {
    let unread = service.invalid.iter();
    let unread = unread.map(|bad| format!("{} `{}` {}", bad.field, bad.value, bad.consequence()));
    let is_meant = service.kind != ServiceKind::ExternalName && !service.cluster_ips.is_empty();
    let named = is_meant.then(|| name_fault(service)).flatten();
    let proxied = is_proxied(service).then_some(service);
    unread
        .chain(named)
        .chain(proxied.into_iter().flat_map(|service| {
            addresses_left_out(service)
                .chain(ports_left_out(service))
                .chain(without_room(service))
                .chain(affinity_fault(service))
        }))
}

fn addresses_left_out(service: &Service) -> impl Iterator<Item = String> {
    let lists: [(&str, &[IpAddr]); 3] = [
        ("spec.clusterIPs", &service.cluster_ips),
        ("spec.externalIPs", &service.external_ips),
        (
            "status.loadBalancer.ingress[].ip",
            &service.load_balancer_vips,
        ),
    ];
    let all = lists
        .into_iter()
        .flat_map(|(field, addresses)| addresses.iter().map(move |address| (field, *address)));
    all.filter_map(|(field, address)| {
        let reason = no_destination(address).or_else(|| unserved(service, address))?;
        Some(format!("{field} `{address}` is left out: it {reason}"))
    })
}

fn ports_left_out(service: &Service) -> impl Iterator<Item = String> {
    service.ports.iter().filter_map(|port| {
        let reason = port_fault(port)?;
        let (number, protocol) = (port.port, port.protocol.name());
        Some(format!(
            "port {number}/{protocol} `{}` is left out: {reason}",
            port.name
        ))
    })
}

fn affinity_fault(service: &Service) -> Option<String> {
    let given = service.affinity?;
    (affinity(service) != service.affinity).then(|| {
        format!(
            "affinity time-out of {given} s is out of range ({} to {}): {AFFINITY_DEFAULT} s is used",
            AFFINITY_SECONDS.start(),
            AFFINITY_SECONDS.end()
        )
    })
}

/// Why an address is not served though nothing is wrong with it.
fn unserved(service: &Service, address: IpAddr) -> Option<&'static str> {
    let mut served = service.cluster_ips.iter();
    let none = !served.any(|other| other.is_ipv6() == address.is_ipv6());
    none.then_some("is of a family in which the Service has no ClusterIP")
}

fn port_fault(port: &ServicePort) -> Option<&'static str> {
    if port.port == 0 {
        return Some("0 is not a port");
    }
    if !port.name.is_empty() && !is_label(&port.name) {
        return Some("its name is not a DNS label (at most 63 of a-z, 0-9 and `-`)");
    }
    None
}

fn name_fault(service: &Service) -> Option<String> {
    let bad = [&service.name.namespace, &service.name.name]
        .into_iter()
        .find(|n| !is_label(n))?;
    let start: String = bad.chars().take(20).collect();
    let length = bad.chars().count();
    Some(format!(
        "the Service is left out: its name or namespace (`{start}`..., {length} characters) is \
         not a DNS label (at most 63 of a-z, 0-9 and `-`)"
    ))
}

/// A DNS label as in RFC 1123: what the API server allows, and safe in a comment and a chain name.
fn is_label(text: &str) -> bool {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    !text.is_empty()
        && text.len() <= 63
        && text.chars().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

#[cfg(test)]
mod tests;
