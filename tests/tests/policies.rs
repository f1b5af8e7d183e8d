//! NetworkPolicies by packets: rows of the table in `docs/policies.md`, in both families.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cluster;

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use cluster::{Cluster, ready, service, slice};
use podwire_lab::manifests;
use podwire_lab::place::Place;
use podwire_lab::pod::{Pod, PodSpec, Servers};
use podwire_lab::topology::Families;
use podwire_lab::wait;
use serde_json::{Value, json};

/// How long an answer may take where one must come.
const ANSWER: Duration = Duration::from_secs(10);
/// How long none may come where none must.
const SILENCE: Duration = Duration::from_millis(700);

/// Two nodes of both families; every test has namespaces, pods and policies of its own.
static CLUSTER: LazyLock<Cluster> = LazyLock::new(|| Cluster::pair(Families::Dual));

/// A pod with HTTP on 80 and 8080, lines on TCP 7 and datagrams on UDP 53.
fn pod(node: &str, namespace: &str, name: &str, labels: &[(&str, &str)]) -> Pod {
    let mut spec = PodSpec::new(name).in_namespace(namespace);
    for (key, value) in labels {
        spec = spec.labelled(key, value);
    }
    spec.servers = Servers {
        http: vec![80, 8080],
        tcp: vec![7],
        udp: vec![53],
    };
    CLUSTER.lab.run(node, &spec).unwrap()
}

/// A Namespace with a label `team`.
fn namespace(name: &str, team: &str) {
    let mut object = manifests::namespace(name);
    object["metadata"]["labels"] = json!({"team": team});
    CLUSTER
        .lab
        .write_manifest(&format!("namespace-{name}"), &object)
        .unwrap();
}

fn policy(namespace: &str, name: &str, spec: Value) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"namespace": namespace, "name": name}, "spec": spec,
    })
}

fn app(value: &str) -> Value {
    json!({"matchLabels": {"app": value}})
}

fn addresses(pod: &Pod) -> [IpAddr; 2] {
    [pod.address(false).unwrap(), pod.address(true).unwrap()]
}

/// Whether a TCP connection is made within this time.
fn connects(from: &Place, to: SocketAddr, limit: Duration) -> bool {
    from.inside(|| TcpStream::connect_timeout(&to, limit).is_ok())
        .unwrap()
}

/// Whether a datagram is answered within this time.
fn is_answered(from: &Place, to: SocketAddr, limit: Duration) -> bool {
    let ask = || {
        let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(any)?;
        socket.set_read_timeout(Some(limit))?;
        socket.send_to(b"hello\n", to)?;
        socket.recv(&mut [0; 100])
    };
    from.inside(ask).unwrap().is_ok()
}

fn pings(from: &Place, to: IpAddr) -> bool {
    from.sh(&format!("ping -c 1 -W 1 {to}")).unwrap().status == 0
}

#[track_caller]
fn reaches(from: &Pod, to: &Pod, port: u16) {
    for address in addresses(to) {
        let to = SocketAddr::new(address, port);
        assert!(
            connects(from.place(), to, ANSWER),
            "{} -> {to}",
            from.name()
        );
    }
}

#[track_caller]
fn does_not_reach(from: &Pod, to: &Pod, port: u16) {
    for address in addresses(to) {
        let to = SocketAddr::new(address, port);
        assert!(
            !connects(from.place(), to, SILENCE),
            "{} -> {to}",
            from.name()
        );
    }
}

