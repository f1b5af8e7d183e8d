//! Rows of the Service table that are about ClusterIPs: each with real packets in a lab.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cluster;

use std::sync::LazyLock;

use cluster::*;
use serde_json::{Value, json};

static CLUSTER: LazyLock<Shared<3>> =
    LazyLock::new(|| Shared::with_web_on(["worker", "worker2", "worker3"]));

#[test]
fn row_01_services_for_another_proxy_and_headless_ones_are_left_alone() {
    let s = &*CLUSTER;
    let other = with(
        service(
            "row01-other",
            json!({"clusterIP": "10.200.1.1", "ports": [{"port": 80}]}),
        ),
        json!({"metadata": {"labels": {"service.kubernetes.io/service-proxy-name": "other"}}}),
    );
    let headless = with(
        service(
            "row01-headless",
            json!({"clusterIP": "10.200.1.2", "ports": [{"port": 80}]}),
        ),
        json!({"metadata": {"labels": {"service.kubernetes.io/headless": ""}}}),
    );
    let slices = [
        http("row01-other", &s.all()),
        http("row01-headless", &s.all()),
    ];
    s.cluster.apply(&[other.clone(), headless]);
    s.cluster.apply(&slices);
    assert_eq!(ask(s.client.place(), "10.200.1.1"), SILENCE);
    assert_eq!(ask(s.client.place(), "10.200.1.2"), SILENCE);
    assert!(!listed(&s.cluster.node("control-plane"), "row01"));
    // Without the label it is ours.
    let mut ours = other;
    ours["metadata"]["labels"] = json!({});
    s.cluster.apply(&[ours]);
    assert!(ask(s.client.place(), "10.200.1.1").is_ok());
}

#[test]
fn row_02_a_change_of_type_adds_and_removes_rules() {
    let s = &*CLUSTER;
    let cluster_ip = service(
        "row02",
        json!({"clusterIP": "10.200.1.3", "ports": [{"port": 80}]}),
    );
    let alias = with(
        cluster_ip.clone(),
        json!({"spec": {"type": "ExternalName", "externalName": "example.com"}}),
    );
    let none = service(
        "row02",
        json!({"clusterIP": "None", "ports": [{"port": 80}]}),
    );
    s.cluster.apply(&[http("row02", &s.all()), alias.clone()]);
    assert_eq!(ask(s.client.place(), "10.200.1.3"), SILENCE);
    s.cluster.apply(std::slice::from_ref(&cluster_ip));
    assert!(ask(s.client.place(), "10.200.1.3").is_ok());
    s.cluster.apply(&[alias]);
    assert_eq!(ask(s.client.place(), "10.200.1.3"), SILENCE);
    s.cluster.apply(&[cluster_ip]);
    assert!(ask(s.client.place(), "10.200.1.3").is_ok());
    s.cluster.apply(&[none]);
    assert_eq!(ask(s.client.place(), "10.200.1.3"), SILENCE);
}

#[test]
fn row_03_one_port_number_may_be_tcp_and_udp_with_different_endpoints() {
    let s = &*CLUSTER;
    let [one, two, _] = &s.web;
    let ports = json!([
        {"name": "t", "port": 5353, "protocol": "TCP"},
        {"name": "u", "port": 5353, "protocol": "UDP"},
    ]);
    s.cluster.apply(&[
        service("row03", json!({"clusterIP": "10.200.1.4", "ports": ports})),
        named_slice(
            "row03-tcp",
            "row03",
            json!([{"name": "t", "port": 80}]),
            &[ready(one)],
        ),
        named_slice(
            "row03-udp",
            "row03",
            json!([{"name": "u", "port": 53, "protocol": "UDP"}]),
            &[ready(two)],
        ),
    ]);
    assert_eq!(
        ask(s.client.place(), "10.200.1.4:5353").unwrap().pod,
        one.name()
    );
    let answer = ask_udp(s.client.place(), "10.200.1.4", 5353).unwrap();
    assert_eq!(answer.pod, two.name());
    // A port that is taken out of the object is taken out of the kernel.
    let ports = json!([{"name": "u", "port": 5353, "protocol": "UDP"}]);
    s.cluster.apply(&[service(
        "row03",
        json!({"clusterIP": "10.200.1.4", "ports": ports}),
    )]);
    assert_eq!(ask(s.client.place(), "10.200.1.4:5353"), REFUSED);
    assert!(ask_udp(s.client.place(), "10.200.1.4", 5353).is_some());
}

