use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipnetwork::IpNetwork;
use nix::time::ClockId;
use podwire_kernel::address::Address;
use podwire_kernel::link::Veth;
use podwire_kernel::netns::unshare_thread;

use super::*;
use crate::config::{Config, test_config};
use crate::metrics::Metrics;
use crate::snapshot::{Change, Dirty, Key, Node, Object, Snapshot};
use crate::uplink::{Finder, Uplink};
use crate::warnings::Warnings;

mod links;
mod refused;

fn node(name: &str, ips: &[&str], cidrs: &[&str]) -> Node {
    Node {
        internal_ips: ips.iter().map(|ip| ip.parse().unwrap()).collect(),
        pod_cidrs: cidrs.iter().map(|cidr| cidr.parse().unwrap()).collect(),
        ..Node::named(name)
    }
}

fn snapshot(nodes: impl IntoIterator<Item = Node>) -> Snapshot {
    let mut snapshot = Snapshot::default();
    snapshot
        .nodes
        .extend(nodes.into_iter().map(|node| (node.name.clone(), node)));
    snapshot
}

fn uplink() -> Uplink {
    Uplink {
        index: 2,
        name: "eth0".into(),
        mtu: 1500,
        up: true,
        addresses: vec![
            "172.18.0.2/16".parse().unwrap(),
            "fc00::2/64".parse().unwrap(),
        ],
        on_link: vec![
            "172.18.0.0/16".parse().unwrap(),
            "fc00::/64".parse().unwrap(),
        ],
    }
}

/// What follows from these on the Node `worker`.
fn of(
    snapshot: &Snapshot,
    uplink: Option<&Uplink>,
    holders: &Holders,
) -> Result<Desired, NoUplink> {
    desired(&given(snapshot, uplink, holders, &Arc::from("worker")))
}

fn given<'a>(
    snapshot: &'a Snapshot,
    uplink: Option<&'a Uplink>,
    holders: &'a Holders,
    own: &'a Arc<str>,
) -> Given<'a> {
    Given {
        snapshot,
        handwritten: false,
        own,
        uplink,
        service_cidrs: &[],
        likely: Likely {
            own: snapshot.nodes.get("worker"),
            cluster_cidrs: &[],
        },
        holders,
    }
}

/// Routes as `destination via gateway`, and warnings as `object: text`.
fn plan(nodes: impl IntoIterator<Item = Node>) -> (Vec<String>, Vec<String>) {
    let desired = of(&snapshot(nodes), Some(&uplink()), &Holders::new()).unwrap();
    let routes = desired
        .routes
        .values()
        .map(|wanted| match wanted.route.gateway {
            Some(gateway) => format!("{} via {gateway}", wanted.route.destination),
            None => format!("{} {:?}", wanted.route.destination, wanted.route.kind),
        });
    let warnings = desired
        .warnings
        .iter()
        .map(|w| format!("{}: {}", w.object, w.text));
    (routes.collect(), warnings.collect())
}

fn own() -> Node {
    node("worker", &["172.18.0.2", "fc00::2"], &["10.10.1.0/24"])
}

/// The warning that exactly one Node gets while the others are routed to.
fn only_warning(bad: Node) -> String {
    let (routes, warnings) = plan([own(), bad, node("z", &["172.18.0.9"], &["10.10.9.0/24"])]);
    assert!(
        routes.contains(&"10.10.9.0/24 via 172.18.0.9".to_owned()),
        "{routes:?}"
    );
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    warnings.into_iter().next().unwrap()
}

#[test]
fn every_peer_gets_a_route_per_pod_cidr_and_ours_is_unreachable() {
    let peers = [
        own(),
        node("a", &["172.18.0.4"], &["10.10.2.0/24", "10.20.2.0/24"]),
        node(
            "b",
            &["172.18.0.3", "fc00::3"],
            &["10.10.3.0/24", "fd00:3::/64"],
        ),
    ];
    let (routes, warnings) = plan(peers);
    assert_eq!(
        routes,
        [
            "10.10.1.0/24 Unreachable",
            "10.10.2.0/24 via 172.18.0.4",
            "10.10.3.0/24 via 172.18.0.3",
            "10.20.2.0/24 via 172.18.0.4",
            "fd00:3::/64 via fc00::3",
        ]
    );
    assert!(warnings.is_empty(), "{warnings:?}");
}

