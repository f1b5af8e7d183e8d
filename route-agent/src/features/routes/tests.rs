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
use crate::features::services::desired::samples::slice_of;
use crate::metrics::Metrics;
use crate::pod_cidrs::PodCidrs;
use crate::snapshot::{Change, Dirty, Key, Node, Object, Protocol, Snapshot};
use crate::uplink::{Finder, Uplink};
use crate::warnings::Warnings;

mod desired;
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

fn own() -> Node {
    node("worker", &["172.18.0.2", "fc00::2"], &["10.10.1.0/24"])
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
    pod_cidrs: PodCidrs,
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
        let uplink = Finder::open().unwrap().find(Some("eth0"), None).unwrap();
        Self {
            socket,
            routes: Routes::open(Logging::On).unwrap(),
            config,
            snapshot: snapshot([own()]),
            warnings: Warnings::default(),
            metrics: Metrics::default(),
            uplink,
            pod_cidrs: PodCidrs::default(),
            _run_dir: run_dir,
        }
    }

    /// Another agent, after this one.
    fn start(&mut self) {
        self.routes = Routes::open(Logging::On).unwrap();
        let (own, run_dir) = (self.config.node_name.clone(), self.config.run_dir.clone());
        let before = move |snapshot: &Snapshot| last_holders(snapshot, &own, &run_dir);
        self.pod_cidrs = PodCidrs::after(Box::new(before));
    }

    /// What the feature is shown, and the feature.
    fn parts(&mut self) -> (World<'_>, &mut Routes, Warn<'_>) {
        let own = &self.config.node_name;
        self.pod_cidrs
            .settle(&mut self.snapshot, own, Some(&self.uplink));
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
    machine.start();
    assert_eq!(machine.sync(), 0);
}

#[test]
fn who_has_a_pod_cidr_keeps_it_over_a_restart() {
    let mut machine = Machine::new();
    machine.set(node("b", &["172.18.0.4"], &["10.10.2.0/24"]));
    machine.start();
    // By name it would come first.
    let newcomer = node("a", &["172.18.0.5"], &["10.10.2.0/24"]);
    assert_eq!(machine.set(newcomer), 0);
    let kept = "10.10.2.0/24 via 172.18.0.4".to_owned();
    assert!(machine.kernel().contains(&kept), "{:?}", machine.kernel());
}

#[test]
fn who_has_a_pod_cidr_keeps_it_over_a_restart_while_the_uplink_is_down() {
    let mut machine = Machine::new();
    machine.set(node("b", &["172.18.0.4"], &["10.10.2.0/24"]));
    let eth0 = machine.uplink.index;
    machine.socket.set_down(eth0).unwrap();
    assert_eq!(machine.kernel(), ["10.10.1.0/24 Unreachable"]);
    machine.start();
    let newcomer = node("a", &["172.18.0.5"], &["10.10.2.0/24"]);
    machine
        .snapshot
        .nodes
        .insert(newcomer.name.clone(), newcomer);
    machine.parts();
    machine.socket.set_up(eth0).unwrap();
    machine.sync();
    let kept = "10.10.2.0/24 via 172.18.0.4".to_owned();
    assert!(machine.kernel().contains(&kept), "{:?}", machine.kernel());
}

#[test]
fn who_has_a_pod_cidr_keeps_it_over_a_restart_though_another_node_has_the_same_address() {
    let mut machine = Machine::new();
    machine.set(node("b", &["172.18.0.4"], &["10.10.2.0/24"]));
    machine.start();
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
        machine.start();
        for (name, address) in [("a", address), ("b", "172.18.0.9")] {
            let moved = node(name, &[address], &["10.10.2.0/24"]);
            machine.snapshot.nodes.insert(moved.name.clone(), moved);
        }
        machine.sync();
        let kept = "10.10.2.0/24 via 172.18.0.9".to_owned();
        assert!(machine.kernel().contains(&kept), "{:?}", machine.kernel());
    }
    // With it gone the other has it, and keeps it when it is back.
    machine.start();
    machine.snapshot.nodes.remove("b");
    machine.sync();
    machine.start();
    machine.set(node("b", &["172.18.0.9"], &["10.10.2.0/24"]));
    let kept = "10.10.2.0/24 via 172.18.0.4".to_owned();
    assert!(machine.kernel().contains(&kept), "{:?}", machine.kernel());
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
    machine.start();
    assert_eq!(machine.sync(), 0);
}

#[test]
fn routes_of_nodes_that_went_while_the_agent_was_down_are_removed() {
    let mut machine = Machine::new();
    machine.set(node("a", &["172.18.0.4"], &["10.10.2.0/24"]));
    machine.set(node("b", &["172.18.0.5"], &["10.10.3.0/24"]));
    machine.start();
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
    machine.start();
    assert_eq!(machine.sync(), 0);
}
