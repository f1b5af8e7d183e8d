//! What an operator is told: `podwire-agent why` and `status` of a live agent, beside the packets
//! that they speak of.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cluster;

use std::sync::LazyLock;
use std::time::Duration;

use cluster::*;
use podwire_lab::command::Ran;
use podwire_lab::node::Node;
use podwire_lab::pod::Pod;
use podwire_lab::topology::Families;
use podwire_lab::wait;
use serde_json::{Value, json};

/// One lab for the tests that only ask.
static STAGE: LazyLock<Stage> = LazyLock::new(Stage::raise);

/// Two nodes with a web pod each, a client on worker, and Services of every kind.
struct Stage {
    cluster: Cluster,
    client: Pod,
    web: [Pod; 2],
}

impl Stage {
    fn raise() -> Stage {
        let cluster = Cluster::pair(Families::V4);
        let client = cluster.client("worker", "client");
        let web = ["worker", "worker2"].map(|node| cluster.web(node, &format!("web-{node}")));
        let routes = "ip route add 192.0.2.0/24 via 172.18.0.2";
        cluster.at("mypc").output(routes).unwrap();
        let port = json!([{"port": 80}]);
        let ports = json!([{"name": "http", "port": 9000, "nodePort": 31662}]);
        let restricted = json!({
            "type": "LoadBalancer",
            "clusterIP": "10.200.1.12",
            "loadBalancerSourceRanges": ["10.10.1.0/24"],
            "ports": port,
        });
        let local = json!({
            "clusterIP": "10.200.1.14", "internalTrafficPolicy": "Local", "ports": port,
        });
        let sticky = json!({
            "clusterIP": "10.200.1.17", "sessionAffinity": "ClientIP", "ports": port,
        });
        let web_spec = json!({"type": "NodePort", "clusterIP": "10.200.1.63", "ports": ports});
        // Nobody but the test that counts asks these two.
        let counted = json!({"clusterIP": "10.200.1.70", "ports": port});
        let shown = json!({
            "type": "NodePort",
            "clusterIP": "10.200.1.71",
            "ports": [{"name": "http", "port": 80, "nodePort": 31071}],
        });
        let [here, there] = &web;
        let named = json!([{"name": "http", "port": 80}]);
        cluster.apply(&[
            service("web", web_spec),
            slice("web", named.clone(), &[ready(here), ready(there)]),
            service("counted", counted),
            http("counted", &[here, there]),
            service("shown", shown),
            slice("shown", named, &[ready(here), ready(there)]),
            with(
                service("lb", restricted),
                json!({"status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.12"}]}}}),
            ),
            http("lb", &[there]),
            service("none", json!({"clusterIP": "10.200.1.9", "ports": port})),
            service("local", local),
            http("local", &[there]),
            service("sticky", sticky),
            http("sticky", &[here, there]),
            service("lost", json!({"clusterIP": "10.200.1.21", "ports": port})),
            slice("lost", port.clone(), &[at("10.10.1.99")]),
            service("out", json!({"clusterIP": "10.200.1.22", "ports": port})),
            slice("out", port.clone(), &[at("172.18.0.6")]),
            service("bad", json!({"clusterIP": "10.200.1.300", "ports": port})),
        ]);
        Stage {
            cluster,
            client,
            web,
        }
    }

    fn node(&self) -> Node {
        self.cluster.node("worker")
    }
}

/// A ready endpoint that is no pod.
fn at(address: &str) -> Value {
    json!({"addresses": [address], "conditions": {"ready": true}})
}

fn agent(node: &Node, arguments: &str) -> Ran {
    node.place()
        .sh(&format!("podwire-agent {arguments}"))
        .unwrap()
}

/// The trace of a packet, for programs.
fn why(node: &Node, from: &str, to: &str) -> Value {
    let ran = agent(node, &format!("why {from} {to} -o json"));
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    serde_json::from_str(&ran.stdout).unwrap()
}

/// A question, how its answer ends, and what stands in it.
type Case = (
    &'static str,
    &'static str,
    &'static str,
    &'static [&'static str],
);