#[test]
fn routes_have_one_metric_until_there_are_more_than_256() {
    let peer = |number: u32| {
        let ip = IpAddr::from((0xac12_0100 + number).to_be_bytes());
        let first = IpAddr::from((0x0a0a_0000 + (number << 6)).to_be_bytes());
        let cidr = format!("{first}/26");
        node(
            &format!("node-{number}"),
            &[&ip.to_string()],
            &[cidr.as_str()],
        )
    };
    let own = node("worker", &["172.18.0.2"], &["10.10.4.64/26"]);
    let nodes = (0..2000).filter(|n| *n != 17).map(peer).chain([own]);
    let desired = of(&snapshot(nodes), Some(&uplink()), &Holders::new()).unwrap();
    let mut routes_by_metric = std::collections::BTreeMap::new();
    for wanted in desired.routes.values() {
        *routes_by_metric.entry(wanted.route.metric).or_insert(0) += 1;
    }
    assert_eq!(routes_by_metric.remove(&UNREACHABLE_METRIC), Some(1));
    assert_eq!(routes_by_metric.len(), 8, "2,000 podCIDRs in blocks of 256");
    assert_eq!(routes_by_metric[&METRIC], 255);
    assert!(routes_by_metric.values().all(|count| *count <= 256));
}

#[test]
fn a_node_off_the_link_is_named() {
    let warning = only_warning(node("far", &["192.168.0.2"], &["10.10.5.0/24"]));
    assert!(warning.starts_with("Node far: InternalIP 192.168.0.2 is not on the network of eth0"));
}

#[test]
fn a_second_internal_ip_on_the_link_will_do() {
    let (routes, warnings) = plan([
        own(),
        node("a", &["192.168.0.2", "172.18.0.4"], &["10.10.2.0/24"]),
    ]);
    assert!(routes.contains(&"10.10.2.0/24 via 172.18.0.4".to_owned()));
    assert!(warnings.is_empty());
}

#[test]
fn a_node_without_pod_cidr_or_address_is_named() {
    assert!(only_warning(node("new", &["172.18.0.4"], &[])).contains("has no podCIDR yet"));
    let (snapshot, uplink) = (
        snapshot([own(), node("new", &["172.18.0.4"], &[])]),
        uplink(),
    );
    let (holders, own) = (Holders::new(), Arc::from("worker"));
    let by_hand = Given {
        handwritten: true,
        ..given(&snapshot, Some(&uplink), &holders, &own)
    };
    let text = &desired(&by_hand).unwrap().warnings[0].text;
    assert!(text.contains("into its spec.podCIDRs"), "{text}");
    let warning = only_warning(node("mute", &[], &["10.10.5.0/24"]));
    assert!(warning.contains("has no InternalIP of IPv4"), "{warning}");
    let warning = only_warning(node("half", &["172.18.0.4"], &["fd00:5::/64"]));
    assert!(warning.contains("has no InternalIP of IPv6"), "{warning}");
}

#[test]
fn a_malformed_field_is_named_and_the_rest_of_the_node_is_used() {
    let mut bad = node("bad", &["172.18.0.4"], &["10.10.2.0/24"]);
    bad.invalid.push(crate::snapshot::Invalid {
        field: "spec.podCIDRs",
        value: "10.10.5.1/24".into(),
        reason: "has host bits set",
        taken: None,
    });
    let (routes, warnings) = plan([own(), bad]);
    assert_eq!(routes.len(), 2);
    assert!(warnings[0].contains("10.10.5.1/24"), "{warnings:?}");
}

