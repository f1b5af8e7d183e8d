//! What clients of pods see whose Node has gone: real packets in a lab.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cluster;

use std::net::{IpAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use cluster::*;
use podwire_lab::node::Node;
use podwire_lab::place::Place;
use podwire_lab::pod::Pod;
use podwire_lab::topology::{Families, Topology};
use podwire_lab::wait;
use serde_json::json;

/// How soon the agent refuses, and stops refusing.
const SOON: Duration = Duration::from_secs(2);

fn refuses(node: &Node, text: &str) -> bool {
    let ran = node.place().sh("nft list table inet podwire-refused");
    ran.is_ok_and(|ran| ran.status == 0 && ran.stdout.contains(text))
}

fn until_refused(node: &Node) {
    let what = "pods of a Node that has gone to be refused";
    wait::until(what, SOON, || refuses(node, "comment \"Node worker2\"")).unwrap();
}

/// A cluster of two nodes with a Service in both families, the only endpoint of which is on the
/// second.
fn cluster_with_one_endpoint(families: Families) -> (Cluster, Pod) {
    let cluster = Cluster::pair(families);
    let web = cluster.web("worker2", "web");
    let at = |index: usize| ready_at(&web, index);
    let spec = |address: &str| {
        json!({
            "type": "NodePort", "clusterIP": address,
            "ports": [{"port": 80, "nodePort": 30080}],
        })
    };
    let port = json!([{"port": 80}]);
    let mut objects = vec![
        service("web", spec("10.200.1.80")),
        slice("web", port.clone(), &[at(0)]),
    ];
    if matches!(families, Families::Dual) {
        let spec = json!({"clusterIP": "fd00:10:200::80", "ports": [{"port": 80}]});
        objects.push(service("web6", spec));
        objects.push(slice("web6", port, &[at(1)]));
    }
    cluster.apply(&objects);
    (cluster, web)
}

fn ready_at(pod: &Pod, index: usize) -> serde_json::Value {
    with(
        ready(pod),
        json!({"addresses": [pod.addresses()[index].to_string()]}),
    )
}

/// Asks so often that any limit on refusals would show; returns how long the longest took.
fn refused_each_time(from: &Place, target: &str) -> Duration {
    let one = || {
        let start = Instant::now();
        assert_eq!(ask(from, target), REFUSED, "{target} from {}", from.name());
        start.elapsed()
    };
    (0..20).map(|_| one()).max().unwrap()
}

#[test]
fn clients_of_pods_whose_node_has_gone_are_refused_at_once_and_each_time() {
    let (cluster, web) = cluster_with_one_endpoint(Families::Dual);
    let client = cluster.client("worker", "client");
    let (node, mypc) = (cluster.node("worker"), cluster.at("mypc"));
    let targets = [
        "10.200.1.80".to_owned(),
        "[fd00:10:200::80]".to_owned(),
        web.addresses()[0].to_string(),
        format!("[{}]", web.addresses()[1]),
    ];
    for place in [client.place(), node.place()] {
        for target in &targets {
            assert!(ask(place, target).is_ok(), "{target}");
        }
    }
    assert!(ask(&mypc, "172.18.0.2:30080").is_ok());
    assert!(!refuses(&node, ""), "nobody has gone");

    cluster.lab.remove_machine("worker2").unwrap();
    until_refused(&node);
    for place in [client.place(), node.place()] {
        for target in &targets {
            let longest = refused_each_time(place, target);
            // A packet that nobody answers is sent again after a second.
            assert!(longest < Duration::from_secs(1), "{target}: {longest:?}");
        }
    }
    refused_each_time(&mypc, "172.18.0.2:30080");
    for (question, answer) in [
        ("why client 10.200.1.80:80", "which is gone"),
        ("why client 10.200.1.80:80", "=x A packet to Service"),
        ("status", "refused: its Node is gone"),
    ] {
        let told = node.place().sh(&format!("podwire-agent {question}"));
        let told = told.unwrap().stdout;
        assert!(told.contains(answer), "{told}");
    }
    // What is not TCP is told by ICMP.
    let ping = format!("ping -n -c1 -W1 {}", web.addresses()[0]);
    let ran = client.place().sh(&ping).unwrap();
    let told = "Destination Host Unreachable";
    assert!(ran.stdout.contains(told), "{}", ran.stdout);
}

#[test]
fn a_connection_to_a_pod_whose_node_has_gone_ends_when_it_is_used() {
    let (cluster, _) = cluster_with_one_endpoint(Families::V4);
    let client = cluster.client("worker", "client");
    // A request of which the end is sent after the Node has gone.
    let line = "exec 3<>/dev/tcp/10.200.1.80/80; printf 'GET / HTTP/1.1\\r\\nHost: web\\r\\n' >&3; \
                echo connected; until [ -e /tmp/gone-nodes.go ]; do sleep 0.02; done; \
                printf '\\r\\n' >&3; read -t 5 -r line <&3; echo \"read $?\"";
    client
        .place()
        .output("rm -f /tmp/gone-nodes.go /tmp/gone-nodes.log")
        .unwrap();
    let background = format!(
        "bash -c '{}' >/tmp/gone-nodes.log 2>&1 &",
        line.replace('\'', "'\\''")
    );
    client.place().output(&background).unwrap();
    let log = || client.place().output("cat /tmp/gone-nodes.log").unwrap();
    wait::until("a connection", SOON, || log().contains("connected")).unwrap();
    let node = cluster.node("worker");
    cluster.lab.remove_machine("worker2").unwrap();
    until_refused(&node);
    client.place().output("touch /tmp/gone-nodes.go").unwrap();
    // 1 is the end of the connection; a time-out would be more than 128.
    wait::until("the end of the connection", SOON, || {
        log().contains("read 1")
    })
    .unwrap_or_else(|error| panic!("{error}: {}", log()));
}

#[test]
fn another_machine_with_the_pod_cidr_of_one_that_has_gone_is_reached_at_once() {
    let (cluster, _) = cluster_with_one_endpoint(Families::V4);
    let client = cluster.client("worker", "client");
    let node = cluster.node("worker");
    cluster.lab.remove_machine("worker2").unwrap();
    until_refused(&node);
    // An agent that starts anew goes on with it.
    node.stop_agent("KILL").unwrap();
    node.start_agent().unwrap();
    node.wait_ready().unwrap();
    cluster.settle();
    assert_eq!(ask(client.place(), "10.200.1.80"), REFUSED);

    let machine = Topology::node(Families::V4, "worker2", 44, 2);
    let again = cluster.lab.add_machine(&machine).unwrap();
    again.start_agent().unwrap();
    again.wait_ready().unwrap();
    wait::until("the end of refusing", SOON, || !refuses(&node, "")).unwrap();
    let web = cluster.web("worker2", "web-again");
    cluster.apply(&[http("web", &[&web])]);
    assert_eq!(ask(client.place(), "10.200.1.80").unwrap().pod, web.name());
}

#[test]
fn pods_of_a_node_whose_own_object_has_gone_leave_the_cluster_with_its_address_as_before() {
    let cluster = Cluster::pair(Families::V4);
    let client = cluster.client("worker", "client");
    let (node, mypc) = (cluster.node("worker"), cluster.at("mypc"));
    let address: IpAddr = "172.18.0.6".parse().unwrap();
    let server = mypc.inside(|| TcpListener::bind((address, 7000)));
    let server = server.unwrap().unwrap();
    let seen_as = || {
        let to = (address, 7000).into();
        let connect = || TcpStream::connect_timeout(&to, Duration::from_secs(5));
        let _client = client.place().inside(connect).unwrap().unwrap();
        server.accept().unwrap().1.ip().to_string()
    };
    assert_eq!(seen_as(), "172.18.0.2");
    cluster.lab.remove_manifest("node-worker").unwrap();
    cluster.settle();
    assert_eq!(seen_as(), "172.18.0.2");
    // An agent that starts anew has never seen the Node.
    node.stop_agent("KILL").unwrap();
    node.start_agent().unwrap();
    cluster.settle();
    assert_eq!(seen_as(), "172.18.0.2");
}

#[test]
fn the_endpoints_of_a_gone_node_are_left_out_at_once_and_come_back_with_it() {
    let cluster = Cluster::pair(Families::V4);
    let (here, there) = (
        cluster.web("worker", "here"),
        cluster.web("worker2", "there"),
    );
    let client = cluster.client("worker", "client");
    cluster.apply(&[
        service(
            "web",
            json!({"clusterIP": "10.200.1.81", "ports": [{"port": 80}]}),
        ),
        http("web", &[&here, &there]),
    ]);
    assert_eq!(pods(&load(client.place(), "10.200.1.81:80", 100)).len(), 2);

    // The machine is well: only the Node object goes, so that nothing but the rules can tell.
    let node = cluster.node("worker");
    let manifest = podwire_lab::manifests::node(cluster.node("worker2").machine());
    cluster.lab.remove_manifest("node-worker2").unwrap();
    until_refused(&node);
    cluster.settle();
    let summary = load(client.place(), "10.200.1.81:80", 100);
    assert_eq!(summary.failed, 0, "{summary:?}");
    assert_eq!(pods(&summary), ["here"]);

    cluster
        .lab
        .write_manifest("node-worker2", &manifest)
        .unwrap();
    wait::until("the end of refusing", SOON, || !refuses(&node, "")).unwrap();
    cluster.settle();
    let summary = load(client.place(), "10.200.1.81:80", 100);
    assert_eq!(
        (summary.failed, pods(&summary).len()),
        (0, 2),
        "{summary:?}"
    );
}
