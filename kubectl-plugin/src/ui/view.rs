//! What the agents say, put together: one cluster out of one report a node. Pure.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};

use podwire_agent::report::{
    PodReport, Report, RouteReport, ServicePortReport, ServiceReport, UplinkReport,
};
use serde::Serialize;

use crate::reach::Node;
pub use crate::status::Kind;
use crate::status::{Heard, findings};

/// The cluster as the page draws it.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct View {
    /// What is looked at.
    pub title: String,
    /// The nodes, sorted by name.
    pub nodes: Vec<NodeView>,
    /// The Services, sorted by name.
    pub services: Vec<ServiceView>,
    /// The policies that isolate a pod, sorted by name.
    pub policies: Vec<PolicyView>,
    /// Everything that is wrong.
    pub wrong: Vec<Wrong>,
}

/// A node.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct NodeView {
    /// Its name.
    pub name: String,
    /// Its addresses on the node network.
    pub addresses: Vec<IpAddr>,
    /// Its podCIDRs.
    pub pod_cidrs: Vec<String>,
    /// Its link to the node network.
    pub uplink: Option<Uplink>,
    /// Whether its agent answers.
    pub answers: bool,
    /// Why not.
    pub trouble: Option<String>,
    /// Its pods, in the order of their addresses.
    pub pods: Vec<PodView>,
}

/// A node's link to the node network.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Uplink {
    /// Its name.
    pub name: String,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Whether it is up.
    pub up: bool,
}

/// A pod.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct PodView {
    /// `namespace/name`, or the container ID if no one told the name; the address, if a Service has the
    /// name.
    pub id: String,
    /// Its namespace; empty if no one told.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Its link's end on the node.
    pub link: String,
    /// Whether that is there.
    pub present: bool,
    /// The policies that isolate it for ingress.
    pub ingress: Vec<String>,
    /// The policies that isolate it for egress.
    pub egress: Vec<String>,
}

impl PodView {
    /// `namespace/name`, as agents call it, or the container ID.
    pub fn full_name(&self) -> String {
        match &*self.namespace {
            "" => self.name.clone(),
            namespace => format!("{namespace}/{}", self.name),
        }
    }
}

/// A Service.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct ServiceView {
    /// `namespace/name`.
    pub id: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its ports.
    pub ports: Vec<PortView>,
}

/// A port of a Service.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct PortView {
    /// Its name; empty for a single unnamed port.
    pub name: String,
    /// `tcp`, `udp` or `sctp`.
    pub protocol: String,
    /// Where it answers.
    pub fronts: Vec<String>,
    /// How endpoints are chosen.
    pub balancing: String,
    /// How long a client stays, in seconds.
    pub affinity: Option<u32>,
    /// New connections on all nodes, if they are counted.
    pub connections: Option<u64>,
    /// Its endpoints.
    pub endpoints: Vec<EndpointView>,
}

/// An endpoint.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct EndpointView {
    /// Its address and port.
    pub address: String,
    /// The pod that has it.
    pub pod: Option<String>,
    /// That pod's node.
    pub node: Option<String>,
    /// New connections on all nodes, if they are counted.
    pub connections: Option<u64>,
}

/// A policy.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct PolicyView {
    /// As agents call it.
    pub id: String,
    /// The pods that it isolates for ingress.
    pub ingress: Vec<String>,
    /// The pods that it isolates for egress.
    pub egress: Vec<String>,
    /// What may come to them, a rule each, in words; none if it says nothing of it.
    pub ingress_rules: Option<Vec<String>>,
    /// Where they may go.
    pub egress_rules: Option<Vec<String>>,
}

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Wrong {
    /// What kind of thing.
    pub kind: Kind,
    /// On which nodes, in a few words.
    pub node: String,
    /// The names of these nodes; none for the cluster as a whole.
    pub nodes: Vec<String>,
    /// About what; empty if the text says it.
    pub object: String,
    /// What.
    pub text: String,
}

/// What is known of a node: its agent's report, or that there is none.
pub type Said = Result<Report, Silent>;

/// An agent that does not answer.
#[derive(Debug, Clone, Default)]
pub struct Silent {
    /// Why not.
    pub why: String,
    /// The same beside the words "the agent".
    pub of_the_agent: String,
    /// What it said last: its pods may be there all the same.
    pub last: Option<Box<Report>>,
}