#[test]
fn an_overlap_with_ours_or_anothers_is_named_and_the_older_node_keeps_it() {
    let warning = only_warning(node("thief", &["172.18.0.4"], &["10.10.0.0/16"]));
    assert!(
        warning.contains("overlaps 10.10.1.0/24 of Node worker"),
        "{warning}"
    );
    let warning = only_warning(node("zz", &["172.18.0.4"], &["10.10.9.128/25"]));
    assert!(
        warning.starts_with("Node zz: podCIDR 10.10.9.128/25 overlaps"),
        "{warning}"
    );
    let warning = only_warning(node("inside", &["172.18.0.4"], &["172.18.7.0/24"]));
    assert!(warning.contains("the nodes' own network"), "{warning}");
    let old = Node {
        created: Some(1),
        ..node("z-old", &["172.18.0.4"], &["10.10.2.0/24"])
    };
    let new = Node {
        created: Some(2),
        ..node("a-new", &["172.18.0.5"], &["10.10.2.0/24"])
    };
    let (routes, warnings) = plan([own(), old, new]);
    assert!(
        routes.contains(&"10.10.2.0/24 via 172.18.0.4".to_owned()),
        "{routes:?}"
    );
    assert!(warnings[0].starts_with("Node a-new"), "{warnings:?}");
}

#[test]
fn a_default_route_without_a_gateway_collides_with_no_pod_cidr() {
    let uplink = Uplink {
        on_link: vec!["0.0.0.0/0".parse().unwrap()],
        ..uplink()
    };
    let peer = node("peer", &["192.0.2.4"], &["10.10.5.0/24"]);
    let snapshot = snapshot([own(), peer]);
    let desired = of(&snapshot, Some(&uplink), &Holders::new()).unwrap();
    assert!(desired.warnings.is_empty(), "{:?}", desired.warnings);
    assert!(
        desired
            .routes
            .contains_key(&"10.10.5.0/24".parse().unwrap())
    );
}

#[test]
fn a_peer_with_our_own_address_is_named() {
    let warning = only_warning(node("twin", &["172.18.0.2"], &["10.10.5.0/24"]));
    assert!(warning.contains("this node's own address"), "{warning}");
}

#[test]
fn a_peer_with_an_address_that_no_host_can_have_is_named_and_another_of_its_addresses_taken() {
    for edge in ["172.18.0.0", "172.18.255.255"] {
        let warning = only_warning(node("edge", &[edge], &["10.10.5.0/24"]));
        assert!(warning.contains("which no node can have"), "{warning}");
        let (routes, warnings) = plan([
            own(),
            node("edge", &[edge, "172.18.0.4"], &["10.10.5.0/24"]),
        ]);
        assert_eq!(routes[1], "10.10.5.0/24 via 172.18.0.4");
        assert!(warnings.is_empty(), "{warnings:?}");
    }
}

#[test]
fn a_pod_cidr_that_is_hardly_meant_is_named_and_routed() {
    let (routes, warnings) = plan([own(), node("a", &["172.18.0.4"], &["8.8.8.0/24"])]);
    assert!(routes.contains(&"8.8.8.0/24 via 172.18.0.4".to_owned()));
    assert_eq!(
        warnings,
        [
            "Node a: podCIDR 8.8.8.0/24 is a public network, and this node's own podCIDR is not in \
             one; what else is there cannot be reached from this cluster; if it is not meant, delete \
             the Node, and create it with another"
        ]
    );
}

#[test]
fn without_an_uplink_that_works_nothing_is_said_about_routes() {
    let nodes = snapshot([own()]);
    let with = |uplink: Option<&Uplink>| of(&nodes, uplink, &Holders::new()).unwrap_err();
    assert_eq!(with(None), NoUplink::NotFound);
    let down = Uplink {
        up: false,
        ..uplink()
    };
    let bare = Uplink {
        on_link: Vec::new(),
        ..uplink()
    };
    for unusable in [down, bare] {
        let why = with(Some(&unusable)).warning().unwrap();
        assert_eq!(why.object, "uplink eth0");
    }
}

