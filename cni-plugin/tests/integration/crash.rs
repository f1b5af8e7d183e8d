//! SIGKILL at every instant that matters: whatever the plugin was doing, the next DEL or GC finds
//! everything, and no address is given twice.

use serde_json::{Value, json};

use super::node::{Call, Container, Node, config, left_in, names, on_a_node};
use super::trace::kill_after;

/// Everything that an attachment can have.
fn everything() -> Value {
    let mut config = config("podwire", &["10.1.2.0/28", "fd00:1::/124"]);
    config["ipMasq"] = true.into();
    config["runtimeConfig"] = json!({"portMappings": [
        {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"},
        {"hostPort": 8080, "containerPort": 80, "protocol": "udp", "hostIP": "127.0.0.1"},
    ]});
    config
}

fn call(verb: &str, container: &Container) -> Call {
    Call::new("podwire", verb, container, &everything())
}

fn gc(container: &Container, valid: &[&str]) -> Call {
    let mut config = everything();
    let valid: Vec<_> = valid
        .iter()
        .map(|id| json!({"containerID": id, "ifname": "eth0"}))
        .collect();
    config["cni.dev/valid-attachments"] = valid.into();
    Call::new("podwire", "GC", container, &config)
}

/// The addresses that are leased, each only once because it is the name of a file.
fn leases() -> Vec<String> {
    let names = left_in("/run/ipam/net").into_iter();
    names.filter(|name| !name.starts_with('.')).collect()
}

/// Kills a call after its first change, after its second, and so on, until it gets through.
fn at_every_step(node: &mut Node, verb: &str, mut check: impl FnMut(&mut Node, &Container)) {
    let container = node.container("victim");
    let mut steps = 0;
    loop {
        steps += 1;
        if verb == "DEL" {
            call("ADD", &container).succeed();
        }
        if !kill_after(&call(verb, &container), steps) {
            break;
        }
        check(node, &container);
    }
    // One for each lease, index entry, link, record and table at least.
    assert!(steps > 10, "only {steps} steps");
}

#[test]
fn an_add_that_is_killed_anywhere_is_undone_by_del() {
    on_a_node(|node| {
        at_every_step(node, "ADD", |node, container| {
            call("DEL", container).succeed();
            node.assert_clean();
        });
    });
}

#[test]
fn an_add_that_is_killed_anywhere_is_undone_by_gc() {
    on_a_node(|node| {
        at_every_step(node, "ADD", |node, container| {
            gc(container, &[]).succeed();
            node.assert_clean();
        });
    });
}

#[test]
fn a_del_that_is_killed_anywhere_is_finished_by_the_next_one() {
    on_a_node(|node| {
        at_every_step(node, "DEL", |node, container| {
            call("DEL", container).without_netns().succeed();
            node.assert_clean();
        });
    });
}

#[test]
fn the_next_container_after_a_killed_add_gets_an_address_of_its_own() {
    on_a_node(|node| {
        let other = node.container("other");
        at_every_step(node, "ADD", |_, container| {
            let before = leases();
            let result = call("ADD", &other).succeed();
            let addresses = result["ips"].as_array().unwrap().iter();
            for address in addresses.map(|ip| ip["address"].as_str().unwrap()) {
                let address = address.split('/').next().unwrap();
                assert!(
                    !before.contains(&address.to_owned()),
                    "{address} was leased"
                );
            }
            for container in [&other, container] {
                call("DEL", container).succeed();
            }
            assert_eq!(leases(), Vec::<String>::new());
        });
    });
}

#[test]
fn no_address_is_lost_however_often_adds_and_dels_are_killed() {
    on_a_node(|node| {
        let container = node.container("victim");
        for round in 1..40 {
            let verb = if round % 2 == 0 { "ADD" } else { "DEL" };
            kill_after(&call(verb, &container), round / 2);
            call("DEL", &container).succeed();
        }
        // All thirteen addresses of the smaller range can be leased.
        let containers: Vec<_> = (0..13)
            .map(|number| node.container(&format!("c{number}")))
            .collect();
        for container in &containers {
            call("ADD", container).succeed();
        }
        let extra = node.container("extra");
        assert!(
            call("ADD", &extra)
                .fail(999)
                .contains("no IP addresses available")
        );
        assert_eq!(leases().len(), 26);
        gc(&extra, &[]).succeed();
        node.assert_clean();
        assert!(names("/run/podwire/attachments").contains(&"lock".to_owned()));
    });
}
