//! Connections that are under way when a policy forbids them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cluster;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use cluster::connection::{Connection, End, Protocol, SCTP, TCP, UDP, Way};
use cluster::policies::{ANSWER, SILENCE, addresses, app, policy};
use cluster::{Cluster, ready, sctp, service, slice};
use podwire_lab::manifests;
use podwire_lab::place::Place;
use podwire_lab::pod::{Pod, PodSpec};
use podwire_lab::runtime::PortMapping;
use podwire_lab::topology::Families;
use serde_json::{Value, json};

/// Two nodes of both families; every test has a namespace, pods and policies of its own.
static CLUSTER: LazyLock<Cluster> = LazyLock::new(|| Cluster::pair(Families::Dual));

/// A pod that serves nothing: the tests do that in its place.
fn pod(node: &str, namespace: &str, name: &str, value: &str) -> Pod {
    let spec = PodSpec::new(name).in_namespace(namespace);
    let spec = spec.labelled("app", value);
    CLUSTER.lab.run(node, &spec).unwrap()
}

#[test]
fn what_a_change_forbids_is_cut_in_both_directions_and_nothing_else() {
    revoke("revoke", 20_000, &[TCP, UDP]);
}

#[test]
fn associations_of_sctp_that_a_change_forbids_are_cut_in_both_directions() {
    let node = CLUSTER.node("worker");
    if sctp::is_there(node.place(), "associations of SCTP that policies cut") {
        revoke("revoke-sctp", 20_100, &[SCTP]);
    }
}

/// Connections of these protocols to ports from `port` on, from both nodes, and who is first to send
/// after the change is the client or the server.
fn revoke(namespace: &str, mut port: u16, protocols: &[Protocol]) {
    let pod = |node: &str, name: &str, value: &str| {
        pod(node, namespace, &format!("{namespace}-{name}"), value)
    };
    let db = pod("worker", "db", "db");
    let near = pod("worker", "near", "web");
    let far = pod("worker2", "far", "web");
    let stays = pod("worker2", "stays", "stays");
    let allow = |apps: &[&str]| {
        let peers: Vec<Value> = apps
            .iter()
            .map(|one| json!({"podSelector": app(one)}))
            .collect();
        let rules = json!([{"from": peers}]);
        policy(
            namespace,
            namespace,
            json!({"podSelector": app("db"), "ingress": rules}),
        )
    };
    CLUSTER.apply(&[allow(&["web", "stays"])]);
    let (mut cut, mut kept) = (Vec::new(), Vec::new());
    for address in addresses(&db) {
        for (_, make) in protocols {
            for first in [End::Client, End::Server] {
                for client in [&near, &far] {
                    port += 1;
                    cut.push((first, make(client.place(), Way::direct(&db, address, port))));
                }
                port += 1;
                kept.push(make(stays.place(), Way::direct(&db, address, port)));
            }
        }
    }
    for (_, connection) in &mut cut {
        for end in End::Client.and_other() {
            assert!(connection.carries(end, "before", ANSWER));
        }
    }
    // What only allows cuts nothing, and does not even make the rules forget.
    CLUSTER.apply(&[allow(&["web", "stays", "more"])]);
    for (_, connection) in &mut cut {
        assert!(connection.carries(End::Server, "still", ANSWER));
    }
    CLUSTER.apply(&[allow(&["stays"])]);
    for (number, (first, connection)) in cut.iter_mut().enumerate() {
        for end in first.and_other() {
            let passed = connection.carries(end, "after", Duration::from_millis(300));
            assert!(
                !passed,
                "connection {number}: {end:?} still sends, {first:?} was first"
            );
        }
    }
    for connection in &mut kept {
        for end in End::Client.and_other() {
            assert!(connection.carries(end, "stays", ANSWER));
        }
    }
    // What is allowed again goes on.
    CLUSTER.apply(&[allow(&["web", "stays"])]);
    for (first, connection) in &mut cut {
        assert!(connection.carries(*first, "again", ANSWER));
    }
}

#[test]
fn egress_that_is_forbidden_is_cut_as_well_and_so_is_a_pod_that_loses_its_label() {
    let web = pod("worker", "cut", "cut-web", "web");
    let db = pod("worker2", "cut", "cut-db", "db");
    let egress = |value: &str| {
        let rules = json!([{"to": [{"podSelector": app(value)}]}]);
        let spec = json!({"podSelector": app("web"), "policyTypes": ["Egress"], "egress": rules});
        policy("cut", "cut", spec)
    };
    CLUSTER.apply(&[egress("db")]);
    for (number, address) in addresses(&db).into_iter().enumerate() {
        let port = 21_000 + number as u16;
        let mut connection = Connection::tcp(web.place(), Way::direct(&db, address, port));
        assert!(connection.carries(End::Client, "before", ANSWER));
        CLUSTER.apply(&[egress("other")]);
        assert!(!connection.carries(End::Server, "after", SILENCE));
        assert!(!connection.carries(End::Client, "after", SILENCE));
        CLUSTER.apply(&[egress("db")]);
        assert!(connection.carries(End::Client, "again", ANSWER));
        let mut spec = PodSpec::new("cut-db")
            .in_namespace("cut")
            .labelled("app", "other");
        let manifest = manifests::pod(&db, &spec);
        CLUSTER.lab.write_manifest("pod-cut-db", &manifest).unwrap();
        CLUSTER.settle();
        assert!(!connection.carries(End::Client, "after", SILENCE));
        spec = spec.labelled("app", "db");
        let manifest = manifests::pod(&db, &spec);
        CLUSTER.lab.write_manifest("pod-cut-db", &manifest).unwrap();
        CLUSTER.settle();
        assert!(connection.carries(End::Client, "again", ANSWER));
    }
}