#[test]
fn a_node_of_no_age_keeps_the_pod_cidr_that_it_has() {
    // By name the newcomer would come first.
    let has = node("b", &["172.18.0.4"], &["10.10.2.0/24"]);
    let aged = Node {
        created: Some(5),
        ..has.clone()
    };
    let wider = node("a", &["172.18.0.5"], &["10.10.0.0/16"]);
    let same = node("a", &["172.18.0.5"], &["10.10.2.0/24"]);
    let part = node("a", &["172.18.0.5"], &["10.10.2.128/25"]);
    // One that has a podCIDR of its own has no claim to another.
    let both = node("a", &["172.18.0.5"], &["10.10.7.0/24", "10.10.2.0/24"]);
    let young = Node {
        created: Some(9),
        ..same.clone()
    };
    let holders = Holders::from([
        ("10.10.2.0/24".parse().unwrap(), Arc::from("b")),
        ("10.10.7.0/24".parse().unwrap(), Arc::from("a")),
    ]);
    for has in [has, aged] {
        for newcomer in [&wider, &same, &part, &both, &young] {
            let all = snapshot([own(), has.clone(), newcomer.clone()]);
            let desired = of(&all, Some(&uplink()), &holders).unwrap();
            let owner = desired.owner("10.10.2.0/24".parse().unwrap());
            assert_eq!(owner.map(|name| &**name), Some("b"), "{newcomer:?}");
            let named = |warning: &Warning| warning.object == "Node a";
            assert_eq!(desired.warnings.iter().filter(|w| named(w)).count(), 1);
        }
    }
}

#[test]
fn a_pod_cidr_over_the_addresses_of_services_is_named_and_routed() {
    use crate::snapshot::{Service, ServiceCidr};
    let mut all = snapshot([own(), node("b", &["172.18.0.4"], &["10.200.0.0/16"])]);
    let name = ObjectName {
        namespace: "shop".into(),
        name: "web".into(),
    };
    let web = Service {
        cluster_ips: ["10.200.1.63".parse().unwrap()].into(),
        ..Service::named(name.clone())
    };
    all.services.insert(name.clone(), web);
    let desired = of(&all, Some(&uplink()), &Holders::new()).unwrap();
    assert_eq!(desired.warnings.len(), 1, "{:?}", desired.warnings);
    let text = &desired.warnings[0].text;
    assert!(
        text.starts_with(
            "podCIDR 10.200.0.0/16 contains 10.200.1.63, the ClusterIP of Service shop/web"
        ),
        "{text}"
    );
    assert!(desired.services_amid_pods.contains(&name));
    assert_eq!(desired.routes.len(), 2);

    let network = ServiceCidr {
        name: "kubernetes".into(),
        cidrs: vec!["10.200.0.0/20".parse().unwrap()],
        invalid: Vec::new(),
    };
    all.service_cidrs.insert(network.name.clone(), network);
    let desired = of(&all, Some(&uplink()), &Holders::new()).unwrap();
    assert_eq!(desired.warnings.len(), 1, "{:?}", desired.warnings);
    let text = &desired.warnings[0].text;
    assert!(
        text.contains("overlaps 10.200.0.0/20, the Service network"),
        "{text}"
    );
}

/// A namespace of its own with eth0 on 172.18.0.0/16, and the feature at work in it.
struct Machine {
    socket: RouteSocket,
    routes: Routes,
    config: Config,
    snapshot: Snapshot,
    warnings: Warnings,
    metrics: Metrics,
    uplink: Uplink,
    _run_dir: tempfile::TempDir,
}

