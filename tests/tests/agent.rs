//! What the agent keeps right on a node, and how soon: with the real agent and real Node
//! manifests.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use podwire_lab::node::Node;
use podwire_lab::pod::{Pod, PodSpec};
use podwire_lab::runtime::PortMapping;
use podwire_lab::topology::{Families, Machine, Topology};
use podwire_lab::{Lab, manifests, wait};
use serde_json::{Value, json};

/// How long a repair may take, and a change of the cluster.
const SOON: Duration = Duration::from_secs(1);

/// The agent's own route protocol number.
const PROTOCOL: &str = "proto 112";

/// The routes that the agent made, sorted.
fn routes(node: &Node) -> Vec<String> {
    let line = format!("ip -4 route show {PROTOCOL}; ip -6 route show {PROTOCOL}");
    let text = node.place().output(&line).unwrap();
    let mut routes: Vec<String> = text
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    routes.sort();
    routes
}

/// Waits until one of the agent's routes begins with these words.
fn until_routed(node: &Node, start: &str) -> Duration {
    wait::until(&format!("a route {start}"), SOON, || {
        routes(node).iter().any(|route| route.starts_with(start))
    })
    .unwrap_or_else(|error| {
        panic!(
            "{error}; there are {:?}\n{}",
            routes(node),
            node.agent_log()
        )
    })
}

/// Waits until none of the agent's routes begins with these words.
fn until_gone(node: &Node, start: &str) {
    wait::until(&format!("the end of the route {start}"), SOON, || {
        !routes(node).iter().any(|route| route.starts_with(start))
    })
    .unwrap_or_else(|error| panic!("{error}; there are {:?}", routes(node)));
}

fn conflist(node: &Node) -> Value {
    let text = node
        .place()
        .output("cat /etc/cni/net.d/00-podwire.conflist")
        .unwrap();
    serde_json::from_str(&text).unwrap()
}

fn write_node(lab: &Lab, machine: &Machine) {
    lab.write_manifest(&format!("node-{}", machine.name), &manifests::node(machine))
        .unwrap();
}

#[test]
fn every_node_has_a_route_to_every_other_nodes_pods_in_both_families() {
    let lab = Lab::for_test(&Topology::walkthrough(Families::Dual)).unwrap();
    for node in lab.cluster().unwrap() {
        let found = routes(&node);
        for peer in lab.cluster().unwrap() {
            for cidr in &peer.machine().pod_cidrs {
                let gateway = peer.machine().address(cidr.is_ipv6()).unwrap();
                let wanted = if peer.name() == node.name() {
                    format!("unreachable {cidr}")
                } else {
                    format!("{cidr} via {gateway} dev eth0")
                };
                let has = found.iter().any(|route| route.starts_with(&wanted));
                assert!(has, "{} has no {wanted}: {found:?}", node.name());
            }
        }
    }
}

#[test]
fn an_unused_pod_address_is_unreachable_and_does_not_leave_the_node() {
    let lab = Lab::for_test(&Topology::pair(Families::V4)).unwrap();
    let pod = lab.run("worker", &PodSpec::new("one")).unwrap();
    let ping = pod.place().sh("ping -n -c1 -W1 10.10.1.77").unwrap();
    assert!(
        ping.stdout.contains("Destination Host Unreachable"),
        "{}",
        ping.stdout
    );
}

#[test]
fn a_route_that_somebody_deletes_is_back_within_a_second() {
    let lab = Lab::for_test(&Topology::pair(Families::Dual)).unwrap();
    let node = lab.machine("worker").unwrap();
    for (family, cidr) in [("-4", "10.10.2.0/24"), ("-6", "fd00:10:10:2::/64")] {
        until_routed(&node, cidr);
        node.place()
            .output(&format!("ip {family} route del {cidr}"))
            .unwrap();
        until_routed(&node, cidr);
    }
    node.place()
        .output("ip route replace 10.10.2.0/24 via 172.18.0.9 proto 112")
        .unwrap();
    until_routed(&node, "10.10.2.0/24 via 172.18.0.4");
}

