//! Rows of the Service table that are about ways in from outside the cluster: node ports,
//! load-balancer addresses, external IPs, traffic policies and masquerade.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cluster;

use std::sync::LazyLock;

use cluster::*;
use podwire_lab::topology::Families;
use serde_json::json;

static CLUSTER: LazyLock<Shared<2>> = LazyLock::new(|| {
    let shared = Shared::with_web_on(["worker", "worker2"]);
    // External addresses are on no machine: mypc sends them to the nodes worker and worker2.
    let routes =
        "ip route add 192.0.2.0/24 via 172.18.0.2; ip route add 198.51.100.0/24 via 172.18.0.4";
    shared.cluster.at("mypc").output(routes).unwrap();
    shared
});

const NODES: [(&str, &str); 4] = [
    ("control-plane", "172.18.0.5"),
    ("worker", "172.18.0.2"),
    ("worker2", "172.18.0.4"),
    ("worker3", "172.18.0.3"),
];

#[test]
fn row_10_a_node_port_answers_on_every_local_address_of_every_node_and_on_localhost() {
    let s = &*CLUSTER;
    let ports = json!([{"port": 9000, "nodePort": 31662}]);
    let spec = json!({"type": "NodePort", "clusterIP": "10.200.1.217", "ports": ports});
    s.cluster
        .apply(&[service("row10", spec), http("row10", &s.all())]);
    let mypc = s.cluster.at("mypc");
    for (name, address) in NODES {
        let answer = ask(&mypc, &format!("{address}:31662")).unwrap();
        // From outside it is masqueraded, so that the answer comes back through this node: to the
        // node's address, or to its end of the pod's link if the pod is here.
        let node = s.cluster.node(name);
        let here = s
            .web
            .iter()
            .any(|pod| pod.name() == answer.pod && pod.node() == name);
        let seen = answer.client.to_string();
        let gateway = node.machine().pod_cidrs[0].ip().to_string();
        let gateway = gateway
            .strip_suffix(".0")
            .map(|net| format!("{net}.1"))
            .unwrap();
        assert_eq!(seen, if here { gateway } else { address.to_owned() });
        for local in ["127.0.0.1", "127.0.0.9", address] {
            assert!(
                ask(node.place(), &format!("{local}:31662")).is_ok(),
                "{local} on {name}"
            );
        }
    }
    // Nodes do not answer for other machines: mypc has nothing at this port.
    assert_eq!(ask(s.client.place(), "172.18.0.6:31662"), REFUSED);
    // The ClusterIP is for the cluster alone.
    assert!(ask(&mypc, "10.200.1.217:9000").is_err());
    // Nothing from outside reaches 127.0.0.0/8.
    let worker = s.cluster.node("worker");
    let why = "127.0.0.0/8 is for this node alone";
    // Either of the two tables with the guard may be the first to see the packet.
    let dropped = || {
        let rules = worker.place().output("nft list ruleset").unwrap();
        let guards = rules.lines().filter(|line| line.contains(why));
        guards.filter_map(packets).sum::<u64>()
    };
    let before = dropped();
    mypc.output("ip route del local 127.0.0.0/8 dev lo table local; ip route add 127.0.0.9/32 via 172.18.0.2; sysctl -qw net.ipv4.conf.eth0.route_localnet=1").unwrap();
    assert!(ask(&mypc, "127.0.0.9:31662").is_err());
    assert!(dropped() > before, "no packet came that far");
}

/// Starts the agent of a node anew, with these flags.
fn restart(cluster: &Cluster, node: &podwire_lab::node::Node, flags: &[&str]) {
    node.stop_agent("TERM").unwrap();
    node.start_agent_with(flags).unwrap();
    node.wait_ready().unwrap();
    cluster.settle();
}