impl Machine {
    fn new() -> Self {
        unshare_thread().expect("needs root: it makes a network namespace");
        let mut socket = RouteSocket::open().unwrap();
        let veth = Veth {
            up: true,
            ..Veth::new("eth0", "peer0").unwrap()
        };
        let ends = socket.create_veth(&veth).unwrap();
        socket.set_up(ends.peer_index).unwrap();
        for address in ["172.18.0.2/16", "fc00::2/64"] {
            let network = address.parse().unwrap();
            socket
                .add_address(&Address {
                    nodad: true,
                    ..Address::new(ends.index, network)
                })
                .unwrap();
        }
        let run_dir = tempfile::tempdir().unwrap();
        let flag = format!("--run-dir={}", run_dir.path().display());
        let config = test_config(&["--node-name=worker", "--uplink=eth0", &flag]);
        let uplink = Finder::open().unwrap().find(Some("eth0"), &[]).unwrap();
        Self {
            socket,
            routes: Routes::open(Logging::On).unwrap(),
            config,
            snapshot: snapshot([own()]),
            warnings: Warnings::default(),
            metrics: Metrics::default(),
            uplink,
            _run_dir: run_dir,
        }
    }

    /// What the feature is shown, and the feature.
    fn parts(&mut self) -> (World<'_>, &mut Routes, Warn<'_>) {
        let world = World {
            metrics: &self.metrics,
            config: &self.config,
            snapshot: &self.snapshot,
            uplink: Some(&self.uplink),
            ready_for_pods: false,
        };
        let warn = Warn::new("routes", &mut self.warnings);
        (world, &mut self.routes, warn)
    }

    fn notice(&mut self, event: &Event<'_>) -> bool {
        let (world, routes, _) = self.parts();
        routes.notice(event, &world)
    }

    fn synced(&mut self) -> Synced {
        let (world, routes, mut warn) = self.parts();
        routes.sync(&world, &mut warn).unwrap()
    }

    /// Syncs; returns the number of writes of routes that reached the kernel.
    fn sync(&mut self) -> u64 {
        let before = self.routes.writes();
        let synced = self.synced();
        let writes = self.routes.writes() - before;
        assert!(synced.writes >= writes);
        writes
    }

    fn change(&mut self, change: Change) -> u64 {
        let mut dirty = Dirty::default();
        self.snapshot.apply(change, &mut dirty);
        assert!(self.notice(&Event::Objects(&dirty)));
        self.sync()
    }

    fn set(&mut self, node: Node) -> u64 {
        self.change(Change::Set(Object::Node(node)))
    }

    /// Routes of our protocol as `destination via gateway`.
    fn kernel(&mut self) -> Vec<String> {
        let filter = RouteFilter {
            protocol: Some(PROTOCOL),
            ..RouteFilter::default()
        };
        let mut routes: Vec<String> = self
            .socket
            .routes(filter)
            .unwrap()
            .into_iter()
            .map(|route| match route.gateway {
                Some(gateway) => format!("{} via {gateway}", route.destination),
                None => format!("{} {:?}", route.destination, route.kind),
            })
            .collect();
        routes.sort();
        routes
    }
}

#[test]
fn a_restart_over_the_right_routes_writes_nothing() {
    let mut machine = Machine::new();
    machine.set(node(
        "a",
        &["172.18.0.4", "fc00::4"],
        &["10.10.2.0/24", "fd00:2::/64"],
    ));
    assert_eq!(
        machine.kernel(),
        [
            "10.10.1.0/24 Unreachable",
            "10.10.2.0/24 via 172.18.0.4",
            "fd00:2::/64 via fc00::4",
        ]
    );
    assert!(machine.warnings.is_empty(), "{:?}", machine.warnings);
    machine.routes = Routes::open(Logging::On).unwrap();
    assert_eq!(machine.sync(), 0);
}

#[test]
fn who_has_a_pod_cidr_keeps_it_over_a_restart() {
    let mut machine = Machine::new();
    machine.set(node("b", &["172.18.0.4"], &["10.10.2.0/24"]));
    machine.routes = Routes::open(Logging::On).unwrap();
    // By name it would come first.
    let newcomer = node("a", &["172.18.0.5"], &["10.10.2.0/24"]);
    assert_eq!(machine.set(newcomer), 0);
    let kept = "10.10.2.0/24 via 172.18.0.4".to_owned();
    assert!(machine.kernel().contains(&kept), "{:?}", machine.kernel());
}