#[test]
fn forwarding_that_somebody_switches_off_is_on_again_within_a_second() {
    let lab = Lab::for_test(&Topology::pair(Families::Dual)).unwrap();
    let node = lab.machine("worker").unwrap();
    for key in ["net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"] {
        let value = || node.place().output(&format!("sysctl -n {key}")).unwrap();
        assert_eq!(value().trim(), "1");
        node.place().output(&format!("sysctl -qw {key}=0")).unwrap();
        wait::until(key, SOON, || value().trim() == "1").unwrap();
    }
    let log = node.agent_log();
    let lines = log.lines().filter(|line| line.contains("put right"));
    let repairs = lines.filter(|line| line.contains("forwarding")).count();
    assert_eq!(repairs, 2, "{log}");
}

#[test]
fn the_table_and_the_conflist_are_back_within_a_second_and_foreign_ones_are_left_alone() {
    let lab = Lab::for_test(&Topology::pair(Families::V4)).unwrap();
    let node = lab.machine("worker").unwrap();
    let place = node.place();
    place
        .output("nft add table inet foreign; ip route add 192.0.2.0/24 via 172.18.0.9")
        .unwrap();
    let table = || {
        place
            .output("nft list table inet podwire-masquerade")
            .unwrap_or_default()
    };
    let rules = |text: &str| text.matches('\n').count();
    let whole = rules(&table());
    assert!(whole > 5, "{}", table());
    for damage in [
        "nft delete table inet podwire-masquerade",
        "nft flush table inet podwire-masquerade",
        "rm /etc/cni/net.d/00-podwire.conflist",
        "echo '{' > /etc/cni/net.d/00-podwire.conflist",
    ] {
        place.output(damage).unwrap();
        wait::until(damage, SOON, || {
            rules(&table()) == whole && node.runtime().network().is_ok()
        })
        .unwrap_or_else(|_| panic!("not repaired after {damage}:\n{}", node.agent_log()));
    }
    place.output("nft list table inet foreign").unwrap();
    assert!(
        place
            .output("ip route")
            .unwrap()
            .contains("192.0.2.0/24 via 172.18.0.9")
    );
}

#[test]
fn a_restart_over_a_right_node_writes_nothing() {
    let lab = Lab::for_test(&Topology::pair(Families::Dual)).unwrap();
    let node = lab.machine("worker").unwrap();
    node.run(&PodSpec::web("one")).unwrap();
    node.stop_agent("TERM").unwrap();
    let file = || {
        node.place()
            .output("stat -c '%i %y' /etc/cni/net.d/*")
            .unwrap()
    };
    let (before, state) = (file(), kernel_state(&node));
    let mut monitors = ["ip monitor route addr link", "nft monitor"].map(|line| {
        let line = format!("sh -c 'echo up >&2; exec {line}'");
        node.place().capture(&line, "up").unwrap()
    });
    node.start_agent().unwrap();
    until_synced(&node);
    assert_eq!(
        node.agent_metric("podwire_kernel_writes_total").unwrap(),
        0.0
    );
    assert_eq!(file(), before);
    assert_eq!(kernel_state(&node), state);
    // A mark of our own: what was written before it would be seen before it.
    node.place()
        .output("ip route add 192.0.2.1/32 dev lo; nft add table inet signpost")
        .unwrap();
    for (monitor, mark) in monitors.iter_mut().zip(["192.0.2.1", "signpost"]) {
        let last = |lines: &[String]| lines.iter().any(|line| line.contains(mark));
        assert!(
            monitor.until(Duration::from_secs(5), last),
            "the monitor missed {mark}"
        );
    }
    for monitor in monitors {
        let lines = monitor.finish();
        let foreign: Vec<_> = lines
            .iter()
            .filter(|line| !line.contains("192.0.2.1") && !line.contains("signpost"))
            .filter(|line| !line.starts_with("# new generation"))
            .collect();
        assert!(foreign.is_empty(), "{foreign:?}");
    }
}

fn kernel_state(node: &Node) -> String {
    node.place()
        .output("ip route show table all; ip -6 route show table all; nft -s list ruleset")
        .unwrap()
}