#[test]
fn deny_all_closes_a_namespace_and_a_label_opens_it_for_tcp_udp_and_ping() {
    let db = pod("worker", "deny", "deny-db", &[("app", "db")]);
    let near = pod("worker", "deny", "deny-near", &[("app", "web")]);
    let far = pod("worker2", "deny", "deny-far", &[("app", "web")]);
    let other = pod("worker2", "deny", "deny-other", &[("app", "other")]);
    reaches(&near, &db, 80);
    reaches(&other, &db, 80);
    CLUSTER.apply(&[policy(
        "deny",
        "deny-all",
        json!({"podSelector": {}, "policyTypes": ["Ingress"]}),
    )]);
    for from in [&near, &far, &other] {
        does_not_reach(from, &db, 80);
    }
    for address in addresses(&db) {
        assert!(!is_answered(
            far.place(),
            SocketAddr::new(address, 53),
            SILENCE
        ));
        assert!(!pings(far.place(), address));
    }
    let web = json!([{"from": [{"podSelector": app("web")}]}]);
    let allow = policy(
        "deny",
        "deny-allow",
        json!({"podSelector": app("db"), "ingress": web}),
    );
    CLUSTER.apply(&[allow]);
    for from in [&near, &far] {
        reaches(from, &db, 80);
        for address in addresses(&db) {
            assert!(is_answered(
                from.place(),
                SocketAddr::new(address, 53),
                ANSWER
            ));
            assert!(pings(from.place(), address));
        }
    }
    does_not_reach(&other, &db, 80);
    // A rule with ports says nothing about ping.
    let ports = json!([{"from": [{"podSelector": app("web")}], "ports": [{"port": 80}]}]);
    CLUSTER.apply(&[policy(
        "deny",
        "deny-allow",
        json!({"podSelector": app("db"), "ingress": ports}),
    )]);
    reaches(&far, &db, 80);
    does_not_reach(&far, &db, 8080);
    for address in addresses(&db) {
        assert!(!pings(far.place(), address));
        assert!(!is_answered(
            far.place(),
            SocketAddr::new(address, 53),
            SILENCE
        ));
    }
}

#[test]
fn a_namespace_selector_follows_the_labels_of_namespaces() {
    namespace("nssel-b", "b");
    let db = pod("worker", "nssel-a", "nssel-db", &[("app", "db")]);
    let web = pod("worker2", "nssel-b", "nssel-web", &[("app", "web")]);
    let job = pod("worker2", "nssel-b", "nssel-job", &[("app", "job")]);
    let peer =
        json!({"namespaceSelector": {"matchLabels": {"team": "b"}}, "podSelector": app("web")});
    let rules = json!([{"from": [peer]}]);
    CLUSTER.apply(&[policy(
        "nssel-a",
        "nssel",
        json!({"podSelector": {}, "ingress": rules}),
    )]);
    reaches(&web, &db, 80);
    does_not_reach(&job, &db, 80);
    namespace("nssel-b", "c");
    CLUSTER.settle();
    does_not_reach(&web, &db, 80);
    let by_name = json!({"matchLabels": {"kubernetes.io/metadata.name": "nssel-b"}});
    let rules = json!([{"from": [{"namespaceSelector": by_name}]}]);
    CLUSTER.apply(&[policy(
        "nssel-a",
        "nssel",
        json!({"podSelector": {}, "ingress": rules}),
    )]);
    reaches(&web, &db, 80);
    reaches(&job, &db, 80);
}

#[test]
fn an_ip_block_is_about_addresses_and_its_holes_are_not() {
    let db = pod("worker", "block", "block-db", &[]);
    let web = pod("worker2", "block", "block-web", &[]);
    let [v4, v6] = addresses(&web);
    let rules = |except: Value| {
        let v4 = json!({"ipBlock": {"cidr": "10.10.2.0/24", "except": except[0]}});
        let v6 = json!({"ipBlock": {"cidr": "fd00:10:10:2::/64", "except": except[1]}});
        json!({"podSelector": {}, "ingress": [{"from": [v4, v6]}]})
    };
    CLUSTER.apply(&[policy("block", "block", rules(json!([[], []])))]);
    reaches(&web, &db, 80);
    let holes = json!([[format!("{v4}/32")], [format!("{v6}/128")]]);
    CLUSTER.apply(&[policy("block", "block", rules(holes))]);
    does_not_reach(&web, &db, 80);
    // What one cuts out another may allow.
    let exact = json!([{"from": [{"ipBlock": {"cidr": format!("{v4}/32")}},
        {"ipBlock": {"cidr": format!("{v6}/128")}}]}]);
    CLUSTER.apply(&[policy(
        "block",
        "block-exact",
        json!({"podSelector": {}, "ingress": exact}),
    )]);
    reaches(&web, &db, 80);
}

