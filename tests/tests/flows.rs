//! Connections as agents notice them: `podwire-agent flows` and `top` of live agents, beside connections
//! that are really made.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cluster;

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use cluster::{Cluster, ask, ready, service, slice};
use podwire_lab::pod::Pod;
use podwire_lab::topology::Families;
use podwire_lab::wait;
use serde_json::{Value, json};

/// Between a connection and its flow, as it is promised; asked again and again, so a machine that is busy
/// with other tests gets more.
const PROMISED: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(10);

/// Two nodes: on `worker` the pod `client`, on `worker2` the pod `web` behind the Service of that name.
static STAGE: LazyLock<Stage> = LazyLock::new(|| {
    let cluster = Cluster::pair(Families::V4);
    let web = cluster.web("worker2", "web");
    cluster.client("worker", "client");
    cluster.apply(&[
        service(
            "web",
            json!({"clusterIP": "10.200.1.7", "ports": [{"port": 80, "name": "http"}]}),
        ),
        slice(
            "web",
            json!([{"name": "http", "port": 80, "protocol": "TCP"}]),
            &[ready(&web)],
        ),
    ]);
    cluster.settle();
    Stage { cluster, web }
});

struct Stage {
    cluster: Cluster,
    web: Pod,
}

impl Stage {
    fn agent(&self, arguments: &str) -> String {
        let node = self.cluster.node("worker");
        let line = format!("podwire-agent {arguments}");
        node.place().output(&line).unwrap()
    }

    /// The flows with these filters, as JSON.
    fn flows(&self, filters: &str) -> Vec<Value> {
        let text = self.agent(&format!("flows -o json {filters}"));
        let lines = text.lines();
        lines
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// Whether the agent of `worker` listens to connections: the groups of its netlink sockets, as the
    /// kernel has them.
    fn listens(&self) -> bool {
        // NETLINK_NETFILTER is 12; the groups of connections that begin and end are 1 and 3.
        let line = "awk '$2 == 12 && $4 == \"00000005\"' /proc/net/netlink";
        let node = self.cluster.node("worker");
        !node.place().sh(line).unwrap().stdout.is_empty()
    }
}

#[test]
fn a_connection_is_a_flow_with_names_within_a_second_and_no_one_listens_before_that_is_asked() {
    let stage = &*STAGE;
    assert!(!stage.listens(), "no one has asked");
    assert_eq!(stage.flows(""), [Value::Null; 0]);
    assert!(stage.listens());
    let client = stage.cluster.at("client");
    ask(&client, "10.200.1.7").unwrap();
    let asked = Instant::now();
    let filters = "--pod client --service web --port 80 --protocol tcp --since 1m";
    let mut found = Vec::new();
    wait::until("the flow", PATIENCE, || {
        found = stage.flows(filters);
        !found.is_empty()
    })
    .unwrap();
    assert!(asked.elapsed() < PROMISED, "{:?}", asked.elapsed());
    let flow = &found[0];
    assert_eq!(flow["event"], "new");
    assert_eq!(flow["source"]["pod"], "default/client");
    assert_eq!(flow["source"]["node"], "worker");
    assert_eq!(flow["destination"]["address"], "10.200.1.7");
    assert_eq!(flow["service"], "default/web:http");
    let endpoint = &flow["endpoint"];
    assert_eq!(endpoint["address"], stage.web.addresses()[0].to_string());
    assert_eq!(
        (&endpoint["port"], &endpoint["node"]),
        (&json!(80), &json!("worker2"))
    );
    for other in [
        "--pod web-2",
        "--namespace kube-system",
        "--service other",
        "--port 81",
        "--protocol udp",
        "--address 10.200.1.8",
    ] {
        assert_eq!(stage.flows(other), [Value::Null; 0], "{other}");
    }
    let line = stage.agent("flows --service web");
    assert!(line.contains("default/client 10.10.1."), "{line}");
    assert!(
        line.contains("-> default/web:http 10.200.1.7:80 via default/web 10.10.2."),
        "{line}"
    );

    let top: Value = serde_json::from_str(&stage.agent("top -o json")).unwrap();
    assert_eq!(top["services"][0]["name"], "default/web:http");
    assert_eq!(top["pods"][0]["name"], "default/client");
    assert_eq!(top["nodes"][0]["name"], "worker -> worker2");
    assert_eq!(top["counted"], true, "the nodes of a lab count");
    assert!(
        top["services"][0]["received"].as_u64().unwrap() > 100,
        "{top}"
    );
}

#[test]
fn a_filter_that_makes_no_sense_is_refused() {
    let node = STAGE.cluster.node("worker");
    for (flag, said) in [("--protocol nonsense", "no protocol"), ("--since x", "x")] {
        let line = format!("podwire-agent flows {flag}");
        let ran = node.place().sh(&line).unwrap();
        assert_ne!(ran.status, 0, "{flag}");
        assert!(ran.stderr.contains(said), "{}", ran.stderr);
    }
}