/// Waits until every feature of a new agent has looked at the node.
fn until_synced(node: &Node) {
    wait::until("the agent's first sync", Duration::from_secs(10), || {
        ["routes", "masquerade", "cniconf"].iter().all(|feature| {
            let name = format!("podwire_syncs_total{{feature=\"{feature}\"}}");
            node.agent_metric(&name).is_ok_and(|syncs| syncs >= 1.0)
        })
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", node.agent_log()));
}

#[test]
fn everything_goes_on_when_the_agent_ends_or_is_killed() {
    let lab = Lab::for_test(&Topology::pair(Families::V4)).unwrap();
    let one = lab.run("worker", &PodSpec::new("one")).unwrap();
    let two = lab.run("worker2", &PodSpec::new("two")).unwrap();
    let target = two.address(false).unwrap();
    for (node, signal) in [("worker", "TERM"), ("worker2", "KILL")] {
        let node = lab.machine(node).unwrap();
        let before = kernel_state(&node);
        node.stop_agent(signal).unwrap();
        assert_eq!(kernel_state(&node), before);
        one.place()
            .output(&format!("ping -n -c1 -W1 {target}"))
            .unwrap();
    }
    // A pod can come without an agent as well.
    lab.run("worker", &PodSpec::new("late")).unwrap();
}

#[test]
fn nodes_that_come_go_and_move_are_followed() {
    let lab = Lab::for_test(&Topology::pair(Families::V4)).unwrap();
    let node = lab.machine("worker").unwrap();
    let third = Topology::node(Families::V4, "worker3", 3, 3);
    let joined = lab.add_machine(&third).unwrap();
    joined.start_agent().unwrap();
    joined.wait_ready().unwrap();
    until_routed(&node, "10.10.3.0/24 via 172.18.0.3");
    let far = lab.run("worker3", &PodSpec::new("far")).unwrap();
    let near = lab.run("worker", &PodSpec::new("near")).unwrap();
    let target = far.address(false).unwrap();
    near.place()
        .output(&format!("ping -n -c1 -W1 {target}"))
        .unwrap();

    // Another address, then other podCIDRs, then none, then it is gone.
    let moved = Topology::node(Families::V4, "worker3", 33, 3);
    write_node(&lab, &moved);
    until_routed(&node, "10.10.3.0/24 via 172.18.0.33");
    let mut wide = Topology::node(Families::V4, "worker3", 33, 30);
    wide.pod_cidrs
        .extend(Topology::node(Families::V4, "worker3", 33, 31).pod_cidrs);
    write_node(&lab, &wide);
    until_routed(&node, "10.10.30.0/24 via 172.18.0.33");
    until_routed(&node, "10.10.31.0/24 via 172.18.0.33");
    until_gone(&node, "10.10.3.0/24");
    lab.remove_machine("worker3").unwrap();
    until_gone(&node, "10.10.30.0/24");
    until_gone(&node, "10.10.31.0/24");
}

#[test]
fn a_node_that_went_while_the_agent_was_down_leaves_no_route() {
    let lab = Lab::for_test(&Topology::walkthrough(Families::V4)).unwrap();
    let node = lab.machine("worker").unwrap();
    until_routed(&node, "10.10.3.0/24");
    node.stop_agent("KILL").unwrap();
    lab.remove_machine("worker3").unwrap();
    node.start_agent().unwrap();
    until_synced(&node);
    until_gone(&node, "10.10.3.0/24");
    until_routed(&node, "10.10.2.0/24 via 172.18.0.4");
}

#[test]
fn bad_nodes_are_named_and_the_others_go_on() {
    let lab = Lab::for_test(&Topology::pair(Families::V4)).unwrap();
    let node = lab.machine("worker").unwrap();
    let bad = |name: &str, address: &str, cidr: &str| {
        let object = json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": name},
            "spec": {"podCIDR": cidr, "podCIDRs": [cidr]},
            "status": {"addresses": [{"type": "InternalIP", "address": address}]},
        });
        lab.write_manifest(&format!("node-{name}"), &object)
            .unwrap();
    };
    bad("off-link", "192.0.2.77", "10.10.50.0/24");
    bad("overlaps-us", "172.18.0.51", "10.10.1.128/25");
    bad("overlaps-peer", "172.18.0.52", "10.10.2.0/25");
    bad("no-address", "not-an-address", "10.10.53.0/24");
    bad("no-cidr", "172.18.0.54", "ten");
    lab.write_manifest_text("broken", "kind: Node\n  metadata: [")
        .unwrap();
    bad("good", "172.18.0.60", "10.10.60.0/24");
    until_routed(&node, "10.10.60.0/24 via 172.18.0.60");
    assert_eq!(routes(&node).len(), 3, "{:?}", routes(&node));
    for name in [
        "off-link",
        "overlaps-us",
        "overlaps-peer",
        "no-address",
        "no-cidr",
        "broken",
    ] {
        let what = format!("{name} in the agent's log");
        wait::until(&what, SOON, || node.agent_log().contains(name)).unwrap();
    }
}