#[test]
fn ports_by_name_and_ranges_of_ports() {
    let db = pod("worker", "ports", "ports-db", &[("app", "db")]);
    let web = pod("worker2", "ports", "ports-web", &[("app", "web")]);
    let ingress = |port: Value| {
        let rules = json!([{"from": [{"podSelector": app("web")}], "ports": [port]}]);
        policy(
            "ports",
            "ports",
            json!({"podSelector": app("db"), "ingress": rules}),
        )
    };
    CLUSTER.apply(&[ingress(json!({"port": "http"}))]);
    reaches(&web, &db, 80);
    does_not_reach(&web, &db, 8080);
    CLUSTER.apply(&[ingress(json!({"port": 8000, "endPort": 9000}))]);
    reaches(&web, &db, 8080);
    does_not_reach(&web, &db, 80);
    CLUSTER.apply(&[ingress(json!({"port": 78, "endPort": 81}))]);
    reaches(&web, &db, 80);
    does_not_reach(&web, &db, 8080);
    CLUSTER.apply(&[ingress(json!({"port": "no-such-port"}))]);
    does_not_reach(&web, &db, 80);
    CLUSTER.apply(&[ingress(json!({}))]);
    reaches(&web, &db, 8080);
    for address in addresses(&db) {
        assert!(!is_answered(
            web.place(),
            SocketAddr::new(address, 53),
            SILENCE
        ));
    }
    // To others, by the names of their ports.
    let to = json!({"podSelector": app("web"), "policyTypes": ["Egress"], "egress": [
        {"to": [{"podSelector": app("db")}], "ports": [{"port": "http"}, {"port": "udp", "protocol": "UDP"}]}]});
    CLUSTER.apply(&[policy("ports", "ports-out", to), ingress(json!(null))]);
    CLUSTER.delete(&[policy("ports", "ports", json!({}))]);
    reaches(&web, &db, 80);
    does_not_reach(&web, &db, 8080);
    for address in addresses(&db) {
        assert!(is_answered(
            web.place(),
            SocketAddr::new(address, 53),
            ANSWER
        ));
    }
}

#[test]
fn egress_is_closed_to_pods_nodes_and_the_world_but_for_what_is_allowed() {
    let web = pod("worker", "egress", "egress-web", &[("app", "web")]);
    let near = pod("worker", "egress", "egress-near", &[("app", "db")]);
    let far = pod("worker2", "egress", "egress-far", &[("app", "db")]);
    let spec = |rules: Value| json!({"podSelector": app("web"), "policyTypes": ["Egress"], "egress": rules});
    CLUSTER.apply(&[policy("egress", "egress", spec(json!([])))]);
    does_not_reach(&web, &near, 80);
    does_not_reach(&web, &far, 80);
    reaches(&far, &web, 80);
    let mypc = CLUSTER.node("mypc").machine().address(false).unwrap();
    assert!(!pings(web.place(), mypc));
    let outside = json!([{"to": [{"ipBlock": {"cidr": format!("{mypc}/32")}}]}]);
    CLUSTER.apply(&[policy("egress", "egress", spec(outside))]);
    assert!(pings(web.place(), mypc));
    does_not_reach(&web, &far, 80);
    CLUSTER.apply(&[policy(
        "egress",
        "egress",
        spec(json!([{"to": [{"podSelector": app("db")}]}])),
    )]);
    reaches(&web, &near, 80);
    reaches(&web, &far, 80);
    assert!(!pings(web.place(), mypc));
}

#[test]
fn a_pod_reaches_itself_also_through_its_own_service() {
    let one = pod("worker", "itself", "itself-one", &[]);
    let two = pod("worker", "itself", "itself-two", &[]);
    let closed = json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]});
    let spec = json!({"clusterIP": "10.200.1.71", "ports": [{"port": 80}]});
    CLUSTER.apply(&[
        service("itself", spec),
        slice("itself", json!([{"port": 80}]), &[ready(&one)]),
        policy("itself", "itself", closed),
    ]);
    reaches(&one, &one, 80);
    let vip: SocketAddr = "10.200.1.71:80".parse().unwrap();
    assert!(connects(one.place(), vip, ANSWER));
    assert!(!connects(two.place(), vip, SILENCE));
    does_not_reach(&one, &two, 80);
}