const CASES: &[Case] = &[
    (
        "default/client",
        "10.200.1.63:9000",
        "leaves",
        &[
            "Service default/web, port 9000/tcp (http): its ClusterIP 10.200.1.63",
            "kernel: services: 7000:2, goto pick-2",
            "One of 2 endpoints, at random, each gets 50.0 % of new connections",
            "kernel: endpoints: 10.10.2.2:80",
            "The source stays 10.10.1.2",
            "via 172.18.0.4 (worker2, route to 10.10.2.0/24) through eth0",
            "kernel: 10.10.2.2 via 172.18.0.4 dev eth0",
            "=> A packet to Service default/web goes to one of its 2 endpoints",
        ],
    ),
    (
        "172.18.0.6",
        "172.18.0.2:31662",
        "leaves",
        &[
            "its node port 31662",
            "kernel: nodeports: 7002:2, goto nodeport-pick-2",
            "The source is replaced by this node's address (masquerade)",
            "externalTrafficPolicy is Cluster",
        ],
    ),
    (
        "172.18.0.6",
        "192.0.2.12:80",
        "dropped",
        &[
            "its load-balancer address 192.0.2.12",
            "172.18.0.6 is in none of the Service's loadBalancerSourceRanges (10.10.1.0/24)",
            "=x Service default/lb: 172.18.0.6 is in none of",
        ],
    ),
    (
        "client",
        "192.0.2.12:80",
        "leaves",
        &[
            "The only endpoint: 10.10.2.2:80",
            "10.10.1.0/24 of loadBalancerSourceRanges lets 10.10.1.2 in",
        ],
    ),
    (
        "client",
        "10.200.1.9:80",
        "refused",
        &["No endpoint of the Service is ready (chain no-endpoints)"],
    ),
    (
        "client",
        "10.200.1.14:80",
        "dropped",
        &["internalTrafficPolicy is Local", "chain no-local-endpoints"],
    ),
    (
        "client",
        "10.200.1.63:9001",
        "refused",
        &["The Service has no such port (chain no-such-port). It has 9000/tcp."],
    ),
    (
        "client",
        "10.200.1.200:80",
        "dropped",
        &["No Service has the address 10.200.1.200", "10.200.1.0/24"],
    ),
    (
        "client",
        "10.10.2.2:80",
        "leaves",
        &["via 172.18.0.4 (worker2", "The source stays 10.10.1.2"],
    ),
    (
        "client",
        "172.18.0.6:8080",
        "leaves",
        &["outside the cluster", "(masquerade)"],
    ),
    (
        "client",
        "10.200.1.21:80",
        "refused",
        &[
            "10.10.1.99: nowhere: it is in this node's podCIDR 10.10.1.0/24, but no pod has it.",
            "kernel: 10.10.1.99 unreachable",
            "=x A packet to Service default/lost reaches no endpoint. 10.10.1.99: nowhere",
        ],
    ),
    (
        "client",
        "10.200.1.22:80",
        "leaves",
        &[
            "The source is replaced by this node's address (masquerade)",
            "see: nft list table inet podwire-masquerade",
            "172.18.0.6: outside the cluster",
        ],
    ),
    (
        "client",
        "10.10.1.99:80",
        "refused",
        &["no pod has it", "kernel: 10.10.1.99 unreachable"],
    ),
];

#[test]
fn why_tells_the_way_and_the_end_of_a_packet_with_what_the_kernel_holds() {
    let s = &*STAGE;
    for (from, to, end, parts) in CASES {
        let ran = agent(&s.node(), &format!("why {from} {to}"));
        assert_eq!(ran.status, 0, "{from} {to}: {}", ran.stderr);
        for part in *parts {
            assert!(
                ran.stdout.contains(part),
                "{part:?} is not in\n{}",
                ran.stdout
            );
        }
        assert!(!ran.stdout.contains("differs"), "{}", ran.stdout);
        let trace = why(&s.node(), from, to);
        assert_eq!(trace["end"], *end, "{}", ran.stdout);
        assert_eq!(trace["differences"], json!([]), "{}", ran.stdout);
    }
}