#[test]
fn who_has_a_pod_cidr_keeps_it_over_a_restart_though_another_node_has_the_same_address() {
    let mut machine = Machine::new();
    machine.set(node("b", &["172.18.0.4"], &["10.10.2.0/24"]));
    machine.routes = Routes::open(Logging::On).unwrap();
    let twin = node("z", &["172.18.0.4"], &["10.10.7.0/24"]);
    machine.snapshot.nodes.insert(twin.name.clone(), twin);
    let newcomer = node("a", &["172.18.0.5"], &["10.10.2.0/24"]);
    machine.set(newcomer);
    let kept = "10.10.2.0/24 via 172.18.0.4".to_owned();
    assert!(machine.kernel().contains(&kept), "{:?}", machine.kernel());
}

#[test]
fn who_has_a_pod_cidr_keeps_it_over_a_restart_though_its_address_changed_meanwhile() {
    let mut machine = Machine::new();
    machine.set(node("b", &["172.18.0.4"], &["10.10.2.0/24"]));
    // The newcomer may have taken the address that it had.
    for address in ["172.18.0.5", "172.18.0.4"] {
        machine.routes = Routes::open(Logging::On).unwrap();
        for (name, address) in [("a", address), ("b", "172.18.0.9")] {
            let moved = node(name, &[address], &["10.10.2.0/24"]);
            machine.snapshot.nodes.insert(moved.name.clone(), moved);
        }
        machine.sync();
        let kept = "10.10.2.0/24 via 172.18.0.9".to_owned();
        assert!(machine.kernel().contains(&kept), "{:?}", machine.kernel());
    }
    // With it gone the other has it, and keeps it when it is back.
    machine.routes = Routes::open(Logging::On).unwrap();
    machine.snapshot.nodes.remove("b");
    machine.sync();
    machine.routes = Routes::open(Logging::On).unwrap();
    machine.set(node("b", &["172.18.0.9"], &["10.10.2.0/24"]));
    let kept = "10.10.2.0/24 via 172.18.0.4".to_owned();
    assert!(machine.kernel().contains(&kept), "{:?}", machine.kernel());
}

#[test]
fn an_address_that_two_peers_share_is_named() {
    let twins = ["a", "b"].map(|name| node(name, &["172.18.0.4"], &[]));
    let (_, warnings) = plan([own()].into_iter().chain(twins));
    let shared: Vec<_> = warnings.iter().filter(|one| one.contains("too;")).collect();
    assert_eq!(shared.len(), 1, "{warnings:?}");
    assert!(shared[0].starts_with("Node b: InternalIP 172.18.0.4 is that of Node a, too"));
}

#[test]
fn an_own_ipv6_network_is_refused_and_found_right_again() {
    let mut machine = Machine::new();
    machine.set(node(
        "worker",
        &["172.18.0.2"],
        &["10.10.1.0/24", "fd00:1::/64"],
    ));
    assert_eq!(
        machine.kernel(),
        ["10.10.1.0/24 Unreachable", "fd00:1::/64 Unreachable"]
    );
    machine.routes = Routes::open(Logging::On).unwrap();
    assert_eq!(machine.sync(), 0);
}

#[test]
fn routes_of_nodes_that_went_while_the_agent_was_down_are_removed() {
    let mut machine = Machine::new();
    machine.set(node("a", &["172.18.0.4"], &["10.10.2.0/24"]));
    machine.set(node("b", &["172.18.0.5"], &["10.10.3.0/24"]));
    machine.routes = Routes::open(Logging::On).unwrap();
    machine.snapshot.nodes.remove("a");
    assert_eq!(machine.sync(), 1);
    assert_eq!(
        machine.kernel(),
        ["10.10.1.0/24 Unreachable", "10.10.3.0/24 via 172.18.0.5"]
    );
}

