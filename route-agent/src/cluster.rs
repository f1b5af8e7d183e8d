//! What the agent knows of the cluster: Nodes, Services with their endpoints, policies, and the pods
//! of its own node. The answer to `/cluster`, as plain values.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

use crate::feature::World;
use crate::report::{PodReport, Report};
use crate::snapshot::{self, Direction, ObjectName, ServiceKind, Snapshot};

/// Keys of the taints that a Node has while it is not ready.
const NOT_READY: [&str; 2] = [
    "node.kubernetes.io/not-ready",
    "node.kubernetes.io/unreachable",
];

/// The cluster, seen from one node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cluster {
    /// The Node on which this was asked.
    pub node: String,
    /// All Nodes, sorted by name.
    pub nodes: Vec<Node>,
    /// All Services, sorted by namespace and name.
    pub services: Vec<Service>,
    /// All policies: ClusterNetworkPolicies, then NetworkPolicies, sorted by name.
    pub policies: Vec<Policy>,
    /// The pods of this node, sorted by address.
    pub pods: Vec<Pod>,
}

/// A Node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its addresses, those of type InternalIP first.
    pub addresses: Vec<IpAddr>,
    /// Its podCIDRs.
    pub pod_cidrs: Vec<IpNetwork>,
    /// Those of them that others keep: from the node on which this was asked they lead elsewhere.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<IpNetwork>,
    /// False if a taint says that it is not ready; else nothing is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready: Option<bool>,
}

/// A Service.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// `ClusterIP`, `NodePort`, `LoadBalancer` or `ExternalName`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its ClusterIPs; none if it is headless.
    pub cluster_ips: Vec<IpAddr>,
    /// Its external IPs and addresses of load balancers.
    pub external: Vec<IpAddr>,
    /// Its ports, in the order of the object.
    pub ports: Vec<Port>,
}

/// A port of a Service.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// Its name; empty for a single unnamed port.
    pub name: String,
    /// `tcp`, `udp` or `sctp`.
    pub protocol: String,
    /// The port of the ClusterIP.
    pub port: u16,
    /// The port of every node, if there is one.
    pub node_port: Option<u16>,
    /// Who may answer, and who will or did, sorted by address.
    pub endpoints: Vec<Endpoint>,
}

/// An endpoint of a port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Endpoint {
    /// Its address.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// The pod with this address as `namespace/name`, if it is known.
    pub pod: Option<String>,
    /// The Node it runs on, if the EndpointSlice says so.
    pub node: Option<String>,
    /// Whether it takes new connections.
    pub ready: bool,
    /// Whether it would answer.
    pub serving: bool,
    /// Whether it is being taken away.
    pub terminating: bool,
}

/// A policy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// `NetworkPolicy` or `ClusterNetworkPolicy`.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Its namespace, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// `Admin` or `Baseline`, of a ClusterNetworkPolicy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tier: Option<String>,
    /// The pods that it is about, and in which direction, in words.
    pub selects: String,
}

/// A pod of this node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    /// `namespace/name`, if the runtime passed them to the plugin.
    pub name: Option<String>,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// The link's end on this node.
    pub link: String,
    /// Its labels, if the agent knows the Pod.
    pub labels: BTreeMap<String, String>,
}

impl Cluster {
    /// What is known of the cluster. The report has the pods of this node.
    pub fn of(world: &World<'_>, report: &Report) -> Self {
        let snapshot = world.snapshot;
        let owners = owners(snapshot);
        Self {
            node: world.own_name().to_string(),
            nodes: (snapshot.nodes.values())
                .map(|one| node(one, snapshot))
                .collect(),
            services: (snapshot.services.values())
                .map(|one| service(one, snapshot, &owners))
                .collect(),
            policies: policies(snapshot),
            pods: report.pods.iter().map(|one| pod(one, snapshot)).collect(),
        }
    }
}

/// Which pod has an address. A pod without a network of its own has none.
fn owners(snapshot: &Snapshot) -> HashMap<IpAddr, &ObjectName> {
    let pods = snapshot.pods.values();
    let own = pods.filter(|pod| !pod.host_network && !pod.finished);
    own.flat_map(|pod| {
        let addresses = [pod.ipv4.map(IpAddr::V4), pod.ipv6.map(IpAddr::V6)];
        addresses.into_iter().flatten().map(|ip| (ip, &pod.name))
    })
    .collect()
}

