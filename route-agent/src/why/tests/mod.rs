//! Walks through the cluster of the walkthrough.

mod claims;
mod endpoints;
mod kernel;
mod pod_cidrs;
mod policies;
mod refusals;

use std::collections::BTreeMap;
use std::sync::Arc;

use ipnetwork::IpNetwork;

use super::*;
use crate::config::{Config, test_config};
use crate::pod_cidrs::{Holders, PodCidrs, settled};
use crate::snapshot::{
    Change, Dirty, Endpoint, EndpointPort, EndpointSlice, Few, Key, Node, Object, ObjectName,
    Protocol, Service, ServiceCidr, ServiceKind, ServicePort, Snapshot, TrafficPolicy,
};
use crate::uplink::{Uplink, test_uplink};

/// The cluster as worker2 (172.18.0.4, 10.10.2.0/24) sees it.
struct World {
    snapshot: Snapshot,
    config: Config,
    uplink: Option<Uplink>,
    /// Who has which podCIDR, as the routes say it.
    holders: Holders,
    pods: Vec<Pod>,
    own: Vec<IpAddr>,
    gone: Vec<(IpNetwork, String)>,
    host_ports: Vec<HostPort>,
    owners: BTreeMap<IpAddr, ObjectName>,
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn node(name: &str, internal: &str, cidr: &str) -> Object {
    Object::Node(Node {
        name: Arc::from(name),
        internal_ips: vec![ip(internal)],
        other_ips: Vec::new(),
        all_labels: crate::snapshot::Labels::none(),
        pod_cidrs: vec![cidr.parse().unwrap()],
        labels: BTreeMap::new(),
        taints: Vec::new(),
        created: None,
        deleting: false,
        invalid: Vec::new(),
    })
}

fn name(name: &str) -> ObjectName {
    ObjectName {
        namespace: Arc::from("default"),
        name: Arc::from(name),
    }
}

fn service(of: &str, address: &str, node_port: Option<u16>) -> Service {
    Service {
        kind: if node_port.is_some() {
            ServiceKind::NodePort
        } else {
            ServiceKind::ClusterIp
        },
        cluster_ips: Box::new([ip(address)]),
        ports: Box::new([ServicePort {
            name: Arc::from("http"),
            protocol: Protocol::Tcp,
            port: 9000,
            node_port,
        }]),
        ..Service::named(name(of))
    }
}

/// Endpoints by address and Node.
fn slice(of: &str, port: u16, endpoints: &[(&str, &str)]) -> Object {
    Object::EndpointSlice(EndpointSlice {
        name: name(&format!("{of}-1")),
        service: name(of),
        ports: Box::new([EndpointPort {
            name: Arc::from("http"),
            protocol: Protocol::Tcp,
            port,
        }]),
        endpoints: endpoints
            .iter()
            .map(|(address, node)| Endpoint {
                address: ip(address),
                ready: true,
                serving: true,
                terminating: false,
                node: Some(Arc::from(*node)),
                hints: None,
            })
            .collect(),
        last_change: None,
        invalid: Few::new(),
    })
}

fn pod(name: &str, address: &str, link: &str) -> Pod {
    Pod {
        name: Some(format!("default/{name}")),
        unnamed: false,
        container_id: name.to_owned(),
        ifname: "eth0".into(),
        link: link.into(),
        up: true,
        addresses: vec![ip(address)],
    }
}

impl World {
    fn new(flags: &[&str]) -> Self {
        let all = [&["--node-name=worker2"], flags].concat();
        let mut world = Self {
            snapshot: Snapshot::default(),
            config: test_config(&all),
            uplink: Some(test_uplink("172.18.0.4/16")),
            holders: Holders::new(),
            pods: vec![
                pod("pod1", "10.10.2.3", "vethpod1"),
                pod("web", "10.10.2.4", "vethweb"),
            ],
            own: vec![ip("172.18.0.4"), ip("10.10.2.1")],
            gone: vec![("10.10.7.0/24".parse().unwrap(), "Node old".into())],
            host_ports: Vec::new(),
            owners: BTreeMap::new(),
        };
        for object in [
            node("control-plane", "172.18.0.5", "10.10.0.0/24"),
            node("worker", "172.18.0.2", "10.10.1.0/24"),
            node("worker2", "172.18.0.4", "10.10.2.0/24"),
            node("worker3", "172.18.0.3", "10.10.3.0/24"),
            Object::Service(service("svc-clusterip", "10.200.1.63", None)),
            slice(
                "svc-clusterip",
                80,
                &[
                    ("10.10.1.3", "worker"),
                    ("10.10.2.4", "worker2"),
                    ("10.10.3.3", "worker3"),
                ],
            ),
            Object::Service(service("svc-nodeport", "10.200.1.217", Some(31662))),
            slice("svc-nodeport", 8080, &[("10.10.3.5", "worker3")]),
            Object::Service(service("svc-empty", "10.200.1.9", None)),
            Object::ServiceCidr(ServiceCidr {
                name: Arc::from("kubernetes"),
                cidrs: vec!["10.200.1.0/24".parse().unwrap()],
                invalid: Vec::new(),
            }),
        ] {
            world.set(object);
        }
        world
    }

