//! The verbs of the desk on the nodes of a lab: what is wrong is named, with its node and hop.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cluster;

use std::process::Command;

use cluster::desk::{PATIENCE, Stage};
use cluster::policies::{app, policy};
use cluster::*;
use podwire_lab::wait;
use serde_json::{Value, json};

#[test]
fn a_network_in_order_is_said_to_be_and_both_ways_are_walked() {
    let stage = Stage::raise();
    let (text, good) = stage.desk(&["status"]);
    assert!(good && text.contains("every agent answers"), "{text}");
    assert!(text.contains("AGENT") && text.contains("NETWORK"), "{text}");
    for (from, to) in [
        ("client", "web:80"),
        ("client", &*stage.web.addresses()[0].to_string()),
        ("worker", "worker2"),
        ("worker", "client"),
    ] {
        let walk = stage.why(from, to);
        assert_eq!(walk["good"], true, "{from} {to}: {walk:#}");
    }
    let (text, good) = stage.desk(&["why", "client", "web:80"]);
    for part in [
        "On node worker, where the packet begins",
        "On node worker2, where it arrives for pod default/web",
        "On node worker2, where the answer begins",
        "On node worker, where the answer arrives",
        "The answer comes back.",
    ] {
        assert!(good && text.contains(part), "{part}: {text}");
    }
}

#[test]
fn a_node_port_leads_to_other_nodes_with_the_address_of_the_first() {
    let stage = Stage::raise();
    let spec = json!({
        "type": "NodePort", "clusterIP": "10.200.1.41", "ports": [{"port": 80, "nodePort": 30080}],
    });
    let from = json!([{"podSelector": app("client")}]);
    let spec_of_policy = json!({
        "podSelector": app("web"), "policyTypes": ["Ingress"], "ingress": [{"from": from}],
    });
    let only_the_pod = policy("default", "only-client", spec_of_policy);
    stage
        .cluster
        .apply(&[service("web", spec), only_the_pod.clone()]);
    let client = stage.cluster.at("client");
    assert!(ask(&client, "10.200.1.41").is_ok());
    // A pod keeps its address at its own node's port, a machine outside has the node's behind it.
    assert!(ask(&client, "172.18.0.2:30080").is_ok());
    let outside = stage.cluster.at("mypc");
    assert_eq!(ask(&outside, "172.18.0.2:30080"), SILENCE);
    stage.names("mypc", "worker:30080", "worker2", "olic", "only-client");
    // What was dropped there says nothing of another port.
    assert_eq!(stage.why("client", "web:80")["good"], true);
    stage.cluster.delete(std::slice::from_ref(&only_the_pod));
    let open = || stage.why("mypc", "worker:30080")["good"] == true;
    wait::until("the policy to be gone", PATIENCE, open).unwrap();
    let (text, _) = stage.desk(&["why", "client", "worker:30080"]);
    for part in [
        "On node worker2, where the answer begins",
        "On node worker, where the answer arrives",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    // The lab's other machines are known by their names.
    let (text, good) = stage.desk(&["why", "mypc", "worker:30080"]);
    for part in [
        "Route to 172.18.0.2: node worker itself",
        "where the answer passes",
    ] {
        assert!(good && text.contains(part), "{part}: {text}");
    }
    let (text, good) = stage.desk(&["why", "client", "internet:80"]);
    assert!(
        good && text.contains("machine internet (203.0.113.9:80/tcp)"),
        "{text}"
    );
}

#[test]
fn a_node_without_a_default_route_is_where_it_fails() {
    let stage = Stage::raise();
    stage.on("worker", "ip route del default");
    let outside = "203.0.113.9:80";
    for (from, to, hop) in [
        ("worker", outside, "Route to 203.0.113.9"),
        ("client", outside, "Route to 203.0.113.9"),
        ("worker", "web:80", "its ClusterIP"),
    ] {
        stage.names(from, to, "worker", hop, "No route leads to");
    }
    assert_eq!(
        stage.why("client", "web:80")["good"],
        true,
        "pods need none"
    );
    stage.on("worker2", "ip link set eth0 down");
    let down = || {
        let (text, good) = stage.desk(&["why", "client", "web:80"]);
        !good && text.contains("WRONG: eth0 is down")
    };
    wait::until("the uplink to be named", PATIENCE, down).unwrap();
}

#[test]
fn an_address_that_no_pod_has_fails_at_its_route() {
    let stage = Stage::raise();
    let to = "10.10.1.77:80";
    stage.names("client", to, "worker", "Route to 10.10.1.77", "no pod has");
}

#[test]
fn a_stopped_agent_is_named_and_the_others_answer() {
    let stage = Stage::raise();
    stage.cluster.node("worker2").stop_agent("TERM").unwrap();
    let (text, good) = stage.desk(&["status"]);
    assert!(!good, "{text}");
    assert!(
        text.contains("node worker2: the agent: does not run: it is stopped"),
        "{text}"
    );
    let (text, _) = stage.desk(&["status", "-o", "json"]);
    let value: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value["findings"].as_array().unwrap().len(), 1, "{value:#}");
    let said = "is not known. No agent on node worker2: it is stopped";
    stage.names(
        "client",
        "web:80",
        "worker2",
        "The way to the endpoints",
        said,
    );
}

