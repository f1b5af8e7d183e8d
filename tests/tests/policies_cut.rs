//! Connections that are under way when a policy forbids them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cluster;

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use cluster::policies::{ANSWER, SILENCE, addresses, app, policy};
use cluster::{Cluster, ready, service, slice};
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

/// Where a connection is made to, and the pod and the port that it gets to.
#[derive(Clone, Copy)]
struct Way<'a> {
    to: SocketAddr,
    server: &'a Pod,
    port: u16,
}

impl<'a> Way<'a> {
    fn direct(server: &'a Pod, address: IpAddr, port: u16) -> Self {
        let to = SocketAddr::new(address, port);
        Self { to, server, port }
    }

    /// What the server listens on.
    fn behind(&self) -> SocketAddr {
        let address = self.server.address(self.to.is_ipv6()).unwrap();
        SocketAddr::new(address, self.port)
    }
}

/// An open connection: both its ends, over TCP or UDP.
enum Connection {
    Tcp(TcpStream, TcpStream),
    Udp(UdpSocket, UdpSocket),
}

/// Who sends.
#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    Client,
    Server,
}

impl End {
    /// Both, this one first.
    fn and_other(self) -> [Self; 2] {
        match self {
            Self::Client => [Self::Client, Self::Server],
            Self::Server => [Self::Server, Self::Client],
        }
    }
}

impl Connection {
    fn tcp(client: &Place, way: Way<'_>) -> Self {
        let bind = || TcpListener::bind(way.behind()).unwrap();
        let listener = way.server.place().inside(bind).unwrap();
        let connect = || TcpStream::connect_timeout(&way.to, ANSWER).unwrap();
        let client = client.inside(connect).unwrap();
        Self::Tcp(client, listener.accept().unwrap().0)
    }

    fn udp(client: &Place, way: Way<'_>) -> Self {
        let any = if way.to.is_ipv4() {
            "0.0.0.0:0"
        } else {
            "[::]:0"
        };
        let bind = || UdpSocket::bind(way.behind()).unwrap();
        let server = way.server.place().inside(bind).unwrap();
        let client = client.inside(|| UdpSocket::bind(any).unwrap()).unwrap();
        client.connect(way.to).unwrap();
        client.send(b"first").unwrap();
        server.set_read_timeout(Some(ANSWER)).unwrap();
        let (_, from) = server.recv_from(&mut [0; 100]).unwrap();
        server.connect(from).unwrap();
        Self::Udp(client, server)
    }

    /// Whether a word gets from one end to the other within this time. What was sent before may come
    /// first: TCP sends again what was dropped.
    fn carries(&mut self, from: End, word: &str, limit: Duration) -> bool {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let word = format!("{word} {};", NUMBER.fetch_add(1, Ordering::Relaxed));
        let (sent, mut receive): (_, Receive<'_>) = match self {
            Self::Tcp(client, server) => {
                let (from, to) = if from == End::Client {
                    (client, server)
                } else {
                    (server, client)
                };
                to.set_read_timeout(Some(limit)).unwrap();
                (
                    from.write_all(word.as_bytes()),
                    Box::new(|buffer| to.read(buffer)),
                )
            }
            Self::Udp(client, server) => {
                let (from, to) = if from == End::Client {
                    (client, server)
                } else {
                    (server, client)
                };
                to.set_read_timeout(Some(limit)).unwrap();
                let sent = from.send(word.as_bytes()).map(drop);
                (sent, Box::new(|buffer| to.recv(buffer)))
            }
        };
        let (mut found, mut buffer) = (String::new(), [0; 4096]);
        while sent.is_ok() && !found.contains(&word) {
            match receive(&mut buffer) {
                Ok(length) if length > 0 => {
                    found.push_str(&String::from_utf8_lossy(&buffer[..length]));
                }
                _ => return false,
            }
        }
        sent.is_ok()
    }
}

/// Reads what has come.
type Receive<'a> = Box<dyn FnMut(&mut [u8]) -> std::io::Result<usize> + 'a>;