    fn set(&mut self, object: Object) {
        self.snapshot
            .apply(Change::Set(object), &mut Dirty::default());
    }

    /// Changes a Service.
    fn with(mut self, of: &str, change: impl FnOnce(&mut Service)) -> Self {
        let mut service = self.snapshot.services[&name(of)].clone();
        change(&mut service);
        self.set(Object::Service(service));
        self
    }

    /// Asks something of the facts, once it is decided who has which podCIDR.
    fn ask<T>(&self, question: impl FnOnce(&Facts<'_>) -> T) -> T {
        let (mut snapshot, holders) = (self.snapshot.clone(), self.holders.clone());
        let (own, uplink) = (&self.config.node_name, self.uplink.as_ref());
        PodCidrs::after(Box::new(|_| holders)).settle(&mut snapshot, own, uplink);
        question(&Facts {
            snapshot: &snapshot,
            config: &self.config,
            uplink,
            pods: &self.pods,
            claims: &settled(&snapshot),
            node_addresses: &self.own,
            gone_cidrs: &self.gone,
            host_ports: &self.host_ports,
            owners: &self.owners,
        })
    }

    fn try_walk(&self, from: &str, to: &str) -> Result<Trace, QuestionError> {
        let question = Question::parse(from, to)?;
        self.ask(|facts| walk(facts, &question))
    }

    fn walk(&self, from: &str, to: &str) -> Trace {
        self.try_walk(from, to).unwrap()
    }
}

/// The hops in a few words, and the end.
#[track_caller]
fn expect(trace: &Trace, end: End, parts: &[&str]) {
    let text = trace.to_string();
    assert_eq!(trace.end, end, "{text}");
    let mut rest = text.as_str();
    for part in parts {
        let at = rest.find(part);
        let at = at.unwrap_or_else(|| panic!("{part:?} (in this order) in\n{text}"));
        rest = &rest[at + part.len()..];
    }
}

#[test]
fn a_ping_to_a_pod_on_another_node_goes_to_that_node_with_its_own_source() {
    let trace = World::new(&[]).walk("pod1", "10.10.1.2");
    expect(
        &trace,
        End::Leaves,
        &[
            "From pod default/pod1 (10.10.2.3) to 10.10.1.2 (ping), seen from node worker2",
            "1. Pod default/pod1 (10.10.2.3) hands it to its gateway 10.10.2.1",
            "vethpod1",
            "2. Route to 10.10.1.2: via 172.18.0.2 (worker, route to 10.10.1.0/24) through eth0",
            "3. The source stays 10.10.2.3",
            "=> It leaves for node worker",
        ],
    );
    assert_eq!(
        trace.hops[1].checks[0],
        Check::Route {
            to: ip("10.10.1.2"),
            wanted: Wanted::Gateway(ip("172.18.0.2"))
        }
    );
}

#[test]
fn a_cluster_ip_leads_to_its_endpoints_by_their_shares_without_masquerade() {
    let trace = World::new(&[]).walk("default/pod1", "10.200.1.63:9000");
    expect(
        &trace,
        End::Leaves,
        &[
            "2. Service default/svc-clusterip, port 9000/tcp (http): its ClusterIP 10.200.1.63",
            "nft list map ip podwire-services services",
            "3. One of 3 endpoints, at random, each gets 33.3 %",
            "4. The source stays 10.10.2.3",
            "A pod connects to a ClusterIP",
            "5. The way to the endpoints",
            "10.10.2.4: a pod on this node, straight through its link vethweb",
            "10.10.1.3: via 172.18.0.2 (worker",
            "=> A packet to Service default/svc-clusterip goes to one of its 3 endpoints",
        ],
    );
    // The Service by its name is the same.
    let by_name = World::new(&[]).walk("pod1", "svc-clusterip:9000");
    assert_eq!(by_name, trace);
}

#[test]
fn an_endpoint_that_may_reach_itself_is_warned_of_the_hairpin() {
    let trace = World::new(&[]).walk("web", "10.200.1.63:9000");
    expect(
        &trace,
        End::Leaves,
        &["The source stays 10.10.2.4", "(hairpin)"],
    );
}

#[test]
fn affinity_and_balancing_are_explained() {
    let world = World::new(&["--balancing=round-robin"]);
    let trace = world.walk("pod1", "10.200.1.63:9000");
    expect(
        &trace,
        End::Leaves,
        &["one after the other, each exactly 33.3 %"],
    );
    let world = world.with("svc-clusterip", |service| service.affinity = Some(10800));
    let trace = world.walk("pod1", "10.200.1.63:9000");
    expect(
        &trace,
        End::Leaves,
        &["a client that was here in the last 10800 s"],
    );
    let checks = trace.hops.iter().flat_map(|hop| &hop.checks);
    assert!(
        checks
            .into_iter()
            .any(|check| matches!(check, Check::Client { map, .. }
            if map == "affinity/default/svc-clusterip/tcp-9000/clients")),
        "{trace:?}"
    );
}

#[test]
fn a_node_port_is_reached_from_outside_with_masquerade() {
    let trace = World::new(&[]).walk("172.18.0.1", "172.18.0.4:31662");
    expect(
        &trace,
        End::Leaves,
        &[
            "1. It comes in through eth0, from 172.18.0.1",
            "2. Service default/svc-nodeport, port 9000/tcp (http): its node port 31662",
            "nft list map ip podwire-services nodeports",
            "3. The only endpoint: 10.10.3.5:8080",
            "4. The source is replaced by this node's address (masquerade)",
            "externalTrafficPolicy is Cluster",
        ],
    );
}

#[test]
fn a_pod_reaches_a_node_port_of_its_own_node_by_its_own_address() {
    let trace = World::new(&[]).walk("pod1", "172.18.0.4:31662");
    let stays = ["The source stays 10.10.2.3", "(chain policy-cluster)"];
    expect(&trace, End::Leaves, &stays);
    let trace = World::new(&["--masquerade-all=true"]).walk("pod1", "172.18.0.4:31662");
    expect(&trace, End::Leaves, &["externalTrafficPolicy is Cluster"]);
}

#[test]
fn local_policies_decide_who_may_answer() {
    let external = World::new(&[]).with("svc-nodeport", |service| {
        service.external_policy = TrafficPolicy::Local;
    });
    let trace = external.walk("172.18.0.1", "172.18.0.4:31662");
    expect(
        &trace,
        End::Dropped,
        &[
            "No endpoint may answer",
            "externalTrafficPolicy is Local",
            "=x",
        ],
    );
    let trace = external.walk("pod1", "172.18.0.4:31662");
    expect(
        &trace,
        End::Leaves,
        &["10.10.3.5:8080", "The source stays 10.10.2.3", "Local"],
    );
    let trace = external.walk("172.18.0.4", "172.18.0.4:31662");
    expect(&trace, End::Leaves, &["The node itself is the client"]);
    let internal = World::new(&[]).with("svc-nodeport", |service| {
        service.internal_policy = TrafficPolicy::Local;
    });
    let trace = internal.walk("pod1", "10.200.1.217:9000");
    expect(&trace, End::Dropped, &["internalTrafficPolicy is Local"]);
}

#[test]
fn source_ranges_drop_others() {
    let world = World::new(&[]).with("svc-clusterip", |service| {
        service.kind = ServiceKind::LoadBalancer;
        service.load_balancer_vips = vec![ip("192.0.2.7")].into();
        service.source_ranges = vec!["198.51.100.0/24".parse().unwrap()].into();
    });
    let trace = world.walk("198.51.100.9", "192.0.2.7:9000");
    expect(
        &trace,
        End::Leaves,
        &["its load-balancer address 192.0.2.7"],
    );
    let trace = world.walk("203.0.113.9", "192.0.2.7:9000");
    expect(
        &trace,
        End::Dropped,
        &["203.0.113.9 is in none of", "loadBalancerSourceRanges"],
    );
}

#[test]
fn what_is_refused_or_dropped_comes_with_its_reason() {
    let world = World::new(&[]);
    let refused = [
        ("10.200.1.9:9000", "No endpoint of the Service is ready"),
        ("10.200.1.63:81", "It has 9000/tcp"),
        ("10.200.1.63:9000/udp", "no such port"),
        ("10.200.1.63", "does not answer ping"),
        ("10.10.2.99:80", "no pod has 10.10.2.99"),
    ];
    for (to, why) in refused {
        expect(&world.walk("pod1", to), End::Refused, &[why]);
    }
    let trace = world.walk("pod1", "10.200.1.77:80");
    expect(
        &trace,
        End::Dropped,
        &["No Service has the address", "10.200.1.0/24"],
    );
    let echo = World::new(&["--cluster-ip-echo=true"]).walk("pod1", "10.200.1.63");
    expect(&echo, End::Arrives, &["this node answers"]);
}

#[test]
fn a_pod_of_a_node_that_is_gone_is_refused() {
    let trace = World::new(&[]).walk("pod1", "10.10.7.9:80");
    let parts = [
        "10.10.7.0/24 was the podCIDR of Node old, which is gone",
        "refused at once",
    ];
    expect(&trace, End::Refused, &parts);
}

#[test]
fn while_the_own_node_is_gone_its_pod_cidrs_count_as_before() {
    let mut world = World::new(&[]);
    let gone = Key::Node("worker2".into());
    let cidrs = world.snapshot.nodes["worker2"].pod_cidrs.clone();
    world.snapshot.remember_pod_cidrs(&cidrs);
    world
        .snapshot
        .apply(Change::Gone(gone), &mut Dirty::default());
    let trace = world.walk("pod1", "203.0.113.1:443");
    expect(&trace, End::Leaves, &["The source is replaced"]);
    let trace = world.walk("pod1", "10.10.2.99:80");
    expect(&trace, End::Refused, &["no pod has 10.10.2.99"]);
    // What is not from there is not masqueraded.
    world.pods.push(pod("other", "192.168.78.4", "vethother"));
    let trace = world.walk("other", "203.0.113.1:443");
    let stays = ["The source stays 192.168.78.4", "podCIDRs is masqueraded"];
    expect(&trace, End::Leaves, &stays);
}

#[test]
fn the_way_out_of_the_cluster_is_masqueraded_unless_exempt() {
    let trace = World::new(&[]).walk("pod1", "203.0.113.1:443");
    expect(
        &trace,
        End::Leaves,
        &["outside the cluster", "The source is replaced"],
    );
    let flags = ["--non-masquerade-cidrs=203.0.113.0/24"];
    let trace = World::new(&flags).walk("pod1", "203.0.113.1:443");
    expect(&trace, End::Leaves, &["The source stays", "exempt"]);
    let trace = World::new(&["--masquerade=false"]).walk("pod1", "203.0.113.1:443");
    expect(
        &trace,
        End::Leaves,
        &["The source stays", "--masquerade=false"],
    );
    let trace = World::new(&[]).walk("pod1", "172.18.0.2:22");
    expect(
        &trace,
        End::Leaves,
        &["node worker itself", "The source stays"],
    );
}

#[test]
fn pods_and_processes_here_are_reached_and_strangers_are_sent_on() {
    let world = World::new(&[]);
    expect(
        &world.walk("10.10.1.2", "10.10.2.3"),
        End::Arrives,
        &["arrives at pod default/pod1"],
    );
    expect(
        &world.walk("pod1", "172.18.0.4:22"),
        End::Arrives,
        &["arrives at this node"],
    );
    let trace = world.walk("10.10.1.2", "10.200.1.63:9000");
    expect(
        &trace,
        End::Elsewhere,
        &["=? Services are resolved", "ask on node worker"],
    );
    expect(
        &world.walk("10.10.2.77", "10.10.1.2"),
        End::Elsewhere,
        &["no pod here has this address"],
    );
    let other = World::new(&["--services=false"]).walk("pod1", "10.200.1.63:9000");
    expect(&other, End::Leaves, &["another proxy"]);
}

#[test]
fn unknown_names_are_answered_with_what_to_do() {
    let mut world = World::new(&[]);
    for (from, to, part) in [
        ("nobody", "10.10.1.2", "ask on the node where the pod runs"),
        ("pod1", "nothing:80", "not a Service with a ClusterIP"),
        ("pod1", "[fd00::1]:80", "pod pod1 has no IPv6 address"),
    ] {
        let error = world.try_walk(from, to).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
    world.pods.push(Pod {
        name: Some("other/pod1".into()),
        ..pod("x", "10.10.2.9", "vethx")
    });
    let error = world.try_walk("pod1", "10.10.1.2").unwrap_err().to_string();
    assert!(error.contains("default/pod1 or other/pod1"), "{error}");
    assert!(world.try_walk("other/pod1", "10.10.1.2").is_ok());
}

#[test]
fn names_of_anyones_choice_forge_no_line_of_a_trace() {
    let hostile = || "web\u{1b}[2J\u{9b}\u{202e}\nforged".to_owned();
    let hop = Hop {
        what: hostile(),
        why: vec![hostile()],
        see: Some(hostile()),
        kernel: vec![hostile()],
        differs: vec![hostile()],
        suspects: vec![hostile()],
        lost: vec![Lost {
            endpoints: Vec::new(),
            why: hostile(),
        }],
        denied: Vec::new(),
        checks: Vec::new(),
    };
    let trace = Trace {
        node: hostile(),
        source: hostile(),
        destination: hostile(),
        hops: vec![hop],
        end: End::Arrives,
        conclusion: hostile(),
        differences: vec![hostile()],
    };
    let text = trace.to_string();
    let reaches_terminal = |c: char| c != '\n' && crate::text::is_unprintable(c);
    assert!(!text.contains(reaches_terminal), "{text:?}");
    assert!(
        !text
            .lines()
            .any(|line| line.trim_start().starts_with("forged"))
    );
    assert_eq!(
        text.matches("web\\u{1b}[2J\\u{9b}\\u{202e}\\nforged")
            .count(),
        10
    );
}

#[test]
fn what_means_the_sender_itself_stays_in_the_pod() {
    let mut world = World::new(&[]);
    world.pods[0].addresses.push(ip("fd00:10::3"));
    for to in [
        "127.0.0.1:80",
        "10.10.2.3:80",
        "0.0.0.0:80",
        "[::1]:80",
        "[::]:80",
        "fd00:10::3",
    ] {
        let trace = world.walk("pod1", to);
        let parts = [
            "1. It stays in the pod, on its interface lo",
            "=> It goes back to pod default/pod1",
        ];
        expect(&trace, End::Arrives, &parts);
        assert!(!trace.to_string().contains("gateway"), "{trace}");
    }
    let trace = world.walk("172.18.0.4", "0.0.0.0:80");
    expect(
        &trace,
        End::Arrives,
        &["stays on this node", "It arrives at this node"],
    );
    let trace = world.walk("10.10.1.3", "127.0.0.1:80");
    expect(&trace, End::Elsewhere, &["stays where it is sent"]);
}

#[test]
fn what_is_for_all_on_a_link_goes_no_further() {
    let mut world = World::new(&[]);
    world.pods[0].addresses.push(ip("fd00:10::3"));
    for to in [
        "224.0.0.1",
        "239.1.2.3:9999/udp",
        "255.255.255.255:67/udp",
        "172.18.255.255",
        "ff02::1",
    ] {
        let trace = world.walk("pod1", to);
        expect(
            &trace,
            End::Dropped,
            &["cast address", "vethpod1", "ends at this node"],
        );
        assert!(!trace.to_string().contains("leaves the cluster"), "{trace}");
    }
    let trace = world.walk("172.18.0.4", "224.0.0.1");
    expect(&trace, End::Leaves, &["multicast", "reaches no pod"]);
}

#[test]
fn a_host_port_leads_to_its_container_and_others_to_the_node() {
    let mut world = World::new(&[]);
    world.host_ports = vec![HostPort {
        map: "hostports-v4",
        family: IpFamily::V4,
        address: None,
        protocol: Protocol::Tcp,
        port: 8080,
        target: "10.10.2.4:80".parse().unwrap(),
        comment: Some("default/web".into()),
        connections: Some(3),
    }];
    let trace = world.walk("172.18.0.6", "172.18.0.4:8080");
    expect(
        &trace,
        End::Arrives,
        &[
            "hostPort 8080/tcp of this node leads to 10.10.2.4:80 of default/web",
            "kernel: hostports-v4: tcp . 8080 : 10.10.2.4 . 80, 3 connections so far",
            "see: nft list map inet podwire-hostports hostports-v4",
            "Route to 10.10.2.4",
            "It arrives at pod default/web, 10.10.2.4, on this node.",
        ],
    );
    let trace = world.walk("web", "172.18.0.4:8080");
    expect(
        &trace,
        End::Arrives,
        &["(hairpin)", "It arrives at pod default/web"],
    );
    assert!(!trace.to_string().contains("source stays"), "{trace}");
    for to in ["172.18.0.4:8081", "172.18.0.4:8080/udp"] {
        expect(
            &world.walk("172.18.0.6", to),
            End::Arrives,
            &["It arrives at this node"],
        );
    }
    // The plugin gives ports whichever program serves Services.
    let mut other = World::new(&["--services=false"]);
    other.host_ports.clone_from(&world.host_ports);
    let trace = other.walk("172.18.0.6", "172.18.0.4:8080");
    expect(
        &trace,
        End::Arrives,
        &["another proxy", "hostPort 8080/tcp"],
    );
    world.host_ports[0].address = Some(ip("172.18.0.9"));
    let trace = world.walk("172.18.0.6", "172.18.0.4:8080");
    expect(&trace, End::Arrives, &["It arrives at this node"]);
}

#[test]
fn of_several_internal_ips_the_next_hop_is_the_one_of_the_route() {
    let mut world = World::new(&[]);
    let mut two = world.snapshot.nodes["worker"].clone();
    two.internal_ips.insert(0, ip("192.0.2.9"));
    world.set(Object::Node(two.clone()));
    let trace = world.walk("pod1", "10.10.1.2");
    let to = ip("10.10.1.2");
    let wanted = Wanted::Gateway(ip("172.18.0.2"));
    assert_eq!(trace.hops[1].checks[0], Check::Route { to, wanted });
    // None that can be used: no route.
    two.internal_ips.pop();
    world.set(Object::Node(two));
    let trace = world.walk("pod1", "10.10.1.2");
    let why = "Node worker InternalIP 192.0.2.9 is not on the network of eth0";
    expect(&trace, End::Dropped, &[why, "=x It leaves ", why]);
}

#[test]
fn of_several_services_of_a_name_the_nearest_is_meant_and_of_its_addresses_one_that_fits() {
    let mut world = World::new(&[]);
    let mut other = service("web", "10.200.1.71", None);
    other.name = ObjectName {
        namespace: Arc::from("another"),
        name: Arc::from("svc-clusterip"),
    };
    world.set(Object::Service(other.clone()));
    let near = world.walk("pod1", "svc-clusterip:9000");
    assert!(
        near.destination.starts_with("10.200.1.63:"),
        "{}",
        near.destination
    );
    let near = world.walk("10.10.2.3", "svc-clusterip:9000");
    assert!(
        near.destination.starts_with("10.200.1.63:"),
        "{}",
        near.destination
    );
    for from in ["control-plane", "192.0.2.1"] {
        let error = world.try_walk(from, "svc-clusterip:9000").unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("another/svc-clusterip or default/svc-clusterip"),
            "{text}"
        );
    }
    other.cluster_ips = [ip("fd00:10:200::71"), ip("10.200.1.71")].into();
    world.set(Object::Service(other));
    let fits = world.walk("pod1", "another/svc-clusterip:9000");
    assert!(
        fits.destination.starts_with("10.200.1.71:"),
        "{}",
        fits.destination
    );
}