#[test]
fn a_sysdump_has_all_nodes() {
    let stage = Stage::raise();
    let directory = std::env::temp_dir().join(format!("podwire-{}", stage.cluster.lab.name()));
    let file = directory.with_extension("tar.gz");
    let (text, good) = stage.desk(&["sysdump", "--file", file.to_str().unwrap()]);
    let list = Command::new("tar").arg("-tzf").arg(&file).output().unwrap();
    std::fs::remove_file(&file).unwrap();
    let list = String::from_utf8(list.stdout).unwrap();
    assert!(good, "{text}");
    for name in [
        "README.md",
        "status.yaml",
        "nodes/worker/cluster.json",
        "nodes/worker2/agent.log",
    ] {
        assert!(list.contains(name), "{name}: {list}");
    }
}

#[test]
fn asking_what_uninstall_would_remove_disturbs_no_agent() {
    let stage = Stage::raise();
    let node = stage.cluster.at("worker2");
    let rules = || {
        node.output("nft -s list ruleset; ip link; ip route")
            .unwrap()
    };
    let before = rules();
    let would = node
        .output("podwire-agent uninstall --dry-run --pods")
        .unwrap();
    for what in ["table ip podwire-services", "link veth", "/etc/cni/net.d/"] {
        assert!(would.contains(what), "{what}: {would}");
    }
    let named = |line: &str| line.starts_with("would remove ");
    assert!(would.lines().all(named), "{would}");
    assert_eq!(rules(), before);
    let (text, good) = stage.desk(&["status"]);
    assert!(good, "{text}");
}

#[test]
fn a_deleted_route_is_named() {
    let stage = Stage::raise();
    stage.again_and_again("worker", "ip route del 10.10.2.0/24 2>/dev/null");
    stage.names(
        "client",
        "web:80",
        "worker",
        "The way to the endpoints",
        "wanted is via",
    );
}

#[test]
fn a_deleted_route_back_is_named_on_the_other_node() {
    let stage = Stage::raise();
    stage.again_and_again("worker2", "ip route del 10.10.1.0/24 2>/dev/null");
    stage.names(
        "client",
        "web:80",
        "worker2",
        "Route to 10.10.1.",
        "the answer does not come back",
    );
}

#[test]
fn a_flushed_map_is_named() {
    let stage = Stage::raise();
    stage.again_and_again("worker", "nft flush map ip podwire-services services");
    stage.names(
        "client",
        "web:80",
        "worker",
        "Service default/web",
        "`services` of table ip podwire-services does not have it",
    );
}

#[test]
fn a_policy_of_the_other_node_is_named() {
    let stage = Stage::raise();
    let spec = json!({"podSelector": app("web"), "policyTypes": ["Ingress"]});
    stage.cluster.apply(&[policy("default", "forbid-it", spec)]);
    stage.names("client", "web:80", "worker2", "olic", "forbid-it");
}