#[test]
fn a_changed_address_is_one_replacement_and_a_moved_pod_cidr_follows() {
    let mut machine = Machine::new();
    machine.set(node("a", &["172.18.0.4"], &["10.10.2.0/24"]));
    assert_eq!(
        machine.set(node("a", &["172.18.0.14"], &["10.10.2.0/24"])),
        1
    );
    assert_eq!(machine.kernel()[1], "10.10.2.0/24 via 172.18.0.14");
    assert_eq!(
        machine.set(node("a", &["172.18.0.14"], &["10.10.7.0/24"])),
        2
    );
    assert_eq!(machine.kernel()[1], "10.10.7.0/24 via 172.18.0.14");
    machine.change(Change::Gone(Key::Node(Arc::from("a"))));
    assert_eq!(
        machine.set(node("b", &["172.18.0.5"], &["10.10.7.0/24"])),
        1
    );
    assert_eq!(machine.kernel()[1], "10.10.7.0/24 via 172.18.0.5");
}

#[test]
fn routes_of_others_are_never_touched() {
    let mut machine = Machine::new();
    let index = machine.uplink.index;
    let foreign = |to: &str, metric| Route {
        gateway: Some(IpAddr::from([172, 18, 0, 99])),
        link: Some(index),
        metric,
        protocol: 4,
        ..Route::to(to.parse::<IpNetwork>().unwrap())
    };
    let theirs = [
        foreign("10.10.2.0/24", 0),
        foreign("10.10.3.0/24", METRIC),
        foreign("10.99.0.0/16", 0),
    ];
    for route in &theirs {
        machine.socket.add_route(route).unwrap();
    }
    machine.routes.observed = None;
    machine.set(node("a", &["172.18.0.4"], &["10.10.2.0/24"]));
    machine.set(node("b", &["172.18.0.5"], &["10.10.3.0/24"]));
    let all = machine.socket.routes(RouteFilter::default()).unwrap();
    assert!(theirs.iter().all(|route| all.contains(route)), "{all:?}");
    let texts: Vec<String> = machine
        .warnings
        .iter()
        .map(|(_, w)| format!("{}: {}", w.object, w.text))
        .collect();
    assert!(
        texts
            .iter()
            .any(|text| text.starts_with("Node a: a route that is not ours")),
        "{texts:?}"
    );
    assert!(
        texts.iter().any(|text| text.starts_with("Node b: ")),
        "{texts:?}"
    );
    let config = machine.config.clone();
    machine.routes.uninstall(&config, Removal::Act).unwrap();
    assert!(machine.kernel().is_empty());
    let all = machine.socket.routes(RouteFilter::default()).unwrap();
    assert!(theirs.iter().all(|route| all.contains(route)), "{all:?}");
}

#[test]
fn routes_that_went_with_the_uplink_are_no_differences_and_are_put_back_with_it() {
    let mut machine = Machine::new();
    machine.set(node("a", &["172.18.0.4"], &["10.10.2.0/24"]));
    machine.socket.set_down(machine.uplink.index).unwrap();
    let differences = |machine: &mut Machine| {
        let mut report = Report::default();
        let (world, routes, _) = machine.parts();
        routes.report(&world, &mut report);
        assert!(report.routes.iter().any(|route| !route.present));
        report.differences.len()
    };
    assert_eq!(differences(&mut machine), 1);
    machine.uplink.up = false;
    assert!(machine.notice(&Event::Uplink));
    machine.sync();
    assert_eq!(differences(&mut machine), 0);
    let texts: Vec<&str> = machine.warnings.iter().map(|(_, w)| &*w.text).collect();
    assert_eq!(
        texts,
        ["is down; the routes over it are put back once it is up"]
    );
    machine.socket.set_up(machine.uplink.index).unwrap();
    machine.uplink.up = true;
    assert!(machine.notice(&Event::Uplink));
    machine.sync();
    assert_eq!(machine.kernel()[1], "10.10.2.0/24 via 172.18.0.4");
}

