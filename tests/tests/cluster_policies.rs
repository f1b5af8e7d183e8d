//! ClusterNetworkPolicies by packets: rows of the table in `docs/policies.md`, in both families.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cluster;

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::LazyLock;
use std::time::Duration;

use cluster::policies::{ANSWER, SILENCE, addresses, policy};
use cluster::{Cluster, ready, service, slice};
use podwire_lab::manifests;
use podwire_lab::place::Place;
use podwire_lab::pod::{Pod, PodSpec};
use podwire_lab::topology::Families;
use serde_json::{Value, json};

/// Two nodes of both families; every test has a namespace, pods and policies of its own.
static CLUSTER: LazyLock<Cluster> = LazyLock::new(|| Cluster::pair(Families::Dual));

/// A web server.
fn pod(node: &str, namespace: &str, name: &str) -> Pod {
    let name = format!("{namespace}-{name}");
    let spec = PodSpec::web(&name)
        .in_namespace(namespace)
        .labelled("pod", &name);
    CLUSTER.lab.run(node, &spec).unwrap()
}

fn namespace(name: &str) {
    let object = manifests::namespace(name);
    CLUSTER
        .lab
        .write_manifest(&format!("namespace-{name}"), &object)
        .unwrap();
}

fn named(namespace: &str) -> Value {
    json!({"matchLabels": {"kubernetes.io/metadata.name": namespace}})
}

/// A pod as a peer or subject.
fn only(pod: &Pod, namespace: &str) -> Value {
    json!({"pods": {"namespaceSelector": named(namespace),
        "podSelector": {"matchLabels": {"pod": pod.name()}}}})
}

/// A ClusterNetworkPolicy for the pods of a namespace.
fn tier(tier: &str, name: &str, namespace: &str, rules: Value) -> Value {
    let mut spec =
        json!({"tier": tier, "priority": 10, "subject": {"namespaces": named(namespace)}});
    for (direction, rules) in rules.as_object().unwrap() {
        spec[direction] = rules.clone();
    }
    json!({
        "apiVersion": "policy.networking.k8s.io/v1beta1", "kind": "ClusterNetworkPolicy",
        "metadata": {"name": name}, "spec": spec,
    })
}

fn connects(from: &Place, to: SocketAddr, limit: Duration) -> bool {
    from.inside(|| TcpStream::connect_timeout(&to, limit).is_ok())
        .unwrap()
}

#[track_caller]
fn reaches(from: &Pod, to: &Pod) {
    for address in addresses(to) {
        let to = SocketAddr::new(address, 80);
        assert!(
            connects(from.place(), to, ANSWER),
            "{} -> {to}",
            from.name()
        );
    }
}

#[track_caller]
fn does_not_reach(from: &Pod, to: &Pod) {
    for address in addresses(to) {
        let to = SocketAddr::new(address, 80);
        assert!(
            !connects(from.place(), to, SILENCE),
            "{} -> {to}",
            from.name()
        );
    }
}

fn pings(from: &Pod, to: IpAddr) -> bool {
    let ping = format!("ping -c 1 -W 1 {to}");
    from.place().sh(&ping).unwrap().status == 0
}

#[test]
fn the_admin_tier_denies_what_a_network_policy_allows_and_pass_leaves_it_to_them() {
    namespace("admin");
    let db = pod("worker", "admin", "db");
    let [near, far] = ["worker", "worker2"].map(|node| pod(node, "admin", node));
    let open = policy("admin", "open", json!({"podSelector": {}, "ingress": [{}]}));
    CLUSTER.apply(&[open]);
    reaches(&near, &db);
    let deny = json!({"action": "Deny", "from": [{"namespaces": named("admin")}]});
    CLUSTER.apply(&[tier("Admin", "admin", "admin", json!({"ingress": [deny]}))]);
    for from in [&near, &far] {
        does_not_reach(from, &db);
        for address in addresses(&db) {
            assert!(!pings(from, address), "{}", from.name());
        }
    }
    // What no rule is about is left to NetworkPolicies, and so is what passes.
    let worker2 = CLUSTER.node("worker2");
    for address in addresses(&db) {
        assert!(connects(
            worker2.place(),
            SocketAddr::new(address, 80),
            ANSWER
        ));
    }
    let pass = json!({"action": "Pass", "from": [only(&far, "admin")]});
    let rules = json!({"ingress": [pass, deny]});
    CLUSTER.apply(&[tier("Admin", "admin", "admin", rules)]);
    reaches(&far, &db);
    does_not_reach(&near, &db);
    // A pod may always speak with itself, also through its own Service.
    let spec = json!({"clusterIP": "10.200.1.71", "ports": [{"port": 80}]});
    CLUSTER.apply(&[
        service("admin", spec),
        slice("admin", json!([{"port": 80}]), &[ready(&db)]),
    ]);
    let vip: SocketAddr = "10.200.1.71:80".parse().unwrap();
    assert!(connects(db.place(), vip, ANSWER));
    assert!(!connects(near.place(), vip, SILENCE));
}

