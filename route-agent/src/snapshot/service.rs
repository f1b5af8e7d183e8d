//! Services, EndpointSlices and ServiceCIDRs: what the proxy reads of them.
//!
//! The source leaves out objects that the proxy must not see (labels
//! `service.kubernetes.io/service-proxy-name` and `service.kubernetes.io/headless`).

use std::collections::HashSet;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;

use ipnetwork::IpNetwork;

use crate::snapshot::{Endpoints, Few, Invalid, ObjectName};

/// The transport protocol of a port.
pub use podwire_kernel::Protocol;

/// `spec.type` of a Service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServiceKind {
    /// Reachable in the cluster only.
    ClusterIp,
    /// Also on a port of every node.
    NodePort,
    /// Also on load-balancer addresses.
    LoadBalancer,
    /// A DNS alias; never programmed, even with a cluster IP.
    ExternalName,
}

/// A traffic policy: which endpoints may answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrafficPolicy {
    /// Any endpoint of the cluster.
    Cluster,
    /// Endpoints on this node only.
    Local,
}

/// How a Service spreads new connections over its endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Balancing {
    /// Uniformly at random.
    Random,
    /// One after another.
    RoundRobin,
    /// By a hash of the source address.
    SourceHash,
}

/// One port of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePort {
    /// The port's name; empty for the single unnamed port.
    pub name: Arc<str>,
    /// The protocol.
    pub protocol: Protocol,
    /// The port of the cluster IP, 1 to 65535.
    pub port: u16,
    /// The node port, if the Service has one.
    pub node_port: Option<u16>,
}

/// What the ports of one Service have so far. Of the protocol and number, the protocol and node
/// port, and the name, each is there once: they are keys in the kernel's maps.
#[derive(Debug, Default)]
pub struct PortsSoFar {
    names: HashSet<Arc<str>>,
    numbers: HashSet<(Repeated, Protocol, u16)>,
}

impl PortsSoFar {
    /// What the port has that an earlier one has too: one of the first two leaves no room for it,
    /// the last one none for its node port. Takes the port in as far as there is room.
    pub fn take(&mut self, port: &ServicePort) -> Option<Repeated> {
        let number = (Repeated::Number, port.protocol, port.port);
        if self.numbers.contains(&number) {
            return Some(Repeated::Number);
        }
        if !self.names.insert(port.name.clone()) {
            return Some(Repeated::Name);
        }
        self.numbers.insert(number);
        let node_port = port.node_port?;
        let new = (self.numbers).insert((Repeated::NodePort, port.protocol, node_port));
        (!new).then_some(Repeated::NodePort)
    }
}

/// What an earlier port of the same Service has too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Repeated {
    /// The protocol and number.
    Number,
    /// The name.
    Name,
    /// The protocol and node port.
    NodePort,
}

/// For how many seconds a client with ClientIP affinity is remembered if the Service says nothing
/// usable.
pub const AFFINITY_DEFAULT: u32 = 10_800;

/// The seconds that the API allows: up to a day.
pub const AFFINITY_SECONDS: RangeInclusive<u32> = 1..=86_400;

/// A Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// The Service's name.
    pub name: ObjectName,
    /// `metadata.creationTimestamp` in seconds since 1970, if the object has one. Of two Services
    /// that claim the same address and port the older keeps it.
    pub created: Option<u64>,
    /// `spec.type`.
    pub kind: ServiceKind,
    /// `spec.clusterIPs`; empty for a headless Service.
    pub cluster_ips: Box<[IpAddr]>,
    /// `spec.ports`; none [repeats](PortsSoFar::take) what an earlier one has.
    pub ports: Box<[ServicePort]>,
    /// `spec.externalIPs`.
    pub external_ips: Few<IpAddr>,
    /// `status.loadBalancer.ingress[].ip` with ipMode VIP or none.
    pub load_balancer_vips: Few<IpAddr>,
    /// `spec.loadBalancerSourceRanges`, trimmed.
    pub source_ranges: Few<IpNetwork>,
    /// `spec.externalTrafficPolicy`.
    pub external_policy: TrafficPolicy,
    /// `spec.internalTrafficPolicy`.
    pub internal_policy: TrafficPolicy,
    /// Time-out of ClientIP affinity in seconds, if it is on; within [`AFFINITY_SECONDS`].
    pub affinity: Option<u32>,
    /// `spec.healthCheckNodePort`, where it applies.
    pub health_check_node_port: Option<u16>,
    /// The balancing that an annotation asks for.
    pub balancing: Option<Balancing>,
    /// What could not be used.
    pub invalid: Few<Invalid>,
}

impl Service {
    /// A ClusterIP Service of which nothing but the name is known.
    pub fn named(name: ObjectName) -> Self {
        Self {
            name,
            created: None,
            kind: ServiceKind::ClusterIp,
            cluster_ips: Box::default(),
            ports: Box::default(),
            external_ips: Few::new(),
            load_balancer_vips: Few::new(),
            source_ranges: Few::new(),
            external_policy: TrafficPolicy::Cluster,
            internal_policy: TrafficPolicy::Cluster,
            affinity: None,
            health_check_node_port: None,
            balancing: None,
            invalid: Few::new(),
        }
    }
}

/// One port of an EndpointSlice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointPort {
    /// The port's name; empty for the single unnamed port.
    pub name: Arc<str>,
    /// The protocol.
    pub protocol: Protocol,
    /// The port on the endpoint, 1 to 65535.
    pub port: u16,
}

/// An EndpointSlice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointSlice {
    /// The slice's name.
    pub name: ObjectName,
    /// The Service it belongs to, from the label `kubernetes.io/service-name`.
    pub service: ObjectName,
    /// The ports that all endpoints share.
    pub ports: Box<[EndpointPort]>,
    /// The endpoints.
    pub endpoints: Endpoints,
    /// Annotation `endpoints.kubernetes.io/last-change-trigger-time`, milliseconds since 1970.
    pub last_change: Option<u64>,
    /// What could not be used.
    pub invalid: Few<Invalid>,
}

/// A ServiceCIDR.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceCidr {
    /// The object's name.
    pub name: Arc<str>,
    /// `spec.cidrs`.
    pub cidrs: Vec<IpNetwork>,
    /// What could not be used.
    pub invalid: Vec<Invalid>,
}
