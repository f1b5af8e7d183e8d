//! Services.

use std::collections::HashSet;

use serde::Deserialize;

use crate::snapshot::{
    self, AFFINITY_DEFAULT, AFFINITY_SECONDS, Balancing, PortsSoFar, Repeated, ServiceKind,
    ServicePort, TrafficPolicy,
};
use crate::source::objects::{Checker, Metadata, Names, Number, Text, Unnamed, lenient, nullable};

/// The annotation by which one Service chooses how its connections are spread.
pub const BALANCING_ANNOTATION: &str = "podwire.io/balancing";

/// A Service.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Service {
    /// Name, labels, annotations.
    pub metadata: Metadata,
    /// What it wants.
    #[serde(deserialize_with = "nullable")]
    pub spec: ServiceSpec,
    /// What a load balancer gave it.
    #[serde(deserialize_with = "nullable")]
    pub status: ServiceStatus,
}

/// What Podwire reads of a Service's spec.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ServiceSpec {
    /// ClusterIP, NodePort, LoadBalancer or ExternalName.
    #[serde(rename = "type")]
    pub kind: Text,
    /// The first cluster IP; empty or `None` if there is none.
    #[serde(rename = "clusterIP")]
    pub cluster_ip: Text,
    /// All cluster IPs.
    #[serde(rename = "clusterIPs", deserialize_with = "nullable")]
    pub cluster_ips: Vec<Text>,
    /// Ports.
    #[serde(deserialize_with = "nullable")]
    pub ports: Vec<Port>,
    /// Addresses of others that lead to this Service.
    #[serde(rename = "externalIPs", deserialize_with = "nullable")]
    pub external_ips: Vec<Text>,
    /// Who may use the load balancer's addresses.
    #[serde(deserialize_with = "nullable")]
    pub load_balancer_source_ranges: Vec<Text>,
    /// Cluster or Local.
    pub external_traffic_policy: Text,
    /// Cluster or Local.
    pub internal_traffic_policy: Text,
    /// None or ClientIP.
    pub session_affinity: Text,
    /// The time-out of ClientIP.
    #[serde(deserialize_with = "nullable")]
    pub session_affinity_config: AffinityConfig,
    /// Where a load balancer asks how many endpoints are here.
    pub health_check_node_port: Number,
}

/// `spec.sessionAffinityConfig`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct AffinityConfig {
    /// ClientIP's settings.
    #[serde(rename = "clientIP", deserialize_with = "nullable")]
    pub client_ip: ClientIp,
}

/// `spec.sessionAffinityConfig.clientIP`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ClientIp {
    /// Seconds until a client that is quiet is forgotten.
    pub timeout_seconds: Number,
}

/// One port of a Service.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Port {
    /// Its name; may be empty if it is the only one.
    pub name: Text,
    /// TCP, UDP or SCTP.
    pub protocol: Text,
    /// The port of the cluster IP.
    pub port: Number,
    /// The port of every node.
    pub node_port: Number,
}

/// What Podwire reads of a Service's status.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ServiceStatus {
    /// What the load balancer reports.
    #[serde(deserialize_with = "nullable")]
    pub load_balancer: LoadBalancer,
}

/// `status.loadBalancer`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct LoadBalancer {
    /// Where traffic comes in.
    #[serde(deserialize_with = "nullable")]
    pub ingress: Vec<Ingress>,
}

/// One address of a load balancer.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Ingress {
    /// The address; absent for a load balancer that has a host name.
    pub ip: Text,
    /// VIP (or absent): packets arrive with this destination. Proxy: they do not.
    pub ip_mode: Text,
}

impl Service {
    /// True if it waits for a cluster IP from the API server.
    pub fn waits_for_cluster_ip(&self) -> bool {
        let is_given = |text: &Text| text.get().is_some_and(|text| !text.is_empty());
        let spec = &self.spec;
        !is_given(&spec.cluster_ip)
            && !spec.cluster_ips.iter().any(is_given)
            && spec.kind.get() != Some("ExternalName")
    }

    /// True if one of its ports waits for a node port from the API server. A load balancer may do without.
    pub fn waits_for_node_port(&self) -> bool {
        let mut ports = self.spec.ports.iter();
        self.spec.kind.get() == Some("NodePort") && ports.any(|port| port.node_port.is_unset())
    }