#[test]
fn row_04_slices_are_merged_each_with_its_own_port_and_only_what_is_usable() {
    let s = &*CLUSTER;
    let [one, _, three] = &s.web;
    // Nothing listens at port 80 of this one.
    let two = s.cluster.web_at("worker2", "web-8080", vec![8080]);
    let mut absent = ready(&two);
    absent["conditions"] = json!({});
    // Only the first address of an endpoint counts; nobody has the second.
    absent["addresses"] = json!([two.addresses()[0].to_string(), "10.10.2.250"]);
    let names = with(
        named_slice("row04-names", "row04", json!([{"port": 80}]), &[]),
        json!({"addressType": "FQDN", "endpoints": [{"addresses": ["example.com"]}]}),
    );
    s.cluster.apply(&[
        service(
            "row04",
            json!({"clusterIP": "10.200.1.5", "ports": [{"port": 80}]}),
        ),
        named_slice(
            "row04-a",
            "row04",
            json!([{"port": 80}]),
            &[ready(one), unready(three)],
        ),
        named_slice("row04-b", "row04", json!([{"port": 8080}]), &[absent]),
        // The same endpoint again, and a port without a number, which means nothing.
        named_slice("row04-c", "row04", json!([{"port": 80}]), &[ready(one)]),
        named_slice("row04-d", "row04", json!([{}]), &[ready(three)]),
        names,
    ]);
    let summary = load(s.client.place(), "10.200.1.5:80", 40);
    assert_eq!(pods(&summary), [two.name(), one.name()], "{summary:?}");
    assert_eq!(summary.failed, 0, "{summary:?}");
    let node = s.cluster.node("control-plane");
    assert!(listed(&node, "10.200.1.5 . tcp . 80 . 1"));
    assert!(
        !listed(&node, "10.200.1.5 . tcp . 80 . 2"),
        "an endpoint counts twice"
    );
}

#[test]
fn row_05_draining_endpoints_answer_only_when_no_ready_one_is_left() {
    let s = &*CLUSTER;
    let [one, two, three] = &s.web;
    let all = |endpoints: &[Value]| slice("row05", json!([{"port": 80}]), endpoints);
    s.cluster.apply(&[
        service(
            "row05",
            json!({"clusterIP": "10.200.1.6", "ports": [{"port": 80}]}),
        ),
        all(&[ready(one), draining(two), unready(three)]),
    ]);
    let summary = load(s.client.place(), "10.200.1.6:80", 20);
    assert_eq!(pods(&summary), [one.name()]);
    s.cluster
        .apply(&[all(&[unready(one), draining(two), unready(three)])]);
    let summary = load(s.client.place(), "10.200.1.6:80", 20);
    assert_eq!(pods(&summary), [two.name()]);
    // With policy Local the fallback asks about this node alone: others may be ready elsewhere.
    let local = json!({
        "clusterIP": "10.200.1.60", "internalTrafficPolicy": "Local", "ports": [{"port": 80}],
    });
    s.cluster.apply(&[
        service("row05-local", local),
        slice(
            "row05-local",
            json!([{"port": 80}]),
            &[ready(one), draining(two)],
        ),
    ]);
    let on = |name: &str| s.cluster.node(name).place().clone();
    assert_eq!(
        pods(&load(&on("worker"), "10.200.1.60:80", 10)),
        [one.name()]
    );
    assert_eq!(
        pods(&load(&on("worker2"), "10.200.1.60:80", 10)),
        [two.name()]
    );
    assert_eq!(ask(&on("worker3"), "10.200.1.60"), SILENCE);
}

