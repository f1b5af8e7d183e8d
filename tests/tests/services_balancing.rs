//! Which endpoint a connection to a Service goes to: rows of the Service table about hints, even
//! spreading and affinity, each with real packets in a lab.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cluster;

use std::sync::LazyLock;

use cluster::*;
use podwire_lab::load::Summary;
use podwire_lab::pod::Pod;
use podwire_lab::topology::Families;
use serde_json::json;

static CLUSTER: LazyLock<Shared<3>> =
    LazyLock::new(|| Shared::with_web_on(["worker", "worker2", "worker3"]));

#[test]
fn row_06_hints_keep_traffic_in_the_zone_and_on_the_node() {
    let s = &*CLUSTER;
    let zones = [
        ("control-plane", "a"),
        ("worker", "a"),
        ("worker2", "b"),
        ("worker3", "b"),
    ];
    for (name, zone) in zones {
        let node = podwire_lab::manifests::node(s.cluster.node(name).machine());
        let label = json!({"metadata": {"labels": {"topology.kubernetes.io/zone": zone}}});
        s.cluster
            .lab
            .write_manifest(&format!("node-{name}"), &with(node, label))
            .unwrap();
    }
    let [one, two, three] = &s.web;
    let hint = |pod: &Pod, hints| with(ready(pod), json!({"hints": hints}));
    let in_zone = |pod, zone| hint(pod, json!({"forZones": [{"name": zone}]}));
    s.cluster.apply(&[
        service(
            "row06",
            json!({"clusterIP": "10.200.1.7", "ports": [{"port": 80}]}),
        ),
        slice(
            "row06",
            json!([{"port": 80}]),
            &[in_zone(one, "a"), in_zone(two, "b"), in_zone(three, "b")],
        ),
    ]);
    // The client's node is in zone a.
    let summary = load(s.client.place(), "10.200.1.7:80", 20);
    assert_eq!(pods(&summary), [one.name()]);
    let summary = load(s.cluster.node("worker3").place(), "10.200.1.7:80", 40);
    assert_eq!(pods(&summary), [two.name(), three.name()]);
    // No endpoint is hinted for the client's zone: any.
    s.cluster.apply(&[slice(
        "row06",
        json!([{"port": 80}]),
        &[in_zone(one, "c"), in_zone(two, "b"), in_zone(three, "b")],
    )]);
    let summary = load(s.client.place(), "10.200.1.7:80", 60);
    assert_eq!(pods(&summary).len(), 3, "{summary:?}");
    // The client's node moves to zone c.
    let node = podwire_lab::manifests::node(s.cluster.node("control-plane").machine());
    let label = json!({"metadata": {"labels": {"topology.kubernetes.io/zone": "c"}}});
    s.cluster
        .lab
        .write_manifest("node-control-plane", &with(node, label))
        .unwrap();
    s.cluster.settle();
    let summary = load(s.client.place(), "10.200.1.7:80", 20);
    assert_eq!(pods(&summary), [one.name()]);
    // One endpoint without a hint: hints are off.
    s.cluster.apply(&[slice(
        "row06",
        json!([{"port": 80}]),
        &[in_zone(one, "c"), in_zone(two, "b"), ready(three)],
    )]);
    let summary = load(s.client.place(), "10.200.1.7:80", 60);
    assert_eq!(pods(&summary).len(), 3, "{summary:?}");
    let on_node = |pod: &Pod| hint(pod, json!({"forNodes": [{"name": pod.node()}]}));
    s.cluster.apply(&[slice(
        "row06",
        json!([{"port": 80}]),
        &[on_node(one), on_node(two), on_node(three)],
    )]);
    let summary = load(s.cluster.node("worker2").place(), "10.200.1.7:80", 20);
    assert_eq!(pods(&summary), [two.name()]);
    // No endpoint is hinted for the client's own node: any.
    let summary = load(s.client.place(), "10.200.1.7:80", 60);
    assert_eq!(pods(&summary).len(), 3, "{summary:?}");
}