    /// True if it waits for the port from the API server at which a load balancer asks where its
    /// endpoints are.
    pub fn waits_for_health_check_port(&self) -> bool {
        self.has_health_checks() && self.spec.health_check_node_port.is_unset()
    }

    /// True if load balancers ask where its endpoints are.
    fn has_health_checks(&self) -> bool {
        self.is_load_balancer() && self.spec.external_traffic_policy.get() == Some("Local")
    }

    fn is_load_balancer(&self) -> bool {
        self.spec.kind.get() == Some("LoadBalancer")
    }

    /// True if it waits for a load balancer, and has a ClusterIP and nothing else meanwhile.
    pub fn waits_for_load_balancer(&self) -> bool {
        self.is_load_balancer()
            && !self.waits_for_cluster_ip()
            && self.status.load_balancer.ingress.is_empty()
            && self.spec.external_ips.is_empty()
            && self.spec.ports.iter().all(|port| port.node_port.is_unset())
    }

    /// True if it has source ranges, which only count for a load balancer's addresses, and none of
    /// these.
    pub fn has_idle_source_ranges(&self) -> bool {
        let has_addresses =
            self.is_load_balancer() && !self.status.load_balancer.ingress.is_empty();
        !self.spec.load_balancer_source_ranges.is_empty()
            && !has_addresses
            && !self.waits_for_load_balancer()
    }

    /// True if it has addresses of a load balancer, and is of a type that has none.
    pub fn has_idle_ingress(&self) -> bool {
        let mut ingress = self.status.load_balancer.ingress.iter();
        !self.is_load_balancer()
            && ingress.any(|one| one.ip.get().is_some() && one.ip_mode.get() != Some("Proxy"))
    }

    /// True if it has a node port, and is of a type that has none.
    pub fn has_idle_node_port(&self) -> bool {
        let is_of_no_type = matches!(self.spec.kind.get(), None | Some("" | "ClusterIP"));
        let mut ports = self.spec.ports.iter();
        is_of_no_type && ports.any(|port| !port.node_port.is_unset())
    }

    /// True if it has a port for health checks, and none are answered: only a load balancer with
    /// external traffic policy Local has them.
    pub fn has_idle_health_check_port(&self) -> bool {
        !self.spec.health_check_node_port.is_unset() && !self.has_health_checks()
    }

    /// True if it has a time-out of ClientIP, and no affinity.
    pub fn has_idle_affinity_timeout(&self) -> bool {
        let timeout = &self.spec.session_affinity_config.client_ip.timeout_seconds;
        !timeout.is_unset() && self.spec.session_affinity.get() != Some("ClientIP")
    }

    /// The snapshot's value of this Service.
    pub fn into_snapshot(self, names: &mut Names) -> Result<snapshot::Service, Unnamed> {
        let name = self.metadata.object_name(names)?;
        let (spec, mut checker) = (&self.spec, Checker::default());
        let kind = kind(spec, &mut checker);
        Ok(snapshot::Service {
            name,
            created: self.metadata.created(&mut checker),
            kind,
            cluster_ips: cluster_ips(spec, &mut checker).into(),
            ports: ports(spec, names, &mut checker).into(),
            external_ips: addresses("spec.externalIPs", &spec.external_ips, &mut checker).into(),
            load_balancer_vips: vips(&self.status, &mut checker).into(),
            source_ranges: spec
                .load_balancer_source_ranges
                .iter()
                .filter_map(|text| checker.cidr("spec.loadBalancerSourceRanges", text))
                .collect(),
            external_policy: policy(
                "spec.externalTrafficPolicy",
                &spec.external_traffic_policy,
                &mut checker,
            ),
            internal_policy: policy(
                "spec.internalTrafficPolicy",
                &spec.internal_traffic_policy,
                &mut checker,
            ),
            affinity: affinity(spec, &mut checker),
            health_check_node_port: checker
                .port("spec.healthCheckNodePort", &spec.health_check_node_port),
            balancing: balancing(&self.metadata, &mut checker),
            invalid: checker.invalid.into(),
        })
    }
}

