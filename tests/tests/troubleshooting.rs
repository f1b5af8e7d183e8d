//! The symptoms of docs/troubleshooting.md, each made in a lab: it is there, the command of its section
//! names the cause, and it goes when the cause does.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cluster;

use std::collections::BTreeSet;
use std::path::Path;

use cluster::desk::{PATIENCE, Stage};
use cluster::policies::{app, policy};
use cluster::*;
use podwire_lab::place::Place;
use podwire_lab::wait;
use serde_json::json;

const SERVICE: &str = "10.200.1.41";
const MYPC: &str = "172.18.0.6";
const INTERNET: &str = "203.0.113.9";

impl Stage {
    fn client(&self) -> Place {
        self.cluster.at("client")
    }

    fn server(&self) -> String {
        self.web.addresses()[0].to_string()
    }

    /// Waits until what `podwire-lab` prints says all of this, whatever control lines are between.
    fn says(&self, arguments: &[&str], parts: &[&str]) {
        let mut last = String::new();
        let done = || {
            last = self.desk(arguments).0;
            parts.iter().all(|part| last.contains(part))
        };
        let found = wait::until("the cause to be named", PATIENCE, done);
        assert!(found.is_ok(), "{parts:?}: {last}");
    }

    /// The Service in order, after something was wrong with it.
    fn works(&self) {
        let good = || ask(&self.client(), SERVICE).is_ok();
        wait::until("the Service to answer again", PATIENCE, good).unwrap();
    }

    /// Ends a process of the lab.
    fn end(&self, process: i32) {
        self.on("worker", &format!("kill -9 {process}"));
    }

    /// True if one of some questions fails.
    fn fails_at_times(&self) -> bool {
        (0..40).any(|_| ask(&self.client(), SERVICE).is_err())
    }
}

#[test]
fn works_from_nodes_but_not_from_pods() {
    let stage = Stage::raise();
    let spec = json!({"podSelector": app("web"), "policyTypes": ["Ingress"]});
    let forbid = policy("default", "only-friends", spec);
    stage.cluster.apply(std::slice::from_ref(&forbid));
    assert!(ask(&stage.cluster.at("worker2"), SERVICE).is_ok());
    assert_eq!(ask(&stage.client(), SERVICE), SILENCE);
    stage.names("client", "web:80", "worker2", "olic", "only-friends");
    stage.says(&["drops"], &["only-friends"]);
    let from = json!({"spec": {"ingress": [{"from": [{"podSelector": {}}]}]}});
    stage.cluster.apply(&[with(forbid, from)]);
    stage.works();
}

#[test]
fn only_small_packets_arrive() {
    let stage = Stage::raise();
    stage.on("worker2", "ip link set eth0 mtu 1300");
    let ping = |bytes: u32| {
        let line = format!("ping -c1 -W1 -M do -s {bytes} {}", stage.server());
        stage.client().sh(&line).unwrap().status == 0
    };
    assert!(ping(1000) && !ping(1400));
    stage.says(
        &["why", "client", "web:80"],
        &["uplink eth0 of node worker2 has 1300"],
    );
    stage.says(&["status"], &["MTUs of uplinks differ"]);
    stage.on("worker2", "ip link set eth0 mtu 1500");
    assert!(ping(1400));
}

#[test]
fn some_names_take_five_seconds() {
    let stage = Stage::raise();
    let spec = json!({"clusterIP": "10.200.1.10", "ports": [{"port": 53, "protocol": "UDP"}]});
    let ports = json!([{"port": 53, "protocol": "UDP"}]);
    let lost = with(ready(&stage.dns), json!({"addresses": ["10.10.2.200"]}));
    let both = slice("dns", ports.clone(), &[ready(&stage.dns), lost]);
    stage.cluster.apply(&[service("dns", spec), both]);
    let asked = || ask_udp(&stage.client(), "10.200.1.10", 53).is_some();
    let answers: BTreeSet<bool> = (0..16).map(|_| asked()).take(16).collect();
    assert_eq!(answers.len(), 2, "one of two endpoints answers");
    stage.says(
        &["why", "client", "dns:53/udp"],
        &["at 1 of the 2 endpoints", "no pod has 10.10.2.200"],
    );
    stage
        .cluster
        .apply(&[slice("dns", ports, &[ready(&stage.dns)])]);
    assert!((0..8).all(|_| asked()));
}