fn node(node: &snapshot::Node, snapshot: &Snapshot) -> Node {
    let is_left_out = |cidr: &&IpNetwork| snapshot.why_left_out(node, **cidr).is_some();
    let is_bad = |taint: &std::sync::Arc<str>| NOT_READY.contains(&&**taint);
    Node {
        name: node.name.to_string(),
        addresses: node.addresses().collect(),
        pod_cidrs: node.pod_cidrs.clone(),
        left_out: node.pod_cidrs.iter().filter(is_left_out).copied().collect(),
        ready: node.taints.iter().any(is_bad).then_some(false),
    }
}

fn service(
    service: &snapshot::Service,
    snapshot: &Snapshot,
    owners: &HashMap<IpAddr, &ObjectName>,
) -> Service {
    let port = |port: &snapshot::ServicePort| Port {
        name: port.name.to_string(),
        protocol: port.protocol.name().to_owned(),
        port: port.port,
        node_port: port.node_port,
        endpoints: endpoints(&service.name, port, snapshot, owners),
    };
    Service {
        name: service.name.name.to_string(),
        namespace: service.name.namespace.to_string(),
        kind: kind(service.kind).to_owned(),
        cluster_ips: service.cluster_ips.to_vec(),
        external: (service.external_ips.iter())
            .chain(service.load_balancer_vips.iter())
            .copied()
            .collect(),
        ports: service.ports.iter().map(port).collect(),
    }
}

fn kind(kind: ServiceKind) -> &'static str {
    match kind {
        ServiceKind::ClusterIp => "ClusterIP",
        ServiceKind::NodePort => "NodePort",
        ServiceKind::LoadBalancer => "LoadBalancer",
        ServiceKind::ExternalName => "ExternalName",
    }
}

/// The endpoints of a port: its name and protocol tie it to those of the slices.
fn endpoints(
    service: &ObjectName,
    port: &snapshot::ServicePort,
    snapshot: &Snapshot,
    owners: &HashMap<IpAddr, &ObjectName>,
) -> Vec<Endpoint> {
    let mut found = Vec::new();
    for slice in snapshot.slices_of(service) {
        let mut ports = slice.ports.iter();
        let same = ports.find(|one| one.name == port.name && one.protocol == port.protocol);
        let Some(number) = same.map(|one| one.port) else {
            continue;
        };
        found.extend(slice.endpoints.iter().map(|one| Endpoint {
            address: one.address,
            port: number,
            pod: owners.get(&one.address).map(ToString::to_string),
            node: one.node.map(ToString::to_string),
            ready: one.ready,
            serving: one.serving,
            terminating: one.terminating,
        }));
    }
    found.sort_unstable();
    found.dedup();
    found
}

fn policies(snapshot: &Snapshot) -> Vec<Policy> {
    let of_cluster = snapshot.cluster_policies.values().map(|policy| Policy {
        kind: "ClusterNetworkPolicy".into(),
        name: policy.name.to_string(),
        namespace: None,
        tier: Some(policy.tier.name().to_owned()),
        selects: {
            let has = |direction| !policy.rules(direction).is_empty();
            format!("{}{}", policy.subject, directions(has))
        },
    });
    let namespaced = snapshot.policies.values().map(|policy| Policy {
        kind: "NetworkPolicy".into(),
        name: policy.name.name.to_string(),
        namespace: Some(policy.name.namespace.to_string()),
        tier: None,
        selects: {
            let has = |direction| policy.rules(direction).is_some();
            match policy.subject.is_empty() {
                true => format!("all pods{}", directions(has)),
                false => format!("{}{}", policy.subject, directions(has)),
            }
        },
    });
    of_cluster.chain(namespaced).collect()
}

fn directions(has: impl Fn(Direction) -> bool) -> String {
    let names: Vec<&str> = Direction::ALL
        .into_iter()
        .filter(|direction| has(*direction))
        .map(Direction::name)
        .collect();
    match names.is_empty() {
        true => String::new(),
        false => format!(" ({})", names.join(" and ")),
    }
}