#[test]
fn why_says_what_really_happens() {
    let s = &*STAGE;
    let mypc = s.cluster.at("mypc");
    for (from, to, end, said) in CASES {
        let outside = || said.iter().any(|part| part.contains("outside the cluster"));
        let place = if from.starts_with("172.") {
            &mypc
        } else {
            s.client.place()
        };
        let refused_at = |answer: &Result<Answer, i32>| *answer == REFUSED;
        let answer = ask(place, to);
        let right = match *end {
            "refused" => refused_at(&answer),
            "dropped" => answer == SILENCE,
            // Where nobody listens, the far end refuses.
            _ => answer.is_ok() || (outside() && refused_at(&answer)),
        };
        assert!(right, "{from} {to}: {end}, and {answer:?}");
    }
}

#[test]
fn an_endpoint_outside_the_cluster_sees_the_node_as_why_says() {
    let s = &*STAGE;
    let line = "tcpdump -lnni eth0 'tcp[tcpflags] == tcp-syn and dst host 172.18.0.6'";
    let mut seen = s.cluster.at("mypc").capture(line, "listening on").unwrap();
    assert_eq!(ask(s.client.place(), "10.200.1.22:80"), REFUSED);
    let any = |lines: &[String]| !lines.is_empty();
    assert!(seen.until(Duration::from_secs(5), any), "no packet");
    let seen = seen.finish().join("\n");
    assert!(seen.contains("IP 172.18.0.2."), "{seen}");
    assert!(!seen.contains("IP 10.10."), "{seen}");
}

#[test]
fn why_counts_connections_and_knows_remembered_clients() {
    let s = &*STAGE;
    let node = s.node();
    let text = |to: &str| agent(&node, &format!("why client {to}")).stdout;
    load(s.client.place(), "10.200.1.70:80", 5);
    let said = text("10.200.1.70:80");
    let wanted = "services: 7000:2, goto pick-2, 5 connections so far";
    assert!(said.contains(wanted), "{wanted:?} is not in\n{said}");
    assert!(text("10.200.1.17:80").contains("is not remembered: it may get any of them"));
    let answer = ask(s.client.place(), "10.200.1.17").unwrap();
    let pod = s.web.iter().find(|pod| pod.name() == answer.pod).unwrap();
    let wanted = format!("is remembered: it gets {}:80", pod.addresses()[0]);
    let said = text("10.200.1.17:80");
    assert!(said.contains(&wanted), "{wanted:?} is not in\n{said}");
    assert!(!said.contains("differs"), "{said}");
}

#[test]
fn a_question_that_makes_no_sense_is_answered_in_one_sentence() {
    let s = &*STAGE;
    for (arguments, part) in [
        ("why client 10.200.1.63:http", "\"http\""),
        ("why client 10.200.1.63:80/quic", "\"quic\""),
        ("why nobody 10.200.1.63:80", "nobody"),
        ("why client nowhere:80", "nowhere"),
        ("why client fd00::1:80", "fd00::1"),
        ("why client -- 999.1.1.1:80", "999.1.1.1"),
    ] {
        let ran = agent(&s.node(), arguments);
        assert_eq!((ran.status, ran.stdout.as_str()), (1, ""), "{arguments}");
        assert!(ran.stderr.contains(part), "{arguments}: {}", ran.stderr);
        assert_eq!(ran.stderr.trim().lines().count(), 1, "{}", ran.stderr);
    }
}

#[test]
fn without_an_agent_the_question_says_so() {
    let s = &*STAGE;
    let ran = agent(&s.cluster.node("mypc"), "status");
    assert_eq!(ran.status, 1);
    assert!(ran.stderr.contains("start `podwire-agent run`"));
}