fn kind(spec: &ServiceSpec, checker: &mut Checker) -> ServiceKind {
    match spec.kind.get() {
        None | Some("" | "ClusterIP") => ServiceKind::ClusterIp,
        Some("NodePort") => ServiceKind::NodePort,
        Some("LoadBalancer") => ServiceKind::LoadBalancer,
        Some("ExternalName") => ServiceKind::ExternalName,
        Some(other) => {
            let reason = "is not ClusterIP, NodePort, LoadBalancer or ExternalName";
            checker.taken("spec.type", other, reason, "ClusterIP");
            ServiceKind::ClusterIp
        }
    }
}

fn cluster_ips(spec: &ServiceSpec, checker: &mut Checker) -> Vec<std::net::IpAddr> {
    checker.beside(
        "spec.clusterIP",
        &spec.cluster_ip,
        spec.cluster_ips.first(),
        lenient::address,
        "is not the first of spec.clusterIPs, which counts",
    );
    let single = std::slice::from_ref(&spec.cluster_ip);
    let (field, given) = match (spec.cluster_ips.is_empty(), spec.cluster_ip.get()) {
        (false, _) => ("spec.clusterIPs", &spec.cluster_ips[..]),
        (true, Some(_)) => ("spec.clusterIP", single),
        (true, None) => return Vec::new(),
    };
    let real = given
        .iter()
        .filter(|text| !matches!(text.get(), Some("" | "None")));
    addresses(field, real, checker)
}

fn addresses<'a>(
    field: &'static str,
    given: impl IntoIterator<Item = &'a Text>,
    checker: &mut Checker,
) -> Vec<std::net::IpAddr> {
    let (mut found, mut known) = (Vec::new(), HashSet::new());
    for text in given {
        match checker.address(field, text) {
            Some(ip) if known.insert(ip) => found.push(ip),
            Some(_) => checker.bad(field, text.shown(), "is given twice"),
            None => {}
        }
    }
    found
}

fn ports(spec: &ServiceSpec, names: &mut Names, checker: &mut Checker) -> Vec<ServicePort> {
    let (mut found, mut so_far) = (Vec::new(), PortsSoFar::default());
    for port in &spec.ports {
        let Some(protocol) = checker.protocol("spec.ports[].protocol", &port.protocol) else {
            continue;
        };
        let Some(number) = checker.port("spec.ports[].port", &port.port) else {
            if matches!(port.port, Number::Absent | Number::Of(0)) {
                checker.bad("spec.ports[].port", "0", "is not between 1 and 65535");
            }
            continue;
        };
        let mut new = ServicePort {
            name: names.get(port.name.get().unwrap_or("")),
            protocol,
            port: number,
            node_port: checker.port("spec.ports[].nodePort", &port.node_port),
        };
        let twice = "is given twice";
        match so_far.take(&new) {
            None => {}
            Some(Repeated::Number) => {
                checker.bad("spec.ports[].port", number.to_string(), twice);
                continue;
            }
            Some(Repeated::Name) => {
                checker.bad("spec.ports[].name", &*new.name, twice);
                continue;
            }
            Some(Repeated::NodePort) => {
                let node_port = new.node_port.take().unwrap_or_default();
                checker.bad("spec.ports[].nodePort", node_port.to_string(), twice);
            }
        }
        found.push(new);
    }
    found
}

fn vips(status: &ServiceStatus, checker: &mut Checker) -> Vec<std::net::IpAddr> {
    let mut vip = |ingress: &&Ingress| match ingress.ip_mode.get() {
        None | Some("" | "VIP") => true,
        Some("Proxy") => false,
        Some(other) => {
            let field = "status.loadBalancer.ingress[].ipMode";
            checker.taken(field, other, "is not VIP or Proxy", "VIP");
            true
        }
    };
    let given = status
        .load_balancer
        .ingress
        .iter()
        .filter(&mut vip)
        .map(|ingress| &ingress.ip);
    let given = given.filter(|ip| !matches!(ip.get(), None | Some("")));
    let given: Vec<&Text> = given.collect();
    addresses("status.loadBalancer.ingress[].ip", given, checker)
}

fn policy(field: &'static str, text: &Text, checker: &mut Checker) -> TrafficPolicy {
    match text.get() {
        None | Some("" | "Cluster") => TrafficPolicy::Cluster,
        Some("Local") => TrafficPolicy::Local,
        Some(other) => {
            checker.taken(field, other, "is not Cluster or Local", "Cluster");
            TrafficPolicy::Cluster
        }
    }
}