/// The ports behind the Service and the hostPorts of `ways`.
const FIRST_PORT: u16 = 22_000;
/// Of each kind of connection by way of a frontend there is one for each of two protocols, and who
/// sends first after the change differs.
const KINDS: u16 = 4;

/// What tells the rows of one test from those of another.
struct Front {
    namespace: &'static str,
    vip: &'static str,
    /// The first ports of the node and of the hostPorts.
    node_port: u16,
    host_port: u16,
    protocols: [Protocol; 2],
}

/// Every way to a pod of `worker` that its address is not the destination of: who, and where to.
fn ways<'a>(
    front: &Front,
    db: &'a Pod,
    [near, far]: [&'a Pod; 2],
) -> Vec<(&'static str, Place, Way<'a>)> {
    let at = |node: &str| CLUSTER.node(node).machine().address(false).unwrap();
    let (here, there) = (at("worker"), at("worker2"));
    let vip: IpAddr = front.vip.parse().unwrap();
    let mypc = CLUSTER.node("mypc").place().clone();
    let (near, far) = (near.place().clone(), far.place().clone());
    let (node_port, host_port) = (front.node_port, front.host_port);
    let all = [
        ("near, ClusterIP", near.clone(), vip, 1_000),
        ("far, ClusterIP", far.clone(), vip, 1_000),
        ("far, NodePort here", far.clone(), here, node_port),
        ("outside, NodePort here", mypc.clone(), here, node_port),
        (
            "outside, NodePort elsewhere",
            mypc.clone(),
            there,
            node_port,
        ),
        ("near, hostPort", near, here, host_port),
        ("far, hostPort", far, here, host_port),
        ("outside, hostPort", mypc, here, host_port),
    ];
    let mut ways = Vec::new();
    for (number, (what, client, address, base)) in (0..).zip(all) {
        for kind in 0..KINDS {
            let port = number * KINDS + kind;
            let way = Way {
                to: SocketAddr::new(address, base + port),
                server: db,
                port: FIRST_PORT + port,
            };
            ways.push((what, client.clone(), way));
        }
    }
    ways
}

/// As many ports as there are ways to [`ways`].
const PORTS: u16 = 8 * KINDS;

#[test]
fn what_goes_by_a_cluster_ip_a_node_port_or_a_host_port_is_cut_as_well() {
    cut_behind(&Front {
        namespace: "front",
        vip: "10.200.1.75",
        node_port: 31_100,
        host_port: 5_000,
        protocols: [TCP, UDP],
    });
}

#[test]
fn associations_of_sctp_by_a_cluster_ip_a_node_port_or_a_host_port_are_cut_as_well() {
    let node = CLUSTER.node("worker");
    if sctp::is_there(
        node.place(),
        "associations of SCTP by frontends that policies cut",
    ) {
        cut_behind(&Front {
            namespace: "front-sctp",
            vip: "10.200.1.76",
            node_port: 31_200,
            host_port: 5_100,
            protocols: [SCTP, SCTP],
        });
    }
}

/// The Service of a front, with a port of each protocol for every way to it, and its endpoint.
fn frontends(front: &Front, db: &Pod) -> [Value; 2] {
    let (mut ports, mut behind) = (Vec::new(), Vec::new());
    for port in 0..PORTS {
        for protocol in front.names() {
            let name = format!("{}-{port}", protocol.to_lowercase());
            ports.push(
                json!({"name": name, "protocol": protocol, "port": 1_000 + port,
                "targetPort": FIRST_PORT + port, "nodePort": front.node_port + port}),
            );
            behind.push(json!({"name": name, "protocol": protocol, "port": FIRST_PORT + port}));
        }
    }
    let spec = json!({"type": "NodePort", "clusterIP": front.vip, "ports": ports});
    [
        service(front.namespace, spec),
        slice(front.namespace, Value::Array(behind), &[ready(db)]),
    ]
}

impl Front {
    /// The names of the protocols, each once.
    fn names(&self) -> BTreeSet<&'static str> {
        self.protocols.iter().map(|(name, _)| *name).collect()
    }
}