/// Everything that is wrong, as `status` says it, the worst first. What may be missing among the nodes
/// (`remarks`) is one of these things: then that all is well cannot be said.
pub fn wrong<'a>(
    nodes: impl Iterator<Item = (&'a Node, &'a Said)>,
    remarks: &[String],
) -> Vec<Wrong> {
    let heard = nodes.map(|(node, said)| {
        let heard = match said {
            Ok(report) => Heard::Says(report),
            Err(silent) => Heard::Silent {
                of_the_agent: silent.of_the_agent.clone(),
                why: silent.why.clone(),
            },
        };
        (node, heard)
    });
    let found = findings(heard).into_iter();
    let mut wrong: Vec<Wrong> = found
        .map(|one| Wrong {
            kind: one.kind,
            node: one.place(),
            nodes: one.nodes,
            object: one.object,
            text: one.text,
        })
        .collect();
    wrong.extend(remarks.iter().map(|text| Wrong {
        kind: Kind::Warning,
        node: "the cluster".into(),
        nodes: Vec::new(),
        object: String::new(),
        text: text.clone(),
    }));
    wrong.sort_by_key(|one| one.kind);
    wrong
}

/// Puts together what the agents of these nodes said, but for what is [`wrong`].
pub fn view(title: &str, said: &BTreeMap<String, Said>) -> View {
    let reports: Vec<&Report> = said.values().filter_map(|one| one.as_ref().ok()).collect();
    let mut nodes: Vec<NodeView> = said.iter().map(|(name, one)| node(name, one)).collect();
    complete(&mut nodes, &reports);
    let services = services(&reports, &nodes);
    tell_apart(&mut nodes, &services);
    View {
        title: title.to_owned(),
        services,
        policies: policies(&reports, &nodes),
        nodes,
        wrong: Vec::new(),
    }
}

/// A pod that has the name of a Service goes by its address, which `why` understands as well.
fn tell_apart(nodes: &mut [NodeView], services: &[ServiceView]) {
    let names: HashSet<&str> = services.iter().map(|service| &*service.id).collect();
    for pod in nodes.iter_mut().flat_map(|node| &mut node.pods) {
        if let Some(address) = pod.addresses.first()
            && names.contains(&*pod.id)
        {
            pod.id = address.to_string();
        }
    }
}

fn node(name: &str, said: &Said) -> NodeView {
    let name = name.to_owned();
    let (report, trouble) = match said {
        Ok(report) => (Some(report), None),
        Err(silent) => (silent.last.as_deref(), Some(silent.why.clone())),
    };
    let answers = trouble.is_none();
    match report {
        Some(report) => NodeView {
            name,
            answers,
            trouble,
            addresses: report.uplink.iter().flat_map(own).collect(),
            uplink: report.uplink.as_ref().map(|uplink| Uplink {
                name: uplink.name.clone(),
                mtu: uplink.mtu,
                up: uplink.up,
            }),
            pods: pods(report),
            ..NodeView::default()
        },
        None => NodeView {
            name,
            trouble,
            ..NodeView::default()
        },
    }
}

fn own(uplink: &UplinkReport) -> impl Iterator<Item = IpAddr> {
    // An address that each link has by itself leads no one to this node.
    let of_link =
        |address: &IpAddr| matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
    let addresses = uplink.addresses.iter().map(|network| network.ip());
    addresses.filter(move |address| !of_link(address))
}

/// The policies that isolate a pod for ingress, and for egress.
type Isolating<'a> = (Vec<&'a String>, Vec<&'a String>);

fn pods(report: &Report) -> Vec<PodView> {
    let isolated = report.policies.iter().flat_map(|all| &all.isolated);
    let mut by_pod: HashMap<&str, Isolating> = HashMap::new();
    for one in isolated {
        let (ingress, egress) = by_pod.entry(&one.pod).or_default();
        ingress.extend(&one.ingress);
        egress.extend(&one.egress);
    }
    let pods = report.pods.iter();
    pods.map(|one| pod(one, &by_pod)).collect()
}