fn affinity(spec: &ServiceSpec, checker: &mut Checker) -> Option<u32> {
    match spec.session_affinity.get() {
        None | Some("" | "None") => return None,
        Some("ClientIP") => {}
        Some(other) => {
            let reason = "is not None or ClientIP";
            checker.taken("spec.sessionAffinity", other, reason, "None");
            return None;
        }
    }
    let field = "spec.sessionAffinityConfig.clientIP.timeoutSeconds";
    match &spec.session_affinity_config.client_ip.timeout_seconds {
        Number::Absent => Some(AFFINITY_DEFAULT),
        Number::Of(seconds) => match u32::try_from(*seconds) {
            Ok(valid) if AFFINITY_SECONDS.contains(&valid) => Some(valid),
            _ => {
                let reason = "is not between 1 and 86400";
                checker.taken(field, seconds.to_string(), reason, AFFINITY_DEFAULT);
                Some(AFFINITY_DEFAULT)
            }
        },
        Number::Bad(text) => {
            checker.taken(field, text, "is not a number", AFFINITY_DEFAULT);
            Some(AFFINITY_DEFAULT)
        }
    }
}

fn balancing(metadata: &Metadata, checker: &mut Checker) -> Option<Balancing> {
    match metadata.annotations.get(BALANCING_ANNOTATION)?.shown() {
        "random" => Some(Balancing::Random),
        "round-robin" => Some(Balancing::RoundRobin),
        "source-hash" => Some(Balancing::SourceHash),
        other => {
            let field = "metadata.annotations[podwire.io/balancing]";
            let reason = "is not random, round-robin or source-hash";
            checker.taken(field, other, reason, "the node's default");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use serde_json::{Value, json};

    use super::*;
    use crate::features::services::desired::frontends;

    fn with_ports(ports: impl IntoIterator<Item = Value>) -> snapshot::Service {
        let ports: Vec<Value> = ports.into_iter().collect();
        let web = json!({"metadata": {"name": "web"},
            "spec": {"type": "NodePort", "clusterIP": "10.200.1.9", "ports": ports}});
        let web: Service = serde_json::from_value(web).unwrap();
        web.into_snapshot(&mut Names::default()).unwrap()
    }

    fn port(name: &str, protocol: &str, port: u16, node_port: u16) -> Value {
        json!({"name": name, "protocol": protocol, "port": port, "nodePort": node_port})
    }

    #[test]
    fn of_two_ports_with_one_node_port_the_first_has_it_and_both_are_served() {
        let web = with_ports([
            port("a", "TCP", 80, 30080),
            port("b", "TCP", 81, 30080),
            port("c", "UDP", 80, 30080),
            port("d", "TCP", 80, 30081),
            port("a", "TCP", 83, 30082),
            port("e", "TCP", 84, 30082),
        ]);
        let kept: Vec<_> = (web.ports.iter())
            .map(|port| (&*port.name, port.port, port.node_port))
            .collect();
        let expected = [
            ("a", 80, Some(30080)),
            ("b", 81, None),
            ("c", 80, Some(30080)),
            ("e", 84, Some(30082)),
        ];
        assert_eq!(kept, expected);
        let warnings: Vec<String> = frontends::warnings(&web).collect();
        assert_eq!(warnings.len(), 3, "{warnings:?}");
        let named = "spec.ports[].nodePort `30080` is left out: it is given twice";
        assert!(warnings[0].starts_with(named), "{warnings:?}");
    }

    #[test]
    fn fifty_thousand_ports_and_addresses_are_read_without_comparing_each_with_each() {
        let start = Instant::now();
        let ports = (1..=50_000).map(|at| port(&format!("p{at}"), "TCP", at, at));
        let web = with_ports(ports);
        assert_eq!(frontends::ports(&web).count(), 50_000);
        let given: Vec<_> = (0..50_000u32)
            .map(|at| json!(std::net::Ipv4Addr::from(0xc633_0000 + at).to_string()))
            .map(|text| serde_json::from_value(text).unwrap())
            .collect();
        let found = addresses("spec.externalIPs", &given, &mut Checker::default());
        assert_eq!(found.len(), 50_000);
        // Some thousand millions of comparisons take many times as long.
        assert!(start.elapsed() < Duration::from_secs(8), "{start:?}");
    }
}