#[test]
fn a_route_that_others_delete_or_add_is_put_right() {
    let mut machine = Machine::new();
    machine.set(node("a", &["172.18.0.4"], &["10.10.2.0/24"]));
    let ours = Route {
        gateway: Some([172, 18, 0, 4].into()),
        link: Some(machine.uplink.index),
        protocol: PROTOCOL,
        metric: METRIC,
        ..Route::to("10.10.2.0/24".parse().unwrap())
    };
    let stray = Route {
        destination: "10.77.0.0/16".parse().unwrap(),
        ..ours.clone()
    };
    machine.socket.delete_route(&ours).unwrap();
    machine.socket.add_route(&stray).unwrap();
    assert_eq!(machine.sync(), 0, "the feature does not know yet");
    let gone = KernelEvent::Route {
        route: ours,
        gone: true,
    };
    assert!(machine.notice(&Event::Kernel(&gone)));
    assert_eq!(machine.sync(), 2);
    assert_eq!(
        machine.kernel(),
        ["10.10.1.0/24 Unreachable", "10.10.2.0/24 via 172.18.0.4"]
    );
}

#[test]
fn one_node_that_the_kernel_refuses_stops_no_other_and_is_tried_again() {
    let mut machine = Machine::new();
    // The uplink seems to reach more than the kernel believes.
    machine
        .uplink
        .on_link
        .push("192.168.0.0/16".parse().unwrap());
    let mut dirty = Dirty::default();
    for node in [
        node("bad", &["192.168.0.7"], &["10.10.5.0/24"]),
        node("good", &["172.18.0.4"], &["10.10.2.0/24"]),
    ] {
        machine
            .snapshot
            .apply(Change::Set(Object::Node(node)), &mut dirty);
    }
    machine.notice(&Event::Objects(&dirty));
    assert!(machine.synced().again);
    assert_eq!(machine.synced().writes, 1, "only the bad one");
    let bad = machine
        .warnings
        .iter()
        .find(|(_, w)| w.object == "Node bad");
    assert!(bad.is_some());
    assert_eq!(machine.kernel()[1], "10.10.2.0/24 via 172.18.0.4");
}

/// What this thread has worked since it began, in the kernel as well. On an idle machine it is the
/// time that passes; on a busy one it still shows what the work costs.
fn worked() -> Duration {
    nix::time::clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)
        .unwrap()
        .into()
}

/// The limit holds for release builds; without optimisation it only shows that nothing is
/// quadratic.
#[test]
fn five_thousand_nodes_are_routed_in_150_milliseconds_and_one_change_is_one_write() {
    let mut machine = Machine::new();
    let peer = |number: usize| {
        let (high, low) = (number / 250, number % 250 + 1);
        let ip = format!("172.18.{}.{low}", high + 10);
        node(
            &format!("node-{number}"),
            &[&ip],
            &[&format!("10.{}.{low}.0/24", high + 20)],
        )
    };
    let nodes = (0..5000).map(peer).map(|node| (node.name.clone(), node));
    machine.snapshot.nodes.extend(nodes);
    machine.notice(&Event::Resync);
    let start = (Instant::now(), worked());
    assert_eq!(machine.sync(), 5001);
    let took = worked() - start.1;
    println!(
        "5,000 Nodes routed in {:?}, {took:?} of it work",
        start.0.elapsed()
    );
    let limit = if cfg!(debug_assertions) { 1500 } else { 150 };
    assert!(took.as_millis() <= limit, "{took:?}");
    assert_eq!(machine.kernel().len(), 5001);
    let mut changed = peer(4321);
    changed.internal_ips = vec!["172.18.200.1".parse().unwrap()];
    let start = (Instant::now(), worked());
    assert_eq!(machine.set(changed), 1);
    let took = worked() - start.1;
    println!(
        "one changed Node of 5,000 in {:?}, {took:?} of it work",
        start.0.elapsed()
    );
    machine.routes = Routes::open(Logging::On).unwrap();
    assert_eq!(machine.sync(), 0);
}