#[test]
fn a_node_port_answers_on_one_node_only() {
    let stage = Stage::raise();
    let spec = json!({
        "type": "NodePort", "clusterIP": SERVICE, "externalTrafficPolicy": "Local",
        "ports": [{"port": 80, "nodePort": 30080}],
    });
    stage.cluster.apply(&[service("web", spec)]);
    let mypc = stage.cluster.at("mypc");
    assert!(ask(&mypc, "172.18.0.4:30080").is_ok());
    assert_eq!(ask(&mypc, "172.18.0.2:30080"), SILENCE);
    stage.says(
        &["why", MYPC, "172.18.0.2:30080"],
        &["externalTrafficPolicy is Local", "no endpoint on this node"],
    );
    stage.says(
        &["drops"],
        &["default/web", "externalTrafficPolicy is Local"],
    );
    let spec = json!({
        "type": "NodePort", "clusterIP": SERVICE,
        "ports": [{"port": 80, "nodePort": 30080}],
    });
    stage.cluster.apply(&[service("web", spec)]);
    assert!(ask(&mypc, "172.18.0.2:30080").is_ok());
}

#[test]
fn nothing_passes_since_another_program_set_up_a_firewall() {
    let stage = Stage::raise();
    stage.on("worker2", "iptables -P FORWARD DROP");
    assert_eq!(ask(&stage.client(), SERVICE), SILENCE);
    stage.says(
        &["why", "client", "web:80"],
        &[
            "on node worker2",
            "FORWARD drops what none of its rules accepts",
        ],
    );
    stage.on("worker2", "iptables -I FORWARD -s 10.10.0.0/16 -j ACCEPT");
    stage.on("worker2", "iptables -I FORWARD -d 10.10.0.0/16 -j ACCEPT");
    assert!(ask(&stage.client(), SERVICE).is_ok());
}

#[test]
fn a_service_refuses_at_once() {
    let stage = Stage::raise();
    stage
        .cluster
        .apply(&[slice("web", json!([{"port": 80}]), &[unready(&stage.web)])]);
    assert_eq!(ask(&stage.client(), SERVICE), REFUSED);
    stage.names(
        "client",
        "web:80",
        "worker",
        "No endpoint may answer",
        "No endpoint of the Service is ready",
    );
    stage.says(&["drops"], &["default/web", "refused"]);
    stage.cluster.apply(&[http("web", &[&stage.web])]);
    stage.works();
}

#[test]
fn a_service_refuses_although_it_has_endpoints() {
    let stage = Stage::raise();
    let wrong = slice("web", json!([{"port": 9}]), &[ready(&stage.web)]);
    stage.cluster.apply(&[wrong]);
    assert_eq!(ask(&stage.client(), SERVICE), REFUSED);
    assert!(ask(&stage.client(), &stage.server()).is_ok());
    let endpoint = format!("{}:9", stage.server());
    stage.says(
        &["why", "client", "web:80"],
        &[&endpoint, "It arrives at pod default/web"],
    );
    stage.cluster.apply(&[http("web", &[&stage.web])]);
    stage.works();
}

#[test]
fn a_service_refuses_at_one_port() {
    let stage = Stage::raise();
    assert_eq!(ask(&stage.client(), "10.200.1.41:8080"), REFUSED);
    stage.names(
        "client",
        "web:8080",
        "worker",
        "ClusterIP 10.200.1.41",
        "not among those",
    );
    stage.says(&["why", "client", "web:8080"], &["It has 80/tcp"]);
    // What it has is answered.
    stage.works();
}

#[test]
fn pods_of_one_node_do_not_reach_those_of_another() {
    let stage = Stage::raise();
    let other = stage.again_and_again("worker", "ip route del 10.10.2.0/24 2>/dev/null");
    assert!(stage.fails_at_times());
    stage.names(
        "client",
        "web:80",
        "worker",
        "The way to the endpoints",
        "wanted is via",
    );
    stage.says(&["status"], &["another program keeps changing"]);
    stage.end(other);
    stage.works();
}

#[test]
fn the_request_arrives_and_no_answer_comes() {
    let stage = Stage::raise();
    let other = stage.again_and_again("worker2", "ip route del 10.10.1.0/24 2>/dev/null");
    assert!(stage.fails_at_times());
    stage.names(
        "client",
        "web:80",
        "worker2",
        "Route to 10.10.1.",
        "the answer does not come back",
    );
    stage.end(other);
    stage.works();
}

#[test]
fn the_server_sees_a_node_instead_of_the_client() {
    let stage = Stage::raise();
    let spec = json!({
        "type": "NodePort", "clusterIP": SERVICE, "ports": [{"port": 80, "nodePort": 30080}],
    });
    let service = service("web", spec);
    stage.cluster.apply(std::slice::from_ref(&service));
    let seen = |node: &str| {
        let answer = ask(&stage.cluster.at("mypc"), &format!("{node}:30080"));
        answer.map(|answer| answer.client.to_string())
    };
    assert_eq!(seen("172.18.0.2").as_deref(), Ok("172.18.0.2"));
    stage.says(
        &["why", MYPC, "172.18.0.2:30080"],
        &[
            "The source is replaced by this node's address",
            "externalTrafficPolicy is Cluster",
        ],
    );
    let local = json!({"spec": {"externalTrafficPolicy": "Local"}});
    stage.cluster.apply(&[with(service, local)]);
    assert_eq!(seen("172.18.0.4").as_deref(), Ok(MYPC));
}