#[test]
fn behind_a_service_the_endpoint_is_what_counts() {
    let web = pod("worker", "vip", "vip-web", &[("app", "web")]);
    let db = pod("worker2", "vip", "vip-db", &[("app", "db")]);
    let spec = json!({"clusterIP": "10.200.1.72", "ports": [{"port": 9000}]});
    let egress = |port: u16| {
        let rules = json!([{"to": [{"podSelector": app("db")}], "ports": [{"port": port}]}]);
        policy(
            "vip",
            "vip",
            json!({"podSelector": app("web"), "policyTypes": ["Egress"], "egress": rules}),
        )
    };
    CLUSTER.apply(&[
        service("vip", spec),
        slice("vip", json!([{"port": 80}]), &[ready(&db)]),
        egress(80),
    ]);
    let vip: SocketAddr = "10.200.1.72:9000".parse().unwrap();
    assert!(connects(web.place(), vip, ANSWER));
    CLUSTER.apply(&[egress(9000)]);
    assert!(!connects(web.place(), vip, SILENCE));
}

#[test]
fn a_node_reaches_its_own_pods_and_other_nodes_need_a_block() {
    let db = pod("worker", "node", "node-db", &[]);
    let (worker, worker2) = (CLUSTER.node("worker"), CLUSTER.node("worker2"));
    let closed = json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]});
    CLUSTER.apply(&[policy("node", "node", closed)]);
    for address in addresses(&db) {
        let to = SocketAddr::new(address, 80);
        assert!(connects(worker.place(), to, ANSWER), "{to}");
        assert!(!connects(worker2.place(), to, SILENCE), "{to}");
    }
    let address = |v6| worker2.machine().address(v6).unwrap();
    let rules = json!([{"from": [{"ipBlock": {"cidr": format!("{}/32", address(false))}},
        {"ipBlock": {"cidr": format!("{}/128", address(true))}}]}]);
    CLUSTER.apply(&[policy(
        "node",
        "node-block",
        json!({"podSelector": {}, "ingress": rules}),
    )]);
    for address in addresses(&db) {
        assert!(connects(
            worker2.place(),
            SocketAddr::new(address, 80),
            ANSWER
        ));
    }
}