#[test]
fn row_08_internal_policy_local_uses_endpoints_of_the_node_or_none() {
    let s = &*CLUSTER;
    let spec = json!({
        "clusterIP": "10.200.1.8",
        "internalTrafficPolicy": "Local",
        "ports": [{"port": 80}],
    });
    s.cluster
        .apply(&[service("row08", spec), http("row08", &s.all())]);
    let summary = load(s.cluster.node("worker2").place(), "10.200.1.8:80", 20);
    assert_eq!(pods(&summary), ["web-worker2"]);
    let node = s.cluster.node("control-plane");
    let why = "traffic policy Local, and no endpoint on this node is ready";
    let before = counted_by(&node, why);
    assert_eq!(ask(s.client.place(), "10.200.1.8"), SILENCE);
    assert!(counted_by(&node, why) > before);
    // With no endpoint anywhere it is refused, not dropped.
    s.cluster
        .apply(&[slice("row08", json!([{"port": 80}]), &[])]);
    assert_eq!(ask(s.client.place(), "10.200.1.8"), REFUSED);
}

#[test]
fn row_09_without_any_endpoint_new_connections_are_refused() {
    let s = &*CLUSTER;
    let ports = json!([
        {"name": "t", "port": 80, "nodePort": 30009},
        {"name": "u", "port": 53, "protocol": "UDP"},
    ]);
    let spec = json!({
        "type": "NodePort",
        "clusterIP": "10.200.1.9",
        "externalIPs": ["192.0.2.9"],
        "ports": ports,
    });
    s.cluster.apply(&[service("row09", spec)]);
    let node = s.cluster.node("worker");
    // TCP is told by a reset, as a machine would where nobody listens.
    let line = "tcpdump -lnni eth0 'tcp[tcpflags] & tcp-rst != 0'";
    let mut resets = s.client.place().capture(line, "listening on").unwrap();
    assert_eq!(ask(s.client.place(), "10.200.1.9:80"), REFUSED);
    let reset = |lines: &[String]| lines.iter().any(|line| line.contains("10.200.1.9.80 >"));
    assert!(
        resets.until(std::time::Duration::from_secs(5), reset),
        "no reset"
    );
    resets.finish();
    for target in ["10.200.1.9:80", "192.0.2.9:80", "172.18.0.2:30009"] {
        assert_eq!(
            ask(s.client.place(), target),
            REFUSED,
            "{target} from a pod"
        );
        assert_eq!(ask(node.place(), target), REFUSED, "{target} from a node");
    }
    assert_eq!(ask(&s.cluster.at("mypc"), "172.18.0.2:30009"), REFUSED);
    // A datagram is answered with "port unreachable".
    let line =
        "bash -c 'exec 3<>/dev/udp/10.200.1.9/53; echo x >&3; read -t 2 -r l <&3; echo x >&3' 2>&1";
    let ran = s.client.place().sh(line).unwrap();
    assert!(ran.stdout.contains("refused"), "{}", ran.stdout);
    assert_eq!(counted(&node, "nodeports", "tcp . 30009"), 3);
}

#[test]
fn row_16_a_pod_that_reaches_itself_is_masqueraded() {
    let s = &*CLUSTER;
    let one = &s.web[0];
    s.cluster.apply(&[
        service(
            "row16",
            json!({"clusterIP": "10.200.1.16", "ports": [{"port": 80}]}),
        ),
        http("row16", &[one]),
    ]);
    let node = s.cluster.node("worker");
    let why = "a pod that reached itself";
    let before = counted_by(&node, why);
    let answer = ask(one.place(), "10.200.1.16").unwrap();
    assert_eq!(answer.pod, one.name());
    assert_eq!(answer.client.to_string(), "10.10.1.1", "the pod's gateway");
    assert_eq!(counted_by(&node, why) - before, 1);
}

