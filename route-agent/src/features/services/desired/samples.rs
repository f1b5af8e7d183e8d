//! Short descriptions of Services and EndpointSlices, for tests.

use std::sync::Arc;

use crate::features::services::desired::endpoints::Here;
use crate::snapshot::{
    Balancing, Endpoint, EndpointPort, EndpointSlice, Few, ObjectName, Protocol, Service,
    ServiceKind, ServicePort, TrafficPolicy,
};

/// Where the tests are.
pub const HERE: Here<'static> = Here {
    node: "worker",
    zone: Some("a"),
    addresses: &[],
    gone_nodes: &[],
    uplink: None,
};

/// The slice's name in tests that have only one.
pub const SLICE: &str = "default/web-1";

/// A name from `namespace/name`, or from a name in `default`.
pub fn object(text: &str) -> ObjectName {
    let (namespace, name) = text.split_once('/').unwrap_or(("default", text));
    ObjectName {
        namespace: Arc::from(namespace),
        name: Arc::from(name),
    }
}

fn protocol(text: &str) -> Protocol {
    match text {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        "sctp" => Protocol::Sctp,
        _ => panic!("protocol {text}?"),
    }
}

/// The Service `default/web` from a text such as
/// `kind NodePort; cluster-ip 10.200.1.63; port tcp 80 31000 name=http; affinity 60`.
pub fn service(text: &str) -> Service {
    named_service("default/web", text)
}

/// A Service with a name.
pub fn named_service(name: &str, text: &str) -> Service {
    let mut service = Service::named(object(name));
    let mut ports = Vec::new();
    for part in text
        .split(';')
        .map(str::trim)
        .filter(|part| !part.is_empty())
    {
        let (word, rest) = part.split_once(' ').unwrap_or((part, ""));
        let addresses = || rest.split_whitespace().map(|a| a.parse().unwrap());
        match word {
            "kind" => {
                service.kind = match rest {
                    "NodePort" => ServiceKind::NodePort,
                    "LoadBalancer" => ServiceKind::LoadBalancer,
                    "ExternalName" => ServiceKind::ExternalName,
                    _ => ServiceKind::ClusterIp,
                }
            }
            "cluster-ip" => service.cluster_ips = addresses().collect(),
            "external-ip" => service.external_ips = addresses().collect(),
            "vip" => service.load_balancer_vips = addresses().collect(),
            "source" => {
                let ranges = rest.split_whitespace().map(|a| a.parse().unwrap());
                service.source_ranges = ranges.collect();
            }
            "affinity" => service.affinity = Some(rest.parse().unwrap()),
            "health" => service.health_check_node_port = Some(rest.parse().unwrap()),
            "internal-local" => service.internal_policy = TrafficPolicy::Local,
            "external-local" => service.external_policy = TrafficPolicy::Local,
            "round-robin" => service.balancing = Some(Balancing::RoundRobin),
            "source-hash" => service.balancing = Some(Balancing::SourceHash),
            "created" => service.created = Some(rest.parse().unwrap()),
            "port" => ports.push(service_port(rest)),
            _ => panic!("{part}?"),
        }
    }
    service.ports = ports.into();
    service
}

fn service_port(text: &str) -> ServicePort {
    let mut words = text.split_whitespace();
    let protocol = protocol(words.next().unwrap());
    let port = words.next().unwrap().parse().unwrap();
    let mut found = ServicePort {
        name: Arc::from(""),
        protocol,
        port,
        node_port: None,
    };
    for word in words {
        match word.strip_prefix("name=") {
            Some(name) => found.name = Arc::from(name),
            None => found.node_port = Some(word.parse().unwrap()),
        }
    }
    found
}

/// A slice of `default/web` for its unnamed TCP port, at port 80, with ready endpoints;
/// `10.10.1.3@worker` is on the node `worker`, `!` in front means draining, `?` not ready.
pub fn slice(name: &str, endpoints: &str) -> EndpointSlice {
    slice_of("default/web", name, &[("", Protocol::Tcp, 80)], endpoints)
}

/// A slice of a Service with these ports.
pub fn slice_of(
    service: &str,
    name: &str,
    ports: &[(&str, Protocol, u16)],
    endpoints: &str,
) -> EndpointSlice {
    let port = |(name, protocol, port): &(&str, Protocol, u16)| EndpointPort {
        name: Arc::from(*name),
        protocol: *protocol,
        port: *port,
    };
    EndpointSlice {
        name: object(name),
        service: object(service),
        ports: ports.iter().map(port).collect(),
        endpoints: endpoints.split_whitespace().map(endpoint).collect(),
        last_change: None,
        invalid: Few::new(),
    }
}

fn endpoint(word: &str) -> Endpoint {
    let draining = word.starts_with('!');
    let unready = word.starts_with('?');
    let word = word.trim_start_matches(['!', '?']);
    let (address, node) = word.split_once('@').unwrap_or((word, "elsewhere"));
    Endpoint {
        address: address.parse().unwrap(),
        ready: !draining && !unready,
        serving: !unready,
        terminating: draining,
        node: Some(Arc::from(node)),
        hints: None,
    }
}