fn pod(pod: &PodReport, isolated: &HashMap<&str, Isolating>) -> PodView {
    let id = pod.pod.clone().unwrap_or_else(|| pod.container_id.clone());
    let (namespace, name) = match id.split_once('/') {
        Some((namespace, name)) => (namespace.to_owned(), name.to_owned()),
        None => (String::new(), id.clone()),
    };
    let (ingress, egress) = isolated.get(&*id).cloned().unwrap_or_default();
    PodView {
        namespace,
        name,
        addresses: pod.addresses.clone(),
        link: pod.link.clone(),
        present: pod.present,
        ingress: ingress.into_iter().cloned().collect(),
        egress: egress.into_iter().cloned().collect(),
        id,
    }
}

/// What the others know of a node, even if its own agent is silent: its podCIDRs and address. Each node
/// has a route to each, so what they say is put together first.
fn complete(nodes: &mut [NodeView], reports: &[&Report]) {
    let mut told: HashMap<&str, (Vec<&RouteReport>, Vec<IpAddr>)> = HashMap::new();
    for route in reports.iter().flat_map(|report| &report.routes) {
        let (routes, gateways) = told.entry(&route.node).or_default();
        let same = |one: &&RouteReport| one.destination == route.destination;
        if !routes.iter().any(same) {
            routes.push(route);
        }
        if let Some(gateway) = route.gateway.filter(|one| !gateways.contains(one)) {
            gateways.push(gateway);
        }
    }
    for node in nodes {
        let Some((routes, mut gateways)) = told.remove(&*node.name) else {
            continue;
        };
        let cidrs = routes.iter().map(|route| route.destination.to_string());
        node.pod_cidrs.extend(cidrs);
        if !node.answers {
            gateways.retain(|gateway| !node.addresses.contains(gateway));
            node.addresses.append(&mut gateways);
        }
    }
}

fn services(reports: &[&Report], nodes: &[NodeView]) -> Vec<ServiceView> {
    let mut owners = HashMap::new();
    for node in nodes {
        for pod in &node.pods {
            let addresses = pod.addresses.iter();
            owners.extend(addresses.map(|address| (*address, (&*pod.id, &*node.name))));
        }
    }
    let mut all: BTreeMap<&str, Gathered> = BTreeMap::new();
    for service in reports.iter().flat_map(|report| &report.services) {
        let known = all.entry(&service.name);
        let known = known.or_insert_with(|| Gathered::empty(service));
        known.add(service, &owners);
    }
    all.into_values().map(|known| known.view).collect()
}

/// The pod that has an address, and its node.
type Owners<'a> = HashMap<IpAddr, (&'a str, &'a str)>;

/// A Service while it is put together: each node reports all of it.
struct Gathered<'a> {
    view: ServiceView,
    /// Where its ports are, by what names them within the Service, not by their place: an agent that is
    /// behind may have other ports.
    ports: HashMap<(&'a str, &'a str), usize>,
    /// Where the endpoints of a port are.
    endpoints: HashMap<(usize, SocketAddr), usize>,
}

impl<'a> Gathered<'a> {
    fn empty(service: &ServiceReport) -> Self {
        let id = service.name.clone();
        let (namespace, name) = id.split_once('/').unwrap_or(("", &id));
        let view = ServiceView {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            ports: Vec::new(),
            id,
        };
        Self {
            view,
            ports: HashMap::new(),
            endpoints: HashMap::new(),
        }
    }

    /// Counts of one more node are added: each node balances what its own pods send.
    fn add(&mut self, service: &'a ServiceReport, owners: &Owners) {
        for port in &service.ports {
            let place = self.place(port);
            let known = &mut self.view.ports[place];
            known.connections = sum(known.connections, port.connections);
            for endpoint in &port.endpoints {
                let address = endpoint.address;
                let at = *self.endpoints.entry((place, address)).or_insert_with(|| {
                    known.endpoints.push(unused(address, owners));
                    known.endpoints.len() - 1
                });
                let count = &mut known.endpoints[at].connections;
                *count = sum(*count, endpoint.connections);
            }
        }
    }

    /// Where a port is.
    fn place(&mut self, port: &'a ServicePortReport) -> usize {
        let known = &mut self.view.ports;
        let place = self.ports.entry((&port.name, &port.protocol));
        *place.or_insert_with(|| {
            known.push(PortView {
                name: port.name.clone(),
                protocol: port.protocol.clone(),
                fronts: port.fronts.clone(),
                balancing: port.balancing.clone(),
                affinity: port.affinity,
                ..PortView::default()
            });
            known.len() - 1
        })
    }
}