#[test]
fn a_node_port_shows_its_client_here_and_its_node_elsewhere() {
    let web = pod("worker", "nodeport", "nodeport-web", &[]);
    let spec = json!({"type": "NodePort", "clusterIP": "10.200.1.73",
        "ports": [{"port": 80, "nodePort": 31073}]});
    let mypc = CLUSTER.node("mypc");
    let address = |node: &str| CLUSTER.node(node).machine().address(false).unwrap();
    let from = |address: IpAddr| {
        let rules = json!([{"from": [{"ipBlock": {"cidr": format!("{address}/32")}}]}]);
        policy(
            "nodeport",
            "nodeport",
            json!({"podSelector": {}, "ingress": rules}),
        )
    };
    CLUSTER.apply(&[
        service("nodeport", spec),
        slice("nodeport", json!([{"port": 80}]), &[ready(&web)]),
        from(address("mypc")),
    ]);
    let [here, there] = ["worker", "worker2"].map(|node| SocketAddr::new(address(node), 31073));
    assert!(connects(mypc.place(), here, ANSWER));
    assert!(!connects(mypc.place(), there, SILENCE));
    CLUSTER.apply(&[from(address("worker2"))]);
    assert!(!connects(mypc.place(), here, SILENCE));
    assert!(connects(mypc.place(), there, ANSWER));
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

impl Connection {
    fn tcp(client: &Pod, server: &Pod, address: IpAddr, port: u16) -> Self {
        let at = SocketAddr::new(address, port);
        let listener = server
            .place()
            .inside(|| TcpListener::bind(at).unwrap())
            .unwrap();
        let connect = || TcpStream::connect_timeout(&at, ANSWER).unwrap();
        let client = client.place().inside(connect).unwrap();
        Self::Tcp(client, listener.accept().unwrap().0)
    }

    fn udp(client: &Pod, server: &Pod, address: IpAddr, port: u16) -> Self {
        let at = SocketAddr::new(address, port);
        let any = if at.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let server = server
            .place()
            .inside(|| UdpSocket::bind(at).unwrap())
            .unwrap();
        let client = client
            .place()
            .inside(|| UdpSocket::bind(any).unwrap())
            .unwrap();
        client.connect(at).unwrap();
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
    let db = pod("worker", "revoke", "revoke-db", &[("app", "db")]);
    let near = pod("worker", "revoke", "revoke-near", &[("app", "web")]);
    let far = pod("worker2", "revoke", "revoke-far", &[("app", "web")]);
    let stays = pod("worker2", "revoke", "revoke-stays", &[("app", "stays")]);
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
                    cut.push((first, make(client, &db, address, port)));
                }
                port += 1;
                kept.push(make(&stays, &db, address, port));
            }
        }
    }
    let ends = |first| match first {
        End::Client => [End::Client, End::Server],
        End::Server => [End::Server, End::Client],
    };
    for (_, connection) in &mut cut {
        for end in ends(End::Client) {
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
        for end in ends(*first) {
            let passed = connection.carries(end, "after", Duration::from_millis(300));
            assert!(
                !passed,
                "connection {number}: {end:?} still sends, {first:?} was first"
            );
        }
    }
    for connection in &mut kept {
        for end in ends(End::Client) {
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
    let web = pod("worker", "cut", "cut-web", &[("app", "web")]);
    let db = pod("worker2", "cut", "cut-db", &[("app", "db")]);
    let egress = |value: &str| {
        let rules = json!([{"to": [{"podSelector": app(value)}]}]);
        let spec = json!({"podSelector": app("web"), "policyTypes": ["Egress"], "egress": rules});
        policy("cut", "cut", spec)
    };
    CLUSTER.apply(&[egress("db")]);
    for (number, address) in addresses(&db).into_iter().enumerate() {
        let port = 21_000 + number as u16;
        let mut connection = Connection::tcp(&web, &db, address, port);
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

#[test]
fn a_pod_that_no_one_knows_is_closed_while_there_is_any_policy() {
    let known = pod("worker", "unknown", "unknown-known", &[]);
    let node = CLUSTER.node("worker");
    // As if the API server had not told yet: its node runs it, and there is no manifest.
    CLUSTER.apply(&[policy(
        "unknown",
        "unknown",
        json!({"podSelector": app("none")}),
    )]);
    let spec = PodSpec::web("unknown-new").in_namespace("unknown");
    let new = node.run(&spec).unwrap();
    does_not_reach(&known, &new, 80);
    does_not_reach(&new, &known, 80);
    let manifest = manifests::pod(&new, &spec);
    CLUSTER
        .lab
        .write_manifest("pod-unknown-new", &manifest)
        .unwrap();
    CLUSTER.settle();
    reaches(&known, &new, 80);
    reaches(&new, &known, 80);
}

#[test]
fn without_an_agent_what_was_decided_stays_and_a_new_one_writes_nothing() {
    let cluster = Cluster::pair(Families::Dual);
    let run = |node: &str, name: &str, value: &str| {
        let spec = PodSpec::web(name).labelled("app", value);
        cluster.lab.run(node, &spec).unwrap()
    };
    let (db, web) = (run("worker", "db", "db"), run("worker2", "web", "web"));
    let other = run("worker2", "other", "other");
    let rules = json!([{"from": [{"podSelector": app("web")}]}]);
    cluster.apply(&[policy(
        "default",
        "db",
        json!({"podSelector": app("db"), "ingress": rules}),
    )]);
    let node = cluster.node("worker");
    node.stop_agent("KILL").unwrap();
    reaches(&web, &db, 80);
    does_not_reach(&other, &db, 80);
    node.start_agent().unwrap();
    node.wait_ready().unwrap();
    reaches(&web, &db, 80);
    does_not_reach(&other, &db, 80);
    let written = node
        .agent_metric("podwire_kernel_writes_total{feature=\"policies\"}")
        .unwrap();
    assert_eq!(written, 0.0);
    // The last policy goes, and the tables with it.
    cluster.delete(&[policy("default", "db", json!({}))]);
    let gone = || {
        let listed = node.place().output("nft list tables").unwrap();
        !listed.contains("podwire-policy")
    };
    wait::until("the end of the tables", ANSWER, gone).unwrap();
    reaches(&other, &db, 80);
}
