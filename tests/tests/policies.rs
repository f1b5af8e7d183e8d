//! NetworkPolicies by packets: rows of the table in `docs/policies.md`, in both families.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cluster;

use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::sync::LazyLock;
use std::time::Duration;

use cluster::policies::{ANSWER, SILENCE, addresses, app, policy};
use cluster::{Cluster, named_slice, ready, sctp, service, slice, with};
use podwire_lab::manifests;
use podwire_lab::place::Place;
use podwire_lab::pod::{Pod, PodSpec, Servers};
use podwire_lab::topology::Families;
use podwire_lab::wait;
use serde_json::{Value, json};

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

#[track_caller]
fn associates(from: &Pod, to: &Pod, port: u16) {
    for address in addresses(to) {
        let to = SocketAddr::new(address, port);
        let made = sctp::associate(from.place(), to, ANSWER);
        assert!(made.is_ok(), "{} -> {to}: {made:?}", from.name());
    }
}

#[track_caller]
fn does_not_associate(from: &Pod, to: &Pod, port: u16) {
    for address in addresses(to) {
        let to = SocketAddr::new(address, port);
        let made = sctp::associate(from.place(), to, SILENCE);
        assert!(made.is_err(), "{} -> {to}", from.name());
    }
}

#[test]
fn a_port_of_sctp_says_nothing_about_tcp_and_the_reverse() {
    let node = CLUSTER.node("worker");
    if !sctp::is_there(node.place(), "policies for SCTP") {
        return;
    }
    let db = pod("worker", "sctp", "sctp-db", &[("app", "db")]);
    let near = pod("worker", "sctp", "sctp-near", &[("app", "web")]);
    let far = pod("worker2", "sctp", "sctp-far", &[("app", "web")]);
    // Both protocols on both ports, by each address.
    let listening = addresses(&db).map(|address| {
        [80, 8080].map(|port| sctp::listener(db.place(), SocketAddr::new(address, port)))
    });
    let ingress = |port: Value| {
        let rules = json!([{"from": [{"podSelector": app("web")}], "ports": [port]}]);
        json!({"podSelector": app("db"), "ingress": rules})
    };
    let egress = |port: Value| {
        let rules = json!([{"to": [{"podSelector": app("db")}], "ports": [port]}]);
        json!({"podSelector": app("web"), "policyTypes": ["Egress"], "egress": rules})
    };
    let both: [&dyn Fn(Value) -> Value; 2] = [&ingress, &egress];
    for spec in both {
        // Of one name: the second takes the place of the first.
        let allow = |port: Value| CLUSTER.apply(&[policy("sctp", "sctp", spec(port))]);
        for port in [
            json!({"protocol": "SCTP", "port": 80}),
            json!({"protocol": "SCTP", "port": 78, "endPort": 81}),
        ] {
            allow(port);
            for from in [&near, &far] {
                associates(from, &db, 80);
                does_not_associate(from, &db, 8080);
                does_not_reach(from, &db, 80);
            }
        }
        allow(json!({"protocol": "SCTP"}));
        for from in [&near, &far] {
            associates(from, &db, 8080);
            does_not_reach(from, &db, 8080);
        }
        allow(json!({"protocol": "TCP", "port": 80}));
        for from in [&near, &far] {
            reaches(from, &db, 80);
            does_not_associate(from, &db, 80);
        }
    }
    drop(listening);
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

#[test]
fn a_pod_that_comes_by_its_own_nodes_port_or_an_external_address_is_known_by_its_labels() {
    let web = pod("worker", "way-in", "way-in-web", &[("app", "web")]);
    let client = pod("worker2", "way-in", "way-in-client", &[("app", "client")]);
    let spec = json!({"type": "NodePort", "clusterIPs": ["10.200.1.75", "fd00:10:200::75"],
        "externalIPs": ["192.0.2.75", "2001:db8::75"], "ports": [{"port": 80, "nodePort": 31075}]});
    let slices = addresses(&web).map(|address| {
        let name = if address.is_ipv4() {
            "way-in-4"
        } else {
            "way-in-6"
        };
        let endpoint = with(ready(&web), json!({"addresses": [address]}));
        named_slice(name, "way-in", json!([{"port": 80}]), &[endpoint])
    });
    let node = CLUSTER.node("worker2");
    let node = [false, true].map(|v6| node.machine().address(v6).unwrap());
    let from = |peers: Value| {
        let rules = json!([{"from": peers}]);
        let spec = json!({"podSelector": app("web"), "ingress": rules});
        policy("way-in", "way-in", spec)
    };
    let ways = ["192.0.2.75:80", "[2001:db8::75]:80"].map(|to| to.parse().unwrap());
    let ways = [ways, node.map(|address| SocketAddr::new(address, 31075))].concat();
    let [v4, v6] = slices;
    CLUSTER.apply(&[
        service("way-in", spec),
        v4,
        v6,
        from(json!([{"podSelector": app("client")}])),
    ]);
    for to in &ways {
        assert!(connects(client.place(), *to, ANSWER), "{to}");
    }
    // What its node may do it may not.
    let node = node.map(|address| {
        let length = if address.is_ipv4() { 32 } else { 128 };
        json!({"ipBlock": {"cidr": format!("{address}/{length}")}})
    });
    CLUSTER.apply(&[from(json!(node))]);
    for to in &ways {
        assert!(!connects(client.place(), *to, SILENCE), "{to}");
    }
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