#[test]
fn pods_reach_nothing_outside() {
    let stage = Stage::raise();
    let reaches = || {
        let line = format!("ping -c1 -W1 {INTERNET}");
        stage.client().sh(&line).unwrap().status == 0
    };
    assert!(reaches());
    let node = stage.cluster.node("worker");
    let start = |flags: &[&str]| {
        node.stop_agent("TERM").unwrap();
        node.start_agent_with(flags).unwrap();
        node.wait_ready().unwrap();
    };
    start(&["--masquerade=false"]);
    assert!(!reaches());
    stage.says(
        &["why", "client", "203.0.113.9:80"],
        &["masquerading is off"],
    );
    start(&[]);
    assert!(reaches());
}

#[test]
fn names_are_not_found_since_there_is_a_policy() {
    let stage = Stage::raise();
    let dns = stage.dns.addresses()[0].to_string();
    let spec = json!({
        "podSelector": app("client"), "policyTypes": ["Egress"],
        "egress": [{"to": [{"podSelector": app("web")}]}],
    });
    let egress = policy("default", "web-only", spec);
    let asked = || ask_udp(&stage.client(), &dns, 53).is_some();
    assert!(asked());
    stage.cluster.apply(std::slice::from_ref(&egress));
    assert!(!asked());
    stage.works();
    stage.says(&["drops"], &["web-only", "udp 53"]);
    stage.says(
        &["why", "client", &format!("{dns}:53/udp")],
        &["default/web-only isolates default/client for egress"],
    );
    let rules = json!({"spec": {"egress": [
        {"to": [{"podSelector": app("web")}]},
        {"ports": [{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}]},
    ]}});
    stage.cluster.apply(&[with(egress, rules)]);
    assert!(asked());
}

#[test]
fn a_policy_does_nothing() {
    let stage = Stage::raise();
    let spec = json!({"podSelector": app("wbe"), "policyTypes": ["Ingress"]});
    let misspelt = policy("default", "deny-web", spec);
    stage.cluster.apply(std::slice::from_ref(&misspelt));
    stage.works();
    // It is said once two looks, 15 s apart, found the same.
    let said = || stage.desk(&["status"]).0.contains("it selects nothing");
    wait::until("the policy to be named", 3 * PATIENCE, said).unwrap();
    stage.says(&["status"], &["default/deny-web"]);
    let right = json!({"spec": {"podSelector": app("web")}});
    stage.cluster.apply(&[with(misspelt, right)]);
    assert_eq!(ask(&stage.client(), SERVICE), SILENCE);
}

#[test]
fn a_second_address_of_a_pod_cannot_send() {
    let stage = Stage::raise();
    stage.on("client", "ip addr add 10.10.1.99/32 dev lo");
    let sends = |from: &str| {
        let line = format!("ping -c1 -W1 {from} {}", stage.server());
        stage.client().sh(&line).unwrap().status == 0
    };
    assert!(sends("") && !sends("-I 10.10.1.99"));
    stage.says(
        &["drops"],
        &["10.10.1.99", "sent by default/client", "--anti-spoof"],
    );
    stage.says(
        &["why", "client", &stage.server()],
        &["at hop 1", "10.10.1.99"],
    );
    let node = stage.cluster.node("worker");
    node.stop_agent("TERM").unwrap();
    node.start_agent_with(&["--anti-spoof=false"]).unwrap();
    node.wait_ready().unwrap();
    stage.on(
        "worker",
        "ip route add 10.10.1.99 dev $(ip route get 10.10.1.2 | grep -o 'veth[0-9a-f]*')",
    );
    let sent = || sends("-I 10.10.1.99");
    wait::until("the second address to be let through", PATIENCE, sent).unwrap();
}