#[test]
fn row_18_an_unknown_port_is_refused_an_unallocated_address_dropped_and_ping_explained() {
    let s = &*CLUSTER;
    s.cluster.apply(&[
        service(
            "row18",
            json!({"clusterIP": "10.200.1.20", "ports": [{"port": 80}]}),
        ),
        http("row18", &s.all()),
    ]);
    let node = s.cluster.node("control-plane");
    for place in [s.client.place(), node.place()] {
        assert!(ask(place, "10.200.1.20:80").is_ok());
        assert_eq!(ask(place, "10.200.1.20:81"), REFUSED);
        let why = "no Service has this address";
        let before = counted_by(&node, why);
        assert_eq!(ask(place, "10.200.1.200:80"), SILENCE);
        assert!(counted_by(&node, why) > before);
        let ping = place.sh("ping -c1 -W2 10.200.1.20").unwrap();
        assert!(
            ping.stdout.contains("Protocol Unreachable"),
            "{}",
            ping.stdout
        );
    }
}

#[test]
fn row_27_one_bad_object_never_stops_the_rest_and_comes_in_when_it_is_mended() {
    let s = &*CLUSTER;
    let [one, two, _] = &s.web;
    let good = service(
        "row27",
        json!({"clusterIP": "10.200.1.27", "ports": [{"port": 80}]}),
    );
    let second = json!({
        "type": "NodePort",
        "clusterIP": "10.200.1.28",
        "ports": [{"port": 80, "nodePort": 30027}],
    });
    let mut loopback = ready(two);
    loopback["addresses"] = json!(["127.0.0.1"]);
    let long = "x".repeat(300);
    let bad = [
        service(
            "row27-port",
            json!({"clusterIP": "10.200.1.29", "ports": [{"port": 70000}]}),
        ),
        service(
            "row27-ip",
            json!({"clusterIP": "10.200.1.300", "ports": [{"port": 80}]}),
        ),
        service("row27-text", json!({"clusterIP": 5, "ports": "none"})),
        with(
            service(
                "row27-long",
                json!({"clusterIP": "10.200.1.30", "ports": [{"port": 80}]}),
            ),
            json!({"metadata": {"name": long}}),
        ),
    ];
    for (number, object) in bad.iter().enumerate() {
        s.cluster
            .lab
            .write_manifest(&format!("row27-bad-{number}.json"), object)
            .unwrap();
    }
    s.cluster.apply(&[
        good,
        slice(
            "row27",
            json!([{"port": 80}]),
            &[loopback.clone(), ready(one)],
        ),
        service("row27-first", second.clone()),
        service(
            "row27-second",
            with(second, json!({"clusterIP": "10.200.1.31"})),
        ),
        http("row27-first", &[one]),
        http("row27-second", &[two]),
    ]);
    let summary = load(s.client.place(), "10.200.1.27:80", 20);
    assert_eq!((pods(&summary), summary.failed), (vec![one.name()], 0));
    let node = s.cluster.node("control-plane");
    let log = node.agent_log();
    for named in [
        "127.0.0.1",
        "30027",
        "70000",
        "10.200.1.300",
        "row27-text",
        "more than 253 characters",
    ] {
        assert!(log.contains(named), "{named} is not named in\n{log}");
    }
    // The first by name has the node port; the second gets it when it is free.
    let mypc = s.cluster.at("mypc");
    assert_eq!(ask(&mypc, "172.18.0.5:30027").unwrap().pod, one.name());
    assert_eq!(
        ask(s.client.place(), "10.200.1.31:80").unwrap().pod,
        two.name()
    );
    s.cluster.delete(&[service("row27-first", json!({}))]);
    assert_eq!(ask(&mypc, "172.18.0.5:30027").unwrap().pod, two.name());
    // Mended.
    let mended = service(
        "row27-port",
        json!({"clusterIP": "10.200.1.29", "ports": [{"port": 80}]}),
    );
    s.cluster
        .lab
        .write_manifest("row27-bad-0.json", &mended)
        .unwrap();
    s.cluster.apply(&[
        http("row27-port", &[one]),
        slice("row27", json!([{"port": 80}]), &[ready(two), ready(one)]),
    ]);
    assert!(ask(s.client.place(), "10.200.1.29").is_ok());
    assert_eq!(pods(&load(s.client.place(), "10.200.1.27:80", 40)).len(), 2);
}