#[test]
fn a_service_without_endpoints_and_a_port_that_it_does_not_have_are_named() {
    let stage = Stage::raise();
    stage.names(
        "client",
        "web:81",
        "worker",
        "ClusterIP 10.200.1.41",
        "not among those",
    );
    stage.cluster.apply(&[http("web", &[])]);
    stage.names(
        "client",
        "web:80",
        "worker",
        "No endpoint may answer",
        "No endpoint of the Service is ready",
    );
}

#[test]
fn a_node_that_is_gone_is_named() {
    let stage = Stage::raise();
    stage.cluster.node("worker2").stop_agent("KILL").unwrap();
    stage.on("worker2", "ip link set eth0 down");
    // Someone has to try, for the kernel to find out that no one answers.
    for _ in 0..2 {
        assert!(ask(&stage.cluster.at("client"), "10.200.1.41").is_err());
    }
    let said = "it fails after hop 5, on node worker2 or on the way to it";
    stage.names(
        "client",
        "web:80",
        "worker2",
        "The way to the endpoints",
        said,
    );
}

#[test]
fn a_smaller_mtu_of_the_other_node_is_named() {
    let stage = Stage::raise();
    stage.on("worker2", "ip link set eth0 mtu 1300");
    let said = || {
        let walk = stage.why("client", "web:80");
        let text = walk["conclusion"].as_str().unwrap_or_default().to_owned();
        text.contains("uplink eth0 of node worker2 has 1300")
    };
    wait::until("the MTU to be named", PATIENCE, said).unwrap();
    let (text, good) = stage.desk(&["status"]);
    assert!(!good && text.contains("MTUs of uplinks differ"), "{text}");
}

#[test]
fn a_pod_that_sends_from_another_address_is_named() {
    let stage = Stage::raise();
    let pod = stage.web.addresses()[0];
    stage.on("client", "ip addr add 10.10.1.99/32 dev lo");
    let mut last = String::new();
    let said = || {
        let _ = stage.cluster.at("client").sh(&format!(
            // The gateway answers no ARP request from a false address: it must be known.
            "ping -c1 -W1 {pod}; ping -c1 -W1 -I 10.10.1.99 {pod}"
        ));
        let walk = stage.why("client", &pod.to_string());
        last = walk["conclusion"].as_str().unwrap_or_default().to_owned();
        last.contains("node worker dropped this") && last.contains("10.10.1.99")
    };
    let found = wait::until("the spoofed packet to be named", PATIENCE, said);
    assert!(found.is_ok(), "{last}");
    stage.names("10.10.1.99", "web:80", "worker", "", "chain pod-sources");
}

#[test]
fn masquerade_that_is_off_is_named() {
    let stage = Stage::raise();
    let node = stage.cluster.node("worker");
    node.stop_agent("TERM").unwrap();
    node.start_agent_with(&["--masquerade=false"]).unwrap();
    node.wait_ready().unwrap();
    let walk = stage.why("client", "192.0.2.9:80");
    let text = walk["conclusion"].as_str().unwrap();
    assert!(
        text.contains("on node worker at hop ") && text.contains(", masquerading is off"),
        "{walk:#}"
    );
    assert_eq!(walk["good"], false);
}

#[test]
fn a_foreign_rule_that_drops_is_named_on_its_node() {
    let stage = Stage::raise();
    stage.on(
        "worker2",
        "nft 'add table inet foreign; \
         add chain inet foreign stops { type filter hook forward priority 0; }; \
         add rule inet foreign stops tcp dport 80 drop'",
    );
    let (text, _) = stage.desk(&["why", "client", "web:80"]);
    let mut lines = text.lines();
    let hop = lines.find(|line| line.ends_with("<== may fail here"));
    let (number, what) = hop.unwrap_or(&text).trim().split_once(". ").unwrap();
    assert!(what.starts_with("Route to 10.10.2."), "{text}");
    let named = format!(
        "on node worker2 at hop {number}, nftables chain inet foreign stops has a rule that drops"
    );
    let walk = stage.why("client", "web:80");
    let text = walk["conclusion"].as_str().unwrap();
    assert!(text.contains(&named), "{walk:#}");
    assert_eq!(walk["good"], false);
}