#[test]
fn row_10_node_ports_can_be_kept_to_some_addresses() {
    let cluster = Cluster::pair(Families::V4);
    let web = cluster.web("worker", "web-1");
    let ports = json!([{"port": 80, "nodePort": 31010}]);
    let spec = json!({"type": "NodePort", "clusterIP": "10.200.1.10", "ports": ports});
    cluster.apply(&[service("row10", spec), http("row10", &[&web])]);
    let node = cluster.node("worker2");
    node.place()
        .output("ip addr add 172.18.77.4/32 dev lo")
        .unwrap();
    let mypc = cluster.at("mypc");
    mypc.output("ip route add 172.18.77.4/32 via 172.18.0.4")
        .unwrap();
    let at = |address: &str| ask(&mypc, &format!("{address}:31010")).is_ok();
    assert!(at("172.18.0.4") && at("172.18.77.4"));
    restart(
        &cluster,
        &node,
        &[
            "--nodeport-addresses=primary",
            "--localhost-nodeports=false",
        ],
    );
    assert!(at("172.18.0.4") && !at("172.18.77.4"));
    assert!(ask(node.place(), "127.0.0.1:31010").is_err());
    restart(&cluster, &node, &["--nodeport-addresses=172.18.77.0/24"]);
    assert!(!at("172.18.0.4") && at("172.18.77.4"));
    assert!(ask(node.place(), "127.0.0.1:31010").is_ok());
    restart(&cluster, &node, &["--localhost-nodeports=false"]);
    assert!(at("172.18.0.4") && at("172.18.77.4"));
    assert!(ask(node.place(), "127.0.0.1:31010").is_err());
    restart(&cluster, &node, &[]);
    assert!(at("172.18.0.4") && at("172.18.77.4"));
    assert!(ask(node.place(), "127.0.0.1:31010").is_ok());
}

#[test]
fn row_11_a_load_balancer_address_is_served_unless_it_is_a_proxys() {
    let s = &*CLUSTER;
    let spec = json!({
        "type": "LoadBalancer", "clusterIP": "10.200.1.11", "ports": [{"port": 80}],
    });
    let balanced = |ingress| {
        with(
            service("row11", spec.clone()),
            json!({"status": {"loadBalancer": {"ingress": ingress}}}),
        )
    };
    let mypc = s.cluster.at("mypc");
    s.cluster.apply(&[
        balanced(json!([{"ip": "192.0.2.11"}, {"hostname": "lb.example.com"}])),
        http("row11", &s.all()),
    ]);
    assert!(ask(&mypc, "192.0.2.11").is_ok());
    s.cluster
        .apply(&[balanced(json!([{"ip": "192.0.2.11", "ipMode": "VIP"}]))]);
    assert!(ask(&mypc, "192.0.2.11").is_ok());
    s.cluster
        .apply(&[balanced(json!([{"ip": "192.0.2.11", "ipMode": "Proxy"}]))]);
    assert!(ask(&mypc, "192.0.2.11").is_err());
}

#[test]
fn row_12_source_ranges_let_in_who_is_in_them() {
    let s = &*CLUSTER;
    let mypc = s.cluster.at("mypc");
    let restricted = |ranges| {
        let spec = json!({
            "type": "LoadBalancer",
            "clusterIP": "10.200.1.12",
            "externalIPs": ["192.0.2.112"],
            "loadBalancerSourceRanges": ranges,
            "ports": [{"port": 80}],
        });
        with(
            service("row12", spec),
            json!({"status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.12"}]}}}),
        )
    };
    let node = s.cluster.node("worker");
    let why = "not in loadBalancerSourceRanges";
    s.cluster.apply(&[
        restricted(json!([" 10.0.0.0/8 ", "fd00::/8"])),
        http("row12", &s.all()),
    ]);
    let before = counted_by(&node, why);
    assert_eq!(ask(&mypc, "192.0.2.12"), SILENCE);
    assert!(counted_by(&node, why) > before);
    // A pod is in the range, and other addresses of the Service are not restricted.
    assert!(ask(s.client.place(), "192.0.2.12").is_ok());
    assert!(ask(&mypc, "192.0.2.112").is_ok());
    // mypc itself, and a range within another.
    s.cluster.apply(&[restricted(json!([
        "172.18.0.6/32",
        "10.0.0.0/8",
        "10.1.0.0/16"
    ]))]);
    assert!(ask(&mypc, "192.0.2.12").is_ok());
    assert!(ask(s.client.place(), "192.0.2.12").is_ok());
    assert_eq!(ask(node.place(), "192.0.2.12"), SILENCE);
    // An unreadable range lets nobody in, and does not open the Service.
    s.cluster.apply(&[restricted(json!(["everybody"]))]);
    assert_eq!(ask(&mypc, "192.0.2.12"), SILENCE);
    // A load balancer has put the address on the node itself: the node's connections to it have it
    // as their source, and that is let in if the node's own address is.
    node.place()
        .output("ip addr add 192.0.2.12/32 dev lo")
        .unwrap();
    for (range, wanted) in [("172.18.0.6/32", false), ("172.18.0.0/16", true)] {
        s.cluster.apply(&[restricted(json!([range]))]);
        let line = "curl -sS --max-time 2 http://192.0.2.12/";
        let ran = node.place().sh(line).unwrap();
        assert_eq!(ran.status == 0, wanted, "{range}: {}", ran.stderr);
    }
    node.place()
        .output("ip addr del 192.0.2.12/32 dev lo")
        .unwrap();
}