#[test]
fn who_runs_on_when_his_object_has_gone_does_not_escape_what_denies_him() {
    namespace("forced");
    namespace("lair");
    let db = pod("worker", "forced", "db");
    let denied = ["worker", "worker2"].map(|node| pod(node, "lair", node));
    let deny = json!({"action": "Deny", "from": [{"namespaces": named("lair")}]});
    CLUSTER.apply(&[tier(
        "Admin",
        "forced",
        "forced",
        json!({"ingress": [deny]}),
    )]);
    for from in &denied {
        does_not_reach(from, &db);
        // As `kubectl delete --force` does it.
        let manifest = format!("pod-{}", from.name());
        CLUSTER.lab.remove_manifest(&manifest).unwrap();
    }
    CLUSTER.settle();
    for from in &denied {
        does_not_reach(from, &db);
    }
}

#[test]
fn the_baseline_denies_where_no_network_policy_says_anything() {
    namespace("base");
    let db = pod("worker", "base", "db");
    let far = pod("worker2", "base", "far");
    let other = pod("worker2", "base", "other");
    let deny = json!({"action": "Deny", "from": [{"namespaces": {}}]});
    let baseline = tier("Baseline", "base", "base", json!({"ingress": [deny]}));
    CLUSTER.apply(&[baseline]);
    does_not_reach(&far, &db);
    let peer = json!({"podSelector": {"matchLabels": {"pod": far.name()}}});
    let spec = json!({"podSelector": {"matchLabels": {"pod": db.name()}},
        "ingress": [{"from": [peer]}]});
    CLUSTER.apply(&[policy("base", "db", spec)]);
    reaches(&far, &db);
    does_not_reach(&other, &db);
    does_not_reach(&other, &far);
}

#[test]
fn egress_to_nodes_is_denied_by_their_addresses_and_ports() {
    namespace("nodes");
    let web = pod("worker", "nodes", "web");
    let worker2 = CLUSTER.node("worker2");
    let listeners: Vec<_> = [7443_u16, 7444]
        .into_iter()
        .flat_map(|port| [false, true].map(|v6| (worker2.machine().address(v6).unwrap(), port)))
        .map(|(address, port)| {
            let at = SocketAddr::new(address, port);
            let bind = || TcpListener::bind(at).unwrap();
            (at, worker2.place().inside(bind).unwrap())
        })
        .collect();
    for (at, _) in &listeners {
        assert!(connects(web.place(), *at, ANSWER), "{at}");
    }
    let deny = json!({"action": "Deny", "to": [{"nodes": {}}],
        "protocols": [{"tcp": {"destinationPort": {"number": 7443}}}]});
    CLUSTER.apply(&[tier("Admin", "nodes", "nodes", json!({"egress": [deny]}))]);
    for (at, _) in &listeners {
        let (limit, allowed) = match at.port() {
            7443 => (SILENCE, false),
            _ => (ANSWER, true),
        };
        assert_eq!(connects(web.place(), *at, limit), allowed, "{at}");
    }
}

/// Whether a word gets from one end to the other; what was sent before may come first.
fn carries(from: &mut TcpStream, to: &mut TcpStream, word: &str, limit: Duration) -> bool {
    to.set_read_timeout(Some(limit)).unwrap();
    from.write_all(word.as_bytes()).unwrap();
    let (mut found, mut buffer) = (String::new(), [0; 4096]);
    while !found.contains(word) {
        match to.read(&mut buffer) {
            Ok(length) if length > 0 => found.push_str(&String::from_utf8_lossy(&buffer[..length])),
            _ => return false,
        }
    }
    true
}

#[test]
fn an_open_connection_that_a_tier_denies_is_cut_in_both_directions_and_others_are_not() {
    namespace("tiercut");
    let db = pod("worker", "tiercut", "db");
    let [cut, stays] = ["cut", "stays"].map(|name| pod("worker2", "tiercut", name));
    for (number, address) in (0..).zip(addresses(&db)) {
        let connection = |client: &Pod, port: u16| {
            let at = SocketAddr::new(address, port);
            let bind = || TcpListener::bind(at).unwrap();
            let listener = db.place().inside(bind).unwrap();
            let connect = || TcpStream::connect_timeout(&at, ANSWER).unwrap();
            let client = client.place().inside(connect).unwrap();
            (client, listener.accept().unwrap().0)
        };
        let (mut client, mut server) = connection(&cut, 22_000 + number);
        let (mut other, mut others) = connection(&stays, 22_100 + number);
        assert!(carries(&mut client, &mut server, "before", ANSWER));
        assert!(carries(&mut other, &mut others, "before", ANSWER));
        let name = format!("tiercut{number}");
        let ports =
            json!([{"tcp": {"destinationPort": {"range": {"start": 22_000, "end": 22_099}}}}]);
        let deny = json!({"action": "Deny", "from": [{"namespaces": {}}], "protocols": ports});
        let policy = tier("Admin", &name, "tiercut", json!({"ingress": [deny]}));
        CLUSTER.apply(std::slice::from_ref(&policy));
        assert!(!carries(&mut server, &mut client, "after1", SILENCE));
        assert!(!carries(&mut client, &mut server, "after2", SILENCE));
        assert!(carries(&mut other, &mut others, "stays", ANSWER));
        CLUSTER.delete(&[policy]);
        assert!(carries(&mut client, &mut server, "again", ANSWER));
    }
}