#[test]
fn what_a_change_forbids_is_cut_in_both_directions_and_nothing_else() {
    let db = pod("worker", "revoke", "revoke-db", "db");
    let near = pod("worker", "revoke", "revoke-near", "web");
    let far = pod("worker2", "revoke", "revoke-far", "web");
    let stays = pod("worker2", "revoke", "revoke-stays", "stays");
    let allow = |apps: &[&str]| {
        let peers: Vec<Value> = apps
            .iter()
            .map(|one| json!({"podSelector": app(one)}))
            .collect();
        let rules = json!([{"from": peers}]);
        policy(
            "revoke",
            "revoke",
            json!({"podSelector": app("db"), "ingress": rules}),
        )
    };
    CLUSTER.apply(&[allow(&["web", "stays"])]);
    let (mut cut, mut kept) = (Vec::new(), Vec::new());
    let mut port = 20_000;
    for address in addresses(&db) {
        for make in [Connection::tcp, Connection::udp] {
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
/// Of each kind of connection by way of a frontend there is one over TCP and one over UDP, and who
/// sends first after the change differs.
const KINDS: u16 = 4;

/// Every way to a pod of `worker` that its address is not the destination of: who, and where to.
fn ways<'a>(db: &'a Pod, [near, far]: [&'a Pod; 2]) -> Vec<(&'static str, Place, Way<'a>)> {
    let at = |node: &str| CLUSTER.node(node).machine().address(false).unwrap();
    let (here, there) = (at("worker"), at("worker2"));
    let vip: IpAddr = "10.200.1.75".parse().unwrap();
    let mypc = CLUSTER.node("mypc").place().clone();
    let (near, far) = (near.place().clone(), far.place().clone());
    let all = [
        ("near, ClusterIP", near.clone(), vip, 1_000),
        ("far, ClusterIP", far.clone(), vip, 1_000),
        ("far, NodePort here", far.clone(), here, 31_100),
        ("outside, NodePort here", mypc.clone(), here, 31_100),
        ("outside, NodePort elsewhere", mypc.clone(), there, 31_100),
        ("near, hostPort", near, here, 5_000),
        ("far, hostPort", far, here, 5_000),
        ("outside, hostPort", mypc, here, 5_000),
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
    let mut spec = PodSpec::new("front-db").in_namespace("front");
    spec = spec.labelled("app", "db");
    for port in 0..PORTS {
        for protocol in ["tcp", "udp"] {
            let mapping = PortMapping::new(5_000 + port, FIRST_PORT + port, protocol);
            spec.ports.push(mapping);
        }
    }
    let db = CLUSTER.lab.run("worker", &spec).unwrap();
    let near = pod("worker", "front", "front-near", "web");
    let far = pod("worker2", "front", "front-far", "web");
    let (mut ports, mut behind) = (Vec::new(), Vec::new());
    for port in 0..PORTS {
        for protocol in ["TCP", "UDP"] {
            let name = format!("{}-{port}", protocol.to_lowercase());
            ports.push(
                json!({"name": name, "protocol": protocol, "port": 1_000 + port,
                "targetPort": FIRST_PORT + port, "nodePort": 31_100 + port}),
            );
            behind.push(json!({"name": name, "protocol": protocol, "port": FIRST_PORT + port}));
        }
    }
    let front = json!({"type": "NodePort", "clusterIP": "10.200.1.75", "ports": ports});
    let from = |peers: Value| {
        let spec = json!({"podSelector": app("db"), "ingress": [{"from": peers}]});
        policy("front", "front", spec)
    };
    let all = json!([{"ipBlock": {"cidr": "0.0.0.0/0"}}]);
    let slice = slice("front", Value::Array(behind), &[ready(&db)]);
    CLUSTER.apply(&[service("front", front), slice, from(all.clone())]);
    let mut cut: Vec<(&str, End, Connection)> = ways(&db, [&near, &far])
        .into_iter()
        .map(|(what, client, way)| {
            let kind = way.port - FIRST_PORT;
            let make = [Connection::tcp, Connection::udp][usize::from(kind % 2)];
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
    let egress = policy("front", "front-egress", egress);
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
    let db = pod("worker", "flow", "flow-db", "db");
    let web = pod("worker2", "flow", "flow-web", "web");
    let from = |value: &str| {
        let peers = json!([{"podSelector": app(value)}]);
        let spec = json!({"podSelector": app("db"), "ingress": [{"from": peers}]});
        policy("flow", "flow", spec)
    };
    CLUSTER.apply(&[from("web")]);
    let address = db.address(false).unwrap();
    let way = Way::direct(&db, address, 23_000);
    let Connection::Udp(client, server) = Connection::udp(web.place(), way) else {
        unreachable!("it was made as that")
    };
    server.set_read_timeout(Some(SILENCE)).unwrap();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                client.send(b"and on").unwrap();
                thread::sleep(Duration::from_millis(1));
            }
        });
        let last = scope.spawn(|| {
            let (mut last, begun) = (None, Instant::now());
            while begun.elapsed() < ANSWER && server.recv(&mut [0; 100]).is_ok() {
                last = Some(Instant::now());
            }
            last
        });
        let changed = Instant::now();
        CLUSTER.apply(&[from("none")]);
        let last = last.join();
        // Before anything fails, or the flow would go on for good.
        stop.store(true, Ordering::Relaxed);
        let last = last.unwrap().unwrap();
        println!(
            "the last packet passed {:?} after the change",
            last - changed
        );
    });
    assert!(!Connection::Udp(client, server).carries(End::Server, "after", SILENCE));
}