#[test]
fn row_07_a_cluster_ip_spreads_connections_evenly_and_says_how_many() {
    let s = &*CLUSTER;
    let ports = json!([{"name": "http", "port": 9000}]);
    s.cluster.apply(&[
        service("row07", json!({"clusterIP": "10.200.1.63", "ports": ports})),
        slice(
            "row07",
            json!([{"name": "http", "port": 80}]),
            &s.all().map(ready),
        ),
    ]);
    let node = s.cluster.node("control-plane");
    let summary = load(s.client.place(), "10.200.1.63:9000", 300);
    assert_eq!((summary.requests, summary.failed), (300, 0), "{summary:?}");
    // Chi-square with two degrees of freedom: 18.4 is exceeded once in 10,000 runs.
    let square = |count: &u64| (*count as f64 - 100.0).powi(2) / 100.0;
    let chi_square: f64 = summary.answers.values().map(square).sum();
    assert_eq!(summary.answers.len(), 3, "{summary:?}");
    assert!(chi_square < 18.4, "{chi_square}: {summary:?}");
    // The counters of the Service and of its endpoints moved by exactly the requests sent.
    assert_eq!(counted(&node, "services", "10.200.1.63 . tcp . 9000"), 300);
    let slots = (0..3).map(|slot| {
        counted(
            &node,
            "endpoints",
            &format!("10.200.1.63 . tcp . 9000 . {slot}"),
        )
    });
    let mut slots: Vec<u64> = slots.collect();
    let mut answers: Vec<u64> = summary.answers.values().copied().collect();
    slots.sort_unstable();
    answers.sort_unstable();
    assert_eq!(slots, answers);
    // The node itself reaches it as well, and large answers come through whole.
    let line = "curl -sS --max-time 20 http://10.200.1.63:9000/bytes/5000000 | wc -c";
    for place in [s.client.place(), node.place()] {
        assert_eq!(place.output(line).unwrap().trim(), "5000000");
    }
}

#[test]
fn row_17_with_affinity_a_client_stays_with_its_endpoint_until_that_is_gone() {
    let s = &*CLUSTER;
    let spec = json!({
        "clusterIP": "10.200.1.17",
        "sessionAffinity": "ClientIP",
        "externalIPs": ["192.0.2.17"],
        "ports": [{"port": 80}],
    });
    let all = s.all();
    s.cluster
        .apply(&[service("row17", spec.clone()), http("row17", &all)]);
    // The endpoint's number lies in the packet's priority on its way through the rules, and must
    // be gone when the packet leaves: queueing disciplines read it.
    let node = s.cluster.node("control-plane");
    let watch = "add table ip watch; \
                 add chain ip watch early { type filter hook prerouting priority -250; }; \
                 add chain ip watch late { type filter hook postrouting priority 300; }; \
                 add rule ip watch early ip daddr 10.200.1.17 tcp flags & (syn | ack) == syn \
                 counter comment \"asked\"; \
                 add rule ip watch late meta priority and 0xf0000000 == 0x70000000 \
                 counter comment \"left\"";
    node.place().output(&format!("nft '{watch}'")).unwrap();
    let watched = |what: &str| -> u64 {
        let text = node.place().output("nft list table ip watch").unwrap();
        let line = text.lines().find(|line| line.contains(what)).unwrap();
        packets(line).unwrap()
    };
    let first = ask(s.client.place(), "10.200.1.17").unwrap();
    let summary = load(s.client.place(), "10.200.1.17:80", 100);
    assert_eq!(pods(&summary), [first.pod.as_str()]);
    // All addresses of the port share the memory.
    let summary = load(s.client.place(), "192.0.2.17:80", 20);
    assert_eq!(pods(&summary), [first.pod.as_str()]);
    // Many clients: not all at one endpoint.
    let clients: Vec<Pod> = (0..12)
        .map(|n| s.cluster.client("control-plane", &format!("client-{n}")))
        .collect();
    let chosen: Vec<String> = clients
        .iter()
        .map(|pod| ask(pod.place(), "10.200.1.17").unwrap().pod)
        .collect();
    let distinct: std::collections::BTreeSet<&String> = chosen.iter().collect();
    assert!(distinct.len() > 1, "{chosen:?}");
    // The endpoint goes: only its own clients move.
    let rest: Vec<&Pod> = all
        .into_iter()
        .filter(|pod| pod.name() != first.pod)
        .collect();
    s.cluster.apply(&[http("row17", &rest)]);
    let asked = watched("asked");
    let after = ask(s.client.place(), "10.200.1.17").unwrap();
    assert_ne!(after.pod, first.pod);
    assert_eq!(watched("asked") - asked, 1, "the first packet found nobody");
    let summary = load(s.client.place(), "10.200.1.17:80", 30);
    assert_eq!(pods(&summary), [after.pod.as_str()]);
    for (pod, before) in clients
        .iter()
        .zip(&chosen)
        .filter(|(_, before)| **before != first.pod)
    {
        assert_eq!(ask(pod.place(), "10.200.1.17").unwrap().pod, *before);
    }
    assert!(ask(node.place(), "10.200.1.17").is_ok());
    assert_eq!(watched("left"), 0);
}