/// An endpoint of which no node has counted anything.
fn unused(address: SocketAddr, owners: &Owners) -> EndpointView {
    let owner = owners.get(&address.ip());
    EndpointView {
        address: address.to_string(),
        pod: owner.map(|(pod, _)| (*pod).to_owned()),
        node: owner.map(|(_, node)| (*node).to_owned()),
        connections: None,
    }
}

fn sum(a: Option<u64>, b: Option<u64>) -> Option<u64> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a + b),
        (a, b) => a.or(b),
    }
}

fn policies(reports: &[&Report], nodes: &[NodeView]) -> Vec<PolicyView> {
    let mut all: BTreeMap<&str, PolicyView> = BTreeMap::new();
    for pod in nodes.iter().flat_map(|node| &node.pods) {
        for name in &pod.ingress {
            all.entry(name).or_default().ingress.push(pod.id.clone());
        }
        for name in &pod.egress {
            all.entry(name).or_default().egress.push(pod.id.clone());
        }
    }
    let told = reports.iter().filter_map(|report| report.policies.as_ref());
    for told in told.flat_map(|policies| &policies.isolating) {
        if let Some(known) = all.get_mut(&*told.name) {
            known.ingress_rules.clone_from(&told.ingress);
            known.egress_rules.clone_from(&told.egress);
        }
    }
    let named = |(name, policy): (&str, PolicyView)| PolicyView {
        id: name.to_owned(),
        ..policy
    };
    all.into_iter().map(named).collect()
}

#[cfg(test)]
mod tests {
    use podwire_agent::report::{IsolatedReport, IsolatingReport, PoliciesReport};

    use super::*;

    fn report(node: &str, pod: &str) -> Report {
        let pod = PodReport {
            link: "veth1".into(),
            pod: Some(pod.into()),
            addresses: vec!["10.10.1.2".parse().unwrap()],
            present: true,
            container_id: "0123".into(),
            ifname: "eth0".into(),
            mtu: None,
        };
        Report {
            node: node.into(),
            pods: vec![pod],
            ..Report::default()
        }
    }

    #[test]
    fn a_node_that_falls_silent_keeps_its_pods_and_is_wrong() {
        let silent = Silent {
            why: "it is late".into(),
            of_the_agent: "is late".into(),
            last: Some(Box::new(report("a", "default/web"))),
        };
        let said = BTreeMap::from([
            ("a".to_owned(), Err(silent)),
            ("b".to_owned(), Ok(report("b", "x/y"))),
        ]);
        let seen = view("t", &said);
        assert!(!seen.nodes[0].answers && seen.nodes[1].answers);
        assert_eq!(seen.nodes[0].pods[0].id, "default/web");
        let nodes = [Node::named("a"), Node::named("b")];
        let found = wrong(nodes.iter().map(|node| (node, &said[&node.name])), &[]);
        let silent = &found[0];
        assert_eq!(
            (silent.kind, &*silent.node, &*silent.text),
            (Kind::Silent, "node a", "is late")
        );
        assert_eq!(silent.nodes, ["a"], "by name, for the picture");
        // What `status` says is said here as well: this agent has listed nothing yet.
        assert!(found.iter().any(|one| one.node == "node b"), "{found:?}");
    }

    #[test]
    fn what_others_know_of_a_node_is_told_once_and_its_address_only_if_it_is_silent() {
        let route = |node: &str, destination: &str| RouteReport {
            node: node.into(),
            destination: destination.parse().unwrap(),
            gateway: Some("172.18.0.9".parse().unwrap()),
            link: None,
            unreachable: false,
            refused: false,
            present: true,
        };
        let with_routes = |node: &str| Report {
            routes: vec![
                route("c", "10.10.3.0/24"),
                route("c", "fd00:3::/64"),
                route("a", "10.10.1.0/24"),
                route("gone", "10.10.9.0/24"),
            ],
            ..report(node, "x/y")
        };
        let said = BTreeMap::from([
            ("a".to_owned(), Ok(with_routes("a"))),
            ("b".to_owned(), Ok(with_routes("b"))),
            ("c".to_owned(), Err(Silent::default())),
        ]);
        let [a, b, c] = view("t", &said).nodes.try_into().unwrap();
        assert_eq!(c.pod_cidrs, ["10.10.3.0/24", "fd00:3::/64"]);
        assert_eq!(c.addresses, ["172.18.0.9".parse::<IpAddr>().unwrap()]);
        assert_eq!(
            (a.pod_cidrs, a.addresses),
            (vec!["10.10.1.0/24".to_owned()], vec![])
        );
        assert!(b.pod_cidrs.is_empty());
    }