#[test]
fn status_lists_routes_pods_services_and_warnings() {
    let s = &*STAGE;
    let node = s.node();
    load(s.client.place(), "10.200.1.71:80", 4);
    let short = agent(&node, "status").stdout;
    let rows = |text: &str| -> Vec<String> {
        let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        text.lines().map(words).collect()
    };
    for row in [
        "worker2 10.10.2.0/24 172.18.0.4 eth0 yes".to_owned(),
        format!("default/client 10.10.1.2 {} yes", s.client.host_link()),
        "default/shown http/tcp 10.200.1.71:80 *:31071 2 4 random".to_owned(),
        "default/none tcp 10.200.1.9:80 none 0 random".to_owned(),
    ] {
        assert!(rows(&short).contains(&row), "{row:?} is not in\n{short}");
    }
    assert!(short.contains("10.200.1.300"), "no warning in\n{short}");
    assert!(!short.contains("Differences"), "{short}");
    let wide = agent(&node, "status -o wide").stdout;
    let to_here = |text: &str| {
        rows(text)
            .iter()
            .any(|row| row.contains("10.10.1.3:80 (this node)"))
    };
    assert!(to_here(&wide) && !to_here(&short), "{wide}");
    let json: Value = serde_json::from_str(&agent(&node, "status -o json").stdout).unwrap();
    assert_eq!(json["node"], "worker");
    assert_eq!(json["differences"], json!([]));
    let services = json["services"].as_array().unwrap();
    let shown = services
        .iter()
        .find(|one| one["name"] == "default/shown")
        .unwrap();
    assert_eq!(shown["ports"][0]["connections"], 4);
    let endpoints = shown["ports"][0]["endpoints"].as_array().unwrap();
    let sum: u64 = endpoints
        .iter()
        .map(|one| one["connections"].as_u64().unwrap())
        .sum();
    assert_eq!(sum, 4, "{shown}");
    let yaml = agent(&node, "status --output yaml").stdout;
    assert!(
        yaml.contains("node: worker\n") && yaml.contains("name: default/shown"),
        "{yaml}"
    );
}

/// Something that somebody goes on breaking, so that it is seen although the agent mends it.
struct Sabotage<'a> {
    node: &'a Node,
    running: Option<podwire_lab::command::Capture>,
}

impl<'a> Sabotage<'a> {
    fn begin(node: &'a Node, line: &str) -> Self {
        let script = format!("sh -c 'echo breaking >&2; while :; do {line} 2>/dev/null; done'");
        let running = node.place().capture(&script, "breaking").unwrap();
        Sabotage {
            node,
            running: Some(running),
        }
    }

    /// Asks until the answer has all of this in it.
    fn until(&self, arguments: &str, parts: &[&str]) {
        let mut last = String::new();
        let told = || {
            last = agent(self.node, arguments).stdout;
            parts.iter().all(|part| last.contains(part))
        };
        if let Err(error) = wait::until("the difference", Duration::from_secs(20), told) {
            panic!("{error}: {parts:?} is not in\n{last}");
        }
    }
}

impl Drop for Sabotage<'_> {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            running.finish();
        }
    }
}

#[test]
fn differences_are_named_with_what_is_wanted_and_what_the_kernel_holds() {
    let s = Stage::raise();
    let node = s.node();
    {
        let element = "element ip podwire-services services { 10.200.1.63 . tcp . 9000 }";
        let sabotage = Sabotage::begin(&node, &format!("nft delete {element}"));
        sabotage.until(
            "why client 10.200.1.63:9000",
            &[
                "The kernel differs from what is wanted",
                "map `services` of table ip podwire-services does not have it",
                "wanted is goto pick-2",
            ],
        );
        sabotage.until(
            "status",
            &[
                "difference",
                "map `services` lacks 10.200.1.63 . tcp . 9000 : 7000:2, 2 endpoints (Service default/web)",
            ],
        );
    }
    {
        let sabotage = Sabotage::begin(&node, "ip route del 10.10.2.0/24");
        sabotage.until(
            "why client 10.10.2.2:80",
            &["route: 10.10.2.2", "but wanted is via 172.18.0.4"],
        );
        sabotage.until("status", &["10.10.2.0/24  172.18.0.4", "NO"]);
    }
    // And when nobody breaks anything any longer, nothing differs.
    let quiet = || {
        let trace = why(&node, "client", "10.200.1.63:9000");
        let status = agent(&node, "status -o json").stdout;
        let status: Value = serde_json::from_str(&status).unwrap();
        trace["differences"] == json!([]) && status["differences"] == json!([])
    };
    wait::until("the repair", Duration::from_secs(5), quiet).unwrap();
}