#[test]
fn the_conflist_is_made_from_the_node_and_follows_it() {
    let lab = Lab::for_test(&Topology::pair(Families::Dual)).unwrap();
    let node = lab.machine("worker").unwrap();
    let config = conflist(&node);
    assert_eq!(config["name"], "podwire");
    assert_eq!(config["cniVersion"], "1.0.0");
    let plugin = &config["plugins"][0];
    assert_eq!(
        (&plugin["type"], &plugin["ipMasq"]),
        (&json!("podwire"), &json!(false))
    );
    assert_eq!(plugin["capabilities"]["portMappings"], true);
    assert_eq!(plugin["mtu"], 1500);
    let ranges = &plugin["ipam"]["ranges"];
    assert_eq!(ranges[0][0]["subnet"], "10.10.1.0/24");
    assert_eq!(ranges[1][0]["subnet"], "fd00:10:10:1::/64");

    node.place().output("ip link set eth0 mtu 1400").unwrap();
    wait::until("an MTU of 1400", SOON, || {
        conflist(&node)["plugins"][0]["mtu"] == 1400
    })
    .unwrap();
    let pod = node.run(&PodSpec::new("one")).unwrap();
    assert_eq!(
        pod.place().output("cat /sys/class/net/eth0/mtu").unwrap(),
        "1400\n"
    );

    write_node(&lab, &Topology::node(Families::Dual, "worker", 2, 7));
    let subnet = || conflist(&node)["plugins"][0]["ipam"]["ranges"][0][0]["subnet"].clone();
    wait::until("a podCIDR of 10.10.7.0/24", SOON, || {
        subnet() == "10.10.7.0/24"
    })
    .unwrap();
    assert_eq!(
        node.place().output("ls -A /etc/cni/net.d").unwrap(),
        "00-podwire.conflist\n"
    );
}

#[test]
fn a_configuration_that_would_win_over_ours_is_named() {
    let lab = Lab::for_test_without_agents(&Topology::pair(Families::V4)).unwrap();
    let node = lab.machine("worker").unwrap();
    let line = "echo '{\"name\":\"x\",\"type\":\"bridge\"}' > /etc/cni/net.d/00-aaa.conf";
    node.place().output(line).unwrap();
    node.start_agent().unwrap();
    wait::until(
        "a warning about 00-aaa.conf",
        Duration::from_secs(10),
        || node.agent_log().contains("00-aaa.conf"),
    )
    .unwrap_or_else(|error| panic!("{error}\n{}", node.agent_log()));
}