#[test]
fn row_13_an_external_ip_is_served_from_outside_from_pods_and_from_nodes() {
    let s = &*CLUSTER;
    let spec = json!({
        "clusterIP": "10.200.1.13", "externalIPs": ["192.0.2.13"], "ports": [{"port": 80}],
    });
    s.cluster
        .apply(&[service("row13", spec), http("row13", &s.all())]);
    for name in ["mypc", "client", "control-plane"] {
        assert!(
            ask(&s.cluster.at(name), "192.0.2.13").is_ok(),
            "from {name}"
        );
    }
}

#[test]
fn row_14_external_policy_local_keeps_the_clients_address_and_uses_this_nodes_endpoints() {
    let s = &*CLUSTER;
    let spec = json!({
        "type": "LoadBalancer",
        "clusterIP": "10.200.1.14",
        "externalTrafficPolicy": "Local",
        "ports": [{"port": 80, "nodePort": 31014}],
    });
    // 192.0.2.0/24 leads to worker, 198.51.100.0/24 to worker2.
    let ingress = json!([{"ip": "192.0.2.14"}, {"ip": "198.51.100.14"}]);
    let [one, _] = &s.web;
    s.cluster.apply(&[
        with(
            service("row14", spec),
            json!({"status": {"loadBalancer": {"ingress": ingress}}}),
        ),
        http("row14", &[one]),
    ]);
    let mypc = s.cluster.at("mypc");
    let worker2 = s.cluster.node("worker2");
    // Anybody else: endpoints of this node, and the address is kept.
    for target in ["172.18.0.2:31014", "192.0.2.14:80"] {
        let answer = ask(&mypc, target).unwrap();
        assert_eq!(
            (answer.pod.as_str(), answer.client.to_string().as_str()),
            (one.name(), "172.18.0.6")
        );
    }
    // None on this node: dropped.
    let why = "traffic policy Local, and no endpoint on this node is ready";
    let before = counted_by(&worker2, why);
    for target in ["172.18.0.4:31014", "198.51.100.14:80"] {
        assert_eq!(ask(&mypc, target), SILENCE, "{target}");
    }
    assert!(counted_by(&worker2, why) > before);
    // A pod of this node: any endpoint, and its address is kept.
    let answer = ask(s.web[1].place(), "198.51.100.14:80").unwrap();
    assert_eq!(
        (answer.pod.as_str(), answer.client),
        (one.name(), s.web[1].addresses()[0])
    );
    let answer = ask(s.client.place(), "172.18.0.5:31014").unwrap();
    assert_eq!(
        (answer.pod.as_str(), answer.client),
        (one.name(), s.client.addresses()[0])
    );
    // The node itself: any endpoint, masqueraded.
    for target in ["198.51.100.14:80", "172.18.0.4:31014", "127.0.0.1:31014"] {
        let answer = ask(worker2.place(), target).unwrap();
        assert_eq!(
            (answer.pod.as_str(), answer.client.to_string().as_str()),
            (one.name(), "172.18.0.4"),
            "{target}"
        );
    }
    // No endpoint anywhere: refused.
    s.cluster
        .apply(&[slice("row14", json!([{"port": 80}]), &[])]);
    for target in ["172.18.0.2:31014", "192.0.2.14:80", "198.51.100.14:80"] {
        assert_eq!(ask(&mypc, target), REFUSED, "{target}");
    }
}