fn cut_behind(front: &Front) {
    let namespace = front.namespace;
    let name = |what: &str| format!("{namespace}-{what}");
    let mut spec = PodSpec::new(&name("db")).in_namespace(namespace);
    spec = spec.labelled("app", "db");
    for port in 0..PORTS {
        for protocol in front.names() {
            let protocol = protocol.to_lowercase();
            let mapping = PortMapping::new(front.host_port + port, FIRST_PORT + port, &protocol);
            spec.ports.push(mapping);
        }
    }
    let db = CLUSTER.lab.run("worker", &spec).unwrap();
    let near = pod("worker", namespace, &name("near"), "web");
    let far = pod("worker2", namespace, &name("far"), "web");
    let from = |peers: Value| {
        let spec = json!({"podSelector": app("db"), "ingress": [{"from": peers}]});
        policy(namespace, namespace, spec)
    };
    let all = json!([{"ipBlock": {"cidr": "0.0.0.0/0"}}]);
    let [service, slice] = frontends(front, &db);
    CLUSTER.apply(&[service, slice, from(all.clone())]);
    let mut cut: Vec<(&str, End, Connection)> = ways(front, &db, [&near, &far])
        .into_iter()
        .map(|(what, client, way)| {
            let kind = way.port - FIRST_PORT;
            let (_, make) = front.protocols[usize::from(kind % 2)];
            let first = [End::Client, End::Server][usize::from(kind / 2 % 2)];
            (what, first, make(&client, way))
        })
        .collect();
    let all_carry = |cut: &mut Vec<(&str, End, Connection)>, word: &str| {
        for (what, first, connection) in cut {
            for end in first.and_other() {
                assert!(connection.carries(end, word, ANSWER), "{what}: {end:?}");
            }
        }
    };
    all_carry(&mut cut, "before");
    CLUSTER.apply(&[from(json!([{"podSelector": app("none")}]))]);
    none_carries(&mut cut);
    CLUSTER.apply(&[from(all)]);
    all_carry(&mut cut, "again");
    // The same for what a pod may send: through the Service as well as to the hostPort.
    let egress = json!({"podSelector": app("web"), "policyTypes": ["Egress"], "egress": []});
    let egress = policy(namespace, &name("egress"), egress);
    CLUSTER.apply(std::slice::from_ref(&egress));
    let (mut cut, mut kept): (Vec<_>, Vec<_>) = cut
        .into_iter()
        .partition(|(what, ..)| !what.starts_with("outside"));
    none_carries(&mut cut);
    all_carry(&mut kept, "stays");
    CLUSTER.delete(&[egress]);
    all_carry(&mut cut, "again");
}

/// That no word gets through, whichever end sends. All at the same time, as each is waited for.
fn none_carries(connections: &mut [(&str, End, Connection)]) {
    thread::scope(|scope| {
        for (what, first, connection) in connections {
            scope.spawn(move || {
                for end in first.and_other() {
                    let passed = connection.carries(end, "after", SILENCE);
                    assert!(!passed, "{what}: {end:?} still sends, {first:?} was first");
                }
            });
        }
    });
}

/// Prints how long after the change the last packet of a busy flow passed; that depends on the machine.
/// What does not: that there is a last one.
#[test]
fn a_flow_that_never_pauses_ends_with_the_change_that_forbids_it() {
    end_flow("flow", UDP);
}

#[test]
fn a_flow_of_sctp_that_never_pauses_ends_with_the_change_that_forbids_it() {
    let node = CLUSTER.node("worker");
    if sctp::is_there(
        node.place(),
        "a busy association of SCTP that a policy cuts",
    ) {
        end_flow("flow-sctp", SCTP);
    }
}

fn end_flow(namespace: &str, (protocol, make): Protocol) {
    let db = pod("worker", namespace, &format!("{namespace}-db"), "db");
    let web = pod("worker2", namespace, &format!("{namespace}-web"), "web");
    let from = |value: &str| {
        let peers = json!([{"podSelector": app(value)}]);
        let spec = json!({"podSelector": app("db"), "ingress": [{"from": peers}]});
        policy(namespace, namespace, spec)
    };
    CLUSTER.apply(&[from("web")]);
    let address = db.address(false).unwrap();
    let connection = make(web.place(), Way::direct(&db, address, 23_000));
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                connection.send(b"and on");
                thread::sleep(Duration::from_millis(1));
            }
        });
        // Not before the flow is under way, however seldom its threads have their turn.
        let flows = connection.hears(ANSWER);
        let last = scope.spawn(|| {
            let (mut last, begun) = (None, Instant::now());
            while connection.hears(SILENCE) {
                last = Some(Instant::now());
                if begun.elapsed() > ANSWER {
                    return Err("it goes on");
                }
            }
            Ok(last)
        });
        let changed = Instant::now();
        CLUSTER.apply(&[from("none")]);
        let last = last.join();
        // Before anything fails, or the flow would go on for good.
        stop.store(true, Ordering::Relaxed);
        assert!(flows, "{protocol}: nothing was heard before the change");
        let ended = last
            .unwrap()
            .unwrap_or_else(|why| panic!("{protocol}: {why}"));
        let last = ended.unwrap_or(changed);
        println!(
            "{protocol}: the last packet passed {:?} after the change",
            last - changed
        );
    });
    let mut connection = connection;
    for end in [End::Client, End::Server] {
        assert!(!connection.carries(end, "after", SILENCE), "{protocol}");
    }
}