    #[test]
    fn a_policy_has_the_pods_of_all_nodes_and_its_rules() {
        let isolating = IsolatingReport {
            name: "default/deny".into(),
            ingress: Some(vec!["tcp 80 from app=a".into()]),
            egress: None,
        };
        let isolated = |pod: &str| {
            let isolated = IsolatedReport {
                pod: pod.into(),
                ingress: vec!["default/deny".into()],
                ..IsolatedReport::default()
            };
            let policies = PoliciesReport {
                isolated: vec![isolated],
                isolating: vec![isolating.clone()],
                ..PoliciesReport::default()
            };
            Report {
                policies: Some(policies),
                ..report("n", pod)
            }
        };
        let nodes = [("a", "default/one"), ("b", "default/two")];
        let said = nodes.map(|(node, pod)| (node.to_owned(), Ok(isolated(pod))));
        let seen = view("t", &said.into());
        let deny = PolicyView {
            id: "default/deny".into(),
            ingress: vec!["default/one".into(), "default/two".into()],
            ingress_rules: isolating.ingress.clone(),
            ..PolicyView::default()
        };
        assert_eq!(seen.policies, [deny]);
    }

    #[test]
    fn a_pod_with_the_name_of_a_service_is_another_thing() {
        let service = ServiceReport {
            name: "default/web".into(),
            ports: Vec::new(),
        };
        let with_service = Report {
            services: vec![service],
            ..report("a", "default/web")
        };
        let said = BTreeMap::from([("a".to_owned(), Ok(with_service))]);
        let seen = view("t", &said);
        let pod = &seen.nodes[0].pods[0];
        assert_eq!((&*pod.id, &*pod.name), ("10.10.1.2", "web"));
        assert_eq!(seen.services[0].id, "default/web");
    }

    #[test]
    fn connections_that_nodes_counted_are_added_up() {
        let endpoint = |connections| podwire_agent::report::EndpointReport {
            address: "10.10.1.2:80".parse().unwrap(),
            here: false,
            connections,
        };
        let counted = |connections| {
            let port = podwire_agent::report::ServicePortReport {
                connections,
                endpoints: vec![endpoint(connections)],
                ..Default::default()
            };
            let service = ServiceReport {
                name: "default/web".into(),
                ports: vec![port],
            };
            Report {
                services: vec![service],
                ..report("n", "default/pod")
            }
        };
        let said = BTreeMap::from([
            ("a".to_owned(), Ok(counted(Some(3)))),
            ("b".to_owned(), Ok(counted(None))),
            ("c".to_owned(), Ok(counted(Some(4)))),
        ]);
        let port = &view("t", &said).services[0].ports[0];
        assert_eq!((port.connections, port.endpoints.len()), (Some(7), 1));
        assert_eq!(port.endpoints[0].connections, Some(7));
        assert_eq!(port.endpoints[0].pod.as_deref(), Some("default/pod"));
    }

    #[test]
    fn ports_of_an_agent_that_is_behind_are_added_to_those_of_the_same_name() {
        let port = |name: &str, connections| podwire_agent::report::ServicePortReport {
            name: name.into(),
            connections: Some(connections),
            ..Default::default()
        };
        let with = |ports: &[(&str, u64)]| {
            let ports = ports.iter().map(|(name, count)| port(name, *count));
            let service = ServiceReport {
                name: "default/web".into(),
                ports: ports.collect(),
            };
            Report {
                services: vec![service],
                ..report("n", "default/pod")
            }
        };
        let said = BTreeMap::from([
            ("a".to_owned(), Ok(with(&[("http", 1), ("metrics", 10)]))),
            ("b".to_owned(), Ok(with(&[("metrics", 20)]))),
        ]);
        let seen = view("t", &said);
        let counts: Vec<_> = seen.services[0]
            .ports
            .iter()
            .map(|port| (&*port.name, port.connections))
            .collect();
        assert_eq!(counts, [("http", Some(1)), ("metrics", Some(30))]);
    }
}
