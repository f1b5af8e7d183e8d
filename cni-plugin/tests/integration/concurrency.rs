//! Many containers at once, as a node that starts has them.

use std::collections::BTreeSet;
use std::process::Child;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use super::node::{Call, Container, Node, config, on_a_node};

const CONTAINERS: usize = 300;

/// How many plugins run at the same time.
const AT_ONCE: usize = 30;

/// Starts a call for each container, some at once, and hands each to `meanwhile` while it runs.
/// Returns what they printed.
fn all(
    containers: &[Container],
    call: impl Fn(&Container) -> Call,
    meanwhile: impl Fn(usize, &Child),
) -> Vec<Option<Value>> {
    let mut results = Vec::new();
    for (round, some) in containers.chunks(AT_ONCE).enumerate() {
        let children: Vec<_> = some
            .iter()
            .map(|container| call(container).start())
            .collect();
        for (index, child) in children.iter().enumerate() {
            meanwhile(round * AT_ONCE + index, child);
        }
        for child in children {
            let output = child.wait_with_output().unwrap();
            let ended = output.status.code().is_some();
            let value: Option<Value> = serde_json::from_slice(&output.stdout).ok();
            assert!(output.status.success() || !ended, "{value:?}");
            results.push(value.filter(|_| output.status.success()));
        }
    }
    results
}

fn containers(node: &mut Node) -> Vec<Container> {
    (0..CONTAINERS)
        .map(|number| node.container(&format!("c{number}")))
        .collect()
}

fn unique(results: &[Option<Value>]) -> usize {
    let mut seen = BTreeSet::new();
    for result in results.iter().flatten() {
        for ip in result["ips"].as_array().unwrap() {
            let address = ip["address"].as_str().unwrap().to_owned();
            assert!(seen.insert(address.clone()), "{address} was given twice");
        }
    }
    seen.len()
}

fn come_and_go(subnets: &'static [&'static str]) {
    on_a_node(move |node| {
        let config = config("podwire", subnets);
        let containers = containers(node);
        let call = |verb| {
            let config = &config;
            move |container: &Container| Call::new("podwire", verb, container, config)
        };
        let results = all(&containers, call("ADD"), |_, _| {});
        assert_eq!(unique(&results), CONTAINERS * subnets.len());
        assert_eq!(node.links().len(), CONTAINERS + 1);
        all(&containers, call("DEL"), |_, _| {});
        node.assert_clean();
    });
}

#[test]
fn three_hundred_ipv4_containers_come_and_go() {
    come_and_go(&["10.1.0.0/16"]);
}

#[test]
fn three_hundred_ipv6_containers_come_and_go() {
    come_and_go(&["fd00:1::/64"]);
}

#[test]
fn three_hundred_dual_stack_containers_come_and_go() {
    come_and_go(&["10.1.0.0/16", "fd00:1::/64"]);
}

#[test]
fn a_third_of_the_calls_is_killed_at_random_and_gc_leaves_nothing() {
    on_a_node(|node| {
        let containers = containers(node);
        let call = |verb: &'static str| {
            move |container: &Container| {
                let mut config = config("podwire", &["10.1.0.0/16", "fd00:1::/64"]);
                let port = 10_000 + container.id[1..].parse::<usize>().unwrap();
                config["runtimeConfig"] = json!({"portMappings": [
                    {"hostPort": port, "containerPort": 80, "protocol": "tcp"},
                ]});
                Call::new("podwire", verb, container, &config)
            }
        };
        // The first of every three is killed, at a time that no one chooses: the children have
        // come differently far by now.
        let murder = |index: usize, child: &Child| {
            if index.is_multiple_of(3) {
                let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
                kill(pid, Signal::SIGKILL).unwrap();
            }
        };
        let results = all(&containers, call("ADD"), murder);
        let alive: Vec<_> = results
            .iter()
            .enumerate()
            .filter(|(_, result)| result.is_some())
            .collect();
        assert!(alive.len() >= CONTAINERS * 2 / 3, "{}", alive.len());
        unique(&results);
        all(&containers, call("DEL"), murder);

        let mut config = config("podwire", &["10.1.0.0/16", "fd00:1::/64"]);
        config["cni.dev/valid-attachments"] = json!([]);
        Call::new("podwire", "GC", &containers[0], &config).succeed();
        node.assert_clean();
    });
}

#[test]
fn of_two_adds_for_one_container_at_once_one_wins_and_the_other_leaves_nothing() {
    on_a_node(|node| {
        let config = config("podwire", &["10.1.2.0/24"]);
        for round in 0..10 {
            let container = node.container(&format!("r{round}"));
            let call = Call::new("podwire", "ADD", &container, &config);
            let children = [call.start(), call.start()];
            let ended = children.map(|child| child.wait_with_output().unwrap().status.success());
            assert_eq!(ended.iter().filter(|success| **success).count(), 1);
            assert_eq!(node.links().len(), 2);
            Call::new("podwire", "DEL", &container, &config).succeed();
            node.assert_clean();
        }
    });
}