fn pod(pod: &PodReport, snapshot: &Snapshot) -> Pod {
    let name = pod.pod.as_deref().and_then(|full| full.split_once('/'));
    let known = name.and_then(|(namespace, name)| {
        snapshot.pods.get(&ObjectName {
            namespace: namespace.into(),
            name: name.into(),
        })
    });
    let labels = known.into_iter().flat_map(|pod| pod.labels.iter());
    Pod {
        name: pod.pod.clone(),
        addresses: pod.addresses.clone(),
        link: pod.link.clone(),
        labels: labels
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::features::services::desired::samples;
    use crate::features::test_node::TestNode;
    use crate::pod_cidrs::PodCidrs;
    use crate::snapshot::{Change, Dirty, Labels, Object};

    fn set(node: &mut TestNode, object: Object) {
        node.snapshot
            .apply(Change::Set(object), &mut Dirty::default());
    }

    #[test]
    fn a_service_comes_with_its_endpoints_and_whose_they_are() {
        let mut test = TestNode::new();
        let hostile = "default/web-\u{1b}[2J";
        let mut pod = snapshot::Pod::named(samples::object(hostile));
        pod.ipv4 = Some([10, 10, 1, 2].into());
        pod.labels = Labels::from_iter([("app".into(), "web".into())]);
        set(&mut test, Object::Pod(pod));
        let mut node = snapshot::Node::named("worker2");
        node.internal_ips = vec!["192.168.8.3".parse().unwrap()];
        node.taints = vec![NOT_READY[1].into()];
        set(&mut test, Object::Node(node));
        set(
            &mut test,
            Object::Service(samples::service("cluster-ip 10.200.1.63; port tcp 9000")),
        );
        set(
            &mut test,
            Object::EndpointSlice(samples::slice_of(
                "default/web",
                "default/web-1",
                &[("", snapshot::Protocol::Tcp, 8080)],
                "10.10.1.2@worker",
            )),
        );
        let local = PodReport {
            link: "veth1".into(),
            pod: Some(hostile.into()),
            container_id: "c".into(),
            ifname: "eth0".into(),
            addresses: vec!["10.10.1.2".parse().unwrap()],
            mtu: Some(1500),
            present: true,
        };
        let report = Report {
            pods: vec![local],
            ..Report::default()
        };
        let found = Cluster::of(&test.world(), &report);
        assert_eq!(found.node, "worker");
        assert_eq!(found.nodes[0].ready, Some(false));
        let port = &found.services[0].ports[0];
        assert_eq!((port.port, port.protocol.as_str()), (9000, "tcp"));
        assert_eq!(port.endpoints[0].pod.as_deref(), Some(hostile));
        assert_eq!(port.endpoints[0].node.as_deref(), Some("worker"));
        assert_eq!(port.endpoints[0].port, 8080);
        assert_eq!(found.pods[0].labels["app"], "web");
        let text = serde_json::to_string(&found).unwrap();
        assert_eq!(serde_json::from_str::<Cluster>(&text).unwrap(), found);
    }

    #[test]
    fn of_two_nodes_with_one_pod_cidr_the_one_without_a_route_to_it_is_said() {
        let mut test = TestNode::new();
        let cidr: IpNetwork = "10.10.8.0/24".parse().unwrap();
        let joins = |test: &mut TestNode, name: &str, created| {
            let mut node = snapshot::Node::named(name);
            node.pod_cidrs = vec![cidr];
            node.created = created;
            set(test, Object::Node(node));
        };
        joins(&mut test, "aaa", Some(90));
        joins(&mut test, "zzz", Some(10));
        let left_out = |test: &mut TestNode, had: Option<&str>| {
            let had = had.map(|name| (cidr, name.into()));
            let had = had.into_iter().collect();
            let own = test.config.node_name.clone();
            PodCidrs::after(Box::new(|_| had)).settle(&mut test.snapshot, &own, None);
            let nodes = Cluster::of(&test.world(), &Report::default()).nodes;
            nodes.into_iter().map(|node| node.left_out).collect()
        };
        let found: Vec<_> = left_out(&mut test, None);
        assert_eq!(found, [vec![cidr], vec![]]);
        // Those of one age have it by who had it.
        joins(&mut test, "aaa", None);
        joins(&mut test, "zzz", None);
        let found: Vec<_> = left_out(&mut test, Some("zzz"));
        assert_eq!(found, [vec![cidr], vec![]]);
        let found: Vec<_> = left_out(&mut test, Some("aaa"));
        assert_eq!(found, [vec![], vec![cidr]]);
    }
}