#[test]
fn row_15_what_is_masqueraded_and_what_is_not() {
    let s = &*CLUSTER;
    let [one, _] = &s.web;
    let spec = json!({
        "type": "NodePort",
        "clusterIP": "10.200.1.15",
        "externalIPs": ["192.0.2.15"],
        "ports": [{"port": 80, "nodePort": 31015}],
    });
    s.cluster
        .apply(&[service("row15", spec), http("row15", &[one])]);
    // A ClusterIP whose port has the number of that node port.
    let clash = json!({"clusterIP": "10.200.1.151", "ports": [{"port": 31015}]});
    s.cluster
        .apply(&[service("row15-clash", clash), http("row15-clash", &[one])]);
    let node = s.cluster.node("control-plane");
    let kept = "pod to ClusterIP: not masqueraded, the pod sees who asks";
    let before = counted_by(&node, kept);
    // A pod to a ClusterIP: its own address.
    let seen = |place: &podwire_lab::place::Place, target: &str| {
        ask(place, target).unwrap().client.to_string()
    };
    assert_eq!(
        seen(s.client.place(), "10.200.1.15"),
        s.client.addresses()[0].to_string()
    );
    assert_eq!(counted_by(&node, kept) - before, 1);
    assert_eq!(
        seen(s.client.place(), "10.200.1.151:31015"),
        s.client.addresses()[0].to_string()
    );
    assert_eq!(counted_by(&node, kept) - before, 2);
    // A node to a ClusterIP.
    let why = "to a ClusterIP, not from a pod";
    let before = counted_by(&node, why);
    assert_eq!(seen(node.place(), "10.200.1.15"), "172.18.0.5");
    assert_eq!(counted_by(&node, why) - before, 1);
    // External traffic with policy Cluster: of the node's own pods, and of others.
    let why = "from a pod of this node: not masqueraded, the endpoint sees who asks";
    let before = counted_by(&node, why);
    for (target, count) in [("192.0.2.15", 1), ("172.18.0.5:31015", 2)] {
        assert_eq!(
            seen(s.client.place(), target),
            s.client.addresses()[0].to_string()
        );
        assert_eq!(counted_by(&node, why) - before, count, "{target}");
    }
    let why = "from outside: the answer must come back through this node";
    let worker2 = s.cluster.node("worker2");
    let before = counted_by(&worker2, why);
    assert_eq!(seen(s.client.place(), "172.18.0.4:31015"), "172.18.0.4");
    assert_eq!(counted_by(&worker2, why) - before, 1);
    // mypc through the node's own address to a ClusterIP, if it has a route there.
    let mypc = s.cluster.at("mypc");
    mypc.output("ip route add 10.200.1.15/32 via 172.18.0.5")
        .unwrap();
    assert_eq!(seen(&mypc, "10.200.1.15"), "172.18.0.5");
}

#[test]
fn row_15_with_masquerade_all_pods_are_masqueraded_as_well() {
    let cluster = Cluster::pair(Families::V4);
    let web = cluster.web("worker", "web-1");
    let pod = cluster.client("worker2", "client");
    cluster.apply(&[
        service(
            "row15",
            json!({"clusterIP": "10.200.1.15", "ports": [{"port": 80}]}),
        ),
        http("row15", &[&web]),
    ]);
    let seen = || ask(pod.place(), "10.200.1.15").unwrap().client;
    assert_eq!(seen(), pod.addresses()[0]);
    restart(
        &cluster,
        &cluster.node("worker2"),
        &["--masquerade-all=true"],
    );
    assert_eq!(seen().to_string(), "172.18.0.4");
}

#[test]
fn row_22_the_health_check_node_port_counts_ready_endpoints_of_this_node() {
    let s = &*CLUSTER;
    let [one, two] = &s.web;
    let spec = json!({
        "type": "LoadBalancer",
        "clusterIP": "10.200.1.22",
        "externalTrafficPolicy": "Local",
        "healthCheckNodePort": 32022,
        "ports": [{"port": 80}],
    });
    s.cluster.apply(&[
        service("row22", spec),
        slice("row22", json!([{"port": 80}]), &[ready(one), draining(two)]),
    ]);
    let mypc = s.cluster.at("mypc");
    let check = |address: &str| {
        let line = format!("curl -sS -i --max-time 2 http://{address}:32022/");
        let mut text = String::new();
        let answered = || {
            let ran = mypc.sh(&line).unwrap();
            text = ran.stdout.to_ascii_lowercase();
            ran.status == 0
        };
        let limit = std::time::Duration::from_secs(10);
        podwire_lab::wait::until("the health check", limit, answered).unwrap();
        text
    };
    let good = check("172.18.0.2");
    assert!(good.starts_with("http/1.1 200"), "{good}");
    assert!(
        good.contains("x-load-balancing-endpoint-weight: 1"),
        "{good}"
    );
    assert!(good.contains("x-content-type-options: nosniff"), "{good}");
    assert!(good.contains("\"localendpoints\":1"), "{good}");
    assert!(
        good.contains("\"service\":{\"namespace\":\"default\",\"name\":\"row22\"}"),
        "{good}"
    );
    // Only draining endpoints here, and none at all there.
    for address in ["172.18.0.4", "172.18.0.3"] {
        let bad = check(address);
        assert!(bad.starts_with("http/1.1 503"), "{bad}");
        assert!(bad.contains("x-load-balancing-endpoint-weight: 0"), "{bad}");
    }
}