#[test]
fn a_load_balancer_answers_some_clients_only() {
    let stage = Stage::raise();
    let spec = json!({
        "type": "LoadBalancer", "clusterIP": SERVICE, "loadBalancerSourceRanges": ["192.0.2.0/24"],
        "ports": [{"port": 80, "nodePort": 30080}],
    });
    let address = json!({"status": {"loadBalancer": {"ingress": [{"ip": "198.51.100.7"}]}}});
    let balanced = with(service("web", spec), address);
    stage.cluster.apply(std::slice::from_ref(&balanced));
    stage.on("mypc", "ip route add 198.51.100.7 via 172.18.0.2");
    let mypc = stage.cluster.at("mypc");
    assert_eq!(ask(&mypc, "198.51.100.7"), SILENCE);
    stage.says(
        &["drops"],
        &["172.18.0.6 is in none of the Service's loadBalancerSourceRanges (192.0.2.0/24)"],
    );
    let ranges = json!({"spec": {"loadBalancerSourceRanges": ["192.0.2.0/24", "172.18.0.0/16"]}});
    stage.cluster.apply(&[with(balanced, ranges)]);
    assert!(ask(&mypc, "198.51.100.7").is_ok());
}

#[test]
fn services_stop_for_moments() {
    let stage = Stage::raise();
    let other = stage.again_and_again("worker", "nft flush map ip podwire-services services");
    assert!(stage.fails_at_times());
    stage.names(
        "client",
        "web:80",
        "worker",
        "Service default/web",
        "`services` of table ip podwire-services does not have it",
    );
    stage.says(&["status"], &["another program keeps changing"]);
    stage.end(other);
    stage.works();
}

#[test]
fn a_cluster_ip_does_not_answer_pings() {
    let stage = Stage::raise();
    let pinged = || {
        let line = format!("ping -c1 -W1 {SERVICE}");
        stage.client().sh(&line).unwrap().status == 0
    };
    assert!(!pinged());
    stage.works();
    stage.says(
        &["why", "client", SERVICE],
        &[
            "it has ports and does not answer ping",
            "A ping to Service default/web is refused",
        ],
    );
    let node = stage.cluster.node("worker");
    node.stop_agent("TERM").unwrap();
    node.start_agent_with(&["--cluster-ip-echo=true"]).unwrap();
    node.wait_ready().unwrap();
    assert!(pinged());
}

#[test]
fn a_service_is_called_at_an_address_that_it_no_longer_has() {
    let stage = Stage::raise();
    stage.works();
    // Deleted, and made again: it got another address.
    let spec = json!({"clusterIP": "10.200.1.42", "ports": [{"port": 80}]});
    stage.cluster.apply(&[service("web", spec)]);
    assert!(ask(&stage.client(), "10.200.1.42").is_ok());
    assert_eq!(ask(&stage.client(), SERVICE), SILENCE);
    stage.says(
        &["why", "client", "10.200.1.41:80"],
        &["No Service has the address 10.200.1.41", "dropped"],
    );
    stage.says(&["drops"], &["No Service has the address 10.200.1.41"]);
    let spec = json!({"clusterIP": SERVICE, "ports": [{"port": 80}]});
    stage.cluster.apply(&[service("web", spec)]);
    stage.works();
}

#[test]
fn everything_on_one_node_is_silent() {
    let stage = Stage::raise();
    stage.works();
    stage.cluster.node("worker2").stop_agent("KILL").unwrap();
    stage.on("worker2", "ip link set eth0 down");
    assert_eq!(ask(&stage.client(), SERVICE), SILENCE);
    let walk = || {
        let text = stage.desk(&["why", "client", "web:80"]).0;
        text.contains("on node worker2 or on the way to it")
            && text.contains("no answer from here on")
    };
    wait::until("the node to be named", PATIENCE, walk).unwrap();
    stage.says(&["status"], &["node worker2"]);
    stage.cluster.apply(&[http("web", &[])]);
    assert_eq!(
        ask(&stage.client(), SERVICE),
        REFUSED,
        "its endpoints are left out"
    );
}

#[test]
fn the_document_has_a_section_for_each_test_and_no_other() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |name: &str| std::fs::read_to_string(root.join(name)).unwrap();
    let source = read("tests/troubleshooting.rs");
    let lines = source.lines().skip_while(|line| *line != "#[test]");
    let mut tests = BTreeSet::new();
    for line in lines {
        let name = line
            .strip_prefix("fn ")
            .and_then(|rest| rest.strip_suffix("() {"));
        tests.extend(
            name.filter(|name| !name.starts_with("the_document"))
                .map(str::to_owned),
        );
    }
    let document = read("../docs/troubleshooting.md");
    let named: Vec<String> = document
        .lines()
        .filter_map(|line| line.strip_prefix("Test: `")?.strip_suffix('`'))
        .map(str::to_owned)
        .collect();
    let sections = document.lines().filter(|line| line.starts_with("## "));
    assert_eq!(named.len(), sections.count(), "a test in each section");
    assert_eq!(named.iter().cloned().collect::<BTreeSet<_>>(), tests);
    assert_eq!(tests.len(), 20);
}