#[test]
fn what_a_pod_had_is_taken_back_when_its_link_is_gone_and_nobody_calls_del() {
    let lab = Lab::for_test_without_agents(&Topology::pair(Families::V4)).unwrap();
    let node = lab.machine("worker").unwrap();
    node.start_agent_with(&["--lease-grace", "1s"]).unwrap();
    node.wait_ready().unwrap();
    let with_port = |name: &str, port| PodSpec {
        ports: vec![PortMapping::new(port, 80, "tcp")],
        ..PodSpec::web(name)
    };
    let stays = node.run(&with_port("stays", 8080)).unwrap();
    let goes = node.run(&with_port("goes", 8081)).unwrap();
    let has_lease = |pod: &Pod| {
        let file = format!("/run/podwire/ipam/podwire/{}", pod.address(false).unwrap());
        node.place().sh(&format!("test -e {file}")).unwrap().status == 0
    };
    let host_ports = || {
        let table = "nft list table inet podwire-hostports; ls /run/podwire/attachments";
        node.place().output(table).unwrap()
    };
    let has_port = |pod: &Pod, port: &str| {
        let all = host_ports();
        all.contains(port) && all.contains(&pod.host_link())
    };
    assert!(has_lease(&stays) && has_lease(&goes));
    assert!(has_port(&stays, "tcp . 8080") && has_port(&goes, "tcp . 8081"));
    // As after a crash of the node's runtime.
    node.place()
        .output(&format!("ip link del {}", goes.host_link()))
        .unwrap();
    wait::until("the end of the attachment", Duration::from_secs(20), || {
        !has_lease(&goes) && !host_ports().contains("tcp . 8081")
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", node.agent_log()));
    assert!(!host_ports().contains(&goes.host_link()), "its record");
    assert!(has_lease(&stays) && has_port(&stays, "tcp . 8080"));
}

#[test]
fn a_route_of_others_counts_no_longer_once_its_link_is_down_or_gone() {
    let lab = Lab::for_test(&Topology::pair(Families::V4)).unwrap();
    let node = lab.machine("worker").unwrap();
    let place = node.place();
    until_routed(&node, "10.10.2.0/24 via");
    let link = "ip link add vpn0 type veth peer name vpn1";
    place.output(link).unwrap();
    let warned = || {
        let status = place.output("podwire-agent status").unwrap();
        status.contains("wins over ours")
    };
    for end in ["ip link set vpn0 down", "ip link delete vpn0"] {
        let begin = "ip link set vpn0 up && ip route add 10.10.2.0/24 dev vpn0";
        place.output(begin).unwrap();
        wait::until("the warning", SOON, warned).unwrap();
        place.output(end).unwrap();
        wait::until("the end of the warning", SOON, || !warned()).unwrap();
    }
}

#[test]
fn two_agents_with_different_settings_quarrel_quietly_and_the_one_that_stays_answers_again() {
    let lab = Lab::for_test(&Topology::pair(Families::V4)).unwrap();
    let node = lab.machine("worker").unwrap();
    let place = node.place();
    let other = [
        "--mtu=1400",
        "--masquerade=false",
        "--healthz-bind-address=",
        "--metrics-bind-address=",
    ];
    // From now on the node's agent is the second one.
    node.start_agent_with(&other).unwrap();
    let patience = Duration::from_secs(20);
    let quarrel = "another program keeps changing what this part keeps right";
    wait::until("a warning about the other", patience, || {
        let status = place.output("podwire-agent status");
        status.is_ok_and(|status| status.contains(quarrel))
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", node.agent_log()));
    let log = node.agent_log();
    assert!(log.lines().count() < 200, "{log}");
    node.stop_agent("TERM").unwrap();
    wait::until("an answer of the first agent", patience, || {
        place.output("podwire-agent status").is_ok()
    })
    .unwrap();
    wait::until("what the first agent wants", patience, || {
        conflist(&node)["plugins"][0]["mtu"] == json!(1500)
            && place
                .output("nft list table inet podwire-masquerade")
                .is_ok_and(|table| table.contains("from-pod-v4"))
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", node.agent_log()));
}

#[test]
fn what_a_pods_kernel_asks_its_own_link_is_not_counted_as_forged() {
    let lab = Lab::for_test(&Topology::pair(Families::V4)).unwrap();
    let _pod = lab.run("worker", &PodSpec::new("web")).unwrap();
    let node = lab.machine("worker").unwrap();
    let chain = || {
        let line = "nft list table inet podwire-masquerade";
        node.place().output(line).unwrap()
    };
    // Routers are asked for when the pod's own address has been tried out.
    wait::until("a question for routers", Duration::from_secs(20), || {
        let text = chain();
        let asked = text.lines().find(|line| line.contains("asks its own link"));
        !asked.unwrap().contains("packets 0 ")
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", chain()));
    let text = chain();
    let forged = text
        .lines()
        .filter(|line| line.contains("is not this pod's address"));
    let forged: Vec<_> = forged.collect();
    assert_eq!(forged.len(), 1, "{text}");
    assert!(
        forged.iter().all(|line| line.contains("packets 0 ")),
        "{text}"
    );
}