#[test]
fn row_17_a_client_is_forgotten_after_the_time_out_and_not_before() {
    let s = &*CLUSTER;
    let spec = json!({
        "clusterIP": "10.200.1.18",
        "sessionAffinity": "ClientIP",
        "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 3}},
        "ports": [{"port": 80}],
    });
    s.cluster.apply(&[
        service("row17-timeout", spec),
        http("row17-timeout", &s.all()),
    ]);
    let place = s.client.place();
    let map = "affinity/default/row17-timeout/tcp-80/clients";
    let remembered = || {
        let text = s
            .cluster
            .node("control-plane")
            .place()
            .output(&format!("nft list map ip podwire-services {map}"));
        text.unwrap().contains("expires")
    };
    assert!(!remembered());
    // Each new connection starts the time anew: six seconds of them, never a change.
    let summary: Summary = {
        let program = program();
        let line = format!("{program} load 10.200.1.18:80 --seconds 6");
        serde_json::from_str(place.output(&line).unwrap().trim()).unwrap()
    };
    assert_eq!(pods(&summary).len(), 1, "{summary:?}");
    assert!(remembered());
    let waited =
        podwire_lab::wait::until("the time-out", std::time::Duration::from_secs(10), || {
            !remembered()
        });
    assert!(waited.unwrap().as_secs_f64() > 1.5);
}

#[test]
fn balancing_can_be_chosen_for_the_node_and_for_a_service() {
    let cluster = Cluster::pair(Families::V4);
    let pods: Vec<_> = (0..3)
        .map(|n| cluster.web("worker", &format!("web-{n}")))
        .collect();
    let all: Vec<_> = pods.iter().collect();
    let clients: Vec<_> = (0..8)
        .map(|n| cluster.client("worker2", &format!("client-{n}")))
        .collect();
    let plain = |name: &str, address: &str| {
        service(name, json!({"clusterIP": address, "ports": [{"port": 80}]}))
    };
    let chosen = |name: &str, address: &str, how: &str| {
        let annotations = json!({"metadata": {"annotations": {"podwire.io/balancing": how}}});
        with(plain(name, address), annotations)
    };
    cluster.apply(&[
        chosen("turns", "10.200.1.41", "round-robin"),
        chosen("hash", "10.200.1.42", "source-hash"),
        chosen("bad", "10.200.1.43", "fastest"),
        plain("usual", "10.200.1.44"),
    ]);
    let slices: Vec<_> = ["turns", "hash", "bad", "usual"]
        .map(|name| http(name, &all))
        .into();
    cluster.apply(&slices);
    let client = clients[0].place();
    let counts = |target: &str, count: u32| {
        let summary = load(client, target, count);
        assert_eq!(summary.failed, 0, "{summary:?}");
        let mut counts: Vec<u64> = summary.answers.into_values().collect();
        counts.sort_unstable();
        counts
    };
    assert_eq!(counts("10.200.1.41:80", 100), [33, 33, 34]);
    assert_eq!(counts("10.200.1.42:80", 30), [30]);
    let spread: std::collections::BTreeSet<String> = clients
        .iter()
        .map(|c| ask(c.place(), "10.200.1.42").unwrap().pod)
        .collect();
    assert!(spread.len() > 1, "{spread:?}");
    assert_eq!(counts("10.200.1.43:80", 60).len(), 3);
    let node = cluster.node("worker2");
    assert!(node.agent_log().contains("fastest"), "{}", node.agent_log());
    // The whole node; the annotation goes before the flag.
    node.stop_agent("TERM").unwrap();
    node.start_agent_with(&["--balancing=round-robin"]).unwrap();
    node.wait_ready().unwrap();
    cluster.settle();
    assert_eq!(counts("10.200.1.44:80", 99), [33, 33, 33]);
    assert_eq!(counts("10.200.1.42:80", 30), [30]);
    node.stop_agent("TERM").unwrap();
    node.start_agent_with(&["--balancing=quickest"]).unwrap();
    node.wait_ready().unwrap();
    cluster.settle();
    assert!(node.agent_log().contains("quickest"));
    assert_eq!(counts("10.200.1.44:80", 60).len(), 3);
}
